//! What has happened, as the journal writes it down.
//!
//! Owns [`Event`], [`Record`] and their spelling in JSON, which old journals keep for ever: fields are added with a default and
//! never change their meaning. It never folds them ([`super::Ledger`] does).

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

/// What a signed message asked for.
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
    /// When the kernel goes back to observing.
    pub until_boot: BootNanos,
    /// The same by the wall clock, for people.
    pub until: Timestamp,
    /// Which boot that is about.
    pub boot_id: Uuid,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The agent began to serve.
    Started {
        /// Its version.
        version: String,
        /// The host's id.
        host_id: Uuid,
        /// What is closed by default.
        protected: Vec<PortSpec>,
        /// Hex SHA-256 of the configuration, the trust file and the revoked keys.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        rules: String,
        /// What the configuration says.
        #[serde(default, skip_serializing_if = "Mode::is_enforce")]
        mode: Mode,
    },
    /// The agent stopped. Nothing opened by that.
    Stopped {
        /// What the packets of live grants added up to: the next start counts on from there.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        usage: BTreeMap<Uuid, Use>,
    },
    /// Other rules came into force.
    PolicyLoaded {
        /// Hex SHA-256 of the configuration, the trust file and the revoked keys.
        rules: String,
        /// What is closed by default now.
        protected: Vec<PortSpec>,
        /// What the configuration says.
        #[serde(default, skip_serializing_if = "Mode::is_enforce")]
        mode: Mode,
    },
    /// A host that only observed enforces, until it is confirmed or the trial is over.
    Enabled {
        /// Until when.
        trial: Trial,
        /// Who asked for it.
        by: String,
    },
    /// It goes on enforcing, as the configuration says.
    Confirmed {
        /// Who confirmed it.
        by: String,
        /// The signed grant under which somebody came in since it was enabled; none where that was not asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grant: Option<Uuid>,
    },
    /// Nobody confirmed it: the host observes again.
    RolledBack {
        /// Since when.
        at: Timestamp,
        /// Who asked for it; empty for the clock.
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
        /// Which.
        grant: Uuid,
        /// Who.
        signer: Signer,
        /// How many more approvals it needs.
        missing: u32,
    },
    /// A request was granted. It opens now, unless its start is later.
    Granted {
        /// The grant.
        grant: Grant,
    },
    /// A scheduled grant opens.
    Activated {
        /// Which.
        grant: Uuid,
    },
    /// Root opened ports on the host, without a signature.
    BreakGlass {
        /// The grant.
        grant: Grant,
    },
    /// A grant is no longer live, or a request no longer pending.
    Ended {
        /// Which.
        grant: Uuid,
        /// How.
        ending: Ending,
        /// What its packets added up to.
        usage: Use,
    },
    /// Sessions may go on after the end of a grant. There may be several such lines for one grant.
    SessionsKept {
        /// Which grant.
        grant: Uuid,
        /// Which sessions, and until when.
        kept: Vec<RetainedSession>,
    },
    /// The sessions that outlived a grant were ended before their time.
    SessionsCut {
        /// Which grant.
        grant: Uuid,
        /// The principal who ended them; empty for the host itself.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        by: String,
        /// Why.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        reason: String,
    },
    /// A message with a valid signature was refused.
    Refused {
        /// Who signed.
        signer: Signer,
        /// What for.
        action: Action,
        /// The stable code.
        reason: String,
        /// In words. (Not `message`: that is the record's own field, beside this.)
        sentence: String,
        /// The rule or field that refused; may be empty.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        rule: String,
        /// The ports that were asked for, where somebody asked for access.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ports: Vec<PortSpec>,
        /// For whom they were asked for.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        sources: Vec<Source>,
    },
    /// Refusals of one principal beyond those with a line of their own, summed up.
    Refusals {
        /// Who signed; empty for all who hold no role, together.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        principal: String,
        /// How many of each reason since the last such line.
        counts: BTreeMap<String, u64>,
        /// The first of them, by the wall clock.
        first: Timestamp,
        /// The last.
        last: Timestamp,
    },
    /// Messages without a valid signature, summed up: nobody unverified gets a line of his own.
    Unverified {
        /// How many of each reason since the last such line.
        counts: BTreeMap<String, u64>,
    },
    /// A layer was lost, or brought back.
    Layer {
        /// `lock`, `cut-ingress`, `cut-egress`, …
        name: String,
        /// What became of it, for people.
        state: String,
    },
    /// The ports were opened by hand: `posternd unlock`.
    Unlocked,
    /// The journal's last line was torn by a crash and cut off.
    Repaired {
        /// How many bytes were cut off.
        bytes: u64,
    },
    /// The oldest lines of the journal are removed, because they were kept as long as the configuration says. Durable
    /// before they are gone: the line behind them goes on from `hash`.
    Pruned {
        /// The last line that is removed.
        through: u64,
        /// Its hash.
        hash: String,
    },
    /// How the wall clock stands from this line on. Before the first such line of a boot it is `assumed`.
    Clock {
        /// The state.
        state: ClockState,
    },
    /// The journal before this one was damaged and put aside: what was open is closed, which messages were used is forgotten.
    SetAside {
        /// Where it lies now.
        path: String,
        /// The first line that was not as it should be.
        line: u64,
        /// In what way.
        reason: String,
    },
    /// Until now the journal could not be written. What happened by itself meanwhile is recorded late, behind this.
    Unrecorded {
        /// When that began, by the wall clock.
        since: Timestamp,
        /// Why.
        reason: String,
        /// How many decisions were asked for meanwhile and refused, because they could not be recorded.
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

    /// The request or grant whose life it is a step of.
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
    /// What follows the newest record in `ledger`.
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

/// One line of the journal, without the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// 1, 2, 3, …
    pub seq: u64,
    /// The wall clock when it was decided.
    pub time: Timestamp,
    /// The boot clock when it was decided.
    pub boot: BootNanos,
    /// Which boot.
    pub boot_id: Uuid,
    /// The message that caused it, if it may be shown only once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Seen>,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}
