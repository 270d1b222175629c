//! Work while a batch is in flight. This module owns how long a caller waits for a slow disk, and the effects before their record: ends,
//! which only close, and root's break-glass, which gets a second record in the log (docs/decisions/0036).

use std::io::Write as _;
use std::time::Duration;

use postern_core::condition::Condition;
use postern_core::grant::Grant;
use postern_core::ledger::{Event, Record};
use postern_core::refusal::{Reason, Refusal};
use postern_core::request::EndCause;
use postern_core::time::{BootNanos, Now};
use uuid::Uuid;

use super::Worker;
use super::answers::Waiting;
use super::decide::decide;
use super::draft::Draft;
use super::wake::{BRISK, nanos};
use crate::engine::command::Change;
use crate::system::sessions;

/// A batch that is in flight for longer sets a condition.
const SLOW: Duration = Duration::from_secs(1);
/// How long root's break-glass waits for a disk that neither writes nor fails.
const ROOT_WAITS: Duration = Duration::from_secs(5);
/// How long everybody else waits before a refusal.
pub(super) const PEOPLE_WAIT: Duration = Duration::from_secs(10);

impl Worker {
    /// When the next work of [`Worker::meanwhile`] is due.
    pub(super) fn next_meanwhile(&self) -> Option<BootNanos> {
        let (batch, ledger) = (self.committer.in_flight()?, &self.state.ledger);
        let ends = ledger.active().map(|grant| grant.expires_boot);
        let first = batch.since.plus_nanos(nanos(BRISK));
        let due = batch.decided.ended_until.map_or(Some(first), |until| ends.filter(|end| *end > until).min());
        due.into_iter().chain(ledger.keeping().next_end()).min()
    }

    pub(super) fn meanwhile(&mut self, now: &Now) {
        let Some(batch) = self.committer.in_flight_mut() else { return };
        let age = batch.age(now.boot);
        if age >= BRISK {
            let from = batch.decided.ended_until.replace(now.boot);
            let over =
                |grant: &&Grant| grant.expires_boot <= now.boot && from.is_none_or(|from| grant.expires_boot > from);
            let mut scopes: Vec<_> = self.state.ledger.active().filter(over).flat_map(sessions::scopes).collect();
            let mut rules = None;
            if from.is_none() {
                scopes.extend_from_slice(&batch.decided.over);
                rules = batch.decided.reloaded();
            }
            self.state.end_sessions(&scopes, now);
            if let Some(rules) = rules {
                self.close_ahead(&rules, now);
            }
        }
        if age >= SLOW {
            let why = format!(
                "the disk is slow: a record has been on its way to the journal for {} s. Changes wait for it; open grants end on time",
                age.as_secs()
            );
            self.state.conditions.set(Condition::DiskSlow, Some(why));
        }
        self.refuse_waiting(age, now);
    }

    /// Refuses the changes that have waited too long for a disk that neither writes nor fails.
    fn refuse_waiting(&mut self, age: Duration, now: &Now) {
        if age < ROOT_WAITS {
            return;
        }
        let why = format!("the disk has not answered for {} s", age.as_secs());
        let refusal = Refusal::new(Reason::JournalFailed, &why);
        for change in self.committer.backlog.take_all() {
            match change {
                change @ Change::BreakGlass { .. } => self.decide_for_root(change, &refusal, now),
                change if age < PEOPLE_WAIT => self.committer.backlog.put_back(change),
                Change::Reload { rules, answer } => {
                    self.committer.backlog.retry(rules);
                    let _ = answer.send(Err(refusal.clone()));
                }
                change => {
                    self.committer.note_gap(&why, now.wall, 1);
                    change.refuse(refusal.clone());
                }
            }
        }
    }

    /// Decides root's break-glass by everything known, including the batch in flight.
    fn decide_for_root(&mut self, change: Change, refusal: &Refusal, now: &Now) {
        let Some(batch) = self.committer.in_flight() else { return };
        let (after, rules) = (batch.after.clone(), self.next_rules());
        let before = std::mem::replace(&mut self.state.ledger, after);
        let mut draft = Draft::new(&self.engine.0, &mut self.state, rules, now);
        decide(&mut draft, change);
        let Draft { records, decided, .. } = draft;
        self.state.ledger = before;
        for one in decided.waiting {
            self.open_for_root(one, &records, refusal, now);
        }
    }

    /// Opens the ports that `records` grant to root, after the log has taken a second record.
    pub(super) fn open_for_root(&mut self, waiting: Waiting, records: &[Record], refusal: &Refusal, now: &Now) {
        let Waiting::Grant(id, _) = &waiting else { return self.answer(vec![waiting]) };
        let Some(record) = records.iter().find(|record| is_break_glass(record, id)) else {
            return self.answer(vec![waiting.refused(refusal)]);
        };
        if let Err(error) = write_second_record(record) {
            tracing::error!(%error, "break-glass was refused: neither the journal nor the log took its record");
            return self.refuse_unrecorded(vec![waiting], refusal, record.time);
        }
        self.committer.note_gap(&refusal.detail, record.time, 0);
        self.committer.record_later(record.clone(), &mut self.state.ledger);
        match self.bring_in_step(now) {
            Ok(()) => {
                let unrecorded = self.committer.unrecorded();
                self.announce(&unrecorded[unrecorded.len() - 1..]);
                self.answer(vec![waiting]);
            }
            Err(kernel) => {
                self.state.blocked.insert(*id, EndCause::Undone);
                let _ = self.bring_in_step(now);
                self.answer(vec![waiting.refused(&kernel)]);
            }
        }
    }
}

pub(super) fn is_break_glass(record: &Record, id: &Uuid) -> bool {
    matches!(&record.event, Event::BreakGlass { grant } if grant.id == *id)
}

/// Writes a record that the journal cannot take to the log. Under systemd that is journald.
fn write_second_record(record: &Record) -> std::io::Result<()> {
    let line = serde_json::to_string(record)?;
    let line = postern_core::text::json(&line);
    let mut log = std::io::stderr().lock();
    writeln!(log, "RECORD (the journal cannot be written now; this line is added to it as soon as it can): {line}")?;
    log.flush()
}
