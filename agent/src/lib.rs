//! The agent: everything that does. `posternd` (src/main.rs) is a thin shell around this library.
//!
//! Owns all I/O, the clock and the kernel. What is decided is decided in `postern-core`.

pub mod api;
pub mod clock;
pub mod config;
pub mod enforcer;
pub mod engine;
pub mod guarded;
pub mod host;
pub mod journal;
pub mod journald;
pub mod keeper;
pub mod links;
pub mod netlink;
pub mod notify;
pub mod offline;
pub mod privilege;
pub mod proof;
pub mod run;
pub mod sessions;
pub mod standing;
pub mod surroundings;
pub mod sysctl;
pub mod terminals;
pub mod translations;
pub mod wire;
