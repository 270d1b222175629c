//! The ledger: a pure fold of the journal. Owns [`Ledger`], which changes only by [`Ledger::apply`]. It never writes, and reads no clock.

mod admit;
mod event;
mod history;
mod mode_state;
mod replay;
mod room;

use std::collections::{BTreeMap, BTreeSet};

use imbl::{HashMap, OrdMap, OrdSet};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use event::{Action, Event, Record, Seen, Trial};
pub use mode_state::{Enabling, ModeState, is_observing, observe_from};
pub use room::Room;

use crate::grant::{Grant, PortSpec, Use};
use crate::message::MAX_MESSAGE_LIFE;
use crate::policy::Live;
use crate::refusal::{Reason, Refusal};
use crate::request::{EndCause, Ending, Pending, Request, RequestRecord, State, Step};
use crate::retained::{RetainedSession, RetainedSessions};
use crate::signer::Signer;
use crate::time::{BootNanos, Now, Seconds};
use crate::wall::{self, ClockState};
use history::History;
use replay::{Part, Replay};

/// The sizes of the kernel's maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Entries of the grants map.
    pub entries: usize,
    /// Slots of the usage map: the most live grants.
    pub slots: u32,
}

/// The state after the journal's records. Copies share their common parts, so the engine keeps one for each batch that may be undone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    #[serde(rename = "held")]
    requests: OrdMap<u64, RequestRecord>,
    by_id: HashMap<Uuid, u64>,
    live: OrdSet<u64>,
    seen: Replay,
    ended: History,
    #[serde(skip)]
    room: Room,
    last_seq: u64,
    wall_high: Timestamp,
    #[serde(default)]
    wall_trusted_high: Timestamp,
    #[serde(default)]
    clock: Option<wall::Seen>,
    #[serde(default)]
    keeping: RetainedSessions,
    #[serde(default)]
    protected: Vec<PortSpec>,
    #[serde(default, rename = "standing")]
    mode_state: ModeState,
    /// The moment (with its boot) at which replay history became incomplete; none once all older messages are stale.
    #[serde(default)]
    forgot: Option<(BootNanos, Uuid)>,
}

impl Ledger {
    /// Applies one durable record.
    pub fn apply(&mut self, record: &Record) {
        self.note_clock(record);
        self.last_seq = record.seq;
        self.mode_state.apply(record);
        if let Some(seen) = record.message {
            self.seen.remember(seen, record, &self.room);
        }
        match &record.event {
            Event::Requested { pending } => self.wait(record, pending),
            Event::Approved { grant, signer, missing } => self.approve(record, grant, signer, *missing),
            Event::Granted { grant } | Event::BreakGlass { grant } => self.hold(record, grant),
            Event::Activated { grant } => self.open(record, grant),
            Event::Ended { grant, ending, usage } => self.end(grant, ending, *usage),
            Event::SessionsKept { grant, kept } => self.keep(record, *grant, kept),
            Event::SessionsCut { grant, by, reason } => self.cut(record, *grant, by, reason),
            Event::Stopped { usage } => self.note_usage(usage),
            Event::Started { protected, .. } | Event::PolicyLoaded { protected, .. } => {
                self.protected.clone_from(protected);
            }
            Event::Unlocked => self.protected.clear(),
            Event::SetAside { .. } => self.forgot = Some((record.boot, record.boot_id)),
            // Until the next boot: a copy of the machine, or its run after the snapshot, may have used any message.
            Event::Clock { state: ClockState::Restored } => self.forgot = Some((BootNanos(u64::MAX), record.boot_id)),
            Event::Enabled { .. }
            | Event::Confirmed { .. }
            | Event::RolledBack { .. }
            | Event::Refused { .. }
            | Event::Refusals { .. }
            | Event::Unverified { .. }
            | Event::Layer { .. }
            | Event::Repaired { .. }
            | Event::Clock { .. }
            | Event::Pruned { .. }
            | Event::Unrecorded { .. } => {}
        }
    }

    /// The mode on record.
    #[must_use]
    pub const fn mode_state(&self) -> &ModeState {
        &self.mode_state
    }

