//! Where the surroundings are small (a sub-cgroup, no bpffs, a private mount namespace) the status says what does not hold.
