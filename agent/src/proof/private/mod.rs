//! A private host key in memory: parsing of the formats that sshd reads, and one signature.
//!
//! Owns the formats of ssh-keygen and OpenSSL, and the types of keys that sign here. Opens no file. The ssh-key crate is no substitute:
//! it refuses OpenSSL's formats, and one ECDSA key in 256, whose secret number is a byte shorter (docs/decisions/0054).

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use p521::ecdsa::signature::Signer as _;
use p521::elliptic_curve::sec1::ToEncodedPoint as _;
use postern_core::ssh::wire::{Reader, put_mpint, put_string, without_zeros};
use ring::rand::SystemRandom;
use ring::rsa::{self, KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, EcdsaSigningAlgorithm,
    Ed25519KeyPair, RSA_PKCS1_SHA512,
};
use zeroize::Zeroizing;

use super::der;

/// The start of OpenSSH's own format (PROTOCOL.key).
const MAGIC: &[u8] = b"openssh-key-v1\0";
/// `AlgorithmIdentifier`s of PKCS#8: rsaEncryption, id-ecPublicKey and id-Ed25519 (RFC 3279, RFC 5480, RFC 8410).
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1];
const EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    const ALL: [Self; 3] = [Self::P256, Self::P384, Self::P521];

    /// SSH's name (RFC 5656), the object identifier (RFC 5480), and the length of a number in bytes.
    const fn facts(self) -> (&'static str, &'static [u8], usize) {
        match self {
            Self::P256 => ("nistp256", &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7], 32),
            Self::P384 => ("nistp384", &[0x2b, 0x81, 4, 0, 0x22], 48),
            Self::P521 => ("nistp521", &[0x2b, 0x81, 4, 0, 0x23], 66),
        }
    }
}

/// Why a file contains no key that signs here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// The key has a passphrase, so sshd cannot use it either.
    Passphrase,
    Type(String),
    /// An RSA key of so many bits. The bounds are those of the ring crate.
    RsaBits(usize),
    /// The text is in none of the formats, or is truncated.
    Malformed,
    Inconsistent,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passphrase => f.write_str("it has a passphrase"),
            Self::Type(name) => write!(f, "keys of type {name} do not sign here"),
            Self::RsaBits(bits) => write!(f, "it has {bits} bits, and RSA keys of 2048 to 4096 bits sign here"),
            Self::Malformed => f.write_str("it is no private key, or a part of it is missing"),
            Self::Inconsistent => f.write_str("its public half does not belong to its private half"),
        }
    }
}

enum Secret {
    Ed25519(Ed25519KeyPair),
    Ecdsa(EcdsaKeyPair),
    P521(Box<p521::ecdsa::SigningKey>),
    Rsa(Box<rsa::KeyPair>),
}

pub(super) struct PrivateKey {
    /// The public half in SSH's encoding.
    pub(super) public: Vec<u8>,
    /// SSH's name of the signature algorithm.
    algorithm: String,
    secret: Secret,
}

impl PrivateKey {
    /// Reads the text of a key file without a passphrase: OpenSSH's format, PKCS#1, SEC 1 or PKCS#8.
    pub(super) fn parse(text: &str) -> Result<Self, Unusable> {
        let (label, body) = armored(text).ok_or(Unusable::Malformed)?;
        // `Proc-Type: 4,ENCRYPTED` and `DEK-Info:` (RFC 1421) come before the base64, which has no colon.
        if label == "ENCRYPTED PRIVATE KEY" || body.contains("Proc-Type:") {
            return Err(Unusable::Passphrase);
        }
        let encoded: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
        let bytes = Zeroizing::new(STANDARD.decode(encoded.as_bytes()).map_err(|_| Unusable::Malformed)?);
        match label {
            "OPENSSH PRIVATE KEY" => of_openssh(&bytes),
            "RSA PRIVATE KEY" => of_pkcs1(&bytes),
            "EC PRIVATE KEY" => of_sec1(&bytes, None),
            "PRIVATE KEY" => of_pkcs8(&bytes),
            "DSA PRIVATE KEY" => Err(Unusable::Type("ssh-dss".to_owned())),
            _ => Err(Unusable::Malformed),
        }
    }

