//! A relay between client and host never has its own address signed as "my-ip".
