//! The formats of SSH: keys, signatures, certificates, and lists of name patterns. Owns one parser for each format, shared by posternd and
//! the client. Each caller passes what it accepts ([`Accept`]). It never decides whether a key is trusted, and never holds a private key.

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
    /// A field violates the format.
    #[error("its {0} is malformed")]
    Malformed(&'static str),
    /// The whole violates the format; a sentence about it.
    #[error("{0}")]
    Form(&'static str),
    /// An SSHSIG of an unknown version.
    #[error("version {0} is unknown")]
    Version(u32),
    /// An armored signature that is too long, with its size in bytes.
    #[error("a signature of {0} bytes")]
    TooLong(usize),
    /// A key of a type that the caller does not accept.
    #[error("{0} keys are not accepted")]
    KeyType(String),
    /// An RSA key of a size that the caller does not accept.
    #[error("RSA keys of {bits} bits are not accepted, only {least} to 8192")]
    RsaSize {
        /// The size of the key.
        bits: usize,
        /// The least size.
        least: usize,
    },
    /// A signature or hash algorithm that the caller does not accept, with its context.
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
    /// Whether another program may accept this: the bytes are well formed, but this caller does not accept the algorithm or size.
    #[must_use]
    pub const fn is_not_accepted(&self) -> bool {
        matches!(self, Self::KeyType(_) | Self::RsaSize { .. } | Self::Algorithm(_))
    }
}

pub(crate) fn shown(name: &[u8]) -> String {
    Shown::new(&String::from_utf8_lossy(name)).at_most(64).to_string()
}
