//! Keys that are trusted no longer, whatever the trust file says.
//!
//! Owns the forms that a list of revoked keys may have. Revoking an authority's key revokes all its certificates.

use std::collections::HashSet;

use super::allowed_signers::parse_key;
use super::{TrustError, TrustFile};
use crate::envelope::{Fingerprint, Vouched};

/// What an OpenSSH key revocation list starts with.
const KRL_MAGIC: &[u8] = b"SSHKRL\n\0";

/// The revoked keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Revoked {
    keys: HashSet<Fingerprint>,
}

impl Revoked {
    /// Reads a list with one public key or `SHA256:…` in each line.
    ///
    /// # Errors
    /// The line and what is wrong with it.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, TrustError> {
        let error = |line, reason: String| TrustError { file: TrustFile::Revoked, line, reason };
        if bytes.starts_with(KRL_MAGIC) {
            return Err(error(0, "binary revocation lists are not read; list the keys, one in a line".to_owned()));
        }
        let text = std::str::from_utf8(bytes).map_err(|_| error(0, "it is not UTF-8 text".to_owned()))?;
        let mut keys = HashSet::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if !line.is_empty() && !line.starts_with('#') {
                keys.insert(revoked_key(line).map_err(|reason| error(number, reason))?);
            }
        }
        Ok(Self { keys })
    }

    /// Whether a key is revoked, by itself or through the certificate that it came with.
    pub(super) fn contains(&self, key: Fingerprint, certificate: Option<&Vouched>) -> bool {
        let authority = certificate.and_then(|c| c.authority.parse().ok());
        self.keys.contains(&key) || authority.is_some_and(|a| self.keys.contains(&a))
    }
}

fn revoked_key(line: &str) -> Result<Fingerprint, String> {
    if line.starts_with("SHA256:") {
        let word = line.split_whitespace().next().unwrap_or_default();
        return word.parse().map_err(|_| "the fingerprint is malformed".to_owned());
    }
    parse_key(line)
}
