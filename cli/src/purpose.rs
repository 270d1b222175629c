//! The purposes of signatures: the namespace, payload type and lifetime of each.

use std::time::Duration;

use postern_proto::payload_type;

/// How long a request or revocation is valid after signing.
const MESSAGE_LIFE: Duration = Duration::from_secs(2 * 60);

/// How long the client may present a signed read again.
const READ_LIFE: Duration = Duration::from_secs(10 * 60);

/// The purpose of a signature. Each purpose has its own namespace, so a signature for one never counts for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Purpose {
    /// Opening ports: an AccessRequest.
    Request,
    /// Approving an AccessRequest that somebody else signed: the same bytes.
    Approve,
    /// Ending a grant: a RevokeRequest.
    Revoke,
    /// Reading: a ReadRequest.
    Read,
}

impl Purpose {
    /// The SSHSIG namespace.
    #[must_use]
    pub const fn namespace(self) -> &'static str {
        match self {
            Self::Request => "request@postern.v1",
            Self::Approve => "approve@postern.v1",
            Self::Revoke => "revoke@postern.v1",
            Self::Read => "read@postern.v1",
        }
    }

    /// `SignedMessage.payload_type`.
    #[must_use]
    pub const fn payload_type(self) -> &'static str {
        match self {
            Self::Request | Self::Approve => payload_type::ACCESS_REQUEST,
            Self::Revoke => payload_type::REVOKE_REQUEST,
            Self::Read => payload_type::READ_REQUEST,
        }
    }

    /// How long a message of this purpose is valid.
    pub(crate) const fn life(self) -> Duration {
        match self {
            Self::Request | Self::Approve | Self::Revoke => MESSAGE_LIFE,
            Self::Read => READ_LIFE,
        }
    }
}
