//! Moments and durations as arguments.
//!
//! Owns the types that carry time into the core. It never reads a clock: `agent/src/clock.rs` does, in one place.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A moment on `CLOCK_BOOTTIME` of one boot, in nanoseconds. It counts through suspend and is never stepped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BootNanos(pub u64);

/// A whole number of seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Seconds(pub u64);

impl Seconds {
    /// `n` minutes.
    #[must_use]
    pub const fn minutes(n: u64) -> Self {
        Self(n * 60)
    }

    /// `n` hours.
    #[must_use]
    pub const fn hours(n: u64) -> Self {
        Self(n * 3600)
    }
}

impl std::fmt::Display for Seconds {
    /// As people write it and as the configuration reads it: `2h`, `90s`, `1h 30m`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [(self.0 / 3600, "h"), (self.0 % 3600 / 60, "m"), (self.0 % 60, "s")];
        let words: Vec<_> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
        f.write_str(if words.is_empty() { "0s" } else { "" })?;
        f.write_str(&words.join(" "))
    }
}

impl BootNanos {
    /// `nanos` later; stops at the end of time instead of wrapping.
    #[must_use]
    pub const fn plus_nanos(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// How long until `later`, in nanoseconds; zero if it has passed.
    #[must_use]
    pub const fn until(self, later: Self) -> u64 {
        later.0.saturating_sub(self.0)
    }
}

/// How the wall clock stands. The last four are doubts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockState {
    /// The kernel says that somebody keeps it right, or did on this boot; and it has not jumped since.
    Synchronised,
    /// Nobody does, and the configuration says that it is right all the same.
    #[default]
    Assumed,
    /// Nobody has kept it right since the host was booted.
    Unsynchronised,
    /// It jumped, and nobody has said since that it is right.
    Stepped,
    /// It lies behind the record.
    WentBack,
    /// The machine was restored from a snapshot or copied, and nobody has said since that the clock is right.
    Restored,
}

impl ClockState {
    /// All of them.
    pub const ALL: &[Self] =
        &[Self::Synchronised, Self::Assumed, Self::Unsynchronised, Self::Stepped, Self::WentBack, Self::Restored];

    /// Stable, as the journal spells it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Synchronised => "synchronised",
            Self::Assumed => "assumed",
            Self::Unsynchronised => "unsynchronised",
            Self::Stepped => "stepped",
            Self::WentBack => "went-back",
            Self::Restored => "restored",
        }
    }

    /// For people; the subject is the wall clock.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Synchronised => "it is synchronised",
            Self::Assumed => "nothing synchronises it, and [clock] unsynchronised says to trust it",
            Self::Unsynchronised => "nothing has synchronised it since the host was booted",
            Self::Stepped => "it jumped, and nothing has synchronised it since",
            Self::WentBack => "it lies behind what is on record already",
            Self::Restored => {
                "the machine was restored from a snapshot or copied, and nothing has synchronised the clock since"
            }
        }
    }

    /// Whether absolute times can be judged: a message's `not_after`, a grant's `end` and `not_before`.
    #[must_use]
    pub const fn is_trusted(self) -> bool {
        matches!(self, Self::Synchronised | Self::Assumed)
    }

    /// Whether the windows of keys and certificates can be judged. A clock that merely nobody synchronises is good enough for these: it
    /// is not behind the record, so nothing that has ended is valid again; and a host without NTP must not lock out people with
    /// certificates.
    #[must_use]
    pub const fn knows_windows(self) -> bool {
        matches!(self, Self::Synchronised | Self::Assumed | Self::Unsynchronised)
    }
}

/// Everything a decision may know about the present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The boot clock: what grants run on.
    pub boot: BootNanos,
    /// The wall clock: for messages and for the record.
    pub wall: Timestamp,
    /// How the wall clock stands.
    pub clock: ClockState,
    /// Which boot `boot` belongs to (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: Uuid,
}

impl Now {
    /// Whether absolute times can be judged.
    #[must_use]
    pub const fn wall_trusted(&self) -> bool {
        self.clock.is_trusted()
    }

    /// The wall-clock moment that corresponds to `boot` now.
    #[must_use]
    pub fn wall_at(&self, boot: BootNanos) -> Timestamp {
        let ahead = i128::from(boot.0) - i128::from(self.boot.0);
        let nanos = self.wall.as_nanosecond().saturating_add(ahead);
        Timestamp::from_nanosecond(nanos.clamp(Timestamp::MIN.as_nanosecond(), Timestamp::MAX.as_nanosecond()))
            .unwrap_or(Timestamp::MAX)
    }
}
