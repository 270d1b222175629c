//! The trust in the wall clock. Owns [`WallClock`], the observations of the clock on this boot and their result. It never reads a clock
//! and never decides about a message: [`crate::message`], [`crate::policy`] and [`crate::trust`] use [`Now`](crate::time::Now).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::message::MAX_MESSAGE_LIFE;
use crate::time::BootNanos;
pub use crate::time::ClockState;

/// The largest step against the boot clock that is no jump: a leap second, or slewing (500 ppm, adjtimex(2)) between two looks.
const JUMP_NANOS: i128 = 2_000_000_000;
/// Seconds that the trusted wall clock may be behind the newest record. A slewed clock is never behind.
const BEHIND_SECONDS: i64 = 5;

/// The trust in a clock that nothing synchronises: `[clock] unsynchronised`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unsynchronised {
    /// Messages need a challenge, and absolute times are refused.
    #[default]
    Challenge,
    /// The clock is trusted: the hypervisor or a hardware clock keeps it right.
    Trust,
}

/// The clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The boot clock.
    pub boot: BootNanos,
    /// The wall clock.
    pub wall: Timestamp,
    /// The kernel's estimate of the largest error, in microseconds, if a daemon synchronises the clock; it grows until a correction.
    pub max_error: Option<u64>,
    /// The number of restores or copies of the machine since the agent started, if the hypervisor reports them.
    pub restores: u64,
}

/// The newest wall-clock moments on record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct High {
    /// From a trusted clock.
    pub trusted: Timestamp,
    /// From a trusted or an unsynchronised clock.
    pub any: Timestamp,
}

/// The clocks at the newest record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The boot clock.
    pub boot: BootNanos,
    /// The wall clock.
    pub wall: Timestamp,
    /// The boot.
    pub boot_id: Uuid,
    /// The state of the wall clock.
    pub state: ClockState,
}

/// The observations of the wall clock on this boot.
#[derive(Clone, Debug)]
pub struct WallClock {
    unsynchronised: Unsynchronised,
    high: High,
    offset: Option<i128>,
    /// Whether the kernel reported a synchronised clock on this boot, without a jump since.
    vouched: bool,
    step: Option<Step>,
    restored: bool,
    restores: u64,
    max_error: Option<u64>,
    looked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    before: i128,
    vouched: bool,
    at: BootNanos,
}

impl WallClock {
    /// A clock before its first look, with the newest record on this boot.
    #[must_use]
    pub fn new(unsynchronised: Unsynchronised, high: High, seen: Option<Seen>) -> Self {
        let offset = seen.map(|seen| difference(seen.wall, seen.boot));
        let state = seen.map(|seen| seen.state);
        let step = seen.zip(offset).filter(|(seen, _)| seen.state == ClockState::Stepped);
        Self {
            unsynchronised,
            high,
            offset,
            vouched: state == Some(ClockState::Synchronised),
            // The clock before the jump is not on record: only synchronisation or time settles the jump.
            step: step.map(|(seen, _)| Step { before: i128::MAX, vouched: false, at: seen.boot }),
            restored: state == Some(ClockState::Restored),
            restores: 0,
            max_error: None,
            looked: false,
        }
    }

    /// Sets the newest moments on record.
    pub fn recorded(&mut self, high: High) {
        self.high = high;
    }

    /// Applies a reading, and returns the state of the clock.
    pub fn look(&mut self, reading: &Reading) -> ClockState {
        let offset = difference(reading.wall, reading.boot);
        let renewed = self.is_renewed(reading.max_error);
        if reading.restores != self.restores {
            (self.restores, self.restored) = (reading.restores, true);
            (self.vouched, self.step) = (false, None);
        } else {
            self.note_jump(offset, reading.boot);
            if renewed || (reading.max_error.is_some() && !self.restored) {
                // The kernel drops the synchronised state whenever its clock is set, so this report is newer.
                (self.vouched, self.step, self.restored) = (true, None, false);
            }
        }
        (self.offset, self.looked) = (Some(offset), true);
        self.max_error = reading.max_error;
        self.state(reading.wall)
    }

    /// Whether a time daemon has corrected the clock since the last look: nothing else reduces the estimated error.
    fn is_renewed(&self, max_error: Option<u64>) -> bool {
        match (self.max_error, max_error) {
            (Some(before), Some(now)) => now < before,
            // At the first look, the kernel's report may be older than a restore.
            (None, Some(_)) => self.looked,
            _ => false,
        }
    }

    fn note_jump(&mut self, offset: i128, now: BootNanos) {
        let apart = |other: i128| offset.saturating_sub(other).unsigned_abs() > JUMP_NANOS.unsigned_abs();
        if let Some(before) = self.offset.filter(|before| apart(*before)) {
            self.step.get_or_insert(Step { before, vouched: self.vouched, at: now });
            self.vouched = false;
        }
        let Some(step) = self.step else { return };
        if !apart(step.before) {
            // The clock was set back.
            (self.step, self.vouched) = (None, step.vouched);
        } else if step.at.until(now) > MAX_MESSAGE_LIFE.0 * 1_000_000_000 {
            // Messages that were fresh by the earlier time are stale by now: the clock is a new, unsynchronised one.
            self.step = None;
        }
    }

    fn state(&self, wall: Timestamp) -> ClockState {
        let high = if self.vouched { self.high.trusted } else { self.high.any };
        match self.unsynchronised {
            _ if self.restored => ClockState::Restored,
            _ if is_behind(wall, high) => ClockState::WentBack,
            _ if self.step.is_some() => ClockState::Stepped,
            _ if self.vouched => ClockState::Synchronised,
            Unsynchronised::Challenge => ClockState::Unsynchronised,
            Unsynchronised::Trust => ClockState::Assumed,
        }
    }
}

/// The wall clock minus the boot clock, in nanoseconds. Slewing changes both alike; only a set clock changes this value.
fn difference(wall: Timestamp, boot: BootNanos) -> i128 {
    wall.as_nanosecond() - i128::from(boot.0)
}

fn is_behind(wall: Timestamp, high: Timestamp) -> bool {
    wall.as_second().saturating_add(BEHIND_SECONDS) < high.as_second()
}

#[cfg(test)]
mod tests;