    fn note_clock(&mut self, record: &Record) {
        let (unsure_until, known) = (self.unsure_until(record.boot_id), self.clock_of(record.boot_id));
        if self.clock.is_some() && known.is_none() {
            // Another boot. The disk may be an older one, without the messages that were used since.
            self.forgot = Some((BootNanos(0), record.boot_id));
        }
        if record.boot >= unsure_until {
            self.forgot = None;
        }
        let state = match record.event {
            Event::Clock { state } => state,
            _ => known.map_or(ClockState::default(), |seen| seen.state),
        };
        if state.knows_windows() {
            self.wall_high = self.wall_high.max(record.time);
        }
        if state.is_trusted() {
            self.wall_trusted_high = self.wall_trusted_high.max(record.time);
        }
        self.clock = Some(wall::Seen { boot: record.boot, wall: record.time, boot_id: record.boot_id, state });
    }

    fn insert(&mut self, record: &Record, request: Request) -> &mut RequestRecord {
        let (seq, id) = (record.seq, request.id());
        self.by_id.insert(id, seq);
        self.live.insert(seq);
        self.requests.entry(seq).or_insert(RequestRecord {
            seq,
            request,
            opened: false,
            ending: None,
            usage: Use::default(),
            steps: Vec::new(),
            superseded_by: None,
        })
    }

    fn wait(&mut self, record: &Record, pending: &Pending) {
        let entry = self.insert(record, Request::Pending(pending.clone()));
        let reason = pending.request.justification.clone();
        entry.steps.push(step(State::Pending, record, &pending.signer.principal, reason));
        for approver in &pending.approvers {
            entry.steps.push(step(State::Pending, record, &approver.principal, "approved".into()));
        }
    }

    fn approve(&mut self, record: &Record, id: &Uuid, signer: &Signer, missing: u32) {
        let Some(entry) = self.record_mut(id) else { return };
        entry.steps.push(step(State::Pending, record, &signer.principal, "approved".into()));
        if let Request::Pending(pending) = &mut entry.request {
            pending.approvers.push(signer.clone());
            pending.missing = missing;
        }
    }

    fn hold(&mut self, record: &Record, grant: &Grant) {
        let now = grant.starts_boot <= record.boot;
        let state = if now { State::Active } else { State::Scheduled };
        let known = self.by_id.contains_key(&grant.id);
        let entry = match self.by_id.get(&grant.id).and_then(|seq| self.requests.get_mut(seq)) {
            Some(entry) => entry,
            None => self.insert(record, Request::Granted(grant.clone())),
        };
        entry.request = Request::Granted(grant.clone());
        entry.opened = now;
        let (by, reason) =
            if known { ("", "approved by enough people") } else { (&*grant.signer.principal, &*grant.justification) };
        entry.steps.push(step(state, record, by, reason.into()));
        if let Some(old) = grant.supersedes.and_then(|id| self.record_mut(&id)) {
            old.superseded_by = Some(grant.id);
        }
    }

    fn open(&mut self, record: &Record, id: &Uuid) {
        if let Some(entry) = self.record_mut(id) {
            entry.opened = true;
            entry.steps.push(step(State::Active, record, "", String::new()));
        }
    }

    fn keep(&mut self, record: &Record, id: Uuid, kept: &[RetainedSession]) {
        self.keeping.keep(record.boot_id, id, kept);
        if let Some(entry) = self.record_mut(&id) {
            let reason = format!("sessions that may outlive it: {}", kept.len());
            entry.steps.push(step(entry.state(), record, "", reason));
        }
    }

    fn cut(&mut self, record: &Record, id: Uuid, by: &str, reason: &str) {
        self.keeping.cut(id);
        if let Some(entry) = self.record_mut(&id) {
            let colon = if reason.is_empty() { "" } else { ": " };
            entry.steps.push(step(
                entry.state(),
                record,
                by,
                format!("the sessions that outlived it were ended{colon}{reason}"),
            ));
        }
    }

    fn end(&mut self, id: &Uuid, ending: &Ending, usage: Use) {
        self.keeping.ended(*id, ending.cause);
        let Some(seq) = self.by_id.get(id) else { return };
        self.live.remove(seq);
        if let Some(entry) = self.requests.get_mut(seq) {
            let state = ending.cause.state(entry.request.pending().is_some());
            let sentence = ending.cause.sentence();
            let reason =
                if ending.reason.is_empty() { sentence.to_owned() } else { format!("{sentence}: {}", ending.reason) };
            entry.steps.push(Step { state, at: ending.at, by: ending.by.clone(), reason });
            entry.ending = Some(ending.clone());
            entry.usage = usage;
        }
        if let Some(entry) = self.requests.get_mut(seq) {
            entry.drop_payload();
            self.ended.add(&entry.request.signer().principal, entry.seq, entry.weight());
        }
        self.forget_excess();
    }

