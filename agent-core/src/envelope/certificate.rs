//! OpenSSH user certificates (PROTOCOL.certkeys).
//!
//! Owns their encoding and the check of the authority's signature. It never decides whether the authority is trusted or
//! whom it may vouch for ([`crate::trust`]).

use super::public_key::{Algorithm, KeyError, PublicKey, shown};
use super::reader::{Malformed, Reader};
use super::signature::Person;
use crate::refusal::{Reason, Refusal};

/// The certificate type "user".
const USER: u32 = 1;
/// The most principals that OpenSSH reads from one certificate.
const MOST_PRINCIPALS: usize = 256;
/// The longest key id or principal, in bytes: they are stored with each grant.
const MOST_TEXT: usize = 255;

/// A user certificate, borrowed from its encoding. Its signature is not checked yet.
#[derive(Clone, Debug)]
pub(crate) struct Certificate<'a> {
    /// The key that it is about.
    pub(crate) key: PublicKey<'a>,
    /// Chosen by the authority; 0 if it does not count.
    pub(crate) serial: u64,
    /// Chosen by the authority, for logs and revocation.
    pub(crate) key_id: &'a str,
    /// The names that the authority gives to the key's holder.
    pub(crate) principals: Vec<&'a str>,
    /// The first second in which it is valid.
    pub(crate) valid_after: u64,
    /// The first second in which it is valid no longer.
    pub(crate) valid_before: u64,
    /// The key that signed it.
    pub(crate) authority: PublicKey<'a>,
    verify_required: bool,
    signed: &'a [u8],
    signature: &'a [u8],
}

fn invalid(detail: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::CertificateInvalid, detail)
}

impl<'a> Certificate<'a> {
    /// Reads what follows the type in `blob`.
    ///
    /// # Errors
    /// Malformed, not a user certificate, restricted in a way that cannot be honoured here, or signed by a key that is
    /// not on the list.
    pub(crate) fn parse(algorithm: Algorithm, blob: &'a [u8]) -> Result<Self, Refusal> {
        let mut reader = Reader::new(blob);
        reader.string("certificate type")?;
        reader.string("nonce")?;
        let key = PublicKey::read(algorithm, &mut reader)?;
        let serial = reader.u64("serial")?;
        if reader.u32("kind")? != USER {
            return Err(invalid("it is not a user certificate"));
        }
        let key_id = bounded(reader.text("key id")?, "key id")?;
        let principals = principals(reader.string("principals")?)?;
        let (valid_after, valid_before) = (reader.u64("valid after")?, reader.u64("valid before")?);
        let verify_required = critical_options(reader.string("critical options")?)?;
        let (_extensions, _reserved) = (reader.string("extensions")?, reader.string("reserved")?);
        let authority = authority(reader.string("authority")?)?;
        let signed = blob.get(..blob.len() - reader.rest().len()).unwrap_or_default();
        let signature = reader.string("authority's signature")?;
        reader.finish("certificate's end")?;
        Ok(Self {
            key,
            serial,
            key_id,
            principals,
            valid_after,
            valid_before,
            authority,
            verify_required,
            signed,
            signature,
        })
    }

    /// Checks the authority's signature, and what the certificate demands of its holder.
    ///
    /// # Errors
    /// The signature does not fit, or the security key did not check its holder although the certificate wants it.
    pub(crate) fn verify(&self, person: Person) -> Result<(), Refusal> {
        if self.verify_required && !person.verified {
            return Err(invalid("it wants the security key's PIN or finger print for each signature"));
        }
        let checked = self.authority.verify(self.signature, self.signed);
        checked.map(drop).map_err(|refusal| invalid(format_args!("its own signature: {refusal}")))
    }
}

fn bounded<'a>(text: &'a str, field: &'static str) -> Result<&'a str, Malformed> {
    if text.len() <= MOST_TEXT { Ok(text) } else { Err(Malformed(field)) }
}

fn principals(packed: &[u8]) -> Result<Vec<&str>, Refusal> {
    let mut reader = Reader::new(packed);
    let mut names = Vec::new();
    while !reader.rest().is_empty() {
        if names.len() == MOST_PRINCIPALS {
            return Err(invalid(format_args!("it has more than {MOST_PRINCIPALS} principals")));
        }
        names.push(bounded(reader.text("principal")?, "principal")?);
    }
    Ok(names)
}

/// Whether `verify-required` is among the options. All others restrict in ways that a grant cannot honour: a certificate
/// for one command, or from one address, must not open a port.
fn critical_options(packed: &[u8]) -> Result<bool, Refusal> {
    let mut reader = Reader::new(packed);
    let mut verify_required = false;
    while !reader.rest().is_empty() {
        let (name, data) = (reader.string("option's name")?, reader.string("option's data")?);
        if name != b"verify-required" || !data.is_empty() {
            return Err(invalid(format_args!("its critical option {} cannot be honoured", shown(name))));
        }
        verify_required = true;
    }
    Ok(verify_required)
}

fn authority(blob: &[u8]) -> Result<PublicKey<'_>, Refusal> {
    PublicKey::parse(blob).map_err(|error| match error {
        KeyError::Malformed(_) => error.into(),
        KeyError::NotAllowed(_) | KeyError::RsaSize(_) => {
            Refusal::new(Reason::AlgorithmNotAllowed, format_args!("the certificate's authority: {error}"))
        }
    })
}
