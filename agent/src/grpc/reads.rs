//! The steps that the reading calls share.
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

pub(super) fn peer(extensions: &Extensions) -> Result<Peer, Status> {
    // Every connection adds the peer. Without a peer the server refuses every request.
    extensions.get::<Peer>().copied().ok_or_else(|| refused(Refusal::new(Reason::Unsigned, "no peer is known")))
}

pub(super) fn busy(extensions: &Extensions) -> Option<Busy> {
    extensions.get::<Arc<Connection>>().map(Connection::busy)
}

/// The reader, with the place that the read holds until its answer.
pub(super) struct Reading {
    reader: Reader,
    _place: Option<Place>,
}

impl Reading {
    /// The reader without that place: a stream holds a place of its own.
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

/// The places of an open stream.
pub(super) type Watching = (Place, OwnedSemaphorePermit);

/// `status` by value, for `map_err`.
pub(super) fn refused(refusal: Refusal) -> Status {
    status(&refusal)
}