    /// The signature over `message`, in SSH's encoding.
    pub(super) fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let pair = |fixed: &[u8]| {
            let (r, s) = fixed.split_at(fixed.len() / 2);
            let mut value = Vec::new();
            put_mpint(&mut value, r);
            put_mpint(&mut value, s);
            value
        };
        let value = match &self.secret {
            Secret::Ed25519(key) => key.sign(message).as_ref().to_vec(),
            Secret::Ecdsa(key) => pair(key.sign(&random, message).ok()?.as_ref()),
            Secret::P521(key) => {
                let signature: p521::ecdsa::Signature = key.try_sign(message).ok()?;
                pair(&signature.to_bytes())
            }
            Secret::Rsa(key) => {
                let mut value = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA512, &random, message, &mut value).ok()?;
                value
            }
        };
        let mut out = Vec::new();
        put_string(&mut out, self.algorithm.as_bytes());
        put_string(&mut out, &value);
        Some(out)
    }

    fn ed25519(seed: &[u8], public: Option<&[u8]>) -> Result<Self, Unusable> {
        let key = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| Unusable::Malformed)?;
        let own = ring::signature::KeyPair::public_key(&key).as_ref();
        if public.is_some_and(|public| public != own) {
            return Err(Unusable::Inconsistent);
        }
        let public = blob("ssh-ed25519", |out| put_string(out, own));
        Ok(Self { public, algorithm: "ssh-ed25519".to_owned(), secret: Secret::Ed25519(key) })
    }

    /// `number` may be shorter than the curve's numbers, or have leading zeros.
    fn ecdsa(curve: Curve, number: &[u8], point: &[u8]) -> Result<Self, Unusable> {
        let (name, _, length) = curve.facts();
        let number = without_zeros(number);
        let missing = length.checked_sub(number.len()).ok_or(Unusable::Malformed)?;
        let number = Zeroizing::new([&vec![0; missing], number].concat());
        let of_ring = |algorithm: &'static EcdsaSigningAlgorithm| {
            EcdsaKeyPair::from_private_key_and_public_key(algorithm, &number, point, &SystemRandom::new())
                .map(Secret::Ecdsa)
                .map_err(|_| Unusable::Inconsistent)
        };
        let secret = match curve {
            Curve::P256 => of_ring(&ECDSA_P256_SHA256_FIXED_SIGNING)?,
            Curve::P384 => of_ring(&ECDSA_P384_SHA384_FIXED_SIGNING)?,
            Curve::P521 => {
                let key = p521::SecretKey::from_slice(&number).map_err(|_| Unusable::Malformed)?;
                if key.public_key().to_encoded_point(false).as_bytes() != point {
                    return Err(Unusable::Inconsistent);
                }
                let key = p521::ecdsa::SigningKey::from_slice(&number).map_err(|_| Unusable::Malformed)?;
                Secret::P521(Box::new(key))
            }
        };
        let algorithm = format!("ecdsa-sha2-{name}");
        let public = blob(&algorithm, |out| {
            put_string(out, name.as_bytes());
            put_string(out, point);
        });
        Ok(Self { public, algorithm, secret })
    }

    fn rsa(parts: &Rsa<'_>) -> Result<Self, Unusable> {
        let Rsa { n, e, d, p, q, q_inverse } = *parts;
        let bits = n.len() * 8 - n.first().map_or(0, |high| high.leading_zeros() as usize);
        if !(2048..=4096).contains(&bits) {
            return Err(Unusable::RsaBits(bits));
        }
        // ring accepts no smaller exponent; ssh-keygen made keys with exponent 35 until 2010.
        if e.len() < 3 || (e.len() == 3 && e < &[1, 0, 1][..]) {
            return Err(Unusable::Type("ssh-rsa with an exponent below 65537".to_owned()));
        }
        // The time of `remainder` grows with the product of both lengths, and a file may have a million bytes.
        if [d, p, q].iter().any(|part| part.len() > n.len()) {
            return Err(Unusable::Inconsistent);
        }
        let [d_p, d_q] = [p, q].map(|prime| exponent(d, prime));
        let components = KeyPairComponents {
            public_key: PublicKeyComponents { n, e },
            d,
            p,
            q,
            dP: d_p.as_slice(),
            dQ: d_q.as_slice(),
            qInv: q_inverse,
        };
        let key = rsa::KeyPair::from_components(&components).map_err(|_| Unusable::Inconsistent)?;
        let public = blob("ssh-rsa", |out| {
            put_mpint(out, e);
            put_mpint(out, n);
        });
        Ok(Self { public, algorithm: "rsa-sha2-512".to_owned(), secret: Secret::Rsa(Box::new(key)) })
    }
}

