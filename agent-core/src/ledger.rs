//! What has been decided so far: the pure fold of the journal.
//!
//! Owns [`Event`], [`Record`] and [`Ledger`]. A ledger changes only by [`Ledger::apply`], with the records that were made
//! durable, in their order; so folding the journal again gives the same ledger. It never writes and never reads a clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::envelope::Signer;
use crate::grant::{AccessRequest, EndCause, Ending, Grant, Header, PortSpec, Source, Use};
use crate::message::MAX_MESSAGE_LIFE;
use crate::policy::{Judgement, Live};
use crate::refusal::{Reason, Refusal};
use crate::time::{BootNanos, Now};

/// Ended grants that are kept for `ListGrants`; the journal keeps all.
const MOST_ENDED: usize = 10_000;
/// Message ids that are remembered at once. Each is forgotten when its message is stale.
const MOST_SEEN: usize = 100_000;
/// How many seconds the wall clock may lie behind the newest record before it is not believed: a slewed clock never does.
const WALL_TOLERANCE: i64 = 5;

/// How much the kernel's maps hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Entries of the grants map.
    pub entries: usize,
    /// Slots of the usage map: the most live grants.
    pub slots: u32,
}

/// What a signed message asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// `RequestAccess`
    Request,
    /// `RevokeAccess`
    Revoke,
    /// Any call that reads.
    Read,
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
    },
    /// The agent stopped. Nothing opened by that.
    Stopped {
        /// What the packets of live grants added up to: the next start counts on from there.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        usage: BTreeMap<Uuid, Use>,
    },
    /// A request was granted.
    Granted {
        /// The grant.
        grant: Grant,
    },
    /// A grant is no longer live.
    Ended {
        /// Which.
        grant: Uuid,
        /// How.
        ending: Ending,
        /// What its packets added up to.
        usage: Use,
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
    /// Messages without a valid signature, summed up: nobody unverified gets a line of his own.
    Unverified {
        /// How many of each reason since the last such line.
        counts: BTreeMap<String, u64>,
    },
    /// The ports were opened by hand: `posternd unlock`.
    Unlocked,
    /// The journal's last line was torn by a crash and cut off.
    Repaired {
        /// How many bytes were cut off.
        bytes: u64,
    },
}

impl Event {
    /// All kinds, as the journal spells them.
    pub const KINDS: [&str; 8] =
        ["started", "stopped", "granted", "ended", "refused", "unverified", "unlocked", "repaired"];

    /// Which of [`Event::KINDS`] this is.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Started { .. } => "started",
            Self::Stopped { .. } => "stopped",
            Self::Granted { .. } => "granted",
            Self::Ended { .. } => "ended",
            Self::Refused { .. } => "refused",
            Self::Unverified { .. } => "unverified",
            Self::Unlocked => "unlocked",
            Self::Repaired { .. } => "repaired",
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

/// A grant and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The record that made it; orders grants by age.
    pub seq: u64,
    /// The grant.
    pub grant: Grant,
    /// Set once it has ended.
    pub ending: Option<Ending>,
    /// Final once it has ended; until then what an earlier run of the agent counted.
    pub usage: Use,
}

/// Until when an id is remembered: both clocks must have passed, so that stepping one of them forgets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Forget {
    wall: Timestamp,
    boot: BootNanos,
    boot_id: Uuid,
}

/// The state that the journal adds up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    held: BTreeMap<u64, Held>,
    by_id: HashMap<Uuid, u64>,
    live: BTreeSet<u64>,
    seen: HashMap<Uuid, Forget>,
    last_seq: u64,
    wall_high: Timestamp,
}

impl Ledger {
    /// Takes in one durable record.
    pub fn apply(&mut self, record: &Record) {
        self.last_seq = record.seq;
        self.wall_high = self.wall_high.max(record.time);
        if let Some(seen) = record.message {
            self.remember(seen, record);
        }
        match &record.event {
            Event::Granted { grant } => self.hold(record.seq, grant),
            Event::Ended { grant, ending, usage } => self.end(grant, ending, *usage),
            Event::Stopped { usage } => self.note_usage(usage),
            Event::Started { .. }
            | Event::Refused { .. }
            | Event::Unverified { .. }
            | Event::Unlocked
            | Event::Repaired { .. } => {}
        }
    }

    fn hold(&mut self, seq: u64, grant: &Grant) {
        let held = Held { seq, grant: grant.clone(), ending: None, usage: Use::default() };
        self.held.insert(seq, held);
        self.by_id.insert(grant.id, seq);
        self.live.insert(seq);
    }

    fn end(&mut self, id: &Uuid, ending: &Ending, usage: Use) {
        let Some(seq) = self.by_id.get(id) else { return };
        self.live.remove(seq);
        if let Some(held) = self.held.get_mut(seq) {
            held.ending = Some(ending.clone());
            held.usage = usage;
        }
        if self.held.len() - self.live.len() > MOST_ENDED
            && let Some(oldest) = self.held.keys().copied().find(|seq| !self.live.contains(seq))
            && let Some(gone) = self.held.remove(&oldest)
        {
            self.by_id.remove(&gone.grant.id);
        }
    }

    fn note_usage(&mut self, usage: &BTreeMap<Uuid, Use>) {
        for (id, used) in usage {
            let held = self.by_id.get(id).and_then(|seq| self.held.get_mut(seq));
            if let Some(held) = held.filter(|held| held.ending.is_none()) {
                held.usage = *used;
            }
        }
    }

