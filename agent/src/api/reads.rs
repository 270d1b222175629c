//! What the calls that read have in common.
//!
//! Owns turning a request's connection and signed message into a reader. Whether the reader may see something, the engine decides.

use std::sync::Arc;

use postern_core::refusal::{Reason, Refusal};
use postern_proto::v1;
use tonic::{Extensions, Status};

use super::peer::Peer;
use super::seats::{Busy, Seat};
use super::status::status;
use crate::engine::{Engine, Reader};
use crate::wire;

/// Whom the kernel says the call comes from.
pub(super) fn peer(extensions: &Extensions) -> Result<Peer, Status> {
    // Every connection puts it there; a server that forgot may serve nobody.
    extensions.get::<Peer>().copied().ok_or_else(|| refused(Refusal::new(Reason::Unsigned, "no peer is known")))
}

/// Keeps the connection while work for somebody verified is under way.
pub(super) fn busy(extensions: &Extensions) -> Option<Busy> {
    extensions.get::<Arc<Seat>>().map(Seat::busy)
}

/// Who reads.
pub(super) async fn reader(engine: &Engine, peer: Peer, read: Option<v1::SignedMessage>) -> Result<Reader, Status> {
    engine.reader(read.map(wire::signed_bytes), peer.is_local_root()).await.map_err(refused)
}

/// For `map_err`.
pub(super) fn refused(refusal: Refusal) -> Status {
    status(&refusal)
}
