//! The states of a request: pending → scheduled → active → expired, revoked, superseded, refused or withdrawn.
//!
//! Owns the states, the ways to end and who was there ([`Step`]). It never decides a transition: the judge and the ledger do.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::grant::{AccessRequest, Grant, PortSpec, Source, Use};
use crate::signer::Signer;
use crate::time::{BootNanos, Seconds};

/// The state of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It waits for approvals; nothing is open.
    Pending,
    /// Granted; it opens later.
    Scheduled,
    /// The kernel lets its packets through.
    Active,
    /// Its time was up.
    Expired,
    /// Somebody ended it, or the rules did.
    Revoked,
    /// An extension took its place.
    Superseded,
    /// It was never granted.
    Refused,
    /// Its requester took it back.
    Withdrawn,
}

/// Why a grant is no longer live, or a request no longer pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndCause {
    /// Its time was up.
    Expired,
    /// Nobody used it within the time that the policy gives for the first use.
    Unused,
    /// Nobody used it for as long as the policy lets a grant idle.
    Idle,
    /// Not enough people approved in time.
    Lapsed,
    /// Somebody who may end it did.
    Revoked,
    /// Its requester gave it back.
    GivenBack,
    /// An approver or an admin declined it.
    Declined,
    /// A grant that extends it took its place.
    Superseded,
    /// The trust file no longer lets its signer ask.
    SignerUntrusted,
    /// The policy no longer names its ports, or lets its signer have them.
    PolicyChanged,
    /// The host was booted anew: nothing re-opens by itself.
    Rebooted,
    /// The machine was restored from a snapshot or copied: what is open there may have been ended since.
    Restored,
    /// The kernel did not take it, so it never took effect.
    Undone,
}

impl Grant {
    /// When it has to be used next, or else is over, and why; `None` where nothing limits that. `last` is its latest packet, zero
    /// for none; `used_before` tells of packets that were counted before the agent started at `started`.
    #[must_use]
    pub fn use_by(&self, last: BootNanos, used_before: bool, started: BootNanos) -> Option<(BootNanos, EndCause)> {
        let after = |from: BootNanos, limit: Seconds| from.plus_nanos(limit.0.saturating_mul(1_000_000_000));
        let opened = self.starts_boot.max(started);
        let unused = last.0 == 0 && !used_before;
        let first = self.first_use_within.filter(|_| unused).map(|limit| (after(opened, limit), EndCause::Unused));
        let idle = self.idle_timeout.map(|limit| (after(opened.max(last), limit), EndCause::Idle));
        first.into_iter().chain(idle).min_by_key(|(due, _)| *due)
    }
}

impl EndCause {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::Expired,
        Self::Unused,
        Self::Idle,
        Self::Lapsed,
        Self::Revoked,
        Self::GivenBack,
        Self::Declined,
        Self::Superseded,
        Self::SignerUntrusted,
        Self::PolicyChanged,
        Self::Rebooted,
        Self::Restored,
        Self::Undone,
    ];

    /// Stable, as the journal spells it.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Unused => "unused",
            Self::Idle => "idle",
            Self::Lapsed => "lapsed",
            Self::Revoked => "revoked",
            Self::GivenBack => "given-back",
            Self::Declined => "declined",
            Self::Superseded => "superseded",
            Self::SignerUntrusted => "signer-untrusted",
            Self::PolicyChanged => "policy-changed",
            Self::Rebooted => "rebooted",
            Self::Restored => "restored",
            Self::Undone => "undone",
        }
    }

    /// For people.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Expired => "its time was up",
            Self::Unused => "it was not used in time",
            Self::Idle => "it was idle for too long",
            Self::Lapsed => "not enough people approved it in time",
            Self::Revoked => "it was revoked",
            Self::GivenBack => "it was given back",
            Self::Declined => "it was declined",
            Self::Superseded => "it was extended by another grant",
            Self::SignerUntrusted => "its signer is trusted no longer",
            Self::PolicyChanged => "the policy no longer allows it",
            Self::Rebooted => "the host was rebooted",
            Self::Restored => "the machine was restored from a snapshot or copied",
            Self::Undone => "the kernel did not take it",
        }
    }

    /// The state that something ends in which was pending before, or granted.
    #[must_use]
    pub const fn state(self, was_pending: bool) -> State {
        match self {
            Self::GivenBack => State::Withdrawn,
            Self::Superseded => State::Superseded,
            Self::Expired | Self::Unused | Self::Idle | Self::Lapsed => State::Expired,
            Self::Rebooted | Self::Restored if was_pending => State::Expired,
            Self::Declined => State::Refused,
            Self::Revoked | Self::SignerUntrusted | Self::PolicyChanged | Self::Undone if was_pending => State::Refused,
            Self::Revoked
            | Self::SignerUntrusted
            | Self::PolicyChanged
            | Self::Undone
            | Self::Rebooted
            | Self::Restored => State::Revoked,
        }
    }
}

/// How something ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// When, by the wall clock.
    pub at: Timestamp,
    /// Why.
    pub cause: EndCause,
    /// The principal who ended it, or `root`; empty for the clock and the host itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// What that person gave as the reason.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Ending {
    /// The end that the clock or the host itself brings.
    #[must_use]
    pub const fn by_itself(at: Timestamp, cause: EndCause) -> Self {
        Self { at, cause, by: String::new(), reason: String::new() }
    }
}

