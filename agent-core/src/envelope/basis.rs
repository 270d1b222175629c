//! The signatures of a message, for a later check under other rules. Owns the data of each verified signature; [`Trust`] decides.

use crate::refusal::{Reason, Refusal};
use crate::signer::{Presented, Signer};
use crate::trust::{Moment, Trust};

/// The signers of a message, with the data to check again whether their signatures count. The default has no signers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Basis {
    signed: Vec<(Signer, Presented)>,
}

impl Basis {
    pub(super) fn new(signed: Vec<(Signer, Presented)>) -> Self {
        Self { signed }
    }

    /// Checks that `trust` still gives every signature to the same person, at the time at which the message takes effect. `now` and
    /// `clock_trusted` as for [`super::verify`].
    /// # Errors
    /// As [`super::verify`]; [`Reason::KeyUnknown`] if the key now belongs to another person, [`Reason::Unsigned`] without signers.
    pub fn check(&self, trust: &Trust, now: i64, clock_trusted: bool) -> Result<(), Refusal> {
        let moment = Moment::new(now, clock_trusted);
        if self.signed.is_empty() {
            return Err(Refusal::new(Reason::Unsigned, "nobody signed"));
        }
        for (signer, presented) in &self.signed {
            let named = trust.admit(presented, moment)?;
            if named.principal != signer.principal {
                let detail = format!("as {}, who signed; it names {} now", signer.principal, named.principal);
                return Err(Refusal::new(Reason::KeyUnknown, detail));
            }
        }
        Ok(())
    }
}
