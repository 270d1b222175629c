//! Records on their way to the disk, and what goes on meanwhile.
//!
//! Owns the one batch that is being written, the commands that wait behind it, and what comes of it. Nothing takes effect before its
//! record is durable but what only closes: layers are healed, and the sessions of grants that are over end, however slow the disk is
//! (docs/decisions/0036). What becomes of a batch that could not be written is in `unwritten`. It never touches the disk.

use std::time::Duration;

use postern_core::condition::Condition;
use postern_core::grant::Grant;
use postern_core::ledger::{Event, Ledger, Record};
use postern_core::refusal::{Reason, Refusal};
use postern_core::retained::RetainedSession;
use postern_core::time::{BootNanos, Now};
use tokio::sync::oneshot;

use super::append_failure::{Gap, PEOPLE_WAIT};
use super::setup::Found;
use super::{BATCH, Batch, Waiting, Worker, nanos, publish, refuse_all, retained};
use crate::engine::share::RESERVED;
use crate::engine::{Command, QUEUE, Rules};
use crate::journal::writer::{self, Written};
use crate::system::sessions::{self, Scope};

/// A write that takes longer is waited for beside other work: sessions that are over end then without it.
const BRISK: Duration = Duration::from_millis(250);
/// A write that takes longer is told of in the status.
const SLOW: Duration = Duration::from_secs(1);

/// A batch that is being written.
pub(super) struct Commit {
    /// What was decided, and who waits; its records are with the writer.
    pub batch: Batch,
    /// The ledger before it, and with it.
    pub before: Ledger,
    pub after: Ledger,
    /// So many of its records are of what took effect before.
    pub unrecorded: usize,
    /// What it tells of the start, and of a time without a record.
    pub found: Option<Found>,
    pub gap: Option<Gap>,
    pub since: BootNanos,
    /// Up to then, sessions that are over were ended without it.
    ended: Option<BootNanos>,
}

impl Commit {
    pub(super) fn new(batch: Batch, before: Ledger, after: Ledger, since: BootNanos) -> Self {
        Self { batch, before, after, unrecorded: 0, found: None, gap: None, since, ended: None }
    }

    /// For how long it has been on its way.
    pub(super) fn age(&self, now: BootNanos) -> Duration {
        Duration::from_nanos(self.since.until(now))
    }
}

impl Worker {
    /// Takes commands in, and does what is due.
    pub(super) fn turn(&mut self, commands: Vec<Command>) {
        let now = self.shared().now();
        self.mind_the_clock(&now);
        self.look(&now);
        self.look_for_tunnels(&now);
        self.look_around(&now);
        let over = self.forget_over(&now);
        self.end_sessions(&over, &now);
        let (changing, reading): (Vec<_>, Vec<_>) = commands.into_iter().partition(Command::changes);
        for command in changing {
            self.take_up(command, &now);
        }
        if self.commit.is_some() {
            self.meanwhile(&now);
        } else if !self.nobody_waits() || self.retry_due.is_none_or(|due| due <= now.boot) {
            self.decide_all(&now);
        }
        self.warn(&now);
        self.readers.extend(reading);
        // Whoever reads sees what was decided just now, where the disk is not slow.
        if self.commit.as_ref().is_none_or(|commit| commit.age(now.boot) >= BRISK) {
            self.serve_readers();
        }
    }

    /// Tells readers what is durable.
    pub(super) fn serve_readers(&mut self) {
        for command in std::mem::take(&mut self.readers) {
            // One turn may answer hundreds of questions. The watchdog need not wait for all of them.
            self.beat.turn();
            self.serve(command);
        }
    }

    /// Whether it was asked to stop and has nothing more to write, or no disk that would take it.
    pub(super) fn is_done(&self) -> bool {
        let waits = self.commit.as_ref().is_some_and(|commit| commit.age(self.shared().clock.boot()) < PEOPLE_WAIT);
        self.stopping && self.nobody_waits() && !waits
    }

    /// Whether no command waits for its turn.
    pub(super) fn nobody_waits(&self) -> bool {
        self.first.is_empty() && self.backlog.is_empty()
    }

