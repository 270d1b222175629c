//! `[audit]`: where the journal's lines go besides.
//!
//! Owns its settings.

use super::keys;
use super::value::Value;

/// `[audit]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Whether lines are exported to systemd's journal; `None`: when there is one.
    pub journald: Option<bool>,
}

/// The section.
pub(super) fn read(value: &Value<'_>) -> Audit {
    let section = value.section(keys::AUDIT);
    Audit { journald: section.and_then(|section| section.get("journald")).and_then(|value| value.truth()) }
}