/// The numbers of an RSA key, without leading zeros.
struct Rsa<'a> {
    n: &'a [u8],
    e: &'a [u8],
    d: &'a [u8],
    p: &'a [u8],
    q: &'a [u8],
    q_inverse: &'a [u8],
}

fn blob(kind: &str, fields: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    put_string(&mut out, kind.as_bytes());
    fields(&mut out);
    out
}

/// Label and body of the armored private key. OpenSSL may write the curve's parameters before the key.
fn armored(text: &str) -> Option<(&str, &str)> {
    let blocks = text.split("-----BEGIN ").skip(1).filter_map(|block| block.split_once("-----"));
    let (label, rest) = blocks.into_iter().find(|(label, _)| label.ends_with("PRIVATE KEY"))?;
    let body = rest.split_once(&format!("-----END {label}-----"))?.0;
    Some((label, body))
}

fn of_openssh(bytes: &[u8]) -> Result<PrivateKey, Unusable> {
    let mut rest = Reader::new(bytes.strip_prefix(MAGIC).ok_or(Unusable::Malformed)?);
    let (cipher, _function, _options) = (rest.string("cipher")?, rest.string("function")?, rest.string("options")?);
    if cipher != b"none" {
        return Err(Unusable::Passphrase);
    }
    let (count, _public) = (rest.u32("count")?, rest.string("public half")?);
    let mut secret = Reader::new(rest.string("private half")?);
    let (one, two) = (secret.u32("check")?, secret.u32("check")?);
    if count != 1 || one != two {
        return Err(Unusable::Malformed);
    }
    of_fields(&mut secret)
}

fn of_fields(fields: &mut Reader<'_>) -> Result<PrivateKey, Unusable> {
    let kind = std::str::from_utf8(fields.string("type")?).map_err(|_| Unusable::Malformed)?;
    if kind == "ssh-ed25519" {
        let (public, both) = (fields.string("public half")?, fields.string("private half")?);
        // The private half is the seed, followed by the public half.
        return PrivateKey::ed25519(both.get(..32).ok_or(Unusable::Malformed)?, Some(public));
    }
    if let Some(curve) = kind.strip_prefix("ecdsa-sha2-") {
        let curve = Curve::ALL.into_iter().find(|one| one.facts().0 == curve);
        let curve = curve.ok_or_else(|| Unusable::Type(shown(kind)))?;
        let (_name, point) = (fields.string("curve")?, fields.string("point")?);
        return PrivateKey::ecdsa(curve, number(fields)?, point);
    }
    if kind != "ssh-rsa" {
        return Err(Unusable::Type(shown(kind)));
    }
    let mut number = || number(fields);
    let (n, e, d, q_inverse, p, q) = (number()?, number()?, number()?, number()?, number()?, number()?);
    PrivateKey::rsa(&Rsa { n, e, d, p, q, q_inverse })
}

/// A positive number, without leading zeros. ssh accepts any count of them.
fn number<'a>(fields: &mut Reader<'a>) -> Result<&'a [u8], Unusable> {
    let bytes = fields.string("number")?;
    if bytes.first().is_some_and(|high| *high >= 0x80) { Err(Unusable::Malformed) } else { Ok(without_zeros(bytes)) }
}

impl From<postern_core::ssh::Error> for Unusable {
    fn from(_: postern_core::ssh::Error) -> Self {
        Self::Malformed
    }
}

/// RFC 8017, appendix A.1.2.
fn of_pkcs1(bytes: &[u8]) -> Result<PrivateKey, Unusable> {
    let mut outer = bytes;
    let mut fields = der::take(&mut outer, der::SEQUENCE).ok_or(Unusable::Malformed)?;
    let mut number = || der::number(&mut fields).ok_or(Unusable::Malformed);
    let _version = number()?;
    let (n, e, d, p, q) = (number()?, number()?, number()?, number()?, number()?);
    let (_d_p, _d_q, q_inverse) = (number()?, number()?, number()?);
    PrivateKey::rsa(&Rsa { n, e, d, p, q, q_inverse })
}

