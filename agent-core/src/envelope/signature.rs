//! Checks one signature of one key over one message.
//!
//! Owns the signature encodings and the calls into ring. It never decides whose key it is.

use ring::{digest, signature as ring_signature};

use super::public_key::{Algorithm, Material, PublicKey, shown};
use super::reader::{Malformed, Reader};
use crate::refusal::{Reason, Refusal};

/// A security key's flag "somebody touched it" (CTAP2, authenticator data).
const USER_PRESENT: u8 = 0x01;
/// A security key's flag "it knows who touched it", by PIN or finger.
const USER_VERIFIED: u8 = 0x04;

/// What a security key says about the person who used it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Person {
    /// The key checked a PIN or a finger.
    pub(crate) verified: bool,
}

impl From<Malformed> for Refusal {
    fn from(Malformed(field): Malformed) -> Self {
        Self::new(Reason::SignatureMalformed, format_args!("its {field} is malformed"))
    }
}

impl PublicKey<'_> {
    /// Checks that `signature` (algorithm, blob and, for security keys, flags and counter) is by this key over `message`.
    ///
    /// # Errors
    /// The signature is malformed, of another algorithm, made without a touch, or does not fit.
    pub(crate) fn verify(&self, signature: &[u8], message: &[u8]) -> Result<Person, Refusal> {
        let mut reader = Reader::new(signature);
        let name = reader.string("signature algorithm")?;
        if name != self.algorithm.signature_name().as_bytes() {
            let detail = format!("{} by a key of type {}", shown(name), self.algorithm.name());
            return Err(Refusal::new(Reason::AlgorithmNotAllowed, detail));
        }
        let blob = reader.string("signature blob")?;
        if !matches!(self.algorithm, Algorithm::SkEd25519 | Algorithm::SkEcdsaP256) {
            reader.finish("signature's end")?;
            self.verify_raw(blob, message)?;
            return Ok(Person { verified: false });
        }
        let flags = reader.u8("flags")?;
        let counter = reader.array::<4>("counter")?;
        reader.finish("signature's end")?;
        if flags & USER_PRESENT == 0 {
            return Err(Refusal::new(Reason::UserPresenceMissing, ""));
        }
        self.verify_raw(blob, &security_key_message(self.application, flags, *counter, message))?;
        Ok(Person { verified: flags & USER_VERIFIED != 0 })
    }

    fn verify_raw(&self, blob: &[u8], message: &[u8]) -> Result<(), Refusal> {
        let checked = match (self.algorithm, self.material) {
            (Algorithm::Rsa, Material::Rsa { e, n }) => {
                let key = ring_signature::RsaPublicKeyComponents { n, e };
                // One number in 256 begins with a zero, which some agents leave out. ssh accepts that, and ring does not.
                let whole = [&vec![0; n.len().saturating_sub(blob.len())], blob].concat();
                key.verify(&ring_signature::RSA_PKCS1_2048_8192_SHA512, message, &whole)
            }
            (Algorithm::EcdsaP384, Material::Point(point)) => {
                let fixed = fixed_width::<48>(blob)?;
                verify_with(&ring_signature::ECDSA_P384_SHA384_FIXED, point, message, &fixed)
            }
            (_, Material::Point(point)) => {
                let fixed = fixed_width::<32>(blob)?;
                verify_with(&ring_signature::ECDSA_P256_SHA256_FIXED, point, message, &fixed)
            }
            (_, Material::Ed25519(key)) => verify_with(&ring_signature::ED25519, key, message, blob),
            (_, Material::Rsa { .. }) => Err(ring::error::Unspecified),
        };
        checked.map_err(|_| Refusal::new(Reason::SignatureInvalid, ""))
    }
}

fn verify_with(
    algorithm: &'static dyn ring_signature::VerificationAlgorithm,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), ring::error::Unspecified> {
    ring_signature::UnparsedPublicKey::new(algorithm, key).verify(message, signature)
}

/// An ECDSA signature as r and s of `WIDTH` bytes each, which is how ring wants it.
fn fixed_width<const WIDTH: usize>(blob: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut reader = Reader::new(blob);
    let mut fixed = Vec::with_capacity(WIDTH * 2);
    for field in ["signature's r", "signature's s"] {
        let number = reader.mpint(field)?;
        let padding = WIDTH.checked_sub(number.len()).ok_or(Malformed(field))?;
        fixed.extend(std::iter::repeat_n(0, padding));
        fixed.extend_from_slice(number);
    }
    reader.finish("signature's end")?;
    Ok(fixed)
}

/// What a security key signs (OpenSSH's PROTOCOL.u2f).
fn security_key_message(application: &[u8], flags: u8, counter: [u8; 4], message: &[u8]) -> Vec<u8> {
    let mut out = digest::digest(&digest::SHA256, application).as_ref().to_vec();
    out.push(flags);
    out.extend_from_slice(&counter);
    out.extend_from_slice(digest::digest(&digest::SHA256, message).as_ref());
    out
}
