//! posternd and the real `ssh-keygen -Y verify` must agree on every signature, but for the exceptions that
//! docs/decisions/0010-trust.md states; each of those is asserted too, from both sides.

mod certificates;
mod lab;
mod local_times;
mod revocations;
mod signatures;
mod trust_files;
