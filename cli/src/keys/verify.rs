//! Checks one signature of one SSH key: of hosts, and of the authorities behind certificates.
//!
//! Owns the signature encodings and the calls into ring, and into the p521 crate for the one curve that ring does not have. It never
//! decides whose key it is.

use p521::ecdsa::signature::Verifier as _;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

use super::wire::take_string;

/// Why a signature is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSignature {
    /// It is not by the key.
    Wrong,
    /// Its algorithm is not checked here.
    Unsupported,
}

/// Whether signatures by keys of this type are checked here.
pub fn is_supported(kind: &str) -> bool {
    matches!(kind, "ssh-ed25519" | "ecdsa-sha2-nistp256" | "ecdsa-sha2-nistp384" | "ecdsa-sha2-nistp521" | "ssh-rsa")
}

/// Checks `signature` (its algorithm and its value) over `message` by `key`, both in SSH's encoding: Ed25519, ECDSA, RSA of 2048 bits
/// or more with SHA-2.
///
/// # Errors
/// It does not fit, or is of another algorithm.
pub fn verify(mut key: &[u8], mut signature: &[u8], message: &[u8]) -> Result<(), BadSignature> {
    let kind = take_string(&mut signature).ok_or(BadSignature::Wrong)?;
    let value = take_string(&mut signature).filter(|_| signature.is_empty()).ok_or(BadSignature::Wrong)?;
    let mut part = || take_string(&mut key).ok_or(BadSignature::Wrong);
    let with = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8], value: &[u8]| {
        UnparsedPublicKey::new(algorithm, key).verify(message, value).is_ok()
    };
    let fits = match (part()?, kind) {
        (b"ssh-ed25519", b"ssh-ed25519") => with(&ED25519, part()?, value),
        (b"ecdsa-sha2-nistp256", b"ecdsa-sha2-nistp256") => {
            let (_curve, point) = (part()?, part()?);
            fixed(value, 32).is_some_and(|pair| with(&ECDSA_P256_SHA256_FIXED, point, &pair))
        }
        (b"ecdsa-sha2-nistp384", b"ecdsa-sha2-nistp384") => {
            let (_curve, point) = (part()?, part()?);
            fixed(value, 48).is_some_and(|pair| with(&ECDSA_P384_SHA384_FIXED, point, &pair))
        }
        (b"ecdsa-sha2-nistp521", b"ecdsa-sha2-nistp521") => {
            let (_curve, point) = (part()?, part()?);
            fixed(value, 66).is_some_and(|pair| p521_fits(point, &pair, message))
        }
        (b"ssh-rsa", b"rsa-sha2-256" | b"rsa-sha2-512") => {
            let parameters =
                if kind == b"rsa-sha2-256" { &RSA_PKCS1_2048_8192_SHA256 } else { &RSA_PKCS1_2048_8192_SHA512 };
            let (e, n) = (positive(part()?), positive(part()?));
            // ssh accepts the number without its leading zeros.
            let value = padded(value, n.len()).ok_or(BadSignature::Wrong)?;
            RsaPublicKeyComponents { n, e }.verify(parameters, message, &value).is_ok()
        }
        _ => return Err(BadSignature::Unsupported),
    };
    if fits { Ok(()) } else { Err(BadSignature::Wrong) }
}

fn p521_fits(point: &[u8], pair: &[u8], message: &[u8]) -> bool {
    let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(point);
    let signature = p521::ecdsa::Signature::from_slice(pair);
    key.ok().zip(signature.ok()).is_some_and(|(key, signature)| key.verify(message, &signature).is_ok())
}

/// ECDSA's two numbers of SSH's encoding, each `length` bytes long, one behind the other.
fn fixed(mut pair: &[u8], length: usize) -> Option<Vec<u8>> {
    let (r, s) = (take_string(&mut pair)?, take_string(&mut pair)?);
    pair.is_empty().then(|| Some([padded(positive(r), length)?, padded(positive(s), length)?].concat()))?
}

/// A number without the zeros before it.
fn positive(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    &number[zeros..]
}

fn padded(number: &[u8], length: usize) -> Option<Vec<u8>> {
    let missing = length.checked_sub(number.len())?;
    Some([vec![0; missing], number.to_vec()].concat())
}
