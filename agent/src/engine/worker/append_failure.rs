//! A disk that does not take the record.
//!
//! Owns what follows from that: nothing of the batch happened, everybody is told why, what was not written is written as soon as the
//! disk works again, and how much was refused meanwhile is counted and written then. Root's break-glass alone goes on, with a second
//! record in the place of the first (docs/decisions/0036).

use std::io::Write as _;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use postern_core::budget::Summed;
use postern_core::condition::Condition;
use postern_core::ledger::{Event, Ledger, Record};
use postern_core::refusal::{Reason, Refusal};
use postern_core::time::Now;

use super::commit::Commit;
use super::setup::{self, Found};
use super::{Batch, RETRY, Waiting, Worker, nanos, refuse_all, retained};
use crate::engine::{Command, Rules};
use crate::journal::{AppendFailure, Opened};

/// For so long root's break-glass waits for a disk that neither writes nor fails.
const ROOT_WAITS: Duration = Duration::from_secs(5);
/// And everybody else, before they are refused.
pub(super) const PEOPLE_WAIT: Duration = Duration::from_secs(10);

/// A time in which decisions could not be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    since: Timestamp,
    why: String,
    /// Decisions that were refused for want of a record.
    refused: u64,
}

impl Worker {
    /// Says what was found at the start, what was noticed and could not be recorded when it was, and that there was such a time.
    pub(super) fn tell_late(&mut self, batch: &mut Batch, now: &Now) {
        if let Some(found) = self.found.clone() {
            self.tell_start(&found, batch, now);
        }
        self.tell_the_clock(batch, now);
        self.roll_back_lapsed(batch, now);
        if let Some(Gap { since, why, refused }) = self.gap.clone() {
            self.push(batch, None, Event::Unrecorded { since, reason: why, refused }, now);
        }
        for (event, noticed) in self.guard.take() {
            self.push(batch, None, event, &noticed);
        }
        self.expire(batch, now);
        self.end_blocked(batch, now);
    }

    /// Has rules put in force as soon as the disk takes a record of it, unless newer ones wait. What they forbid is closed until then.
    fn owe_rules(&mut self, rules: Rules, now: &Now) {
        if self.unrecorded_rules.is_none()
            && !self.first.iter().any(|command| matches!(command, Command::Reload { .. }))
        {
            self.close_ahead(&rules, now);
            self.unrecorded_rules = Some(rules);
        }
    }

    /// A batch was not written: nothing of it happened.
    pub(super) fn failed(&mut self, commit: Commit, mut records: Vec<Record>, unwritten: AppendFailure, now: &Now) {
        let records = records.split_off(commit.unrecorded);
        let reloaded = commit.batch.reloaded();
        self.restore(commit.before, commit.unrecorded);
        self.found = commit.found.or(self.found.take());
        let since = records.first().map_or(now.wall, |record| record.time);
        self.gap = commit.gap.into_iter().chain(self.gap.take()).reduce(Gap::with);
        let why = unwritten.to_string();
        let is_well = matches!(unwritten, AppendFailure::Found(_));
        if let AppendFailure::Found(opened) = unwritten {
            // The record is whole again, and says something else than what was known of it.
            self.take_in(*opened, now);
        } else {
            let told = format!(
                "the journal could not be written: {why}. Nothing new is granted, what is open ends on time; posternd goes on by itself \
                 as soon as the disk works again, and root on this host may open a port meanwhile (postern break-glass)"
            );
            if self.degraded.get(&Condition::JournalUnwritten) != Some(&told) {
                tracing::error!(error = why, "the journal could not be written");
            }
            self.degraded.insert(Condition::JournalUnwritten, told);
        }
        if let Some(rules) = reloaded {
            self.owe_rules(rules, now);
        }
        self.without_record(&why, since, 0);
        // What the clock ended is over, on record or not.
        self.end_sessions(&commit.batch.over, now);
        let refusal = Refusal::new(Reason::JournalFailed, &why);
        let (roots, others): (Vec<_>, Vec<_>) = commit
            .batch
            .waiting
            .into_iter()
            .partition(|one| matches!(one, Waiting::Grant(id, _) if records.iter().any(|r| is_roots(r, id))));
        self.keep_untold(&records, now);
        self.refuse_unrecorded(others, &refusal, since);
        for one in roots {
            self.open_for_root(one, &records, &refusal, now);
        }
        let soon = if is_well { now.boot } else { now.boot.plus_nanos(nanos(RETRY)) };
        self.retry_due = Some(soon);
    }

    /// What a batch that failed would have told, and nobody asked for, is told later.
    fn keep_untold(&mut self, records: &[Record], now: &Now) {
        for record in records {
            match &record.event {
                Event::Layer { .. } => {
                    let noticed = Now { wall: record.time, boot: record.boot, ..*now };
                    self.guard.keep(record.event.clone(), &noticed);
                }
                Event::Unverified { counts } => {
                    self.shared().tally.put_back(counts);
                    self.tally_due = Some(now.boot);
                }
                Event::Refusals { principal, counts, first, last } => {
                    let summed = Summed { counts: counts.clone(), first: *first, last: *last };
                    self.shared().shares.lock().put_back(principal, summed);
                    self.tally_due = Some(now.boot);
                }
                _ => {}
            }
        }
    }

    fn refuse_unrecorded(&mut self, waiting: Vec<Waiting>, refusal: &Refusal, since: Timestamp) {
        let refused = waiting.iter().filter(|one| !matches!(one, Waiting::Stopped(_))).count() as u64;
        self.without_record(&refusal.detail, since, refused);
        refuse_all(waiting, refusal);
    }

