//! What a signature's key claims about itself, kept after the signature was checked.
//!
//! Owns the facts by which [`crate::trust::Trust`] decides who signed. They are kept with a message that waits, so that the same
//! question can be asked again under other rules. It never decides whether the key is trusted.

use super::public_key::Fingerprint;
use super::sshsig::SigningKey;
use super::{Purpose, Signer};
use crate::refusal::{Reason, Refusal};
use crate::trust::{Moment, Trust};

/// A key that signed for a purpose, and what its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Presented {
    pub(crate) role: Purpose,
    pub(crate) key: Fingerprint,
    pub(crate) certificate: Option<Claims>,
}

/// What a certificate says about the holder of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The key of the authority that signed it.
    pub authority: Fingerprint,
    /// Chosen by the authority; 0 if it does not count.
    pub serial: u64,
    /// Chosen by the authority, for logs and revocation.
    pub key_id: String,
    /// The names that the authority gives to the key's holder.
    pub principals: Vec<String>,
    /// The first second since 1970 in which it is valid.
    pub valid_after: u64,
    /// The first second since 1970 in which it is valid no longer; `u64::MAX` for one without an end.
    pub valid_before: u64,
}

impl Presented {
    pub(crate) fn new(key: &SigningKey<'_>, role: Purpose) -> Self {
        let certificate = match key {
            SigningKey::Plain(_) => None,
            SigningKey::Certified(c) => Some(Claims {
                authority: c.authority.fingerprint(),
                serial: c.serial,
                key_id: c.key_id.to_owned(),
                principals: c.principals.iter().map(|&name| name.to_owned()).collect(),
                valid_after: c.valid_after,
                valid_before: c.valid_before,
            }),
        };
        Self { role, key: key.key().fingerprint(), certificate }
    }
}

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
