//! The `[journal]` section: how long the record is kept.

use super::keys;
use super::value::Value;
use crate::journal::Settings;

/// Smaller segments would make too many files; larger ones would leave nothing to remove.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 4096..=1 << 30;

pub(super) fn read(value: &Value<'_>) -> Settings {
    let own = Settings::default();
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
    Settings { segment_bytes, keep_days, keep_bytes, room: own.room }
}
