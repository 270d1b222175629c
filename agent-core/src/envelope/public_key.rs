//! Public keys: the closed list of algorithms, their SSH encoding, their fingerprints.
//!
//! Owns what a key is. It never decides whether one is trusted ([`crate::trust`]) and never sees a private key.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ring::digest;

use super::reader::{Malformed, Reader, put_string};
use crate::refusal::{Reason, Refusal};
use crate::text::Shown;

/// RSA moduli that are accepted, in bits: 3072 is 128 bits of security (NIST SP 800-57), 8192 is what ring verifies.
const RSA_BITS: std::ops::RangeInclusive<usize> = 3072..=8192;

/// What ends the name of a certificate's type.
const CERTIFICATE_SUFFIX: &str = "-cert-v01@openssh.com";

/// The algorithms that Postern accepts; there are no others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `ssh-ed25519`.
    Ed25519,
    /// `ecdsa-sha2-nistp256`.
    EcdsaP256,
    /// `ecdsa-sha2-nistp384`.
    EcdsaP384,
    /// `sk-ssh-ed25519@openssh.com`: a FIDO2 security key.
    SkEd25519,
    /// `sk-ecdsa-sha2-nistp256@openssh.com`: a FIDO2 security key.
    SkEcdsaP256,
    /// `ssh-rsa` of 3072 to 8192 bits; signatures must be `rsa-sha2-512`.
    Rsa,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Ed25519, Self::EcdsaP256, Self::EcdsaP384, Self::SkEd25519, Self::SkEcdsaP256, Self::Rsa];

    /// The name in a public key.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::EcdsaP256 => "ecdsa-sha2-nistp256",
            Self::EcdsaP384 => "ecdsa-sha2-nistp384",
            Self::SkEd25519 => "sk-ssh-ed25519@openssh.com",
            Self::SkEcdsaP256 => "sk-ecdsa-sha2-nistp256@openssh.com",
            Self::Rsa => "ssh-rsa",
        }
    }

    /// The name in a signature: the same, but for RSA, where it names the hash.
    #[must_use]
    pub const fn signature_name(self) -> &'static str {
        match self {
            Self::Rsa => "rsa-sha2-512",
            other => other.name(),
        }
    }

    /// The algorithm of this name, if it is on the list.
    #[must_use]
    pub fn of_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name().as_bytes() == name)
    }

    /// The algorithm whose certificates have a type of this name, if it is on the list.
    #[must_use]
    pub fn of_certificate_name(name: &[u8]) -> Option<Self> {
        let plain = name.strip_suffix(CERTIFICATE_SUFFIX.as_bytes())?;
        // "sk-ssh-ed25519@openssh.com" makes "sk-ssh-ed25519-cert-v01@openssh.com".
        Self::ALL.into_iter().find(|a| a.name().trim_end_matches("@openssh.com").as_bytes() == plain)
    }
}

/// The SHA-256 of a public key's encoding; written `SHA256:…` as `ssh-keygen -l` does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of the key that `blob` encodes.
    #[must_use]
    pub fn of_blob(blob: &[u8]) -> Self {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, blob).as_ref());
        Self(bytes)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SHA256:{}", STANDARD_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let malformed = KeyError::Malformed("fingerprint");
        let encoded = text.strip_prefix("SHA256:").filter(|e| e.len() == 43).ok_or(malformed.clone())?;
        let bytes = STANDARD_NO_PAD.decode(encoded).map_err(|_| malformed.clone())?;
        bytes.try_into().map(Self).map_err(|_| malformed)
    }
}

/// Why bytes are not a key that Postern accepts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not the encoding of a key.
    #[error("the key's {0} is malformed")]
    Malformed(&'static str),
    /// A key of an algorithm that is not on the list.
    #[error("{0} keys are not accepted")]
    NotAllowed(String),
    /// An RSA key outside of the accepted sizes.
    #[error("RSA keys of {0} bits are not accepted, only 3072 to 8192")]
    RsaSize(usize),
}

impl From<Malformed> for KeyError {
    fn from(Malformed(field): Malformed) -> Self {
        Self::Malformed(field)
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        let reason = match error {
            KeyError::Malformed(_) => Reason::SignatureMalformed,
            KeyError::NotAllowed(_) | KeyError::RsaSize(_) => Reason::AlgorithmNotAllowed,
        };
        Self::new(reason, error)
    }
}

/// A name from outside, fit to be shown.
pub(crate) fn shown(name: &[u8]) -> String {
    Shown::new(&String::from_utf8_lossy(name)).at_most(64).to_string()
}