/// A request that waits for approvals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// Who asks.
    pub signer: Signer,
    /// Who has approved so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<Signer>,
    /// What is asked for.
    pub request: AccessRequest,
    /// Exactly the bytes that the requester signed: approvers sign the same.
    pub payload: String,
    /// When it was accepted, by the wall clock.
    pub created: Timestamp,
    /// When it is given up; by the wall clock, for the record only.
    pub lapses: Timestamp,
    /// When it is given up.
    pub lapses_boot: BootNanos,
    /// The boot that `lapses_boot` belongs to.
    pub boot_id: Uuid,
    /// How many more approvals it waited for when this was written.
    pub missing: u32,
}

/// What a request has become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// It waits, or waited in vain.
    Pending(Pending),
    /// It was granted.
    Granted(Grant),
}

impl Request {
    /// The request's id.
    #[must_use]
    pub const fn id(&self) -> Uuid {
        match self {
            Self::Pending(pending) => pending.request.header.id,
            Self::Granted(grant) => grant.id,
        }
    }

    /// Who asked.
    #[must_use]
    pub const fn signer(&self) -> &Signer {
        match self {
            Self::Pending(pending) => &pending.signer,
            Self::Granted(grant) => &grant.signer,
        }
    }

    /// Who approved.
    #[must_use]
    pub fn approvers(&self) -> &[Signer] {
        match self {
            Self::Pending(pending) => &pending.approvers,
            Self::Granted(grant) => &grant.approvers,
        }
    }

    /// What is asked for.
    #[must_use]
    pub fn ports(&self) -> &[PortSpec] {
        match self {
            Self::Pending(pending) => &pending.request.ports,
            Self::Granted(grant) => &grant.ports,
        }
    }

    /// For whom.
    #[must_use]
    pub fn sources(&self) -> &[Source] {
        match self {
            Self::Pending(pending) => &pending.request.sources,
            Self::Granted(grant) => &grant.sources,
        }
    }

    /// The grant, if it was granted.
    #[must_use]
    pub const fn grant(&self) -> Option<&Grant> {
        match self {
            Self::Pending(_) => None,
            Self::Granted(grant) => Some(grant),
        }
    }

    /// A copy without the bytes that the requester signed, which may be many.
    #[must_use]
    pub fn without_payload(&self) -> Self {
        match self {
            Self::Granted(grant) => Self::Granted(grant.clone()),
            Self::Pending(Pending {
                signer,
                approvers,
                request,
                payload: _,
                created,
                lapses,
                lapses_boot,
                boot_id,
                missing,
            }) => Self::Pending(Pending {
                signer: signer.clone(),
                approvers: approvers.clone(),
                request: request.clone(),
                payload: String::new(),
                created: *created,
                lapses: *lapses,
                lapses_boot: *lapses_boot,
                boot_id: *boot_id,
                missing: *missing,
            }),
        }
    }

    /// The request, while it waits.
    #[must_use]
    pub const fn pending(&self) -> Option<&Pending> {
        match self {
            Self::Pending(pending) => Some(pending),
            Self::Granted(_) => None,
        }
    }
}

/// One step in a request's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The state after it.
    pub state: State,
    /// When, by the wall clock.
    pub at: Timestamp,
    /// Who; empty for the clock and the host itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Why; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A request and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// The record that made it; orders them by age, also when it is granted later.
    pub seq: u64,
    /// The request, or the grant that it became.
    #[serde(rename = "life")]
    pub request: Request,
    /// Whether its start is on record: until then the kernel knows nothing of it.
    pub opened: bool,
    /// Set once it has ended.
    pub ending: Option<Ending>,
    /// Final once it has ended; until then what an earlier run of the agent counted.
    pub usage: Use,
    /// What happened to it, the oldest first.
    pub steps: Vec<Step>,
    /// The grant that extends it.
    pub superseded_by: Option<Uuid>,
}

impl RequestRecord {
    /// Its state, as far as is on record.
    #[must_use]
    pub fn state(&self) -> State {
        match (&self.ending, &self.request) {
            (Some(ending), life) => ending.cause.state(life.pending().is_some()),
            (None, Request::Pending(_)) => State::Pending,
            (None, Request::Granted(_)) if self.opened => State::Active,
            (None, Request::Granted(_)) => State::Scheduled,
        }
    }

    /// The grant, if it was granted.
    #[must_use]
    pub const fn grant(&self) -> Option<&Grant> {
        self.request.grant()
    }

    /// Drops the fields that only a pending request needs: nobody approves it any more. The journal keeps the signed bytes.
    pub(crate) fn drop_payload(&mut self) {
        if let Request::Pending(pending) = &mut self.request {
            (pending.payload, pending.request.header.audience) = (String::new(), Vec::new());
            pending.request.header.challenge = None;
        }
    }

    /// Roughly how many bytes the record takes: texts and lists by their length, all other fields by a fixed sum.
    #[must_use]
    pub fn weight(&self) -> usize {
        const FIXED: usize = 1024;
        const ITEM: usize = 64;
        let (life, by_grant) = (&self.request, |grant: &Grant| grant.justification.len() + grant.ticket.len());
        let by_request = |pending: &Pending| {
            let request = &pending.request;
            pending.payload.len() + request.justification.len() + request.ticket.len()
        };
        let texts = life.grant().map_or(0, by_grant) + life.pending().map_or(0, by_request);
        let steps: usize = self.steps.iter().map(|step| ITEM + step.by.len() + step.reason.len()).sum();
        let ending = self.ending.as_ref().map_or(0, |ending| ending.by.len() + ending.reason.len());
        let signers: usize = life.approvers().iter().chain([life.signer()]).map(Signer::weight).sum();
        FIXED + texts + steps + ending + signers + ITEM * (life.ports().len() + life.sources().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_an_end_is_what_the_journal_spells() {
        for cause in EndCause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.code());
        }
    }
}
