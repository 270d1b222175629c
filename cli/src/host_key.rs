//! The two kinds of host keys and their different spellings: a fingerprint of one kind never passes for the other.

use std::fmt;

use crate::tls::Fingerprint;

/// A key that a host proved to hold. [`fmt::Display`] writes it as an audience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostKey {
    /// An SSH host key: `SHA256:…` as ssh-keygen prints it. For a certificate, the plain key inside.
    Ssh(ssh_key::Fingerprint),
    /// The key of the TLS certificate with this fingerprint: `tls:SHA256:…`.
    Tls(Fingerprint),
}

impl fmt::Display for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ssh(fingerprint) => fingerprint.fmt(f),
            Self::Tls(fingerprint) => write!(f, "tls:{fingerprint}"),
        }
    }
}
