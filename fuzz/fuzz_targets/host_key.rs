//! Private key files of the host: any text is refused or is a key, and what it signs verifies with the public half that it shows.
//!
//! The first byte says what follows: `o`, `r`, `e` and `p` the bytes in the armor of OpenSSH, PKCS#1, SEC 1 and PKCS#8; `t` a whole text.
//! Where the ssh-key crate reads the file too, both find the same key.
//!
//! `cargo fuzz run host_key`
#![no_main]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use libfuzzer_sys::fuzz_target;
use p521::ecdsa::signature::Verifier as _;
use postern_agent::proof::signed_by;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents,
    UnparsedPublicKey,
};

const MESSAGE: &[u8] = b"message";

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let text = match kind {
        b'o' => armored("OPENSSH PRIVATE KEY", rest),
        b'r' => armored("RSA PRIVATE KEY", rest),
        b'e' => armored("EC PRIVATE KEY", rest),
        b'p' => armored("PRIVATE KEY", rest),
        b't' => String::from_utf8_lossy(rest).into_owned(),
        _ => return,
    };
    judge(&text);
});

/// As ssh-keygen writes it, so that the ssh-key crate reads it too.
fn armored(label: &str, bytes: &[u8]) -> String {
    let encoded = STANDARD.encode(bytes);
    let lines: Vec<_> = encoded.as_bytes().chunks(70).map(|line| std::str::from_utf8(line).expect("base64")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

fn judge(text: &str) {
    let (public, signature) = match signed_by(text, MESSAGE) {
        Ok(made) => made,
        Err(why) => {
            // It goes into the status and to clients.
            assert!(!why.is_empty() && !why.chars().any(char::is_control), "{why:?}");
            return;
        }
    };
    assert!(verifies(&public, &signature), "a signature that does not fit its own key");
    let twin = ssh_key::PrivateKey::from_openssh(text).ok().filter(|key| !key.is_encrypted());
    if let Some(twin) = twin {
        assert_eq!(twin.public_key().to_bytes().ok().as_ref(), Some(&public), "another key than ssh-key finds");
    }
}

/// By the formats of RFC 4253, RFC 5656 and RFC 8709.
fn verifies(mut public: &[u8], mut signature: &[u8]) -> bool {
    let kind = take(&mut public);
    let (name, value) = (take(&mut signature), take(&mut signature));
    assert!(signature.is_empty() && (kind == name || (kind, name) == (b"ssh-rsa", b"rsa-sha2-512")));
    if kind == b"ssh-rsa" {
        let (e, n) = (number(take(&mut public)), number(take(&mut public)));
        let key = RsaPublicKeyComponents { n, e };
        return public.is_empty() && key.verify(&RSA_PKCS1_2048_8192_SHA512, MESSAGE, value).is_ok();
    }
    if kind == b"ssh-ed25519" {
        let key = take(&mut public);
        return public.is_empty() && UnparsedPublicKey::new(&ED25519, key).verify(MESSAGE, value).is_ok();
    }
    let (curve, point) = (take(&mut public), take(&mut public));
    assert!(public.is_empty() && kind.strip_prefix(b"ecdsa-sha2-") == Some(curve));
    let pair = |length: usize| {
        let mut rest = value;
        let both = [take(&mut rest), take(&mut rest)].map(|part| padded(number(part), length)).concat();
        assert!(rest.is_empty());
        both
    };
    match curve {
        b"nistp256" => UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(MESSAGE, &pair(32)).is_ok(),
        b"nistp384" => UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(MESSAGE, &pair(48)).is_ok(),
        _ => {
            let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(point).expect("a point");
            let made = p521::ecdsa::Signature::from_slice(&pair(66)).expect("two numbers");
            key.verify(MESSAGE, &made).is_ok()
        }
    }
}

fn take<'a>(bytes: &mut &'a [u8]) -> &'a [u8] {
    let (length, rest) = bytes.split_first_chunk::<4>().expect("a length");
    let (value, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
    *bytes = rest;
    value
}

/// A positive number in its one form: the fewest bytes, with a zero before a high bit.
fn number(bytes: &[u8]) -> &[u8] {
    match bytes {
        [0, rest @ ..] => {
            assert!(rest.first().is_some_and(|high| *high >= 0x80), "a zero too many");
            rest
        }
        _ => {
            assert!(bytes.first().is_some_and(|high| *high < 0x80), "a negative number");
            bytes
        }
    }
}

fn padded(number: &[u8], length: usize) -> Vec<u8> {
    [vec![0; length - number.len()], number.to_vec()].concat()
}
