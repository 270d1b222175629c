//! Postern's wire contract: the messages and services of `postern/v1/*.proto`.
//!
//! Owns the generated code and the file descriptors for gRPC reflection. It has no rules: `agent/src/payload` and `agent/src/grpc`
//! check the fields and convert them to domain types.

/// Messages, clients and servers of the package `postern.v1`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/postern.v1.rs"));
    include!(concat!(env!("OUT_DIR"), "/postern.v1.serde.rs"));
}

/// The encoded `FileDescriptorSet` of every `.proto` file, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// The values of `SignedMessage.payload_type`.
pub mod payload_type {
    /// [`crate::v1::AccessRequest`], signed under `request@postern.v1`.
    pub const ACCESS_REQUEST: &str = "application/vnd.postern.access-request.v1+json";
    /// [`crate::v1::RevokeRequest`], signed under `revoke@postern.v1`.
    pub const REVOKE_REQUEST: &str = "application/vnd.postern.revoke-request.v1+json";
    /// [`crate::v1::ReadRequest`], signed under `read@postern.v1`.
    pub const READ_REQUEST: &str = "application/vnd.postern.read-request.v1+json";
}

/// The prefix that the TLS key signs before the bytes of `WhoAmIResponse.statement`. No signed message of a TLS handshake begins with it.
pub const STATEMENT_MARK: &[u8] = b"postern-statement-v1\0";

/// The allowed length of `WhoAmIRequest.nonce` in bytes, if there is a nonce.
pub const STATEMENT_NONCE: std::ops::RangeInclusive<usize> = 16..=64;

/// The most characters of each text of `WhoAmIRequest.ports`. Names of protected ports are much shorter.
pub const MOST_PORT_TEXT: usize = 128;

/// The domain of every `google.rpc.ErrorInfo` of Postern.
pub const ERROR_DOMAIN: &str = "postern.v1";
