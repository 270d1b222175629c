//! What the tests of the ledger share.
//!
//! Owns no test.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use jiff::Timestamp;
use postern_core::envelope::Signer;
use postern_core::ledger::Capacity;
use postern_core::time::{BootNanos, Now};
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
