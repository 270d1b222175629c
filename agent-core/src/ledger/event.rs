//! The events of the journal. Owns [`Event`], [`Record`] and their spelling in JSON. Old journals keep this spelling for ever: a new field
//! has a default, and no field changes its meaning. [`super::Ledger`] applies the events.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::grant::{Grant, Header, PortSpec, Source, Use};
use crate::policy::Mode;
use crate::request::{Ending, Pending};
use crate::retained::RetainedSession;
use crate::signer::Signer;
use crate::time::ClockState;
use crate::time::{BootNanos, Now};

use super::Ledger;

/// The action of a signed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// `RequestAccess`
    Request,
    /// `ApproveAccess`
    Approve,
    /// `RevokeAccess`
    Revoke,
    /// Any call that reads.
    Read,
}

/// A trial of enforcing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    /// The moment at which the kernel observes again.
    pub until_boot: BootNanos,
    /// The same moment by the wall clock, for people.
    pub until: Timestamp,
    /// The boot of `until_boot`.
    pub boot_id: Uuid,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The agent began to serve.
    Started {
        /// The agent's version.
        version: String,
        /// The host's id.
        host_id: Uuid,
        /// The protected ports.
        protected: Vec<PortSpec>,
        /// Hex SHA-256 of the configuration, the trust file and the revoked keys.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        rules: String,
        /// The mode in the configuration.
        #[serde(default, skip_serializing_if = "Mode::is_enforce")]
        mode: Mode,
    },
    /// The agent stopped. This opened nothing.
    Stopped {
        /// The traffic of live grants, from which the next start goes on.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        usage: BTreeMap<Uuid, Use>,
    },
    /// New rules came into force.
    PolicyLoaded {
        /// Hex SHA-256 of the configuration, the trust file and the revoked keys.
        rules: String,
        /// The protected ports.
        protected: Vec<PortSpec>,
        /// The mode in the configuration.
        #[serde(default, skip_serializing_if = "Mode::is_enforce")]
        mode: Mode,
    },
    /// An observing host began a trial of enforcing.
    Enabled {
        /// The trial.
        trial: Trial,
        /// Who began it.
        by: String,
    },
    /// The trial was confirmed: the host goes on enforcing.
    Confirmed {
        /// Who confirmed it.
        by: String,
        /// The signed grant that has let somebody in since the trial began; none if the confirmation did not require one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grant: Option<Uuid>,
    },
    /// The trial ended without a confirmation: the host observes again.
    RolledBack {
        /// When.
        at: Timestamp,
        /// Who ended it; empty for the clock.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        by: String,
    },
    /// A request waits for approvals.
    Requested {
        /// The request.
        pending: Pending,
    },
    /// Somebody approved a pending request.
    Approved {
        /// The request.
        grant: Uuid,
        /// The approver.
        signer: Signer,
        /// The number of approvals still missing.
        missing: u32,
    },
    /// A request was granted. The grant opens now or at its later start.
    Granted {
        /// The grant.
        grant: Grant,
    },
    /// A scheduled grant opened.
    Activated {
        /// The grant.
        grant: Uuid,
    },
    /// Root opened ports on the host, without a signature.
    BreakGlass {
        /// The grant.
        grant: Grant,
    },
    /// A grant ended, or a pending request did.
    Ended {
        /// The grant or request.
        grant: Uuid,
        /// The cause and circumstances.
        ending: Ending,
        /// The traffic.
        usage: Use,
    },
    /// Sessions may outlive their grant. One grant may have several such records.
    SessionsKept {
        /// The grant.
        grant: Uuid,
        /// The sessions, with their ends.
        kept: Vec<RetainedSession>,
    },
    /// The retained sessions of a grant ended early.
    SessionsCut {
        /// The grant.
        grant: Uuid,
        /// Who ended them; empty for the host itself.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        by: String,
        /// The reason.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// A message with a valid signature was refused.
    Refused {
        /// The signer.
        signer: Signer,
        /// The action.
        action: Action,
        /// The stable code.
        reason: String,
        /// The sentence for people. The name `message` is taken by a field of the record.
        sentence: String,
        /// The rule or field that refused; may be empty.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        rule: String,
        /// The requested ports, for a request.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ports: Vec<PortSpec>,
        /// The requested sources, for a request.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        sources: Vec<Source>,
    },
    /// A summary of one principal's refusals without a line of their own.
    Refusals {
        /// The signer; empty for all principals without a role together.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        principal: String,
        /// The number for each reason since the last summary.
        counts: BTreeMap<String, u64>,
        /// The first refusal, by the wall clock.
        first: Timestamp,
        /// The last refusal, by the wall clock.
        last: Timestamp,
    },
    /// A summary of messages without a valid signature: they never get a line each.
    Unverified {
        /// The number for each reason since the last summary.
        counts: BTreeMap<String, u64>,
    },
    /// A layer was lost or restored.
    Layer {
        /// `lock`, `cut-ingress`, `cut-egress`, …
        name: String,
        /// Its new state, for people.
        state: String,
    },
    /// Root opened the ports with `posternd unlock`.
    Unlocked,
    /// A crash tore the journal's last line, and posternd removed the rest of the line.
    Repaired {
        /// The number of removed bytes.
        bytes: u64,
    },
    /// posternd removes lines whose configured time is over. This record comes first: the line after them continues from `hash`.
    Pruned {
        /// The last removed line.
        through: u64,
        /// Its hash.
        hash: String,
    },
    /// The state of the wall clock from this line on. Before the first such line of a boot, the state is `assumed`.
    Clock {
        /// The state.
        state: ClockState,
    },
    /// posternd put the previous, damaged journal aside. Its grants are closed, and the used messages are forgotten.
    SetAside {
        /// The new place of the damaged journal.
        path: String,
        /// The first damaged line.
        line: u64,
        /// The kind of damage.
        reason: String,
    },
    /// The journal could not be written until now. Events of that time follow late, after this line.
    Unrecorded {
        /// The begin of that time, by the wall clock.
        since: Timestamp,
        /// Why.
        reason: String,
        /// The number of decisions that were refused for lack of a record.
        refused: u64,
    },
}

