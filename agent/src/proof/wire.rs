//! SSH's encoding (RFC 4251, section 5) and the envelope of a signature (PROTOCOL.sshsig), as host keys need them.
//!
//! Owns reading and writing. It holds no key.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::digest::{SHA512, digest};

use super::der::without_zeros;

const MAGIC: &[u8] = b"SSHSIG";
const VERSION: u32 = 1;
const HASH: &[u8] = b"sha512";
/// The characters of a line, as in what ssh-keygen writes.
const LINE: usize = 70;

/// Appends `value` with its length before it.
pub(super) fn put_string(out: &mut Vec<u8>, value: &[u8]) {
    // No key comes near 4 GiB: files are read up to 1 MiB.
    out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(value);
}

/// Appends a positive big-endian number in its one form.
pub(super) fn put_number(out: &mut Vec<u8>, number: &[u8]) {
    let number = without_zeros(number);
    let zero = number.first().is_some_and(|high| *high >= 0x80).then_some(0);
    put_string(out, &zero.into_iter().chain(number.iter().copied()).collect::<Vec<_>>());
}

/// Takes a string with its length before it off the front.
pub(super) fn take_string<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_u32(input)?).ok()?;
    let (value, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(value)
}

/// Takes a positive number off the front, without the zeros before it.
pub(super) fn take_number<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    take_string(input).filter(|bytes| bytes.first().is_none_or(|high| *high < 0x80)).map(without_zeros)
}

/// Takes a number of four bytes off the front.
pub(super) fn take_u32(input: &mut &[u8]) -> Option<u32> {
    let (number, rest) = input.split_first_chunk::<4>()?;
    *input = rest;
    Some(u32::from_be_bytes(*number))
}

/// The type that a key or a certificate names itself; empty where the name cannot be read.
pub(super) fn kind(mut blob: &[u8]) -> &str {
    take_string(&mut blob).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
}

/// What a key signs for `message` in this namespace.
pub(super) fn to_be_signed(namespace: &str, message: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    for field in [namespace.as_bytes(), b"", HASH, digest(&SHA512, message).as_ref()] {
        put_string(&mut out, field);
    }
    out
}

/// The armored signature.
pub(super) fn armor(public: &[u8], namespace: &str, signature: &[u8]) -> String {
    let mut blob = MAGIC.to_vec();
    blob.extend_from_slice(&VERSION.to_be_bytes());
    for field in [public, namespace.as_bytes(), b"", HASH, signature] {
        put_string(&mut blob, field);
    }
    let encoded = STANDARD.encode(blob);
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
