//! What the reading calls share.
//!
//! Owns the step from a request's connection and signed message to a reader. The engine decides what the reader may see.

use std::sync::Arc;

use postern_core::refusal::{Reason, Refusal};
use postern_proto::v1;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Extensions, Status};

use super::connections::{Busy, Connection};
use super::peer::Peer;
use super::status::status;
use crate::engine::{Engine, Place, Reader};
use crate::grpc::convert;

/// The peer that the kernel reports.
pub(super) fn peer(extensions: &Extensions) -> Result<Peer, Status> {
    // Every connection adds the peer. Without one the server answers nothing.
    extensions.get::<Peer>().copied().ok_or_else(|| refused(Refusal::new(Reason::Unsigned, "no peer is known")))
}

/// Keeps the connection from being evicted while a verified request is under way.
pub(super) fn busy(extensions: &Extensions) -> Option<Busy> {
    extensions.get::<Arc<Connection>>().map(Connection::busy)
}

/// The reader, with the place that the read holds until it is answered.
pub(super) struct Reading {
    reader: Reader,
    _place: Option<Place>,
}

impl Reading {
    /// The reader alone: the first answer is given, and a stream has its own place.
    pub(super) fn answered(self) -> Reader {
        self.reader
    }
}

impl std::ops::Deref for Reading {
    type Target = Reader;

    fn deref(&self) -> &Reader {
        &self.reader
    }
}

/// The reader of a call.
pub(super) async fn reader(engine: &Engine, peer: Peer, read: Option<v1::SignedMessage>) -> Result<Reading, Status> {
    let read = engine.reader(read.map(convert::signed_bytes), peer.is_local_root()).await;
    read.map(|(reader, _place)| Reading { reader, _place }).map_err(refused)
}

/// A place for a stream of `reader`. Each principal gets only a share of the places; root needs none.
pub(super) fn watching(
    engine: &Engine,
    reader: &Reader,
    watchers: &Arc<Semaphore>,
) -> Result<Option<Watching>, Status> {
    let full =
        |_| refused(Refusal::new(Reason::Overloaded, "as many streams are open as the host allows; try again later"));
    match engine.watching(reader).map_err(refused)? {
        None => Ok(None),
        Some(place) => Ok(Some((place, Arc::clone(watchers).try_acquire_owned().map_err(full)?))),
    }
}

/// What a stream holds while it is open.
pub(super) type Watching = (Place, OwnedSemaphorePermit);

/// For `map_err`.
pub(super) fn refused(refusal: Refusal) -> Status {
    status(&refusal)
}
