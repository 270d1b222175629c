//! The check of one signature of one key over one message. Owns the signature encodings and the calls into ring, and into the p521 crate
//! for the curve that ring lacks. It never decides whose a key is.

use p521::ecdsa::signature::Verifier as _;
use ring::digest;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512,
    RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};

use super::public_key::{Accept, Algorithm, Material, PublicKey};
use super::wire::Reader;
use super::{Error, shown};

/// A security key's flag "user present" (CTAP2, authenticator data): somebody touched the key.
const USER_PRESENT: u8 = 0x01;
/// A security key's flag "user verified": the key checked a PIN or finger.
const USER_VERIFIED: u8 = 0x04;

/// The security key's statement about its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Person {
    /// The key checked a PIN or a finger.
    pub verified: bool,
}

impl PublicKey {
    /// Checks that this key made `signature` (algorithm, blob and, for security keys, flags and counter) over `message`.
    /// # Errors
    /// The signature is malformed, has an algorithm that is not accepted, was made without a touch, or does not fit.
    pub fn verify(&self, signature: &[u8], message: &[u8]) -> Result<Person, Error> {
        let mut reader = Reader::new(signature);
        let name = reader.string("signature algorithm")?;
        let blob = reader.string("signature blob")?;
        if !self.signs_as(name) {
            return Err(Error::Algorithm(format!("{} by a key of type {}", shown(name), self.algorithm.name())));
        }
        if !self.algorithm.is_security_key() {
            reader.finish("signature's end")?;
            self.verify_raw(name, blob, message)?;
            return Ok(Person { verified: false });
        }
        let flags = reader.u8("flags")?;
        let counter = reader.array::<4>("counter")?;
        reader.finish("signature's end")?;
        if flags & USER_PRESENT == 0 {
            return Err(Error::NotTouched);
        }
        self.verify_raw(name, blob, &security_key_message(&self.application, flags, *counter, message))?;
        Ok(Person { verified: flags & USER_VERIFIED != 0 })
    }

    /// RSA signatures name the hash, so their names differ from the key's.
    fn signs_as(&self, name: &[u8]) -> bool {
        match (self.algorithm, self.accept) {
            (Algorithm::Rsa, Accept::Signers) => name == b"rsa-sha2-512",
            (Algorithm::Rsa, _) => name == b"rsa-sha2-512" || name == b"rsa-sha2-256",
            (other, _) => name == other.name().as_bytes(),
        }
    }

    fn verify_raw(&self, name: &[u8], blob: &[u8], message: &[u8]) -> Result<(), Error> {
        let with = |algorithm: &'static dyn VerificationAlgorithm, key: &[u8], value: &[u8]| {
            UnparsedPublicKey::new(algorithm, key).verify(message, value).is_ok()
        };
        let fits = match &self.material {
            Material::Ed25519(key) => with(&ED25519, key, blob),
            Material::Point(point) => match self.algorithm {
                Algorithm::EcdsaP521 => p521_fits(point, &fixed_width::<66>(blob)?, message),
                Algorithm::EcdsaP384 => with(&ECDSA_P384_SHA384_FIXED, point, &fixed_width::<48>(blob)?),
                _ => with(&ECDSA_P256_SHA256_FIXED, point, &fixed_width::<32>(blob)?),
            },
            Material::Rsa { e, n } => {
                let sha512 = name == b"rsa-sha2-512";
                let parameters = if sha512 { &RSA_PKCS1_2048_8192_SHA512 } else { &RSA_PKCS1_2048_8192_SHA256 };
                // One number in 256 begins with a zero, which some agents omit. ssh accepts such a signature, and ring does not.
                let whole = [&vec![0; n.len().saturating_sub(blob.len())], blob].concat();
                RsaPublicKeyComponents { n, e }.verify(parameters, message, &whole).is_ok()
            }
        };
        if fits { Ok(()) } else { Err(Error::Wrong) }
    }
}

fn p521_fits(point: &[u8], pair: &[u8], message: &[u8]) -> bool {
    let key = p521::ecdsa::VerifyingKey::from_sec1_bytes(point);
    let signature = p521::ecdsa::Signature::from_slice(pair);
    key.ok().zip(signature.ok()).is_some_and(|(key, signature)| key.verify(message, &signature).is_ok())
}

/// An ECDSA signature as r and s of `WIDTH` bytes each, which is ring's format.
fn fixed_width<const WIDTH: usize>(blob: &[u8]) -> Result<Vec<u8>, Error> {
    let mut reader = Reader::new(blob);
    let mut fixed = Vec::with_capacity(WIDTH * 2);
    for field in ["signature's r", "signature's s"] {
        let number = reader.mpint(field)?;
        let padding = WIDTH.checked_sub(number.len()).ok_or(Error::Malformed(field))?;
        fixed.extend(std::iter::repeat_n(0, padding));
        fixed.extend_from_slice(number);
    }
    reader.finish("signature's end")?;
    Ok(fixed)
}

/// The bytes that a security key signs (OpenSSH's PROTOCOL.u2f).
fn security_key_message(application: &[u8], flags: u8, counter: [u8; 4], message: &[u8]) -> Vec<u8> {
    let mut out = digest::digest(&digest::SHA256, application).as_ref().to_vec();
    out.push(flags);
    out.extend_from_slice(&counter);
    out.extend_from_slice(digest::digest(&digest::SHA256, message).as_ref());
    out
}
