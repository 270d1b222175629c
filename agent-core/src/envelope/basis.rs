//! The signatures of a message, for a later check under other rules.
//!
//! Owns what is kept of each signature after it was checked. It never decides whether a key is trusted; [`Trust`] does.

use crate::refusal::{Reason, Refusal};
use crate::signer::{Presented, Signer};
use crate::trust::{Moment, Trust};

/// Who signed a message, with all that is needed to ask again whether these signatures count.
///
/// The default is of a message that nobody signed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Basis {
    /// In the order of [`super::Verified::signers`], with what each of them presented.
    signed: Vec<(Signer, Presented)>,
}

impl Basis {
    pub(super) fn new(signed: Vec<(Signer, Presented)>) -> Self {
        Self { signed }
    }

    /// Whether `trust` gives every signature to the same person as when it was verified. A message is verified before it waits for
    /// its turn; this is asked when it takes effect.
    ///
    /// `now` is in seconds since the Unix epoch; `clock_trusted` as for [`super::verify`].
    ///
    /// # Errors
    /// What [`super::verify`] would say now about the first signer who no longer counts. [`Reason::KeyUnknown`] where the key
    /// belongs to somebody else now, [`Reason::Unsigned`] where nobody signed.
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