impl Event {
    /// All kinds, as the journal spells them.
    pub const KINDS: &[&str] = &[
        "started",
        "stopped",
        "policy-loaded",
        "enabled",
        "confirmed",
        "rolled-back",
        "requested",
        "approved",
        "granted",
        "activated",
        "break-glass",
        "ended",
        "sessions-kept",
        "sessions-cut",
        "refused",
        "refusals",
        "unverified",
        "layer",
        "unlocked",
        "repaired",
        "pruned",
        "clock",
        "set-aside",
        "unrecorded",
    ];

    /// Which of [`Event::KINDS`] this is.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Stopped { .. } => "stopped",
            Self::PolicyLoaded { .. } => "policy-loaded",
            Self::Enabled { .. } => "enabled",
            Self::Confirmed { .. } => "confirmed",
            Self::RolledBack { .. } => "rolled-back",
            Self::Requested { .. } => "requested",
            Self::Approved { .. } => "approved",
            Self::Granted { .. } => "granted",
            Self::Activated { .. } => "activated",
            Self::BreakGlass { .. } => "break-glass",
            Self::Ended { .. } => "ended",
            Self::SessionsKept { .. } => "sessions-kept",
            Self::SessionsCut { .. } => "sessions-cut",
            Self::Refused { .. } => "refused",
            Self::Refusals { .. } => "refusals",
            Self::Unverified { .. } => "unverified",
            Self::Layer { .. } => "layer",
            Self::Unlocked => "unlocked",
            Self::Repaired { .. } => "repaired",
            Self::Pruned { .. } => "pruned",
            Self::Clock { .. } => "clock",
            Self::SetAside { .. } => "set-aside",
            Self::Unrecorded { .. } => "unrecorded",
        }
    }

    /// The request or grant that this event concerns.
    #[must_use]
    pub const fn subject(&self) -> Option<Uuid> {
        match self {
            Self::Requested { pending } => Some(pending.request.header.id),
            Self::Granted { grant } | Self::BreakGlass { grant } => Some(grant.id),
            Self::Approved { grant, .. }
            | Self::Activated { grant }
            | Self::Ended { grant, .. }
            | Self::SessionsKept { grant, .. }
            | Self::SessionsCut { grant, .. } => Some(*grant),
            Self::Started { .. }
            | Self::Stopped { .. }
            | Self::PolicyLoaded { .. }
            | Self::Enabled { .. }
            | Self::Confirmed { .. }
            | Self::RolledBack { .. }
            | Self::Refused { .. }
            | Self::Refusals { .. }
            | Self::Unverified { .. }
            | Self::Layer { .. }
            | Self::Unlocked
            | Self::Repaired { .. }
            | Self::Pruned { .. }
            | Self::Clock { .. }
            | Self::SetAside { .. }
            | Self::Unrecorded { .. } => None,
        }
    }
}

/// The message that caused a record, for replay protection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The message's id.
    pub id: Uuid,
    /// Its `not_after`.
    pub not_after: Timestamp,
}

impl Record {
    /// The next record after the newest one in `ledger`.
    #[must_use]
    pub fn next(ledger: &Ledger, message: Option<Seen>, event: Event, now: &Now) -> Self {
        Self { seq: ledger.last_seq() + 1, time: now.wall, boot: now.boot, boot_id: now.boot_id, message, event }
    }
}

impl From<&Header> for Seen {
    fn from(header: &Header) -> Self {
        Self { id: header.id, not_after: header.not_after }
    }
}

/// One line of the journal, without the hash chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// 1, 2, 3, …
    pub seq: u64,
    /// The wall clock at the decision.
    pub time: Timestamp,
    /// The boot clock at the decision.
    pub boot: BootNanos,
    /// The boot.
    pub boot_id: Uuid,
    /// The message behind this record, if it is valid only once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Seen>,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}
