//! SSHSIG: the armor, the encoding and what is really signed (OpenSSH's PROTOCOL.sshsig).
//!
//! Owns the way from text to a checked signature. It never decides whether the key is trusted.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::digest;

use super::certificate::Certificate;
use super::public_key::{Algorithm, PublicKey, shown};
use super::reader::{Reader, put_string};
use crate::refusal::{Reason, Refusal};

/// The longest armored signature, in bytes. An RSA-8192 certificate by an RSA-8192 authority takes 6 KiB plus its names.
pub const MOST_ARMOR: usize = 16 * 1024;
/// The longest line inside the armor, in characters. ssh-keygen writes 70.
const MOST_LINE: usize = 76;
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----\n";
const END: &str = "\n-----END SSH SIGNATURE-----";
const MAGIC: &[u8; 6] = b"SSHSIG";

fn malformed(detail: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::SignatureMalformed, detail)
}

/// Takes the armor off, strictly: what `ssh-keygen -Y sign` prints and nothing else, but for the last line's end, which
/// shells strip.
///
/// # Errors
/// [`Reason::MessageTooLarge`] or [`Reason::SignatureMalformed`].
pub fn dearmor(text: &str) -> Result<Vec<u8>, Refusal> {
    if text.len() > MOST_ARMOR {
        return Err(Refusal::new(Reason::MessageTooLarge, format_args!("a signature of {} bytes", text.len())));
    }
    let text = text.strip_suffix('\n').unwrap_or(text);
    let body = text.strip_prefix(BEGIN).and_then(|t| t.strip_suffix(END));
    let body = body.ok_or_else(|| malformed("it has no SSH SIGNATURE armor"))?;
    let mut encoded = String::with_capacity(body.len());
    for line in body.split('\n') {
        if line.is_empty() || line.len() > MOST_LINE {
            return Err(malformed("its armor has an empty or overlong line"));
        }
        encoded.push_str(line);
    }
    // Standard base64 with padding; the engine refuses stray bits and characters.
    STANDARD.decode(encoded).map_err(|_| malformed("its armor is not base64"))
}

/// The key in a signature.
#[derive(Clone, Debug)]
pub(crate) enum SigningKey<'a> {
    Plain(PublicKey<'a>),
    Certified(Box<Certificate<'a>>),
}

impl<'a> SigningKey<'a> {
    fn parse(blob: &'a [u8]) -> Result<Self, Refusal> {
        let name = Reader::new(blob).string("key type")?;
        match Algorithm::of_certificate_name(name) {
            Some(algorithm) => Ok(Self::Certified(Box::new(Certificate::parse(algorithm, blob)?))),
            None => Ok(Self::Plain(PublicKey::parse(blob)?)),
        }
    }

    /// The key itself, without its certificate.
    pub(crate) fn key(&self) -> &PublicKey<'a> {
        match self {
            Self::Plain(key) => key,
            Self::Certified(certificate) => &certificate.key,
        }
    }
}

/// An SSHSIG, borrowed from its bytes. Nothing in it is believed yet.
#[derive(Clone, Debug)]
pub struct SshSig<'a> {
    pub(crate) key: SigningKey<'a>,
    namespace: &'a [u8],
    hash: Hash,
    signature: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
enum Hash {
    Sha256,
    Sha512,
}

impl Hash {
    const fn name(self) -> &'static [u8] {
        match self {
            Self::Sha256 => b"sha256",
            Self::Sha512 => b"sha512",
        }
    }

    fn of(self, message: &[u8]) -> digest::Digest {
        let algorithm = match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, message)
    }
}

impl<'a> SshSig<'a> {
    /// Reads the bytes that [`dearmor`] gives.
    ///
    /// # Errors
    /// Malformed bytes, an unknown version, an algorithm that is not on the list, or a certificate that cannot be used.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Refusal> {
        let mut reader = Reader::new(bytes);
        if reader.array("magic")? != MAGIC {
            return Err(malformed("it does not start with SSHSIG"));
        }
        let version = reader.u32("version")?;
        if version != 1 {
            return Err(malformed(format_args!("version {version} is unknown")));
        }
        let key = reader.string("key")?;
        let namespace = reader.string("namespace")?;
        // Nothing defines what may be here, and it is not part of what ssh-keygen checks.
        if !reader.string("reserved field")?.is_empty() {
            return Err(malformed("its reserved field is not empty"));
        }
        let hash = match reader.string("hash algorithm")? {
            b"sha256" => Hash::Sha256,
            b"sha512" => Hash::Sha512,
            other => return Err(Refusal::new(Reason::AlgorithmNotAllowed, format_args!("hash {}", shown(other)))),
        };
        let signature = reader.string("signature")?;
        reader.finish("end")?;
        Ok(Self { key: SigningKey::parse(key)?, namespace, hash, signature })
    }

    /// What the signature says it is for.
    #[must_use]
    pub const fn namespace(&self) -> &'a [u8] {
        self.namespace
    }

    /// The key that signed, without its certificate if it has one.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey<'a> {
        self.key.key()
    }

    /// Checks the signature over `message`, and its certificate's. Whether the key or the authority is trusted is
    /// another question.
    ///
    /// # Errors
    /// The signature does not fit, is of an algorithm that is not on the list, or was made without a touch.
    pub fn verify(&self, message: &[u8]) -> Result<(), Refusal> {
        let person = self.public_key().verify(self.signature, &self.signed_bytes(message))?;
        match &self.key {
            SigningKey::Plain(_) => Ok(()),
            SigningKey::Certified(certificate) => certificate.verify(person),
        }
    }

    fn signed_bytes(&self, message: &[u8]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        put_string(&mut out, self.namespace);
        put_string(&mut out, b"");
        put_string(&mut out, self.hash.name());
        put_string(&mut out, self.hash.of(message).as_ref());
        out
    }
}
