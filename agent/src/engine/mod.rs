//! The way from a signed message to the kernel.
//!
//! Owns the order: verify → judge → admit → record (durable) → apply → reply. There is one writer: the thread behind
//! [`Engine`]. It never speaks gRPC or protobuf (`api` and `wire` do).

mod view;

pub use view::{Explanation, GrantView, HostState, KnockView, LayerView, Query, Reader, ShedView, WhoAmI};
