//! Every type of host key that sshd serves proves the host, and a file that cannot be read is no alarm.
