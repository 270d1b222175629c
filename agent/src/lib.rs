//! The agent: everything that does. `posternd` (src/main.rs) is a thin shell around this library.
//!
//! Owns all I/O, the clock and the kernel. What is decided is decided in `postern-core`.

pub mod clock;
pub mod config;
pub mod enforcer;
pub mod engine;
pub mod journal;
pub mod sessions;
pub mod wire;
