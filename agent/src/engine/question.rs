//! Which keys the host would accept: a question that needs no signature. The rules in force answer it, and no record is written.

use postern_core::envelope::Purpose;
use postern_core::question::{self, KeyToJudge};
use postern_core::time::BootNanos;

use super::Engine;

impl Engine {
    /// Whether the host would accept a signature of each of `keys` in `role` now.
    #[must_use]
    pub fn which_keys_count(&self, role: Purpose, keys: &[KeyToJudge]) -> Vec<bool> {
        let (rules, now) = (self.0.rules(), self.0.now());
        // Rules that wait for their record already forbid reading, so a key must count under both.
        let coming = self.0.coming();
        let (seconds, knows) = (now.wall.as_second(), now.clock.knows_windows());
        let all = [Some(rules), coming];
        let counts = |key: &KeyToJudge| {
            all.iter().flatten().all(|rules| question::counts(&rules.trust, &rules.policy, role, key, seconds, knows))
        };
        keys.iter().map(counts).collect()
    }

    /// The boot clock, for limits that count from moment to moment.
    #[must_use]
    pub fn boot_now(&self) -> BootNanos {
        self.0.now().boot
    }
}
