//! OpenSSH's signature envelope (PROTOCOL.sshsig), as `ssh-keygen -Y sign` writes it. Owns the signed bytes, the armor and the strict
//! reader. The public key stays in its own encoding, so certificates and security keys need no special case. It never holds a private key.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::digest;

use super::wire::{Reader, put_string};
use super::{Error, Person, PublicKey, shown};

/// The longest armored signature, in bytes. An RSA-8192 certificate from an RSA-8192 authority takes 6 KiB plus its names.
pub const MOST_ARMOR: usize = 16 * 1024;
/// The longest line inside the armor, in characters.
const MOST_LINE: usize = 76;
const LINE: usize = 70;
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----\n";
const END: &str = "\n-----END SSH SIGNATURE-----";
const MAGIC: &[u8; 6] = b"SSHSIG";
const VERSION: u32 = 1;

/// Removes the armor. It accepts exactly the output of `ssh-keygen -Y sign`, with or without the last line end, which shells strip.
/// # Errors
/// [`Error::TooLong`] or [`Error::Form`].
pub fn dearmor(text: &str) -> Result<Vec<u8>, Error> {
    if text.len() > MOST_ARMOR {
        return Err(Error::TooLong(text.len()));
    }
    let text = text.strip_suffix('\n').unwrap_or(text);
    let body = text.strip_prefix(BEGIN).and_then(|t| t.strip_suffix(END));
    let body = body.ok_or(Error::Form("it has no SSH SIGNATURE armor"))?;
    let mut encoded = String::with_capacity(body.len());
    for line in body.split('\n') {
        if line.is_empty() || line.len() > MOST_LINE {
            return Err(Error::Form("its armor has an empty or overlong line"));
        }
        encoded.push_str(line);
    }
    // Standard base64 with padding; the engine refuses stray bits and characters.
    STANDARD.decode(encoded).map_err(|_| Error::Form("its armor is not base64"))
}

/// The armored signature, with a final newline. `public_key` is a key or a certificate.
#[must_use]
pub fn armor(public_key: &[u8], namespace: &str, signature: &[u8]) -> String {
    let mut blob = MAGIC.to_vec();
    blob.extend_from_slice(&VERSION.to_be_bytes());
    for field in [public_key, namespace.as_bytes(), b"", Hash::Sha512.name(), signature] {
        put_string(&mut blob, field);
    }
    let mut out = BEGIN.to_owned();
    for (at, c) in STANDARD.encode(blob).chars().enumerate() {
        if at > 0 && at % LINE == 0 {
            out.push('\n');
        }
        out.push(c);
    }
    out + END + "\n"
}

/// The bytes that a key signs for `message` in this namespace: they contain the SHA-512 of the message.
#[must_use]
pub fn to_be_signed(namespace: &str, message: &[u8]) -> Vec<u8> {
    Hash::Sha512.signed_bytes(namespace.as_bytes(), message)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    fn signed_bytes(self, namespace: &[u8], message: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha512 => &digest::SHA512,
        };
        let mut out = MAGIC.to_vec();
        for field in [namespace, b"", self.name(), digest::digest(algorithm, message).as_ref()] {
            put_string(&mut out, field);
        }
        out
    }
}

/// An SSHSIG without its armor, unchecked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SshSig {
    /// The public key or certificate in the signature, in its own encoding.
    pub key: Vec<u8>,
    /// The namespace that the signature names.
    pub namespace: Vec<u8>,
    hash: Hash,
    signature: Vec<u8>,
}

impl SshSig {
    /// Reads the bytes that [`dearmor`] returns.
    /// # Errors
    /// Malformed bytes, an unknown version, or a hash that is not accepted.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        if reader.array("magic")? != MAGIC {
            return Err(Error::Form("it does not start with SSHSIG"));
        }
        let version = reader.u32("version")?;
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let key = reader.string("key")?.to_vec();
        let namespace = reader.string("namespace")?.to_vec();
        // The format defines no contents for this field, and ssh-keygen does not check it.
        if !reader.string("reserved field")?.is_empty() {
            return Err(Error::Form("its reserved field is not empty"));
        }
        let hash = match reader.string("hash algorithm")? {
            b"sha256" => Hash::Sha256,
            b"sha512" => Hash::Sha512,
            other => return Err(Error::Algorithm(format!("hash {}", shown(other)))),
        };
        let signature = reader.string("signature")?.to_vec();
        reader.finish("end")?;
        Ok(Self { key, namespace, hash, signature })
    }

    /// Checks that `key` signed `message` in the namespace that the signature names.
    /// # Errors
    /// As [`PublicKey::verify`].
    pub fn verify(&self, key: &PublicKey, message: &[u8]) -> Result<Person, Error> {
        key.verify(&self.signature, &self.hash.signed_bytes(&self.namespace, message))
    }
}
