//! OpenSSH's signature envelope (PROTOCOL.sshsig), as `ssh-keygen -Y sign` writes it.
//!
//! Owns the bytes that get signed and the armored result. The public key goes in as its own bytes, so that certificates
//! and security keys need no special case. It never holds a private key.

use base64::{Engine as _, prelude::BASE64_STANDARD};

use super::wire::put_string;

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
