//! The removal of the oldest segments.
//!
//! Owns the choice and the removal. It removes no segment that a start needs, that was not verified, or whose removal is not recorded.

use std::fs;
use std::io;
use std::sync::PoisonError;

use jiff::{SignedDuration, Timestamp};
use postern_core::ledger::{Event, Room};
use postern_core::message::MAX_MESSAGE_LIFE;
use postern_core::time::Now;

use super::segment_index::IndexedSegment;
use super::{Journal, segments};

const DAY: i64 = 24 * 3600;
/// The least time that a line is kept, in seconds: a start from the oldest line must know every message that may still be fresh.
const LEAST: i64 = 4 * MAX_MESSAGE_LIFE.0.cast_signed();

/// How large the journal gets, and how long its lines are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The bytes after which a new segment begins.
    pub segment_bytes: u64,
    /// How many days segments are kept; absent: for ever.
    pub keep_days: Option<u32>,
    /// The most bytes that are kept.
    pub keep_bytes: u64,
    /// The ledger's room in memory: `[limits]`.
    pub room: Room,
}

impl Default for Settings {
    fn default() -> Self {
        Self { segment_bytes: 8 << 20, keep_days: None, keep_bytes: 1 << 30, room: Room::default() }
    }
}

impl Journal {
    /// The records to write before segments are removed, the oldest first. Lines from `needed` on are kept at any age. Empty while an audit
    /// reads the journal, and before the journal was verified.
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

    /// Removes the segments with only lines up to `through`, the oldest first. The records of the removal must be durable.
    ///
    /// # Errors
    /// An error of the disk. A later call removes the rest.
    pub fn remove(&self, through: u64) -> io::Result<()> {
        // The lock keeps readers away.
        let _index = self.reader.index.lock().unwrap_or_else(PoisonError::into_inner);
        let firsts = segments::list(&self.dir)?;
        for pair in firsts.windows(2).filter(|pair| pair[1] <= through + 1) {
            fs::remove_file(segments::path(&self.dir, pair[0]))?;
            // Sync after each one, so that after a crash only the oldest lines are missing.
            segments::sync_dir(&self.dir)?;
        }
        Ok(())
    }
}

impl Settings {
    /// Whether lines of the time `at` are too old to keep. With an untrusted clock none are.
    fn is_over(&self, at: Timestamp, now: &Now) -> bool {
        self.keep_days.is_some_and(|days| now.wall_trusted() && age(at, now) > i64::from(days) * DAY)
    }
}

/// Whether a message in the segment may still be fresh.
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
