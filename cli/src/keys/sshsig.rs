//! OpenSSH's signature envelope (PROTOCOL.sshsig), as `ssh-keygen -Y sign` writes it.
//!
//! Owns the bytes that get signed and the armored result. The public key goes in as its own bytes, so that certificates
//! and security keys need no special case. It never holds a private key.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::{
    verify::{BadSignature, verify},
    wire::{put_string, take_string, take_u32},
};

const MAGIC: &[u8] = b"SSHSIG";
const VERSION: u32 = 1;
const HASH: &[u8] = b"sha512";
/// As ssh-keygen wraps its lines.
const LINE: usize = 70;

/// What the key signs: not the message itself, but its hash with the namespace.
#[must_use]
pub fn to_be_signed(namespace: &str, message: &[u8]) -> Vec<u8> {
    let digest = ring::digest::digest(&ring::digest::SHA512, message);
    let mut out = MAGIC.to_vec();
    put_string(&mut out, namespace.as_bytes());
    put_string(&mut out, b"");
    put_string(&mut out, HASH);
    put_string(&mut out, digest.as_ref());
    out
}

/// A signature of somebody else, without its armor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    /// The public key that it names, in SSH's encoding.
    pub key: Vec<u8>,
    namespace: Vec<u8>,
    hash: Vec<u8>,
    signature: Vec<u8>,
}

impl Sealed {
    /// Reads an armored signature. None where that is not what it is.
    #[must_use]
    pub fn parse(armored: &str) -> Option<Self> {
        let body = armored
            .trim()
            .strip_prefix("-----BEGIN SSH SIGNATURE-----")?
            .strip_suffix("-----END SSH SIGNATURE-----")?;
        let blob = BASE64_STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok()?;
        let mut rest = blob.strip_prefix(MAGIC)?;
        if take_u32(&mut rest)? != VERSION {
            return None;
        }
        let mut field = || take_string(&mut rest).map(<[u8]>::to_vec);
        let (key, namespace, _reserved, hash, signature) = (field()?, field()?, field()?, field()?, field()?);
        rest.is_empty().then_some(Self { key, namespace, hash, signature })
    }

    /// Checks it over `message` in `namespace`.
    ///
    /// # Errors
    /// It does not fit, or is of an algorithm that is not checked here.
    pub fn verify(&self, namespace: &str, message: &[u8]) -> Result<(), BadSignature> {
        let digest = match self.hash.as_slice() {
            b"sha256" => ring::digest::digest(&ring::digest::SHA256, message),
            b"sha512" => ring::digest::digest(&ring::digest::SHA512, message),
            _ => return Err(BadSignature::Unsupported),
        };
        if self.namespace != namespace.as_bytes() {
            return Err(BadSignature::Wrong);
        }
        let mut signed = MAGIC.to_vec();
        for field in [&self.namespace[..], b"", &self.hash, digest.as_ref()] {
            put_string(&mut signed, field);
        }
        verify(&self.key, &self.signature, &signed)
    }
}

/// The armored signature, with a final newline.
#[must_use]
pub fn armor(public_key: &[u8], namespace: &str, signature: &[u8]) -> String {
    let mut blob = MAGIC.to_vec();
    blob.extend_from_slice(&VERSION.to_be_bytes());
    for field in [public_key, namespace.as_bytes(), b"", HASH, signature] {
        put_string(&mut blob, field);
    }
    let encoded = BASE64_STANDARD.encode(blob);
    let mut out = String::from("-----BEGIN SSH SIGNATURE-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END SSH SIGNATURE-----\n");
    out
}