/// What a key consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Material<'a> {
    Ed25519(&'a [u8; 32]),
    /// An uncompressed point of the curve that the algorithm names.
    Point(&'a [u8]),
    Rsa {
        e: &'a [u8],
        n: &'a [u8],
    },
}

/// A public key that is on the list, borrowed from its encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey<'a> {
    pub(crate) algorithm: Algorithm,
    pub(crate) material: Material<'a>,
    /// What a security key signs for, for example `ssh:`; empty for other keys.
    pub(crate) application: &'a [u8],
    fingerprint: Fingerprint,
}

impl<'a> PublicKey<'a> {
    /// Reads the SSH encoding of a plain key.
    ///
    /// # Errors
    /// Bytes that are no key, or not one on the list.
    pub fn parse(blob: &'a [u8]) -> Result<Self, KeyError> {
        let mut reader = Reader::new(blob);
        let name = reader.string("type")?;
        let algorithm = Algorithm::of_name(name).ok_or_else(|| KeyError::NotAllowed(shown(name)))?;
        let key = Self::read(algorithm, &mut reader)?;
        reader.finish("end")?;
        Ok(key)
    }

    /// Reads what follows the type in a key, and the type and nonce in a certificate.
    pub(crate) fn read(algorithm: Algorithm, reader: &mut Reader<'a>) -> Result<Self, KeyError> {
        let start = reader.rest();
        let material = match algorithm {
            Algorithm::Ed25519 | Algorithm::SkEd25519 => read_ed25519(reader)?,
            Algorithm::EcdsaP256 | Algorithm::SkEcdsaP256 => read_point(reader, b"nistp256", 65)?,
            Algorithm::EcdsaP384 => read_point(reader, b"nistp384", 97)?,
            Algorithm::Rsa => read_rsa(reader)?,
        };
        let application = match algorithm {
            Algorithm::SkEd25519 | Algorithm::SkEcdsaP256 => reader.string("application")?,
            _ => &[],
        };
        // A certificate's key has the fingerprint of the plain key inside it.
        let fields = start.get(..start.len() - reader.rest().len()).unwrap_or_default();
        let mut blob = Vec::with_capacity(fields.len() + 64);
        put_string(&mut blob, algorithm.name().as_bytes());
        blob.extend_from_slice(fields);
        Ok(Self { algorithm, material, application, fingerprint: Fingerprint::of_blob(&blob) })
    }

    /// What of it outlives its encoding.
    #[must_use]
    pub const fn identity(&self) -> (Algorithm, Fingerprint) {
        (self.algorithm, self.fingerprint)
    }

    /// Which kind of key.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its fingerprint, which stands for the key everywhere.
    #[must_use]
    pub const fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

fn read_ed25519<'a>(reader: &mut Reader<'a>) -> Result<Material<'a>, KeyError> {
    let key = reader.string("ed25519 key")?;
    key.try_into().map(Material::Ed25519).map_err(|_| KeyError::Malformed("ed25519 key"))
}

fn read_point<'a>(reader: &mut Reader<'a>, curve: &[u8], length: usize) -> Result<Material<'a>, KeyError> {
    if reader.string("curve")? != curve {
        return Err(KeyError::Malformed("curve"));
    }
    // Whether the point lies on the curve is checked by ring with each signature.
    match reader.string("point")? {
        point @ [4, ..] if point.len() == length => Ok(Material::Point(point)),
        _ => Err(KeyError::Malformed("point")),
    }
}

fn read_rsa<'a>(reader: &mut Reader<'a>) -> Result<Material<'a>, KeyError> {
    let (e, n) = (reader.mpint("exponent")?, reader.mpint("modulus")?);
    let unused = n.first().map_or(0, |high| high.leading_zeros() as usize);
    let bits = n.len() * 8 - unused;
    if RSA_BITS.contains(&bits) { Ok(Material::Rsa { e, n }) } else { Err(KeyError::RsaSize(bits)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_names_map_to_their_algorithm() {
        let of = |name: &str| Algorithm::of_certificate_name(name.as_bytes());
        assert_eq!(of("ssh-ed25519-cert-v01@openssh.com"), Some(Algorithm::Ed25519));
        assert_eq!(of("sk-ssh-ed25519-cert-v01@openssh.com"), Some(Algorithm::SkEd25519));
        assert_eq!(of("sk-ecdsa-sha2-nistp256-cert-v01@openssh.com"), Some(Algorithm::SkEcdsaP256));
        assert_eq!(of("ssh-rsa-cert-v01@openssh.com"), Some(Algorithm::Rsa));
        assert_eq!(of("rsa-sha2-512-cert-v01@openssh.com"), None);
        assert_eq!(of("ssh-dss-cert-v01@openssh.com"), None);
        assert_eq!(of("ssh-ed25519"), None);
    }

    #[test]
    fn fingerprints_read_back() {
        let fingerprint = Fingerprint::of_blob(b"key");
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        for bad in ["", "SHA256:", "MD5:00", "SHA256:AAAA", "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }
}