    /// What needs no record is done; the rest waits for its turn.
    fn take_up(&mut self, command: Command, now: &Now) {
        self.stopping |= matches!(command, Command::Stop { .. });
        match command {
            Command::Network(_)
            | Command::Clock
            | Command::LimitSyns(..)
            | Command::Degraded { .. }
            | Command::Counted => self.note(command, now),
            Command::Reload { rules, answer } => {
                if self.commit.is_some() || self.retry_due.is_some() {
                    self.close_ahead(&rules, now);
                }
                self.first.push_back(Command::Reload { rules, answer });
            }
            command => {
                let most = if command.is_urgent() { QUEUE + RESERVED } else { QUEUE };
                let queue = if command.goes_first() { &mut self.first } else { &mut self.backlog };
                if queue.len() >= most {
                    return command.refuse(&Refusal::new(Reason::Overloaded, "try again in a moment"));
                }
                queue.push_back(command);
            }
        }
    }

    /// Closes what these rules forbid before they are on record, for the time that the disk takes. A start would close it too: it
    /// reads the same files.
    pub(super) fn close_ahead(&mut self, rules: &Rules, now: &Now) {
        self.shared().announce_rules(rules);
        self.blocked.extend(retained::forbidden(rules, &self.ledger, now));
        if let Some(commit) = &self.commit {
            self.blocked.extend(retained::forbidden(rules, &commit.after, now));
        }
        // What fails here is tried again with the batch.
        let _ = self.bring_in_step(now);
    }

    /// Forgets the sessions whose own end has come. That needs no record.
    pub(super) fn forget_over(&mut self, now: &Now) -> Vec<Scope> {
        let over = self.ledger.forget_over(now);
        over.iter().filter_map(RetainedSession::session).map(|session| Scope::from(&session)).collect()
    }

    /// Decides what is due and what waits, and sends the records off.
    fn decide_all(&mut self, now: &Now) {
        let (before, mut batch) = (self.ledger.clone(), Batch::default());
        self.tell_late(&mut batch, now);
        self.keep_sessions(&mut batch, now);
        self.open(&mut batch, now);
        self.close_unused(&mut batch, now);
        self.put_owed_rules_first();
        for _ in 0..BATCH {
            let Some(command) = self.first.pop_front().or_else(|| self.backlog.pop_front()) else { break };
            let reloads = matches!(command, Command::Reload { .. });
            self.beat.turn();
            self.decide(command, &mut batch, now);
            // Whoever comes after it is judged under its rules, once they are in force.
            if reloads {
                break;
            }
        }
        self.sum_up(&mut batch, now);
        self.let_go(&mut batch, now);
        self.submit(before, batch, now);
    }

    /// Rules that the disk did not take come before everything else, unless newer ones wait.
    fn put_owed_rules_first(&mut self) {
        let Some(rules) = self.unrecorded_rules.take() else { return };
        if !self.first.iter().any(|command| matches!(command, Command::Reload { .. })) {
            // Who asked was told that it failed.
            let (answer, _) = oneshot::channel();
            self.first.push_front(Command::Reload { rules, answer });
        }
    }

    /// Sends a batch to the disk. Until it is durable the ledger is what it was before.
    pub(super) fn submit(&mut self, before: Ledger, batch: Batch, now: &Now) {
        if let Some((journal, records)) = self.prepare(before, batch, now) {
            self.writer.send(journal, records);
        }
    }

    /// The same, and waits for it.
    pub(super) fn submit_and_wait(&mut self, before: Ledger, batch: Batch, now: &Now) {
        if let Some((journal, records)) = self.prepare(before, batch, now) {
            self.committed(writer::write(journal, records));
        }
    }

    fn prepare(
        &mut self,
        before: Ledger,
        mut batch: Batch,
        now: &Now,
    ) -> Option<(crate::journal::Journal, Vec<Record>)> {
        if batch.records.is_empty() {
            self.settle(batch, &[], now);
            return None;
        }
        self.say_last_words(&batch, now);
        // It is away with another batch: nobody calls this then.
        let journal = self.journal.take()?;
        let records: Vec<_> = self.unrecorded.iter().cloned().chain(std::mem::take(&mut batch.records)).collect();
        let after = std::mem::replace(&mut self.ledger, before.clone());
        let commit = Commit::new(batch, before, after, now.boot);
        let (unrecorded, found, gap) = (self.unrecorded.len(), self.found.take(), self.gap.take());
        self.commit = Some(Commit { unrecorded, found, gap, ..commit });
        Some((journal, records))
    }

    /// Something is due while a batch is on its way.
    pub(super) fn next_meanwhile(&self) -> Option<BootNanos> {
        let commit = self.commit.as_ref()?;
        let ends = self.ledger.active().map(|grant| grant.expires_boot);
        let first = commit.since.plus_nanos(nanos(BRISK));
        let due = commit.ended.map_or(Some(first), |ended| ends.filter(|end| *end > ended).min());
        due.into_iter().chain(self.ledger.keeping().next_end()).min()
    }

