//! `[journal]`: how long the record is kept.
//!
//! Owns its settings and their bounds. It never touches a file.

use postern_core::ledger::Room;

use super::keys;
use super::value::Value;

/// With smaller segments the journal would be more files than lines, with larger ones there would be nothing to remove.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 4096..=1 << 30;

/// `[journal]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Journal {
    /// From how many bytes on a new segment is begun.
    pub segment_bytes: u64,
    /// How many days segments are kept; for ever when absent.
    pub keep_days: Option<u32>,
    /// The most bytes that are kept.
    pub keep_bytes: u64,
    /// How much of what it says is held in memory: `[limits]`.
    pub room: Room,
}

impl Default for Journal {
    fn default() -> Self {
        Self { segment_bytes: 8 << 20, keep_days: None, keep_bytes: 1 << 30, room: Room::default() }
    }
}

pub(super) fn read(value: &Value<'_>) -> Journal {
    let own = Journal::default();
    let Some(section) = value.section(keys::JOURNAL) else { return own };
    let segment = section.get("segment_bytes");
    let keep = section.get("keep_bytes");
    let bytes = |value: &Option<Value<'_>>, range| value.as_ref().and_then(|value| value.whole(range));
    let segment_bytes = bytes(&segment, SEGMENT_BYTES).unwrap_or(own.segment_bytes);
    let keep_bytes = bytes(&keep, 1..=u64::MAX).unwrap_or(own.keep_bytes);
    if keep_bytes < segment_bytes * 2
        && let Some(at) = keep.or(segment)
    {
        at.wrong(format!("{keep_bytes} bytes are kept, and must be two segments of {segment_bytes} at least"));
    }
    let keep_days = section.get("keep_days").and_then(|value| value.number(1..=u32::MAX));
    Journal { segment_bytes, keep_days, keep_bytes, room: own.room }
}
