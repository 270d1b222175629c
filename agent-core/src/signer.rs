//! Who signs messages, for which purpose, and what a key claims about its holder.
//!
//! Owns the types that the trust file, the envelope, the ledger and the journal share. It never decides who is trusted.

use serde::{Deserialize, Serialize};

use crate::ssh::Fingerprint;

/// What a signature is for. Each has a namespace of its own, so no signature passes for another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// Asks for access.
    Request,
    /// Approves somebody else's request, by signing the same bytes.
    Approve,
    /// Ends a grant.
    Revoke,
    /// Changes the host's configuration.
    Admin,
    /// Reads what the host knows.
    Read,
}

impl Purpose {
    /// All of them.
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

    /// The role that a payload of this type must be signed in, if there is such a type.
    #[must_use]
    pub fn of_payload_type(payload_type: &str) -> Option<Self> {
        match payload_type {
            "application/vnd.postern.access-request.v1+json" => Some(Self::Request),
            "application/vnd.postern.revoke-request.v1+json" => Some(Self::Revoke),
            "application/vnd.postern.read-request.v1+json" => Some(Self::Read),
            _ => None,
        }
    }

    /// Whether `signature` may stand on an envelope whose payload needs this role.
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

/// Who signed: what the journal stores, and all that `Trust::trusts` needs to judge him again after a reload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signer {
    /// As the trust file names them, or as an authority that the trust file lists does.
    pub principal: String,
    /// `SHA256:…` of the key that signed.
    pub fingerprint: String,
    /// The certificate that named them; absent where the trust file lists the key itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Vouched>,
}

impl Signer {
    /// Whether nobody signed: the host itself or its root acts. Every signer's key has a fingerprint.
    #[must_use]
    pub const fn is_nobody(&self) -> bool {
        self.fingerprint.is_empty()
    }

    /// How many bytes its texts have.
    pub(crate) fn weight(&self) -> usize {
        let vouched = self.certificate.as_ref().map_or(0, |c| c.authority.len() + c.key_id.len());
        self.principal.len() + self.fingerprint.len() + vouched
    }
}

/// The facts of a certificate by which it can be revoked later.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Vouched {
    /// `SHA256:…` of the certificate authority's key.
    pub authority: String,
    /// The certificate's serial number; 0 if its authority does not count.
    pub serial: u64,
    /// The certificate's key id.
    pub key_id: String,
}

/// A key that signed for a purpose, and what its certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Presented {
    pub(crate) role: Purpose,
    pub(crate) key: Fingerprint,
    pub(crate) certificate: Option<Claims>,
}

/// What a certificate says about the holder of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The key of the authority that signed it.
    pub authority: Fingerprint,
    /// Chosen by the authority; 0 if it does not count.
    pub serial: u64,
    /// Chosen by the authority, for logs and revocation.
    pub key_id: String,
    /// The names that the authority gives to the key's holder.
    pub principals: Vec<String>,
    /// The first second since 1970 in which it is valid.
    pub valid_after: u64,
    /// The first second since 1970 in which it is valid no longer; `u64::MAX` for one without an end.
    pub valid_before: u64,
}
