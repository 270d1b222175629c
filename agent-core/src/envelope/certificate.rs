//! The user certificates that a host accepts.
//!
//! Owns the bounds on what is stored of a certificate, and the restrictions that a host honours. It never decides whether the authority
//! is trusted or whom it may vouch for ([`crate::trust`]).

use crate::refusal::{Reason, Refusal};
use crate::signer::Claims;
use crate::ssh::wire::Reader;
use crate::ssh::{Accept, Certificate, Error, Person, PublicKey, shown};

/// The most principals that OpenSSH reads from one certificate.
const MOST_PRINCIPALS: usize = 256;
/// The longest key id or principal, in bytes: they are stored with each grant.
const MOST_TEXT: usize = 255;

/// A certificate of a person. Its signature is not checked yet.
#[derive(Clone, Debug)]
pub(super) struct UserCertificate {
    certificate: Certificate,
    authority: PublicKey,
    key_id: String,
    verify_required: bool,
}

fn invalid(detail: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::CertificateInvalid, detail)
}

impl UserCertificate {
    /// Reads a certificate.
    ///
    /// # Errors
    /// Malformed, not a user certificate, restricted in a way that cannot be honoured here, or signed by a key that is
    /// not on the list.
    pub(super) fn parse(blob: &[u8]) -> Result<Self, Refusal> {
        let certificate = Certificate::parse(blob, Accept::Signers)?;
        if certificate.of_host {
            return Err(invalid("it is not a user certificate"));
        }
        let key_id = std::str::from_utf8(&certificate.key_id).map_err(|_| Error::Malformed("key id"))?.to_owned();
        check_text(&key_id, "key id")?;
        if certificate.principals.len() > MOST_PRINCIPALS {
            return Err(invalid(format_args!("it has more than {MOST_PRINCIPALS} principals")));
        }
        certificate.principals.iter().try_for_each(|name| check_text(name, "principal"))?;
        let verify_required = critical_options(&certificate.critical_options)?;
        let authority = PublicKey::parse(&certificate.authority, Accept::Signers).map_err(|error| {
            match error.is_not_accepted() {
                true => Refusal::new(Reason::AlgorithmNotAllowed, format_args!("the certificate's authority: {error}")),
                false => error.into(),
            }
        })?;
        Ok(Self { certificate, authority, key_id, verify_required })
    }

    /// The key that it is about.
    pub(super) const fn key(&self) -> &PublicKey {
        &self.certificate.key
    }

    /// What it says about the holder of its key.
    pub(super) fn claims(&self) -> Claims {
        let Certificate { serial, valid_after, valid_before, .. } = self.certificate;
        let principals = self.certificate.principals.clone();
        let (authority, key_id) = (self.authority.fingerprint(), self.key_id.clone());
        Claims { authority, serial, key_id, principals, valid_after, valid_before }
    }

    /// Checks the authority's signature, and what the certificate demands of its holder.
    ///
    /// # Errors
    /// The signature does not fit, or the security key did not check its holder although the certificate wants it.
    pub(super) fn verify(&self, person: Person) -> Result<(), Refusal> {
        if self.verify_required && !person.verified {
            return Err(invalid("it requires the security key's PIN or fingerprint for each signature"));
        }
        let checked = self.certificate.verify(Accept::Signers);
        checked.map_err(|error| invalid(format_args!("its own signature: {}", Refusal::from(error))))
    }
}

/// Other characters that could mislead a reader are escaped where the text is shown.
fn check_text(text: &str, field: &'static str) -> Result<(), Error> {
    let fits = text.len() <= MOST_TEXT && !text.chars().any(char::is_control);
    if fits { Ok(()) } else { Err(Error::Malformed(field)) }
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
