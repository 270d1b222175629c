//! Commands to the worker. This module owns the three kinds of command, and which commands may overtake others. The worker decides and
//! records a [`Change`]. It answers a [`Query`] from durable state. A [`Notice`] reports an event that already happened.

use std::net::SocketAddr;

use postern_core::condition::Condition;
use postern_core::envelope::{Basis, Signer};
use postern_core::grant::{AccessRequest, RevokeRequest};
use postern_core::key::SynRate;
use postern_core::ledger::Action;
use postern_core::refusal::Refusal;
use postern_core::time::Seconds;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::{BreakGlass, DeniedView, ExplainQuery, Explanation, Filter, GrantView, HostState, ModeView, Reader, Rules};
use crate::config::PrefilterConfig;
use crate::system::links::LinkState;

pub(super) type Answer<T> = oneshot::Sender<Result<T, Refusal>>;

pub(super) enum Command {
    Change(Change),
    Query(Query),
    Notice(Notice),
}

/// A command that may change the ledger. The worker decides it, records it, brings it into effect and answers it, in this order.
pub(super) enum Change {
    Request {
        signers: Vec<Signer>,
        basis: Basis,
        request: AccessRequest,
        /// Exactly the signed bytes.
        payload: String,
        answer: Answer<GrantView>,
    },
    Approve {
        signer: Signer,
        basis: Basis,
        id: Uuid,
        payload: String,
        answer: Answer<GrantView>,
    },
    BreakGlass {
        wish: BreakGlass,
        answer: Answer<GrantView>,
    },
    /// Begins a trial of enforcement.
    Enable {
        within: Seconds,
        only_while_running: bool,
        answer: Answer<ModeView>,
    },
    Confirm {
        without_proof: bool,
        answer: Answer<(ModeView, Option<Uuid>)>,
    },
    RollBack {
        answer: Answer<ModeView>,
    },
    Revoke {
        signer: Signer,
        basis: Basis,
        request: RevokeRequest,
        answer: Answer<GrantView>,
    },
    /// Records a refusal that was decided before the worker.
    Refuse {
        signer: Signer,
        action: Action,
        refusal: Refusal,
        answer: oneshot::Sender<Refusal>,
    },
    Reload {
        rules: Rules,
        answer: Answer<usize>,
    },
    Stop {
        answer: oneshot::Sender<()>,
    },
}

pub(super) enum Query {
    Get {
        reader: Reader,
        id: Uuid,
        answer: Answer<GrantView>,
    },
    List {
        reader: Reader,
        filter: Filter,
        before: Option<u64>,
        limit: usize,
        answer: Answer<Vec<GrantView>>,
    },
    Explain {
        query: ExplainQuery,
        reader: Reader,
        answer: Answer<Explanation>,
    },
    Status {
        reader: Reader,
        answer: Answer<HostState>,
    },
    /// The packets that enforcement would have dropped.
    Observed {
        answer: oneshot::Sender<Vec<DeniedView>>,
    },
}

/// An event on the host, which needs no record and no answer.
pub(super) enum Notice {
    Links(LinkState),
    Prefilter(PrefilterConfig),
    /// The API addresses that strangers reach, and how fast one source may begin connections there.
    LimitSyns(Vec<SocketAddr>, SynRate),
    /// A condition that holds, with the reason, or that holds no longer (`None`).
    Condition(Condition, Option<String>),
    /// The clock was set, or the machine was restored. The turn that takes this notice checks the clock.
    Clock,
    /// An unverified message was counted, the first since the last summary.
    Counted,
}

impl Command {
    /// Whether the command waits in the queue that requests never fill: it ends access, or root asks for it.
    pub(super) fn goes_first(&self) -> bool {
        match self {
            Self::Change(change) => change.goes_first(),
            Self::Query(query) => query.is_from_root(),
            Self::Notice(_) => false,
        }
    }

    /// Whether the command may take a reserved place in the queue: it ends access, or root or the host itself sent it.
    pub(super) fn is_urgent(&self) -> bool {
        match self {
            Self::Change(change) => change.is_urgent(),
            Self::Query(query) => query.is_from_root(),
            Self::Notice(_) => true,
        }
    }
}

impl Change {
    pub(super) const fn goes_first(&self) -> bool {
        matches!(
            self,
            Self::Revoke { .. }
                | Self::Reload { .. }
                | Self::BreakGlass { .. }
                | Self::Enable { .. }
                | Self::Confirm { .. }
                | Self::RollBack { .. }
        )
    }

    pub(super) const fn is_urgent(&self) -> bool {
        !matches!(self, Self::Request { .. } | Self::Approve { .. } | Self::Refuse { .. })
    }

    /// Answers the caller with `refusal`. The caller of a stop gets its usual answer.
    pub(super) fn refuse(self, refusal: Refusal) {
        // A caller that has gone away needs no answer.
        match self {
            Self::Request { answer, .. }
            | Self::Approve { answer, .. }
            | Self::Revoke { answer, .. }
            | Self::BreakGlass { answer, .. } => drop(answer.send(Err(refusal))),
            Self::Refuse { answer, .. } => drop(answer.send(refusal)),
            Self::Reload { answer, .. } => drop(answer.send(Err(refusal))),
            Self::Enable { answer, .. } | Self::RollBack { answer } => drop(answer.send(Err(refusal))),
            Self::Confirm { answer, .. } => drop(answer.send(Err(refusal))),
            Self::Stop { answer } => drop(answer.send(())),
        }
    }
}

impl Query {
    fn is_from_root(&self) -> bool {
        match self {
            Self::Get { reader, .. }
            | Self::List { reader, .. }
            | Self::Explain { reader, .. }
            | Self::Status { reader, .. } => *reader == Reader::Root,
            Self::Observed { .. } => false,
        }
    }
}

impl From<Change> for Command {
    fn from(change: Change) -> Self {
        Self::Change(change)
    }
}

impl From<Query> for Command {
    fn from(query: Query) -> Self {
        Self::Query(query)
    }
}

impl From<Notice> for Command {
    fn from(notice: Notice) -> Self {
        Self::Notice(notice)
    }
}
