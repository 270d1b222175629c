//! A trial of enforcing: its length and its confirmation. Owns the limits of a trial and [`way_in`]; the ledger owns [`ModeState`].

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
/// The length without another choice: time to request access from elsewhere, to log in, and to look around.
pub const DEFAULT_TRIAL: Seconds = Seconds::minutes(5);
/// The longest trial.
pub const MAX_TRIAL: Seconds = Seconds::hours(1);

/// The signed grant that has let somebody in since enforcing began: it carries a session of `established` that is not retained. A
/// confirmation needs this proof that people can get in after the bootstrap grant ends.
#[must_use]
pub fn way_in(ledger: &Ledger, established: &[Session], now: &Now) -> Option<Uuid> {
    let before: BTreeSet<_> = ledger.keeping().sessions(now).map(|(_, kept)| kept.cookie).collect();
    let signed = |grant: &&Grant| !grant.is_unsigned() && grant.boot_id == now.boot_id && grant.is_live(now.boot);
    let carries = |grant: &&Grant| {
        established.iter().any(|session| !before.contains(&session.cookie) && session.is_carried_by(grant, |_| true))
    };
    ledger.active().filter(signed).find(carries).map(|grant| grant.id)
}
