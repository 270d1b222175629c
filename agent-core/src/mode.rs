//! A trial of enforcing: how long it may last, and what confirms it.
//!
//! Owns the limits of a trial and [`way_in`]. The state itself is part of the ledger ([`ModeState`]).

use std::collections::BTreeSet;

use uuid::Uuid;

use crate::grant::Grant;
use crate::ledger::Ledger;
pub use crate::ledger::{Enabling, ModeState, Trial, is_observing, observe_from};
pub use crate::policy::Mode;
use crate::retained::Session;
use crate::time::{Now, Seconds};

/// The shortest trial: a new session takes a moment.
pub const MIN_TRIAL: Seconds = Seconds(1);
/// How long it is where nobody says: time to ask for access from elsewhere, come in, and look around.
pub const DEFAULT_TRIAL: Seconds = Seconds::minutes(5);
/// The longest: a trial that lasts is no trial.
pub const MAX_TRIAL: Seconds = Seconds::hours(1);

/// Which signed grant has let somebody in since enforcing began: one that carries a session among `established` that was not
/// there before. Those that were are kept (`bootstrap`), so nothing else needs to be remembered of them.
///
/// This is what a confirmation stands on: that the way in works which will be left when the bootstrap grant is over.
#[must_use]
pub fn way_in(ledger: &Ledger, established: &[Session], now: &Now) -> Option<Uuid> {
    let before: BTreeSet<_> = ledger.keeping().sessions(now).map(|(_, kept)| kept.cookie).collect();
    let signed = |grant: &&Grant| !grant.is_unsigned() && grant.boot_id == now.boot_id && grant.is_live(now.boot);
    let carries = |grant: &&Grant| {
        established.iter().any(|session| !before.contains(&session.cookie) && session.is_carried_by(grant, |_| true))
    };
    ledger.active().filter(signed).find(carries).map(|grant| grant.id)
}
