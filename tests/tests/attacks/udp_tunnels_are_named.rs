//! A socket that takes datagrams before the cgroup hook is detected and reported.