    fn forget_excess(&mut self) {
        while let Some(seq) = self.ended.pop_excess(&self.room) {
            if let Some(gone) = self.requests.remove(&seq) {
                self.by_id.remove(&gone.request.id());
            }
        }
    }

    /// Sets the limits.
    pub fn set_room(&mut self, room: Room) {
        self.room = room;
        self.forget_excess();
    }

    fn note_usage(&mut self, usage: &BTreeMap<Uuid, Use>) {
        for (id, used) in usage {
            if let Some(entry) = self.record_mut(id).filter(|entry| entry.ending.is_none()) {
                entry.usage = *used;
            }
        }
    }

    fn record_mut(&mut self, id: &Uuid) -> Option<&mut RequestRecord> {
        self.requests.get_mut(self.by_id.get(id)?)
    }

    /// The number of the newest record; 0 when there is none.
    #[must_use]
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The newest wall-clock moments on record, without those of a clock that jumped, went back or was restored.
    #[must_use]
    pub const fn high(&self) -> wall::High {
        wall::High { trusted: self.wall_trusted_high, any: self.wall_high }
    }

    /// The clocks in the newest record, if it is from `boot_id`.
    #[must_use]
    pub fn clock_of(&self, boot_id: Uuid) -> Option<wall::Seen> {
        self.clock.filter(|seen| seen.boot_id == boot_id)
    }

    /// Until this moment on the boot clock of `boot_id`, replay history is incomplete and messages need a challenge. This follows a
    /// journal set aside, a restore of the machine, and each boot (the disk may be an older one). On a later boot, the time counts from
    /// its start.
    #[must_use]
    pub fn unsure_until(&self, boot_id: Uuid) -> BootNanos {
        let booted = self.clock.filter(|seen| seen.boot_id != boot_id).map(|_| BootNanos(0));
        let since = self.forgot.map(|(boot, id)| if id == boot_id { boot } else { BootNanos(0) }).or(booted);
        since.map_or(BootNanos(0), |since| since.plus_nanos(MAX_MESSAGE_LIFE.0 * 1_000_000_000))
    }

    /// Checks that no message with this id was decided before.
    /// # Errors
    /// [`Reason::Replayed`].
    pub fn check_unseen(&self, id: Uuid) -> Result<(), Refusal> {
        if self.seen.contains(&id) || self.by_id.contains_key(&id) {
            return Err(Refusal::new(Reason::Replayed, "make a new one with a new id").at("id"));
        }
        Ok(())
    }

    /// Checks for room to remember one more request of `principal`. Messages that end something always have room.
    /// # Errors
    /// [`Reason::ReplayMemoryFull`].
    pub fn check_room_to_remember(&self, principal: &str, now: &Now) -> Result<(), Refusal> {
        self.seen.check_room(principal, Part::Asking, &self.room, now)
    }

    /// Whether there is room to remember a refused message of `principal`.
    #[must_use]
    pub fn has_room_for_refused(&self, principal: &str, action: Action, now: &Now) -> bool {
        self.seen.check_room(principal, Part::of(action), &self.room, now).is_ok()
    }

