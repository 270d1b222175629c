//! Signers, the purposes of signatures, and a key's claims about its holder. Owns the types that the trust file, the envelope, the ledger
//! and the journal share. It never decides who is trusted.

use serde::{Deserialize, Serialize};

use crate::ssh::Fingerprint;

/// The purpose of a signature. Each has its own namespace, so a signature for one purpose never counts for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Asks for access.
    Request,
    /// Approves another person's request, with a signature of the same bytes.
    Approve,
    /// Ends a grant.
    Revoke,
    /// Changes the host's configuration.
    Admin,
    /// Reads the host's state.
    Read,
}

impl Purpose {
    /// All purposes.
    pub const ALL: [Self; 5] = [Self::Request, Self::Approve, Self::Revoke, Self::Admin, Self::Read];

    /// The SSHSIG namespace.
    #[must_use]
    pub const fn namespace(self) -> &'static str {
        match self {
            Self::Request => "request@postern.v1",
            Self::Approve => "approve@postern.v1",
            Self::Revoke => "revoke@postern.v1",
            Self::Admin => "admin@postern.v1",
            Self::Read => "read@postern.v1",
        }
    }

    /// The purpose that a payload of this type needs; `None` for an unknown type.
    #[must_use]
    pub fn of_payload_type(payload_type: &str) -> Option<Self> {
        match payload_type {
            "application/vnd.postern.access-request.v1+json" => Some(Self::Request),
            "application/vnd.postern.revoke-request.v1+json" => Some(Self::Revoke),
            "application/vnd.postern.read-request.v1+json" => Some(Self::Read),
            _ => None,
        }
    }

    /// Whether an envelope whose payload needs this purpose may carry a `signature` of that one.
    pub(crate) const fn admits(self, signature: Self) -> bool {
        matches!(
            (self, signature),
            (Self::Request, Self::Request | Self::Approve)
                | (Self::Approve, Self::Approve)
                | (Self::Revoke, Self::Revoke)
                | (Self::Admin, Self::Admin)
                | (Self::Read, Self::Read)
        )
    }
}

/// The signer as the journal stores it, with all data to check the trust again after a reload (`Trust::trusts`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signer {
    /// The name from the trust file, or from an authority that the trust file lists.
    pub principal: String,
    /// `SHA256:…` of the key that signed.
    pub fingerprint: String,
    /// The certificate with the name; absent if the trust file lists the key itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Vouched>,
}

impl Signer {
    /// Whether the host itself or its root acts without a signature: every signer's key has a fingerprint.
    #[must_use]
    pub const fn is_nobody(&self) -> bool {
        self.fingerprint.is_empty()
    }

    /// The bytes of its texts.
    pub(crate) fn weight(&self) -> usize {
        let vouched = self.certificate.as_ref().map_or(0, |c| c.authority.len() + c.key_id.len());
        self.principal.len() + self.fingerprint.len() + vouched
    }
}

/// The data of a certificate by which it can be revoked later.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Vouched {
    /// `SHA256:…` of the certificate authority's key.
    pub authority: String,
    /// The serial number; 0 if the authority does not count.
    pub serial: u64,
    /// The certificate's key id.
    pub key_id: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Presented {
    pub(crate) role: Purpose,
    pub(crate) key: Fingerprint,
    pub(crate) certificate: Option<Claims>,
}

/// A certificate's claims about the holder of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The authority's key.
    pub authority: Fingerprint,
    /// The serial number from the authority; 0 if the authority does not count.
    pub serial: u64,
    /// The authority's text for logs and revocation.
    pub key_id: String,
    /// The names that the authority gives to the holder.
    pub principals: Vec<String>,
    /// The first second since 1970 in which the certificate is valid.
    pub valid_after: u64,
    /// The first second since 1970 in which the certificate is no longer valid; `u64::MAX` for one without an end.
    pub valid_before: u64,
}
