//! The mode in the configuration. Owns the two words. [`crate::ledger::ModeState`] holds the kernel's present mode.

use serde::{Deserialize, Serialize};

/// The mode in the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// The host drops packets without a grant.
    #[default]
    Enforce,
    /// The host drops nothing, and counts the packets that it would drop.
    Observe,
}

impl Mode {
    /// The word in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }

    /// Whether this is the default, which the journal omits.
    #[must_use]
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
    pub fn is_enforce(&self) -> bool {
        *self == Self::Enforce
    }
}
