//! Lengths of time as people write them: `30m`, `1h30m`, `90s`.
//!
//! Owns the one grammar for configuration files and commands. It never decides how long is allowed.

use jiff::SignedDuration;

/// The whole seconds of `text`; none where it is no length of time, not of whole seconds, or negative.
#[must_use]
pub fn seconds(text: &str) -> Option<u64> {
    let duration: SignedDuration = text.parse().ok()?;
    u64::try_from(duration.as_secs()).ok().filter(|_| duration.subsec_nanos() == 0)
}
