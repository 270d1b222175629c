//! The commands of `posternd`.
//!
//! Owns what each command does and prints. It decides nothing about access: the engine does.

pub mod offline;
pub mod run;
