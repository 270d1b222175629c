//! Whether the host enforces or only observes, as the configuration says.
//!
//! Owns the two words. It never says what the kernel does now; [`crate::ledger::ModeState`] does.

use serde::{Deserialize, Serialize};

/// What the configuration asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// What no grant lets in is dropped.
    #[default]
    Enforce,
    /// Nothing is dropped; what would have been is counted.
    Observe,
}

impl Mode {
    /// As the configuration spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }

    /// Whether it is the one that is not written down.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
    pub fn is_enforce(&self) -> bool {
        *self == Self::Enforce
    }
}
