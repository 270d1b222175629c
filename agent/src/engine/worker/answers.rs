//! The callers that wait for a batch, and the answer that each of them gets.

use postern_core::refusal::{Reason, Refusal};
use postern_core::time::BootNanos;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::queries::Reads;
use crate::engine::command::Answer;
use crate::engine::{GrantView, ModeView, Rules};
use crate::system::sessions::Scope;

/// The decisions of one batch, besides its records.
#[derive(Default)]
pub(super) struct Decided {
    pub waiting: Vec<Waiting>,
    /// The scopes of grants that ended in this batch. Their sessions end too.
    pub over: Vec<Scope>,
    /// Set while the disk is slow: sessions that were over until then ended without this batch.
    pub ended_until: Option<BootNanos>,
}

pub(super) enum Waiting {
    Grant(Uuid, Answer<GrantView>),
    Refused(Refusal, Answer<GrantView>),
    /// A refusal that was decided before the worker, and is recorded with the batch.
    Recorded(Refusal, oneshot::Sender<Refusal>),
    /// A change of the mode: a refusal, or the grant that proves the way in.
    Mode(Result<Option<Uuid>, Refusal>, ModeAnswer),
    Reloaded(Rules, usize, Answer<usize>),
    NotReloaded(Refusal, Answer<usize>),
    Stopped(oneshot::Sender<()>),
}

pub(super) type ModeAnswer = Box<dyn FnOnce(Result<(ModeView, Option<Uuid>), Refusal>) + Send>;

impl Decided {
    /// The rules that the batch puts in force.
    pub(super) fn reloaded(&self) -> Option<Rules> {
        let reloads = self.waiting.iter().rev();
        reloads.filter_map(|one| if let Waiting::Reloaded(rules, ..) = one { Some(rules.clone()) } else { None }).next()
    }

    /// Whether the batch is the last one before the worker stops.
    pub(super) fn stops(&self) -> bool {
        self.waiting.iter().any(|one| matches!(one, Waiting::Stopped(_)))
    }
}

impl Waiting {
    pub(super) fn refused(self, refusal: &Refusal) -> Self {
        match self {
            Self::Grant(_, answer) | Self::Refused(_, answer) => Self::Refused(refusal.clone(), answer),
            Self::Recorded(_, answer) => Self::Recorded(refusal.clone(), answer),
            Self::Mode(decided, answer) => Self::Mode(Err(decided.err().unwrap_or_else(|| refusal.clone())), answer),
            Self::Reloaded(_, _, answer) | Self::NotReloaded(_, answer) => Self::NotReloaded(refusal.clone(), answer),
            Self::Stopped(answer) => Self::Stopped(answer),
        }
    }

    /// Answers the caller. A caller that is gone needs no answer.
    pub(super) fn answer(self, reads: &Reads<'_>) {
        match self {
            Self::Grant(id, answer) => {
                let gone = || Refusal::new(Reason::GrantNotFound, id);
                let _ = answer.send(reads.view(&id).ok_or_else(gone));
            }
            Self::Refused(refusal, answer) => drop(answer.send(Err(refusal))),
            Self::Recorded(refusal, answer) => drop(answer.send(refusal)),
            Self::Mode(decided, answer) => answer(decided.map(|grant| (reads.mode(), grant))),
            Self::Reloaded(_, ended, answer) => drop(answer.send(Ok(ended))),
            Self::NotReloaded(refusal, answer) => drop(answer.send(Err(refusal))),
            Self::Stopped(answer) => drop(answer.send(())),
        }
    }
}