/// RFC 5915. PKCS#8 names the curve (`named`) outside of this structure.
fn of_sec1(bytes: &[u8], named: Option<Curve>) -> Result<PrivateKey, Unusable> {
    let mut outer = bytes;
    let mut fields = der::take(&mut outer, der::SEQUENCE).ok_or(Unusable::Malformed)?;
    let _version = der::number(&mut fields).ok_or(Unusable::Malformed)?;
    let number = der::take(&mut fields, der::OCTET_STRING).ok_or(Unusable::Malformed)?;
    let curve = match der::take(&mut fields, der::field(0)) {
        Some(mut parameters) => Some(curve(&mut parameters)?),
        None => named,
    };
    let mut public = der::take(&mut fields, der::field(1)).ok_or(Unusable::Malformed)?;
    // The first byte counts the unused bits: 0.
    let point = der::take(&mut public, der::BIT_STRING).and_then(|bits| bits.strip_prefix(&[0]));
    PrivateKey::ecdsa(curve.ok_or(Unusable::Malformed)?, number, point.ok_or(Unusable::Malformed)?)
}

fn curve(parameters: &mut &[u8]) -> Result<Curve, Unusable> {
    let object = der::take(parameters, der::OBJECT).ok_or(Unusable::Malformed)?;
    let found = Curve::ALL.into_iter().find(|curve| curve.facts().1 == object);
    found.ok_or_else(|| Unusable::Type("ECDSA on another curve".to_owned()))
}

/// RFC 5958.
fn of_pkcs8(bytes: &[u8]) -> Result<PrivateKey, Unusable> {
    let mut outer = bytes;
    let mut fields = der::take(&mut outer, der::SEQUENCE).ok_or(Unusable::Malformed)?;
    let _version = der::number(&mut fields).ok_or(Unusable::Malformed)?;
    let mut kind = der::take(&mut fields, der::SEQUENCE).ok_or(Unusable::Malformed)?;
    let mut inner = der::take(&mut fields, der::OCTET_STRING).ok_or(Unusable::Malformed)?;
    match der::take(&mut kind, der::OBJECT).ok_or(Unusable::Malformed)? {
        RSA => of_pkcs1(inner),
        EC => of_sec1(inner, Some(curve(&mut kind)?)),
        ED25519 => PrivateKey::ed25519(der::take(&mut inner, der::OCTET_STRING).ok_or(Unusable::Malformed)?, None),
        _ => Err(Unusable::Type("that PKCS#8 alone knows".to_owned())),
    }
}

/// `d mod (prime - 1)`, without leading zeros. ring needs this number, and OpenSSH's format omits it.
fn exponent(d: &[u8], prime: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut modulus = Zeroizing::new(prime.to_vec());
    // A prime is odd, so clearing the lowest bit subtracts 1.
    if let Some(last) = modulus.last_mut() {
        *last &= !1;
    }
    Zeroizing::new(without_zeros(&remainder(d, &modulus)).to_vec())
}

/// `number mod modulus`, bit by bit: it runs once for each key file, and nobody can measure it.
fn remainder(number: &[u8], modulus: &[u8]) -> Zeroizing<Vec<u8>> {
    let modulus = [&[0], modulus].concat();
    let mut left = Zeroizing::new(vec![0_u8; modulus.len()]);
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)) {
        let mut carry = bit;
        for byte in left.iter_mut().rev() {
            (*byte, carry) = (*byte << 1 | carry, *byte >> 7);
        }
        if left.as_slice() >= modulus.as_slice() {
            let mut borrow = false;
            for (byte, other) in left.iter_mut().zip(&modulus).rev() {
                let (once, first) = byte.overflowing_sub(*other);
                let (twice, second) = once.overflowing_sub(u8::from(borrow));
                (*byte, borrow) = (twice, first || second);
            }
        }
    }
    left
}

/// A name from a file, safe to show.
fn shown(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_graphic()).take(64).collect()
}

#[cfg(test)]
mod tests;