    /// The pending, scheduled and active requests, in the order of their creation.
    pub fn living(&self) -> impl Iterator<Item = &RequestRecord> + '_ {
        self.live.iter().filter_map(|seq| self.requests.get(seq))
    }

    /// The number of the first record of the oldest request that has not ended.
    #[must_use]
    pub fn oldest_open(&self) -> Option<u64> {
        self.live.get_min().copied()
    }

    /// The scheduled and active grants, in the order of their creation.
    pub fn live(&self) -> impl Iterator<Item = &Grant> + '_ {
        self.living().filter_map(RequestRecord::grant)
    }

    /// The grants that are open on record, and so belong in the kernel.
    pub fn active(&self) -> impl Iterator<Item = &Grant> + '_ {
        self.living().filter(|entry| entry.opened).filter_map(RequestRecord::grant)
    }

    /// The requests that wait for approvals.
    pub fn pending(&self) -> impl Iterator<Item = &Pending> + '_ {
        self.living().filter_map(|entry| entry.request.pending())
    }

    /// The request or grant with this id.
    #[must_use]
    pub fn get(&self, id: &Uuid) -> Option<&RequestRecord> {
        self.requests.get(self.by_id.get(id)?)
    }

    /// The requests from before the record `before`, the newest first.
    pub fn newest_before(&self, before: u64) -> impl Iterator<Item = &RequestRecord> + '_ {
        self.requests.range(..before).rev().map(|(_, entry)| entry)
    }

    /// The next due moment: a start, an end of a grant, session or trial, or the last moment to approve.
    #[must_use]
    pub fn next_due(&self) -> Option<BootNanos> {
        let due = |entry: &RequestRecord| match &entry.request {
            Request::Pending(pending) => pending.lapses_boot,
            Request::Granted(grant) if entry.opened => grant.expires_boot,
            Request::Granted(grant) => grant.starts_boot,
        };
        self.living().map(due).chain(self.keeping.next_end()).chain(self.mode_state.due()).min()
    }

    /// The sessions that outlive their grants.
    #[must_use]
    pub const fn keeping(&self) -> &RetainedSessions {
        &self.keeping
    }

    /// Forgets the sessions that are over, and returns them. They need no record: the kernel ended them.
    pub fn forget_over(&mut self, now: &Now) -> Vec<RetainedSession> {
        self.keeping.forget(now)
    }

    /// Forgets the sessions that ended early: all whose sockets are not among `alive`.
    pub fn forget_closed(&mut self, alive: &BTreeSet<u64>) {
        self.keeping.forget_closed(alive);
    }

    /// The protected ports on record; empty after `posternd unlock`.
    #[must_use]
    pub fn protected(&self) -> &[PortSpec] {
        &self.protected
    }

    /// Scheduled grants whose start has come without a record of it.
    #[must_use]
    pub fn due_to_open(&self, now: &Now) -> Vec<Uuid> {
        let due = |grant: &&Grant| grant.boot_id == now.boot_id && grant.is_live(now.boot);
        self.living()
            .filter(|entry| !entry.opened)
            .filter_map(RequestRecord::grant)
            .filter(due)
            .map(|grant| grant.id)
            .collect()
    }

    /// Requests and grants that are over at `now` without a record of it, with the cause: the time, an extension, or another boot.
    #[must_use]
    pub fn overdue(&self, now: &Now) -> Vec<(Uuid, EndCause)> {
        let cause = |entry: &RequestRecord| match &entry.request {
            Request::Pending(pending) if pending.boot_id != now.boot_id => Some(EndCause::Rebooted),
            Request::Pending(pending) => (pending.lapses_boot <= now.boot).then_some(EndCause::Lapsed),
            Request::Granted(grant) if grant.boot_id != now.boot_id => Some(EndCause::Rebooted),
            Request::Granted(_) if entry.superseded_by.is_some() => Some(EndCause::Superseded),
            Request::Granted(grant) => (grant.expires_boot <= now.boot).then_some(EndCause::Expired),
        };
        self.living().filter_map(|entry| Some((entry.request.id(), cause(entry)?))).collect()
    }
}

fn step(state: State, record: &Record, by: &str, reason: String) -> Step {
    Step { state, at: record.time, by: by.to_owned(), reason }
}

impl Live for Ledger {
    fn count(&self, port: PortSpec, except: Option<Uuid>) -> usize {
        let touches = |p: &PortSpec| p.number == port.number && port.protocol.covers(p.protocol);
        self.live().filter(|grant| Some(grant.id) != except && grant.ports.iter().any(touches)).count()
    }

    fn extendable(&self, id: Uuid) -> Result<&Grant, Refusal> {
        let refuse = |reason| Refusal::new(reason, id).at("supersedes");
        let entry = self.get(&id).ok_or_else(|| refuse(Reason::GrantNotFound))?;
        match (entry.state(), entry.grant()) {
            (State::Active, Some(grant)) => Ok(grant),
            (State::Pending | State::Scheduled, _) => {
                Err(Refusal::new(Reason::GrantNotFound, format!("{id} is not open yet")).at("supersedes"))
            }
            _ => Err(refuse(Reason::GrantEnded)),
        }
    }
}

/// The moment at which a request that is accepted at `now` and waits for `ttl` lapses.
#[must_use]
pub fn lapse(now: &Now, ttl: Seconds) -> BootNanos {
    now.boot.plus_nanos(ttl.0.saturating_mul(1_000_000_000))
}
