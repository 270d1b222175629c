//! One signature on an envelope: an SSHSIG by a key or a user certificate that hosts accept. Owns a host's restrictions on well-formed
//! SSHSIGs. It never decides whose a key is.

use super::certificate::UserCertificate;
use crate::refusal::{Reason, Refusal};
use crate::signer::{Presented, Purpose};
use crate::ssh::wire::type_of;
use crate::ssh::{self, Accept, Algorithm, PublicKey, SshSig};

/// A signature whose key a host may accept, unchecked.
#[derive(Clone, Debug)]
pub struct Signature {
    key: Key,
    sshsig: SshSig,
}

#[derive(Clone, Debug)]
enum Key {
    Plain(PublicKey),
    Certified(Box<UserCertificate>),
}

impl Signature {
    /// Reads the bytes that [`ssh::dearmor`] returns.
    /// # Errors
    /// Malformed bytes, an unknown version, or an algorithm or certificate that is not accepted.
    pub fn parse(bytes: &[u8]) -> Result<Self, Refusal> {
        let sshsig = SshSig::parse(bytes)?;
        let name = type_of(&sshsig.key).unwrap_or_default();
        let key = match Algorithm::of_certificate_name(name.as_bytes()) {
            Some(_) => Key::Certified(Box::new(UserCertificate::parse(&sshsig.key)?)),
            None => Key::Plain(PublicKey::parse(&sshsig.key, Accept::Signers)?),
        };
        Ok(Self { key, sshsig })
    }

    /// The namespace that the signer chose.
    #[must_use]
    pub fn namespace(&self) -> &[u8] {
        &self.sshsig.namespace
    }

    /// The key that signed, without its certificate.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        match &self.key {
            Key::Plain(key) => key,
            Key::Certified(certificate) => certificate.key(),
        }
    }

    /// Checks the signature over `message`, and the certificate's signature. Whether the key or authority is trusted does not matter here.
    /// # Errors
    /// The signature does not fit, has an algorithm that is not accepted, or was made without a touch.
    pub fn verify(&self, message: &[u8]) -> Result<(), Refusal> {
        let person = self.sshsig.verify(self.public_key(), message)?;
        match &self.key {
            Key::Plain(_) => Ok(()),
            Key::Certified(certificate) => certificate.verify(person),
        }
    }

    /// The key and its claims, for a signature in `role`.
    pub(super) fn presented(&self, role: Purpose) -> Presented {
        let certificate = match &self.key {
            Key::Plain(_) => None,
            Key::Certified(certificate) => Some(certificate.claims()),
        };
        Presented { role, key: self.public_key().fingerprint(), certificate }
    }
}

impl From<ssh::Error> for Refusal {
    fn from(error: ssh::Error) -> Self {
        let reason = match error {
            ssh::Error::NotTouched => return Self::new(Reason::UserPresenceMissing, ""),
            ssh::Error::Wrong => return Self::new(Reason::SignatureInvalid, ""),
            ssh::Error::TooLong(_) => Reason::MessageTooLarge,
            ssh::Error::Malformed(_) | ssh::Error::Form(_) | ssh::Error::Version(_) => Reason::SignatureMalformed,
            ssh::Error::KeyType(_) | ssh::Error::RsaSize { .. } | ssh::Error::Algorithm(_) => {
                Reason::AlgorithmNotAllowed
            }
        };
        Self::new(reason, error)
    }
}
