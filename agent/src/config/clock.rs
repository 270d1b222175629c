//! The `[clock]` section: how far the wall clock is trusted. Reads no clock.

use postern_core::wall::Unsynchronised;

use super::keys;
use super::value::Value;

/// The `[clock]` section.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// How far to trust a wall clock that nothing synchronises.
    pub unsynchronised: Unsynchronised,
}

pub(super) fn read(value: &Value<'_>) -> Clock {
    let choices = [("challenge", Unsynchronised::Challenge), ("trust", Unsynchronised::Trust)];
    let section = value.section(keys::CLOCK);
    let chosen = section.and_then(|section| section.get("unsynchronised")).and_then(|value| value.choice(&choices));
    Clock { unsynchronised: chosen.unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn a_clock_that_nobody_synchronises_is_doubted_unless_it_is_said_otherwise() {
        let read = |text: &str| Config::parse(text).map(|config| config.clock.unsynchronised).ok();
        assert_eq!(read(""), Some(Unsynchronised::Challenge));
        assert_eq!(read("[clock]"), Some(Unsynchronised::Challenge));
        assert_eq!(read("[clock]\nunsynchronised = \"challenge\""), Some(Unsynchronised::Challenge));
        assert_eq!(read("[clock]\nunsynchronised = \"trust\""), Some(Unsynchronised::Trust));
        for wrong in ["true", "\"Trust\"", "\"\""] {
            assert_eq!(read(&format!("[clock]\nunsynchronised = {wrong}")), None, "{wrong}");
        }
        assert_eq!(read("[clock]\nunsynchronized = \"trust\""), None);
    }
}
