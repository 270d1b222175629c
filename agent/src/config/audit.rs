//! The `[audit]` section: whether the journal's lines are exported too.

use super::keys;
use super::value::Value;

/// The `[audit]` section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Whether lines are exported to systemd's journal; `None`: if there is one.
    pub journald: Option<bool>,
}

pub(super) fn read(value: &Value<'_>) -> Audit {
    let section = value.section(keys::AUDIT);
    Audit { journald: section.and_then(|section| section.get("journald")).and_then(|value| value.truth()) }
}
