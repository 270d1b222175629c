//! The rate at which each source calls `WhichKeysCount`.
//!
//! Owns one account for each source, and the count of questions. The engine answers the questions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use postern_core::question::Askers;
use postern_core::refusal::Refusal;
use postern_core::time::BootNanos;

use super::peer::{Peer, Source};

/// The name of the count among the counters of the API.
const ASKED: &str = "keys-asked";

#[derive(Debug, Default)]
pub(super) struct Questions {
    askers: Mutex<Askers<Source>>,
    asked: AtomicU64,
}

impl Questions {
    /// Counts one question of `peer`. Refuses it with [`postern_core::refusal::Reason::RateLimited`] if the source asks too often.
    pub(super) fn take(&self, peer: Peer, now: BootNanos) -> Result<(), Refusal> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.askers.lock().unwrap_or_else(PoisonError::into_inner).take(peer.source(), now)
    }

    /// The count for `GetStatus`; none before the first question.
    pub(super) fn count(&self) -> Option<(&'static str, u64)> {
        Some((ASKED, self.asked.load(Ordering::Relaxed))).filter(|(_, count)| *count > 0)
    }
}