    fn without_record(&mut self, why: &str, since: Timestamp, refused: u64) {
        let gap = self.gap.get_or_insert_with(|| Gap { since, why: why.to_owned(), refused: 0 });
        gap.refused += refused;
    }

    /// Puts the ledger back to `before`, which tells of the first `told` of what took effect without a record, and of the others too.
    fn restore(&mut self, before: Ledger, told: usize) {
        self.ledger = before;
        for record in self.unrecorded.iter_mut().skip(told) {
            record.seq = self.ledger.last_seq() + 1;
            self.ledger.apply(record);
        }
    }

    /// Goes on with a journal that could only now be opened, and that says other things than what could be read of it at the start.
    fn take_in(&mut self, opened: Opened, now: &Now) {
        let Opened { journal, ledger, torn, set_aside, .. } = opened;
        if set_aside.is_some() {
            self.shared().unsure_until.fetch_max(setup::stale(now).0, Ordering::Relaxed);
        }
        self.upkeep.verify();
        self.journal = Some(journal);
        self.restore(ledger, 0);
        let clock = &self.shared().clock;
        clock.resume(self.ledger.high(), self.ledger.clock_of(clock.boot_id()));
        self.found = Some(Found { torn, set_aside });
        self.blocked.extend(retained::forbidden(&self.shared().rules(), &self.ledger, now));
        self.degraded.remove(&Condition::JournalUnwritten);
        // What fails here is tried again with the next batch.
        let _ = self.bring_in_step(now);
    }

    /// Nobody waits for ever for a disk that neither writes nor fails.
    pub(super) fn bear_with(&mut self, age: Duration, now: &Now) {
        if age < ROOT_WAITS {
            return;
        }
        let why = format!("the disk has not answered for {} s", age.as_secs());
        let refusal = Refusal::new(Reason::JournalFailed, &why);
        let waiting: Vec<_> = self.first.drain(..).chain(self.backlog.drain(..)).collect();
        for command in waiting {
            match command {
                command @ Command::BreakGlass { .. } => self.decide_for_root(command, &refusal, now),
                command if age < PEOPLE_WAIT => {
                    let queue = if command.goes_first() { &mut self.first } else { &mut self.backlog };
                    queue.push_back(command);
                }
                Command::Reload { rules, answer } => {
                    self.unrecorded_rules = Some(rules);
                    let _ = answer.send(Err(refusal.clone()));
                }
                command => {
                    self.without_record(&why, now.wall, 1);
                    command.refuse(&refusal);
                }
            }
        }
    }

    /// Decides for root by all that is known, also by what is on its way.
    fn decide_for_root(&mut self, command: Command, refusal: &Refusal, now: &Now) {
        let Some(commit) = &self.commit else { return };
        let known = std::mem::replace(&mut self.ledger, commit.after.clone());
        let mut batch = Batch::default();
        self.decide(command, &mut batch, now);
        self.ledger = known;
        for one in batch.waiting {
            self.open_for_root(one, &batch.records, refusal, now);
        }
    }

    /// Opens for root what `records` grants him, once a second record of it is made.
    fn open_for_root(&mut self, waiting: Waiting, records: &[Record], refusal: &Refusal, now: &Now) {
        let Waiting::Grant(id, _) = &waiting else { return self.answer(vec![waiting]) };
        let Some(record) = records.iter().find(|record| is_roots(record, id)) else {
            return refuse_all(vec![waiting], refusal);
        };
        if let Err(error) = second_record(record) {
            tracing::error!(%error, "break-glass was refused: no record of it could be made anywhere");
            return self.refuse_unrecorded(vec![waiting], refusal, record.time);
        }
        self.without_record(&refusal.detail, record.time, 0);
        self.owe(record.clone());
        match self.bring_in_step(now) {
            Ok(()) => {
                self.announce(&self.unrecorded[self.unrecorded.len() - 1..]);
                self.answer(vec![waiting]);
            }
            Err(kernel) => {
                self.blocked.insert(*id, postern_core::request::EndCause::Undone);
                let _ = self.bring_in_step(now);
                refuse_all(vec![waiting], &kernel);
            }
        }
    }

    /// Holds a record that has taken effect: it is the next to be written.
    fn owe(&mut self, mut record: Record) {
        let ahead = self.commit.as_mut().map(|commit| &mut commit.after);
        record.seq = ahead.as_ref().map_or(self.ledger.last_seq(), |after| after.last_seq()) + 1;
        if let Some(after) = ahead {
            after.apply(&record);
        }
        self.ledger.apply(&record);
        self.unrecorded.push(record);
    }
}

impl Gap {
    /// Both as one.
    fn with(self, later: Self) -> Self {
        Self { refused: self.refused + later.refused, ..self }
    }
}

fn is_roots(record: &Record, id: &uuid::Uuid) -> bool {
    matches!(&record.event, Event::BreakGlass { grant } if grant.id == *id)
}

/// Writes what the journal cannot take to the log, whole and checked: under systemd that is journald.
fn second_record(record: &Record) -> std::io::Result<()> {
    let line = serde_json::to_string(record)?;
    let line = postern_core::text::json(&line);
    let mut log = std::io::stderr().lock();
    writeln!(log, "RECORD (the journal cannot be written now; this line is added to it as soon as it can): {line}")?;
    log.flush()
}
