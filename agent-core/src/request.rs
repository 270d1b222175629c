//! The states of a request: pending → scheduled → active → expired, revoked, superseded, refused or withdrawn. Owns the states, the causes
//! of an end and the steps ([`Step`]). The judge and the ledger decide the transitions.

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
    /// The request waits for approvals; nothing is open.
    Pending,
    /// The request is granted and opens later.
    Scheduled,
    /// The kernel lets the grant's packets through.
    Active,
    /// The time was up.
    Expired,
    /// A person or new rules ended the grant.
    Revoked,
    /// An extension replaced the grant.
    Superseded,
    /// The request was never granted.
    Refused,
    /// The requester took it back.
    Withdrawn,
}

/// Why a grant or a pending request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndCause {
    /// The time was up.
    Expired,
    /// Nobody used the grant within the policy's time for the first use.
    Unused,
    /// Nobody used the grant for the policy's idle time.
    Idle,
    /// Not enough people approved in time.
    Lapsed,
    /// Somebody with the right to end it did.
    Revoked,
    /// The requester gave it back.
    GivenBack,
    /// An approver or an admin declined it.
    Declined,
    /// An extension replaced it.
    Superseded,
    /// The trust file no longer allows its signer to ask.
    SignerUntrusted,
    /// The policy no longer names its ports, or no longer allows its signer to have them.
    PolicyChanged,
    /// The host was rebooted: nothing re-opens by itself.
    Rebooted,
    /// The machine was restored from a snapshot or copied: its grants may have ended since.
    Restored,
    /// The kernel refused the grant, so it never took effect.
    Undone,
}

impl Grant {
    /// The moment by which the grant needs its next use, and the cause of the end otherwise; `None` without a limit. `last` is its latest
    /// packet (zero: none); `used_before`: packets came before the agent started, at `started`.
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
    /// All causes.
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

    /// The stable code, as the journal spells it.
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

    /// The sentence for people.
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

    /// The state after the end of a pending request (`was_pending`) or of a grant.
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

/// The end of a request or grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// When, by the wall clock.
    pub at: Timestamp,
    /// Why.
    pub cause: EndCause,
    /// Who ended it, or `root`; empty for the clock and the host itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// The reason that this person gave.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

impl Ending {
    /// An end by the clock or the host itself.
    #[must_use]
    pub const fn by_itself(at: Timestamp, cause: EndCause) -> Self {
        Self { at, cause, by: String::new(), reason: String::new() }
    }
}

/// A request that waits for approvals.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The requester.
    pub signer: Signer,
    /// The approvers so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<Signer>,
    /// The request.
    pub request: AccessRequest,
    /// The exact bytes that the requester signed: approvers sign the same.
    pub payload: String,
    /// The wall-clock time of acceptance.
    pub created: Timestamp,
    /// The moment of lapse by the wall clock, for the record only.
    pub lapses: Timestamp,
    /// The moment of lapse.
    pub lapses_boot: BootNanos,
    /// The boot of `lapses_boot`.
    pub boot_id: Uuid,
    /// The number of missing approvals at the time of this record.
    pub missing: u32,
}

/// A request or the grant that it became.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// The request waits, or ended without a grant.
    Pending(Pending),
    /// The request was granted.
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

    /// The requester.
    #[must_use]
    pub const fn signer(&self) -> &Signer {
        match self {
            Self::Pending(pending) => &pending.signer,
            Self::Granted(grant) => &grant.signer,
        }
    }

    /// The approvers.
    #[must_use]
    pub fn approvers(&self) -> &[Signer] {
        match self {
            Self::Pending(pending) => &pending.approvers,
            Self::Granted(grant) => &grant.approvers,
        }
    }

    /// The ports.
    #[must_use]
    pub fn ports(&self) -> &[PortSpec] {
        match self {
            Self::Pending(pending) => &pending.request.ports,
            Self::Granted(grant) => &grant.ports,
        }
    }

    /// The sources.
    #[must_use]
    pub fn sources(&self) -> &[Source] {
        match self {
            Self::Pending(pending) => &pending.request.sources,
            Self::Granted(grant) => &grant.sources,
        }
    }

    /// The grant, if the request was granted.
    #[must_use]
    pub const fn grant(&self) -> Option<&Grant> {
        match self {
            Self::Pending(_) => None,
            Self::Granted(grant) => Some(grant),
        }
    }

    /// A copy without the signed bytes, which may be many.
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

    /// The request, if it was not granted.
    #[must_use]
    pub const fn pending(&self) -> Option<&Pending> {
        match self {
            Self::Pending(pending) => Some(pending),
            Self::Granted(_) => None,
        }
    }
}

/// One step of a request.
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

/// A request with its state and history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// The number of its first record, which orders requests by age.
    pub seq: u64,
    /// The request, or the grant that it became.
    #[serde(rename = "life")]
    pub request: Request,
    /// Whether its start is on record: until then the kernel has no entry for it.
    pub opened: bool,
    /// The end, once there is one.
    pub ending: Option<Ending>,
    /// The traffic: final after the end; before it, the count of the agent's earlier runs.
    pub usage: Use,
    /// The steps, the oldest first.
    pub steps: Vec<Step>,
    /// The extension that replaces it.
    pub superseded_by: Option<Uuid>,
}

impl RequestRecord {
    /// The state on record.
    #[must_use]
    pub fn state(&self) -> State {
        match (&self.ending, &self.request) {
            (Some(ending), life) => ending.cause.state(life.pending().is_some()),
            (None, Request::Pending(_)) => State::Pending,
            (None, Request::Granted(_)) if self.opened => State::Active,
            (None, Request::Granted(_)) => State::Scheduled,
        }
    }

    /// The grant, if the request was granted.
    #[must_use]
    pub const fn grant(&self) -> Option<&Grant> {
        self.request.grant()
    }

    /// Drops the fields that only a pending request needs. The journal keeps the signed bytes.
    pub(crate) fn drop_payload(&mut self) {
        if let Request::Pending(pending) = &mut self.request {
            (pending.payload, pending.request.header.audience) = (String::new(), Vec::new());
            pending.request.header.challenge = None;
        }
    }

    /// A rough size in bytes: texts and lists by their length, other fields by a fixed sum.
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
