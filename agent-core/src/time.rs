//! Moments and durations. Owns the types that carry time into the core. Only `agent/src/system/clock` reads clocks.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A moment on `CLOCK_BOOTTIME` of one boot, in nanoseconds. This clock runs during suspend and never jumps.
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
    /// The form for people and the configuration: `2h`, `90s`, `1h 30m`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts = [(self.0 / 3600, "h"), (self.0 % 3600 / 60, "m"), (self.0 % 60, "s")];
        let words: Vec<_> = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
        f.write_str(if words.is_empty() { "0s" } else { "" })?;
        f.write_str(&words.join(" "))
    }
}

impl BootNanos {
    /// `nanos` later; saturates instead of wrapping.
    #[must_use]
    pub const fn plus_nanos(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// The nanoseconds until `later`; zero if it has passed.
    #[must_use]
    pub const fn until(self, later: Self) -> u64 {
        later.0.saturating_sub(self.0)
    }
}

/// The state of the wall clock. The last four are doubts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClockState {
    /// The kernel reports a synchronised clock, or did on this boot, and the clock has not jumped since.
    Synchronised,
    /// Nothing synchronises the clock, and the configuration says to trust it.
    #[default]
    Assumed,
    /// Nothing has synchronised the clock since the boot.
    Unsynchronised,
    /// The clock jumped, and nothing has synchronised it since.
    Stepped,
    /// The clock is behind the newest record.
    WentBack,
    /// The machine was restored from a snapshot or copied, and nothing has synchronised the clock since.
    Restored,
}

impl ClockState {
    /// All states.
    pub const ALL: &[Self] =
        &[Self::Synchronised, Self::Assumed, Self::Unsynchronised, Self::Stepped, Self::WentBack, Self::Restored];

    /// The stable code, as the journal spells it.
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

    /// Whether absolute times count: a message's `not_after`, a grant's `end` and `not_before`.
    #[must_use]
    pub const fn is_trusted(self) -> bool {
        matches!(self, Self::Synchronised | Self::Assumed)
    }

    /// Whether the windows of keys and certificates count. An unsynchronised clock suffices: it is not behind the record, so nothing
    /// expired is valid again, and a host without NTP must not lock out people with certificates.
    #[must_use]
    pub const fn knows_windows(self) -> bool {
        matches!(self, Self::Synchronised | Self::Assumed | Self::Unsynchronised)
    }
}

/// The present, as decisions see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The boot clock, which grants use.
    pub boot: BootNanos,
    /// The wall clock, for messages and for the record.
    pub wall: Timestamp,
    /// The state of the wall clock.
    pub clock: ClockState,
    /// The boot of `boot` (`/proc/sys/kernel/random/boot_id`).
    pub boot_id: Uuid,
}

impl Now {
    /// Whether absolute times count.
    #[must_use]
    pub const fn wall_trusted(&self) -> bool {
        self.clock.is_trusted()
    }

    /// The wall-clock time of `boot`, by the present clocks.
    #[must_use]
    pub fn wall_at(&self, boot: BootNanos) -> Timestamp {
        let ahead = i128::from(boot.0) - i128::from(self.boot.0);
        let nanos = self.wall.as_nanosecond().saturating_add(ahead);
        Timestamp::from_nanosecond(nanos.clamp(Timestamp::MIN.as_nanosecond(), Timestamp::MAX.as_nanosecond()))
            .unwrap_or(Timestamp::MAX)
    }
}
