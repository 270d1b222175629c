//! The user certificates that a host accepts. Owns the bounds on stored fields and the restrictions that a host honours. [`crate::trust`]
//! decides whether the authority is trusted, and for whom.

use crate::refusal::{Reason, Refusal};
use crate::signer::Claims;
use crate::ssh::wire::Reader;
use crate::ssh::{Accept, Certificate, Error, Person, PublicKey, shown};

/// The most principals that OpenSSH reads from one certificate.
const MOST_PRINCIPALS: usize = 256;
/// The longest key id or principal, in bytes: the journal stores them with each grant.
const MOST_TEXT: usize = 255;

/// A person's certificate, with an unchecked signature.
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

    pub(super) const fn key(&self) -> &PublicKey {
        &self.certificate.key
    }

    /// The certificate's claims about the holder.
    pub(super) fn claims(&self) -> Claims {
        let Certificate { serial, valid_after, valid_before, .. } = self.certificate;
        let principals = self.certificate.principals.clone();
        let (authority, key_id) = (self.authority.fingerprint(), self.key_id.clone());
        Claims { authority, serial, key_id, principals, valid_after, valid_before }
    }

    /// Checks the authority's signature and the `verify-required` option.
    /// # Errors
    /// The signature does not fit, or the security key did not check its holder although the certificate requires it.
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

/// A grant honours only `verify-required`: a certificate for one command, or from one address, must not open a port.
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
