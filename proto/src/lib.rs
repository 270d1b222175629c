//! Postern's wire contract: the messages and services of `postern/v1/*.proto`.
//!
//! Owns the generated code and the file descriptors that gRPC reflection serves. It never holds a rule: what a field
//! may contain is decided by `agent/src/wire.rs`, which turns these types into the domain's own.

/// Messages, clients and servers of the package `postern.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/postern.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/postern.v1.serde.rs"));
}

/// The encoded `FileDescriptorSet` of every `.proto` file, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// What a payload is, as named in `SignedMessage.payload_type`.
pub mod payload_type {
    /// [`crate::v1::AccessRequest`], signed under `request@postern.v1`.
    pub const ACCESS_REQUEST: &str = "application/vnd.postern.access-request.v1+json";
    /// [`crate::v1::RevokeRequest`], signed under `revoke@postern.v1`.
    pub const REVOKE_REQUEST: &str = "application/vnd.postern.revoke-request.v1+json";
    /// [`crate::v1::ReadRequest`], signed under `read@postern.v1`.
    pub const READ_REQUEST: &str = "application/vnd.postern.read-request.v1+json";
}

/// What the TLS key signs before the bytes of `WhoAmIResponse.statement`; no signature of a TLS handshake begins like that.
pub const STATEMENT_MARK: &[u8] = b"postern-statement-v1\0";

/// How many bytes `WhoAmIRequest.nonce` may have, if any.
pub const STATEMENT_NONCE: std::ops::RangeInclusive<usize> = 16..=64;

/// How many characters each text of `WhoAmIRequest.ports` may have. The longest name that a protected port is expected to have is
/// much shorter.
pub const MOST_PORT_TEXT: usize = 128;

/// Domain of every `google.rpc.ErrorInfo` that Postern sends.
pub const ERROR_DOMAIN: &str = "postern.v1";