    /// What does not wait for the disk.
    fn meanwhile(&mut self, now: &Now) {
        let Some(commit) = &mut self.commit else { return };
        let age = commit.age(now.boot);
        if age >= BRISK {
            let from = commit.ended.replace(now.boot);
            let over =
                |grant: &&Grant| grant.expires_boot <= now.boot && from.is_none_or(|from| grant.expires_boot > from);
            let mut scopes: Vec<_> = self.ledger.active().filter(over).flat_map(sessions::scopes).collect();
            if from.is_none() {
                scopes.extend_from_slice(&commit.batch.over);
            }
            self.end_sessions(&scopes, now);
            if from.is_none()
                && let Some(rules) = self.commit.as_ref().and_then(|commit| commit.batch.reloaded())
            {
                self.close_ahead(&rules, now);
            }
        }
        if age >= SLOW {
            let why = format!(
                "the disk is slow: a record has been on its way to the journal for {} s; what waits for it waits, what is open ends on time",
                age.as_secs()
            );
            self.degraded.insert(Condition::DiskSlow, why);
        }
        self.bear_with(age, now);
    }

    /// A batch is back.
    pub(super) fn committed(&mut self, written: Written) {
        let Some(commit) = self.commit.take() else { return };
        let Written { journal, mut records, outcome } = written;
        let now = self.shared().now();
        self.journal = Some(journal);
        self.degraded.remove(&Condition::DiskSlow);
        match outcome {
            Ok(lines) => {
                self.ledger = commit.after;
                if let Some(rules) = commit.batch.reloaded() {
                    // Before anybody sees the record. A newer reload may wait: nobody reads what that one forbids.
                    self.shared().put_in_force(rules, self.waiting_rules());
                    // An earlier try may have failed.
                    self.degraded.remove(&Condition::ReloadFailed);
                }
                publish(&self.shared().lines, &self.ledger, &records, &lines);
                self.unrecorded.drain(..commit.unrecorded);
                let records = records.split_off(commit.unrecorded);
                self.degraded.remove(&Condition::JournalUnwritten);
                // The first record of a start says which mode the file has.
                self.degraded.remove(&Condition::ModeUnrecorded);
                self.blocked.retain(|id, _| {
                    let (open, now) = (self.ledger.get(id).is_some_and(|held| held.ending.is_none()), &now);
                    open || self.ledger.keeping().sessions(now).any(|(grant, _)| grant == *id)
                });
                let stopping = commit.batch.waiting.iter().any(|w| matches!(w, Waiting::Stopped(_)));
                self.keep_up(&records, lines.len() as u64, stopping);
                self.settle(commit.batch, &records, &now);
            }
            Err(unwritten) => self.failed(commit, records, unwritten, &now),
        }
    }

    /// The rules of the newest reload that waits for its turn.
    fn waiting_rules(&self) -> Option<Rules> {
        let reloads = self.first.iter().rev();
        reloads
            .filter_map(|one| if let Command::Reload { rules, .. } = one { Some(rules.clone()) } else { None })
            .next()
    }

    /// The kernel, then answers: all of the batch is durable.
    fn settle(&mut self, mut batch: Batch, records: &[Record], now: &Now) {
        batch.over.extend(self.forget_over(now));
        self.clock_recorded(records, now);
        self.note_confirmed(records);
        self.look_for_use(records);
        let outcome = self.bring_in_step(now);
        self.end_sessions(&batch.over, now);
        if let Err(refusal) = outcome {
            return self.take_back(records, batch.waiting, &refusal, now);
        }
        self.announce(records);
        self.answer(batch.waiting);
    }

    /// Undoes the grants of a batch that the kernel did not take: they are in no table from now on, and end on record before anybody is told.
    fn take_back(&mut self, records: &[Record], waiting: Vec<Waiting>, refusal: &Refusal, now: &Now) {
        self.blocked
            .extend(records.iter().filter_map(super::opens).map(|id| (id, postern_core::request::EndCause::Undone)));
        // A second failure leaves less open than the ledger says; the retry heals it.
        let _ = self.bring_in_step(now);
        let (before, mut batch) = (self.ledger.clone(), Batch::default());
        self.end_blocked(&mut batch, now);
        if records.iter().any(|record| matches!(record.event, Event::Enabled { .. })) {
            self.give_up_trial("", &mut batch, now);
        }
        if batch.records.is_empty() {
            return refuse_all(waiting, refusal);
        }
        batch.waiting = waiting.into_iter().map(|one| one.refused(refusal)).collect();
        self.submit(before, batch, now);
    }
}
