//! The one place that reads a clock.
//!
//! Owns [`Clock`]. It never decides what a moment means.

use std::fs;

use jiff::Timestamp;
use postern_core::time::{BootNanos, Now};
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

/// Reads `CLOCK_BOOTTIME` and the wall clock of this boot.
#[derive(Clone, Debug)]
pub struct Clock {
    boot_id: Uuid,
}

impl Clock {
    /// For the running boot.
    ///
    /// # Errors
    /// When `/proc/sys/kernel/random/boot_id` cannot be read or is no UUID.
    pub fn new() -> std::io::Result<Self> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let boot_id = text.trim().parse().map_err(std::io::Error::other)?;
        Ok(Self { boot_id })
    }

    /// The present. The wall clock counts as trusted here; the engine knows whether it went back.
    #[must_use]
    pub fn now(&self) -> Now {
        Now { boot: self.boot(), wall: Timestamp::now(), wall_trusted: true, boot_id: self.boot_id }
    }

    /// `CLOCK_BOOTTIME`.
    #[must_use]
    pub fn boot(&self) -> BootNanos {
        let t = clock_gettime(ClockId::Boottime);
        let nanos = i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec);
        BootNanos(u64::try_from(nanos).unwrap_or_default())
    }
}
