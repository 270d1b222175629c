//! The agent. `posternd` (src/main.rs) is a thin shell around this library.
//!
//! Owns all I/O, the clock and the kernel. `postern-core` makes the decisions.

pub mod commands;
pub mod config;
pub mod enforcer;
pub mod engine;
pub mod grpc;
pub mod journal;
pub mod payload;
pub mod proof;
pub mod sandbox;
pub mod system;