    fn remember(&mut self, seen: Seen, record: &Record) {
        let life = SignedDuration::from_secs(MAX_MESSAGE_LIFE.0.cast_signed());
        let latest = record.time.checked_add(life).unwrap_or(Timestamp::MAX);
        let boot = record.boot.plus_nanos(MAX_MESSAGE_LIFE.0 * 1_000_000_000);
        let forget = Forget { wall: seen.not_after.min(latest), boot, boot_id: record.boot_id };
        if self.seen.len() >= MOST_SEEN {
            self.seen.retain(|_, f| !f.is_due(record.time, record.boot, record.boot_id));
        }
        self.seen.insert(seen.id, forget);
    }

    /// The number of the newest record; 0 when there is none.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The newest wall-clock moment on record.
    #[must_use]
    pub fn wall_high(&self) -> Timestamp {
        self.wall_high
    }

    /// Whether a message with this id was decided before.
    ///
    /// # Errors
    /// [`Reason::Replayed`], or [`Reason::ReplayMemoryFull`] when one more could not be remembered.
    pub fn check_unseen(&self, id: Uuid, now: &Now) -> Result<(), Refusal> {
        if self.seen.contains_key(&id) || self.by_id.contains_key(&id) {
            return Err(Refusal::new(Reason::Replayed, "make a new one with a new id").at("id"));
        }
        let due = |f: &Forget| f.is_due(now.wall, now.boot, now.boot_id);
        if self.seen.len() >= MOST_SEEN && !self.seen.values().any(due) {
            return Err(Refusal::new(Reason::ReplayMemoryFull, format!("{MOST_SEEN} within {MAX_MESSAGE_LIFE}")));
        }
        Ok(())
    }

    /// The grants that have not ended, in the order they were made.
    pub fn live(&self) -> impl Iterator<Item = &Grant> + '_ {
        self.live.iter().filter_map(|seq| self.held.get(seq)).map(|held| &held.grant)
    }

    /// One grant.
    #[must_use]
    pub fn get(&self, id: &Uuid) -> Option<&Held> {
        self.held.get(self.by_id.get(id)?)
    }

    /// Grants made before the record `before`, the newest first.
    pub fn newest_before(&self, before: u64) -> impl Iterator<Item = &Held> + '_ {
        self.held.range(..before).rev().map(|(_, held)| held)
    }

    /// Turns a judged request into a grant with a slot of its own. The requester is the first of `signers`.
    ///
    /// # Errors
    /// [`Reason::TableFull`]; [`Reason::Unsigned`] without signers.
    pub fn admit(
        &self,
        signers: &[Signer],
        request: &AccessRequest,
        judgement: Judgement,
        capacity: Capacity,
        now: &Now,
    ) -> Result<Grant, Refusal> {
        let Some((requester, approvers)) = signers.split_first() else {
            return Err(Refusal::new(Reason::Unsigned, "nobody signed"));
        };
        let used: BTreeSet<u32> = self.live().map(|g| g.slot).collect();
        let slot = (0..capacity.slots).find(|slot| !used.contains(slot));
        let slot = slot.ok_or_else(|| Refusal::new(Reason::TableFull, format!("{} live grants", used.len())))?;
        let grant = Grant {
            id: request.header.id,
            signer: requester.clone(),
            approvers: approvers.to_vec(),
            ports: request.ports.clone(),
            sources: request.sources.clone(),
            created: now.wall,
            expires: now.wall_at(judgement.expires_boot),
            expires_boot: judgement.expires_boot,
            boot_id: now.boot_id,
            slot,
            justification: request.justification.clone(),
            ticket: request.ticket.clone(),
        };
        let mut keys: BTreeSet<_> = self.live().flat_map(Grant::keys).collect();
        keys.extend(grant.keys());
        if keys.len() > capacity.entries {
            let detail = format!("it holds {} entries", capacity.entries);
            return Err(Refusal::new(Reason::TableFull, detail));
        }
        Ok(grant)
    }

    /// When the next live grant ends.
    #[must_use]
    pub fn next_end(&self) -> Option<BootNanos> {
        self.live().map(|g| g.expires_boot).min()
    }

    /// Grants that are over at `now` though no record says so yet, and why: their time is up, or they belong to another boot.
    #[must_use]
    pub fn overdue(&self, now: &Now) -> Vec<(Uuid, EndCause)> {
        let cause = |grant: &Grant| match () {
            () if grant.boot_id != now.boot_id => Some(EndCause::Rebooted),
            () if !grant.is_live(now.boot) => Some(EndCause::Expired),
            () => None,
        };
        self.live().filter_map(|grant| Some((grant.id, cause(grant)?))).collect()
    }
}

/// Whether the wall clock lies behind `high`, the newest second on record: then it went back and is not to be believed.
#[must_use]
pub fn is_behind(wall: Timestamp, high: i64) -> bool {
    wall.as_second().saturating_add(WALL_TOLERANCE) < high
}

impl Forget {
    fn is_due(&self, wall: Timestamp, boot: BootNanos, boot_id: Uuid) -> bool {
        wall > self.wall && (boot_id != self.boot_id || boot > self.boot)
    }
}

impl Live for Ledger {
    fn count(&self, port: PortSpec) -> usize {
        let touches = |p: &PortSpec| p.number == port.number && port.protocol.covers(p.protocol);
        self.live().filter(|grant| grant.ports.iter().any(touches)).count()
    }
}
