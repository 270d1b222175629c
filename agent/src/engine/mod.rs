//! The way from a signed message to the kernel.
//!
//! Owns the order: verify → judge → admit → record (durable) → apply → reply. There is one writer: the thread behind
//! [`Engine`]. It never speaks gRPC or protobuf (`api` and `wire` do).

mod view;

pub use view::{Explanation, GrantView, HostState, KnockView, LayerView, Query, Reader, ShedView, WhoAmI};

/// A signed message as it came off the wire: nothing in it is believed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBytes {
    /// Exactly the bytes that were signed.
    pub payload: Vec<u8>,
    /// What they claim to be.
    pub payload_type: String,
    /// Armored SSHSIGs.
    pub signatures: Vec<String>,
}
