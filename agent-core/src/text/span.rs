//! Lengths of time as people write them: `30m`, `1h30m`, `90s`. Owns the grammar. It never decides which length is allowed.

use jiff::SignedDuration;

/// The whole seconds of `text`; none if `text` is no length of time, has a fraction of a second, or is negative.
#[must_use]
pub fn seconds(text: &str) -> Option<u64> {
    let duration: SignedDuration = text.parse().ok()?;
    u64::try_from(duration.as_secs()).ok().filter(|_| duration.subsec_nanos() == 0)
}
