//! `postern`, the client of a Postern host: requests access, returns it, and shows what is open and why something is not.
//!
//! Owns the user interface, the signing, and the trust in hosts. It links nothing of the agent or of eBPF, because it is for laptops.

pub mod advice;
pub mod args;
pub mod commands;
pub mod connect;
pub mod console;
pub mod dialled;
pub mod failure;
pub mod host_key;
pub mod keys;
pub mod known_hosts;
pub mod my_ip;
pub mod own_addresses;
pub mod parse;
pub mod payload;
pub mod ports;
pub mod proof;
pub mod purpose;
pub mod session;
pub mod ssh_hosts;
pub mod state;
pub mod statement;
pub mod target;
pub mod text;
pub mod tls;
pub mod trust;
pub mod view;
pub mod within_ssh;
