//! Which of the oldest segments may be removed.
//!
//! Owns that choice and the removal. It never removes a segment that a start needs or that was not verified. It removes nothing
//! before the record of the removal is durable.

use std::fs;
use std::io;
use std::sync::PoisonError;

use jiff::{SignedDuration, Timestamp};
use postern_core::ledger::{Event, Room};
use postern_core::message::MAX_MESSAGE_LIFE;
use postern_core::time::Now;

use super::segment_index::IndexedSegment;
use super::{Journal, segments};

/// A day, in seconds.
const DAY: i64 = 24 * 3600;
/// How long every line is kept, in seconds. A start from the oldest line must know every message that may still be fresh.
const LEAST: i64 = 4 * MAX_MESSAGE_LIFE.0.cast_signed();

/// How large the journal gets, and how long its lines are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A segment with this many bytes is followed by a new one.
    pub segment_bytes: u64,
    /// How many days segments are kept; for ever when absent.
    pub keep_days: Option<u32>,
    /// The most bytes that are kept.
    pub keep_bytes: u64,
    /// How much of the journal's contents the ledger holds in memory: `[limits]`.
    pub room: Room,
}

impl Default for Settings {
    fn default() -> Self {
        Self { segment_bytes: 8 << 20, keep_days: None, keep_bytes: 1 << 30, room: Room::default() }
    }
}

impl Journal {
    /// The records to write before segments are removed: one for each, the oldest first. Lines from `needed` on are kept
    /// whatever their age. Empty while an audit reads the journal, or before the journal was verified.
    #[must_use]
    pub fn outdated(&self, needed: u64, now: &Now) -> Vec<Event> {
        let Ok(index) = self.reader.index.try_lock() else { return Vec::new() };
        if !index.is_whole() {
            return Vec::new();
        }
        let known: Vec<_> = index.segments().collect();
        let mut bytes: u64 = known.iter().map(|segment| segment.bytes).sum();
        // The newest segment is never removed, and the index may be behind for it.
        let closed = &known[..known.len().saturating_sub(1)];
        let mut events = Vec::new();
        for segment in closed {
            let (big, old) = (bytes > self.settings.keep_bytes, self.settings.is_over(segment.until, now));
            if segment.last >= needed || is_recent(segment, now) || !(big || old) {
                break;
            }
            bytes -= segment.bytes;
            events.push(Event::Pruned { through: segment.last, hash: segment.hash.clone() });
        }
        events
    }

    /// Removes the segments whose lines all have numbers up to `through`, the oldest first. Only after the records of it are
    /// durable.
    ///
    /// # Errors
    /// The disk's. A later call removes the segments that are left.
    pub fn remove(&self, through: u64) -> io::Result<()> {
        // No reader reads them at the same time.
        let _index = self.reader.index.lock().unwrap_or_else(PoisonError::into_inner);
        let firsts = segments::list(&self.dir)?;
        for pair in firsts.windows(2).filter(|pair| pair[1] <= through + 1) {
            fs::remove_file(segments::path(&self.dir, pair[0]))?;
            // One after the other, so that after a crash the end of the chain is left.
            segments::sync_dir(&self.dir)?;
        }
        Ok(())
    }
}

impl Settings {
    /// Whether `at` is longer ago than lines are kept. An untrusted clock removes nothing.
    fn is_over(&self, at: Timestamp, now: &Now) -> bool {
        self.keep_days.is_some_and(|days| now.wall_trusted() && age(at, now) > i64::from(days) * DAY)
    }
}

/// Whether a segment's newest line is so new that a message in it may be fresh.
fn is_recent(segment: &IndexedSegment, now: &Now) -> bool {
    if segment.boot_id == now.boot_id {
        return segment.boot.until(now.boot) <= LEAST.unsigned_abs() * 1_000_000_000;
    }
    !now.wall_trusted() || age(segment.until, now) <= LEAST
}

/// Seconds since `at`.
fn age(at: Timestamp, now: &Now) -> i64 {
    SignedDuration::as_secs(&now.wall.duration_since(at))
}
