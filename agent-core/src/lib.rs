//! The rules of Postern. Owns the decision about a packet ([`verdict`]), the layout of the kernel's maps ([`key`]), the checks of signed
//! messages, the policy and the ledger. It does no I/O, reads no clock, uses no randomness, writes no log and has no unsafe code: time is
//! an argument. The kernel part (`key`, `own`, `packet`, `peer`, `rate`, `search`, `verdict`) is `no_std` and is also compiled into the
//! eBPF objects. The feature `user` (default) adds the rest; the client needs only `ssh`.
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
