//! Everything in Postern that decides.
//!
//! Owns the rules: what a packet's fate is ([`verdict`]), what the kernel's tables hold ([`key`]), what a signed
//! message proves, what policy allows, and how decisions add up to a table. It never does anything: no I/O, no clock,
//! no randomness, no logging, no unsafe code. Time is always an argument.
//!
//! The kernel part (`key`, `packet`, `rate`, `search`, `verdict`) is `no_std` and is compiled into the eBPF objects as well.
//! The user part needs the feature `user`, which is on by default. The client needs only `ssh`: the formats of SSH and safe text.
#![cfg_attr(not(feature = "ssh"), no_std)]

#[cfg(feature = "user")]
pub mod bootstrap;
#[cfg(feature = "user")]
pub mod budget;
#[cfg(feature = "user")]
pub mod condition;
#[cfg(feature = "user")]
pub mod envelope;
#[cfg(feature = "user")]
pub mod flood;
#[cfg(feature = "user")]
pub mod grant;
pub mod key;
#[cfg(feature = "user")]
pub mod ledger;
#[cfg(feature = "user")]
pub mod message;
#[cfg(feature = "user")]
pub mod mode;
pub mod own;
pub mod packet;
pub mod peer;
#[cfg(feature = "user")]
pub mod policy;
#[cfg(feature = "user")]
pub mod question;
pub mod rate;
#[cfg(feature = "user")]
pub mod refusal;
#[cfg(feature = "user")]
pub mod report;
#[cfg(feature = "user")]
pub mod request;
#[cfg(feature = "user")]
pub mod retained;
pub mod search;
#[cfg(feature = "user")]
pub mod signer;
#[cfg(feature = "ssh")]
pub mod ssh;
#[cfg(feature = "user")]
pub mod table;
#[cfg(feature = "ssh")]
pub mod text;
#[cfg(feature = "user")]
pub mod time;
#[cfg(feature = "user")]
pub mod trust;
pub mod verdict;
#[cfg(feature = "user")]
pub mod wall;
#[cfg(feature = "user")]
pub mod warn;
