//! The two processes of posternd: the unprivileged agent, and the helper that stays root.
//!
//! Owns what each process may do. It decides nothing about access.

pub mod helper;
pub mod privilege;
