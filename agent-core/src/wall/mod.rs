//! Whether the wall clock is trusted.
//!
//! Owns [`WallClock`]: what was seen of the clock on this boot, and what follows from it. It never reads a clock and never decides
//! about a message: [`crate::message`], [`crate::policy`] and [`crate::trust`] ask [`Now`](crate::time::Now).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::message::MAX_MESSAGE_LIFE;
use crate::time::BootNanos;
pub use crate::time::ClockState;

/// A jump of the wall clock against the boot clock that is none: a leap second, and what a clock is slewed (500 ppm, adjtimex(2)) in
/// the time between two looks.
const JUMP_NANOS: i128 = 2_000_000_000;
/// How many seconds the wall clock may lie behind the newest record and still be trusted. A slewed clock never lies behind.
const BEHIND_SECONDS: i64 = 5;

/// What a clock that nothing synchronises is worth: `[clock] unsynchronised`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unsynchronised {
    /// Messages need a challenge, and absolute times are refused.
    #[default]
    Challenge,
    /// The clock is trusted: the hypervisor or a hardware clock keeps it right.
    Trust,
}

/// What there is to see of the clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The boot clock.
    pub boot: BootNanos,
    /// The wall clock.
    pub wall: Timestamp,
    /// The largest error of the wall clock as the kernel estimates it, in microseconds, while somebody keeps it synchronised. It
    /// grows until the program that synchronises the clock corrects it (adjtimex(2)).
    pub max_error: Option<u64>,
    /// How often the machine was restored from a snapshot or copied since the agent started, as far as the hypervisor tells.
    pub restores: u64,
}

/// The newest wall-clock moments on record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct High {
    /// While the clock was trusted.
    pub trusted: Timestamp,
    /// While it was trusted, or merely not synchronised.
    pub any: Timestamp,
}

/// The clocks as the newest record has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The boot clock then.
    pub boot: BootNanos,
    /// The wall clock then.
    pub wall: Timestamp,
    /// Which boot.
    pub boot_id: Uuid,
    /// How the wall clock stood then.
    pub state: ClockState,
}

/// The wall clock as it was seen so far on this boot.
#[derive(Clone, Debug)]
pub struct WallClock {
    unsynchronised: Unsynchronised,
    high: High,
    /// The wall clock less the boot clock when last looked.
    offset: Option<i128>,
    /// Whether the kernel vouched for it on this boot, and it has not jumped since.
    vouched: bool,
    step: Option<Step>,
    restored: bool,
    restores: u64,
    max_error: Option<u64>,
    looked: bool,
}

/// A jump that is not settled.
#[derive(Clone, Copy, Debug)]
struct Step {
    /// The wall clock less the boot clock before.
    before: i128,
    /// Whether it was vouched for before.
    vouched: bool,
    at: BootNanos,
}

impl WallClock {
    /// A clock that was not looked at yet, but for what the newest record on this boot says of it.
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
            // What it was before is not on record: only synchronising it, or time, settles this.
            step: step.map(|(seen, _)| Step { before: i128::MAX, vouched: false, at: seen.boot }),
            restored: state == Some(ClockState::Restored),
            restores: 0,
            max_error: None,
            looked: false,
        }
    }

    /// Has the newest moments on record in mind from now on.
    pub fn recorded(&mut self, high: High) {
        self.high = high;
    }

    /// Takes in what there is to see now, and says how the clock stands.
    pub fn look(&mut self, reading: &Reading) -> ClockState {
        let offset = difference(reading.wall, reading.boot);
        let renewed = self.is_renewed(reading.max_error);
        if reading.restores != self.restores {
            (self.restores, self.restored) = (reading.restores, true);
            (self.vouched, self.step) = (false, None);
        } else {
            self.note_jump(offset, reading.boot);
            if renewed || (reading.max_error.is_some() && !self.restored) {
                // The kernel forgets that it was synchronised whenever its clock is set: this was said since.
                (self.vouched, self.step, self.restored) = (true, None, false);
            }
        }
        (self.offset, self.looked) = (Some(offset), true);
        self.max_error = reading.max_error;
        self.state(reading.wall)
    }

    /// Whether somebody has corrected the clock since the last look: nothing else makes the estimate of its error smaller.
    fn is_renewed(&self, max_error: Option<u64>) -> bool {
        match (self.max_error, max_error) {
            (Some(before), Some(now)) => now < before,
            // Before the first look nothing is known: what the kernel says may be older than a restore.
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
            // It was set back to what it was.
            (self.step, self.vouched) = (None, step.vouched);
        } else if step.at.until(now) > MAX_MESSAGE_LIFE.0 * 1_000_000_000 {
            // Whatever was fresh by the other time is stale by now: it is another clock, for which nobody vouches.
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

/// The wall clock less the boot clock, in nanoseconds. Slewing changes both alike; only setting the clock changes this.
fn difference(wall: Timestamp, boot: BootNanos) -> i128 {
    wall.as_nanosecond() - i128::from(boot.0)
}

/// Whether `wall` lies behind `high`: then the clock went back.
fn is_behind(wall: Timestamp, high: Timestamp) -> bool {
    wall.as_second().saturating_add(BEHIND_SECONDS) < high.as_second()
}

#[cfg(test)]
mod tests;
