//! Public keys: their algorithms, their encoding, and which of them a caller accepts. Owns the parser of keys. It never decides whether a
//! key is trusted and never holds a private key.

use super::wire::{Reader, put_string};
use super::{Error, Fingerprint, shown};

/// The largest RSA modulus that ring verifies, in bits.
const MOST_RSA_BITS: usize = 8192;

const CERTIFICATE_SUFFIX: &str = "-cert-v01@openssh.com";

/// The keys and signatures that a caller accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Keys that sign messages to a host, and their authorities: Ed25519, ECDSA P-256 and P-384, security keys, and RSA with SHA-512 of at
    /// least 3072 bits, which is 128 bits of security (NIST SP 800-57).
    Signers,
    /// Keys of hosts and their authorities, as ssh accepts them: Ed25519, ECDSA, and RSA with SHA-2 of at least 2048 bits.
    HostKeys,
    /// Every readable key, to show or compare it.
    All,
}

impl Accept {
    /// Whether keys of this algorithm are accepted.
    #[must_use]
    pub const fn admits(self, algorithm: Algorithm) -> bool {
        match self {
            Self::Signers => !matches!(algorithm, Algorithm::EcdsaP521),
            Self::HostKeys => !matches!(algorithm, Algorithm::SkEd25519 | Algorithm::SkEcdsaP256),
            Self::All => true,
        }
    }

    const fn least_rsa_bits(self) -> usize {
        match self {
            Self::Signers => 3072,
            Self::HostKeys => 2048,
            Self::All => 0,
        }
    }
}

/// The algorithms of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// `ssh-ed25519`.
    Ed25519,
    /// `ecdsa-sha2-nistp256`.
    EcdsaP256,
    /// `ecdsa-sha2-nistp384`.
    EcdsaP384,
    /// `ecdsa-sha2-nistp521`.
    EcdsaP521,
    /// `sk-ssh-ed25519@openssh.com`: a FIDO2 security key.
    SkEd25519,
    /// `sk-ecdsa-sha2-nistp256@openssh.com`: a FIDO2 security key.
    SkEcdsaP256,
    /// `ssh-rsa`; the name of a signature also names the hash.
    Rsa,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Self; 7] = [
        Self::Ed25519,
        Self::EcdsaP256,
        Self::EcdsaP384,
        Self::EcdsaP521,
        Self::SkEd25519,
        Self::SkEcdsaP256,
        Self::Rsa,
    ];

    /// The name in a public key.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::EcdsaP256 => "ecdsa-sha2-nistp256",
            Self::EcdsaP384 => "ecdsa-sha2-nistp384",
            Self::EcdsaP521 => "ecdsa-sha2-nistp521",
            Self::SkEd25519 => "sk-ssh-ed25519@openssh.com",
            Self::SkEcdsaP256 => "sk-ecdsa-sha2-nistp256@openssh.com",
            Self::Rsa => "ssh-rsa",
        }
    }

    /// The algorithm with this name.
    #[must_use]
    pub fn of_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name().as_bytes() == name)
    }

    /// The algorithm whose certificates have this type.
    #[must_use]
    pub fn of_certificate_name(name: &[u8]) -> Option<Self> {
        let plain = name.strip_suffix(CERTIFICATE_SUFFIX.as_bytes())?;
        // "sk-ssh-ed25519@openssh.com" makes "sk-ssh-ed25519-cert-v01@openssh.com".
        Self::ALL.into_iter().find(|a| a.name().trim_end_matches("@openssh.com").as_bytes() == plain)
    }

    /// Whether this is the algorithm of a FIDO2 security key, which may require a touch.
    #[must_use]
    pub const fn is_security_key(self) -> bool {
        matches!(self, Self::SkEd25519 | Self::SkEcdsaP256)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Material {
    Ed25519(Vec<u8>),
    /// An uncompressed point of the curve that the algorithm names.
    Point(Vec<u8>),
    Rsa {
        e: Vec<u8>,
        n: Vec<u8>,
    },
}

/// A public key that the caller accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    pub(super) algorithm: Algorithm,
    pub(super) material: Material,
    /// The application of a security key, for example `ssh:`; empty for other keys.
    pub(super) application: Vec<u8>,
    pub(super) accept: Accept,
    blob: Vec<u8>,
}

impl PublicKey {
    /// Reads the encoding of a plain key.
    /// # Errors
    /// Bytes that are no key, or a key that the caller does not accept.
    pub fn parse(blob: &[u8], accept: Accept) -> Result<Self, Error> {
        let mut reader = Reader::new(blob);
        let name = reader.string("type")?;
        let algorithm = Algorithm::of_name(name).ok_or_else(|| Error::KeyType(shown(name)))?;
        let key = Self::read(algorithm, &mut reader, accept)?;
        reader.finish("end")?;
        Ok(key)
    }

    /// Reads the fields after the type of a key, or after the type and nonce of a certificate.
    pub(super) fn read(algorithm: Algorithm, reader: &mut Reader<'_>, accept: Accept) -> Result<Self, Error> {
        if !accept.admits(algorithm) {
            return Err(Error::KeyType(algorithm.name().to_owned()));
        }
        let start = reader.rest();
        let material = match algorithm {
            Algorithm::Ed25519 | Algorithm::SkEd25519 => read_ed25519(reader)?,
            Algorithm::EcdsaP256 | Algorithm::SkEcdsaP256 => read_point(reader, b"nistp256", 65)?,
            Algorithm::EcdsaP384 => read_point(reader, b"nistp384", 97)?,
            Algorithm::EcdsaP521 => read_point(reader, b"nistp521", 133)?,
            Algorithm::Rsa => read_rsa(reader, accept)?,
        };
        let application = if algorithm.is_security_key() { reader.string("application")? } else { &[] }.to_vec();
        // A certificate's key gets the encoding and the fingerprint of the plain key inside.
        let fields = start.get(..start.len() - reader.rest().len()).unwrap_or_default();
        let mut blob = Vec::with_capacity(fields.len() + 64);
        put_string(&mut blob, algorithm.name().as_bytes());
        blob.extend_from_slice(fields);
        Ok(Self { algorithm, material, application, accept, blob })
    }

    /// The algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The encoding of the plain key.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The fingerprint, which stands for the key everywhere.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.blob)
    }
}

fn read_ed25519(reader: &mut Reader<'_>) -> Result<Material, Error> {
    let key = reader.string("ed25519 key")?;
    if key.len() == 32 { Ok(Material::Ed25519(key.to_vec())) } else { Err(Error::Malformed("ed25519 key")) }
}

fn read_point(reader: &mut Reader<'_>, curve: &[u8], length: usize) -> Result<Material, Error> {
    if reader.string("curve")? != curve {
        return Err(Error::Malformed("curve"));
    }
    // ring checks with each signature that the point lies on the curve.
    match reader.string("point")? {
        point @ [4, ..] if point.len() == length => Ok(Material::Point(point.to_vec())),
        _ => Err(Error::Malformed("point")),
    }
}

fn read_rsa(reader: &mut Reader<'_>, accept: Accept) -> Result<Material, Error> {
    let (e, n) = (reader.mpint("exponent")?, reader.mpint("modulus")?);
    let bits = n.len() * 8 - n.first().map_or(0, |high| high.leading_zeros() as usize);
    let least = accept.least_rsa_bits();
    let fits = bits >= least && (bits <= MOST_RSA_BITS || accept == Accept::All);
    if fits { Ok(Material::Rsa { e: e.to_vec(), n: n.to_vec() }) } else { Err(Error::RsaSize { bits, least }) }
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
}
