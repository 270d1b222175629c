//! The formats of SSH: keys, signatures, certificates, and lists of name patterns.
//!
//! Owns one parser for each format; posternd and the client share it. What a caller accepts is a parameter ([`Accept`]). This module
//! never decides whom a key belongs to or whether it is trusted, and never sees a private key.

pub mod certificate;
mod fingerprint;
pub mod pattern;
mod public_key;
mod signature;
mod sshsig;
pub mod wire;

pub use certificate::Certificate;
pub use fingerprint::Fingerprint;
pub use public_key::{Accept, Algorithm, PublicKey};
pub use signature::Person;
pub use sshsig::{MOST_ARMOR, SshSig, armor, dearmor, to_be_signed};

use crate::text::Shown;

/// Why bytes are not the key, certificate or signature that the caller expects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field is not what the format says.
    #[error("its {0} is malformed")]
    Malformed(&'static str),
    /// The whole is not what the format says; a sentence about it.
    #[error("{0}")]
    Form(&'static str),
    /// An SSHSIG of a version that nobody defined.
    #[error("version {0} is unknown")]
    Version(u32),
    /// An armored signature of so many bytes.
    #[error("a signature of {0} bytes")]
    TooLong(usize),
    /// A key of a type that the caller does not accept.
    #[error("{0} keys are not accepted")]
    KeyType(String),
    /// An RSA key of a size that the caller does not accept.
    #[error("RSA keys of {bits} bits are not accepted, only {least} to 8192")]
    RsaSize {
        /// What the key has.
        bits: usize,
        /// What it needs.
        least: usize,
    },
    /// A signature or hash algorithm that the caller does not accept, with what used it.
    #[error("{0}")]
    Algorithm(String),
    /// A security key signed without a touch.
    #[error("the security key was not touched")]
    NotTouched,
    /// The signature is not by this key over this message.
    #[error("the signature does not fit")]
    Wrong,
}

impl Error {
    /// Whether another program may well accept this: it is well formed, but of an algorithm or size that the caller does not accept.
    #[must_use]
    pub const fn is_not_accepted(&self) -> bool {
        matches!(self, Self::KeyType(_) | Self::RsaSize { .. } | Self::Algorithm(_))
    }
}

/// A name from outside, fit to be shown.
pub(crate) fn shown(name: &[u8]) -> String {
    Shown::new(&String::from_utf8_lossy(name)).at_most(64).to_string()
}
