//! What the tests of the ledger share.
//!
//! Owns no test.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use jiff::Timestamp;
use postern_core::envelope::Signer;
use postern_core::grant::{AccessRequest, End, Header};
use postern_core::ledger::Capacity;
use postern_core::time::{BootNanos, Now, Seconds};
use postern_core::wall::ClockState;
use uuid::Uuid;

/// A second of the boot clock.
pub const S: u64 = 1_000_000_000;
pub const CAPACITY: Capacity = Capacity { entries: 1000, slots: 100 };

/// So many seconds into boot 1, by both clocks.
pub fn now(boot_s: u64) -> Now {
    let wall = Timestamp::from_second(1_800_000_000 + boot_s.cast_signed()).unwrap();
    Now { boot: BootNanos(boot_s * S), wall, clock: ClockState::Synchronised, boot_id: Uuid::from_u128(1) }
}

pub fn signer(principal: &str) -> Signer {
    Signer { principal: principal.into(), fingerprint: "SHA256:x".into(), certificate: None }
}

/// What each signed message has: this id, and a minute to live.
pub fn header(id: u128) -> Header {
    Header { id: Uuid::from_u128(id), audience: vec![], not_after: now(60).wall, challenge: None }
}

/// A request for these ports, from these sources, for so many seconds.
pub fn request(id: u128, ports: &[&str], sources: &[&str], seconds: u64) -> AccessRequest {
    AccessRequest {
        header: header(id),
        ports: ports.iter().map(|p| p.parse().unwrap()).collect(),
        sources: sources.iter().map(|s| s.parse().unwrap()).collect(),
        end: End::After(Seconds(seconds)),
        not_before: None,
        supersedes: None,
        justification: String::new(),
        ticket: String::new(),
    }
}
