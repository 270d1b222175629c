//! The enforcer: brings a table into force in the kernel and reports what the kernel counts.
//!
//! Owns the choice of the backend. eBPF is the only one so far.

mod ebpf;

pub use ebpf::*;
