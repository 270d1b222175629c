//! SSH's string encoding (RFC 4251, section 5), as far as keys, signatures and the agent need it.
//!
//! Owns reading and writing length-prefixed strings and the checks on public keys. It never does cryptography.

use base64::{Engine as _, prelude::BASE64_STANDARD};

/// Appends `value` with its length before it.
pub fn put_string(out: &mut Vec<u8>, value: &[u8]) {
    // Nothing that is signed or asked for comes near 4 GiB.
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(value);
}

/// Takes a length-prefixed string off the front.
pub fn take_string<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_u32(input)?).ok()?;
    let (value, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(value)
}

/// Takes a 32-bit number off the front.
pub fn take_u32(input: &mut &[u8]) -> Option<u32> {
    let (number, rest) = input.split_first_chunk::<4>()?;
    *input = rest;
    Some(u32::from_be_bytes(*number))
}

/// Takes a 64-bit number off the front.
pub fn take_u64(input: &mut &[u8]) -> Option<u64> {
    let (number, rest) = input.split_first_chunk::<8>()?;
    *input = rest;
    Some(u64::from_be_bytes(*number))
}

/// The algorithm that a public key or a signature names itself.
pub fn algorithm(mut blob: &[u8]) -> Option<&str> {
    std::str::from_utf8(take_string(&mut blob)?).ok()
}

/// The fewest bits of an RSA key that hosts accept.
const LEAST_RSA_BITS: usize = 3072;

/// Whether a host may accept signatures by the public key `blob`; the error says why it will not.
pub fn check_acceptable(blob: &[u8]) -> Result<(), String> {
    let algorithm = algorithm(blob).ok_or("it is not an SSH public key")?;
    match algorithm.strip_suffix("-cert-v01@openssh.com").unwrap_or(algorithm) {
        "ssh-ed25519"
        | "ecdsa-sha2-nistp256"
        | "ecdsa-sha2-nistp384"
        | "sk-ssh-ed25519"
        | "sk-ssh-ed25519@openssh.com"
        | "sk-ecdsa-sha2-nistp256"
        | "sk-ecdsa-sha2-nistp256@openssh.com" => Ok(()),
        "ssh-rsa" => check_rsa(blob, algorithm != "ssh-rsa"),
        other => Err(format!("hosts do not accept {other} keys")),
    }
}

fn check_rsa(mut blob: &[u8], certificate: bool) -> Result<(), String> {
    // A certificate has a nonce before the key's own fields.
    for _ in 0..if certificate { 3 } else { 2 } {
        take_string(&mut blob).ok_or("its RSA key is cut short")?;
    }
    let modulus = take_string(&mut blob).ok_or("its RSA key is cut short")?;
    let modulus = modulus.strip_prefix(&[0]).unwrap_or(modulus);
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if bits < LEAST_RSA_BITS {
        return Err(format!("it has {bits} bits, and hosts want {LEAST_RSA_BITS} or more of an RSA key"));
    }
    Ok(())
}

/// Whether signing with it may need a touch.
pub fn is_security_key(blob: &[u8]) -> bool {
    algorithm(blob).is_some_and(|algorithm| algorithm.starts_with("sk-"))
}

/// Whether we sign with such a key file ourselves: with Ed25519, which most people have. Not with the others, while
/// everybody who has one has ssh-keygen: security keys need their hardware; ssh-key 0.6 reads the second prime of an RSA
/// key wrongly, and the rsa crate behind it has an open timing advisory (RUSTSEC-2023-0071); and it refuses one ECDSA key
/// in 256, whose secret number happens to be a byte shorter.
pub fn signs_here(blob: &[u8]) -> bool {
    algorithm(blob).is_some_and(|algorithm| algorithm.starts_with("ssh-ed25519"))
}

/// The public key in a private key file of OpenSSH's format, which is readable also when the rest is encrypted.
pub fn public_of_private(pem: &str) -> Option<Vec<u8>> {
    let body = pem.split_once("-----BEGIN OPENSSH PRIVATE KEY-----")?.1.split_once("-----END")?.0;
    let bytes = BASE64_STANDARD.decode(body.split_whitespace().collect::<String>()).ok()?;
    let mut rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
    for _cipher_kdf_and_its_options in 0..3 {
        take_string(&mut rest)?;
    }
    if take_u32(&mut rest)? != 1 {
        return None;
    }
    take_string(&mut rest).map(<[u8]>::to_vec)
}

/// A key's fingerprint as `ssh-keygen -l` prints it.
pub fn fingerprint(blob: &[u8]) -> String {
    crate::tls::Fingerprint::of(blob).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(algorithm: &str, parts: &[&[u8]]) -> Vec<u8> {
        let mut blob = Vec::new();
        put_string(&mut blob, algorithm.as_bytes());
        parts.iter().for_each(|part| put_string(&mut blob, part));
        blob
    }

    #[test]
    fn strings_come_back_and_cut_ones_do_not() {
        let blob = key("ssh-ed25519", &[&[7; 32]]);
        for length in 0..blob.len() {
            let mut cut = &blob[..length];
            assert!(take_string(&mut cut).is_none() || take_string(&mut cut).is_none(), "{length}");
        }
        assert_eq!(algorithm(&blob), Some("ssh-ed25519"));
    }

    #[test]
    fn only_what_hosts_accept_is_acceptable() {
        let modulus = |bytes: usize, top: u8| [vec![0, top], vec![1; bytes - 1]].concat();
        assert!(check_acceptable(&key("ssh-rsa", &[&[1, 0, 1], &modulus(384, 0x80)])).is_ok());
        let short = check_acceptable(&key("ssh-rsa", &[&[1, 0, 1], &modulus(384, 0x7f)]));
        assert!(short.is_err_and(|error| error.contains("3071 bits")));
        assert!(check_acceptable(&key("ssh-rsa-cert-v01@openssh.com", &[b"nonce", &[3], &modulus(384, 0x80)])).is_ok());
        assert!(check_acceptable(&key("ssh-rsa", &[&[3], &[]])).is_err());
        assert!(check_acceptable(&key("ecdsa-sha2-nistp521", &[])).is_err());
        assert!(check_acceptable(&key("ssh-dss", &[])).is_err());
        assert!(check_acceptable(b"").is_err());
    }
}
