//! From waiting changes to answers: decide → record → bring the kernel in step → answer. This module owns that order. Nothing takes effect
//! before its record is durable, except ends and root's break-glass (`slow_disk`).

use std::sync::Arc;

use postern_core::condition::Condition;
use postern_core::ledger::{Event, Ledger, Record};
use postern_core::refusal::Refusal;
use postern_core::request::EndCause;
use postern_core::time::Now;
use tokio::sync::broadcast;
use uuid::Uuid;

use super::answers::{Decided, Waiting};
use super::decide::decide;
use super::draft::Draft;
use super::queries::Reads;
use super::{BATCH, Worker, restores, retained, start, summaries, trial, upkeep};
use crate::engine::command::Change;
use crate::engine::commit::{Gap, Outcome, Recorded};
use crate::engine::{GrantUpdate, Published};
use crate::journal::writer::Written;

impl Worker {
    /// Decides all due and waiting changes, and submits the records.
    pub(super) fn decide_all(&mut self, now: &Now) {
        let (before, rules) = (self.state.ledger.clone(), self.next_rules());
        let mut draft = Draft::new(&self.engine.0, &mut self.state, rules, now);
        record_late(&mut draft, &self.committer, &mut self.restores, &mut self.guard);
        self.retained.retain(&mut draft);
        draft.open_scheduled();
        self.idle.close_unused(&mut draft);
        self.committer.backlog.queue_retry();
        for _ in 0..BATCH {
            let Some(change) = self.committer.backlog.pop() else { break };
            let reloads = matches!(change, Change::Reload { .. });
            self.beat.turn();
            decide(&mut draft, change);
            // The new rules judge the changes after the reload, once they are in force.
            if reloads {
                break;
            }
        }
        summaries::write_due(&mut draft);
        upkeep::record_outdated(&mut draft, self.committer.journal());
        let Draft { records, decided, .. } = draft;
        self.submit(before, records, decided, now);
    }

    /// Records the findings of the start, and waits for the disk. posternd starts even if the disk fails, and records them later.
    pub(super) fn begin(&mut self) {
        let now = self.shared().now();
        let over = retained::forget_over(&mut self.state.ledger, &now);
        let (before, rules) = (self.state.ledger.clone(), self.next_rules());
        let mut draft = Draft::new(&self.engine.0, &mut self.state, rules, &now);
        draft.decided.over = over;
        record_late(&mut draft, &self.committer, &mut self.restores, &mut self.guard);
        let Draft { records, decided, .. } = draft;
        let ledgers = self.put_back(before, &records, &now);
        if let Some(outcome) = self.committer.submit_and_wait(ledgers, records, decided, now.boot) {
            self.conclude(outcome);
        }
    }

    /// Sends a batch to the disk. The ledger stays as before until the batch is durable.
    pub(super) fn submit(&mut self, before: Ledger, records: Vec<Record>, decided: Decided, now: &Now) {
        if records.is_empty() {
            return self.settle(decided, &[], now);
        }
        let ledgers = self.put_back(before, &records, now);
        self.committer.submit(ledgers, records, decided, now.boot);
    }

    /// Warns of what `records` end, puts the ledger back, and returns the ledger without and with `records`.
    fn put_back(&mut self, before: Ledger, records: &[Record], now: &Now) -> (Ledger, Ledger) {
        self.warnings.give_last(records, &self.engine.0, &self.state, now);
        let after = std::mem::replace(&mut self.state.ledger, before.clone());
        (before, after)
    }

    pub(super) fn committed(&mut self, written: Written) {
        if let Some(outcome) = self.committer.committed(written) {
            self.conclude(outcome);
        }
    }

    fn conclude(&mut self, Outcome { decided, ledger, records, result }: Outcome<Decided>) {
        let now = self.shared().now();
        self.state.conditions.set(Condition::DiskSlow, None);
        self.state.ledger = ledger;
        match result {
            Ok(recorded) => self.recorded(decided, &records, &recorded, &now),
            Err(failure) => self.failed(decided, &records, failure, &now),
        }
    }

    fn recorded(&mut self, decided: Decided, records: &[Record], Recorded { earlier, lines }: &Recorded, now: &Now) {
        let (conditions, ledger) = (&mut self.state.conditions, &self.state.ledger);
        if let Some(rules) = decided.reloaded() {
            // This comes before anybody sees the record. A newer reload may wait, and its rules restrict reading already.
            self.engine.0.put_in_force(rules, self.committer.backlog.newest_rules());
            // An earlier try may have failed.
            conditions.set(Condition::ReloadFailed, None);
        }
        publish(&self.engine.0.lines, ledger, earlier.iter().chain(records), lines);
        conditions.set(Condition::JournalUnwritten, None);
        // The first record of a start names the mode of the file.
        conditions.set(Condition::ModeUnrecorded, None);
        self.state.blocked.retain(|id, _| {
            let is_open = ledger.get(id).is_some_and(|held| held.ending.is_none());
            is_open || ledger.keeping().sessions(now).any(|(grant, _)| grant == *id)
        });
        if let Some(journal) = self.committer.journal() {
            let whole = self.committer.unrecorded().is_empty().then_some(ledger);
            let batch = (records.len() as u64, lines.len() as u64);
            self.upkeep.keep_up(journal, whole, batch, decided.stops());
        }
        self.settle(decided, records, now);
    }

    /// Brings the kernel in step, then answers. The whole batch is durable.
    fn settle(&mut self, mut decided: Decided, records: &[Record], now: &Now) {
        decided.over.extend(retained::forget_over(&mut self.state.ledger, now));
        self.restores.recorded(records, &self.state.ledger, &self.engine.0, now);
        if records.iter().any(|record| matches!(record.event, Event::Confirmed { .. })) {
            self.shared().note_confirmed();
        }
        self.idle.note(records, &self.state);
        let outcome = self.bring_in_step(now);
        self.state.end_sessions(&decided.over, now);
        if let Err(refusal) = outcome {
            return self.take_back(records, decided.waiting, &refusal, now);
        }
        self.announce(records);
        self.answer(decided.waiting);
    }

    /// Undoes the grants of a batch that the kernel refused. Their end is on record before a caller gets an answer.
    fn take_back(&mut self, records: &[Record], waiting: Vec<Waiting>, refusal: &Refusal, now: &Now) {
        self.state.blocked.extend(records.iter().filter_map(opens).map(|id| (id, EndCause::Undone)));
        // After a second failure less is open than in the ledger. The next try heals that.
        let _ = self.bring_in_step(now);
        let (before, rules) = (self.state.ledger.clone(), self.next_rules());
        let mut draft = Draft::new(&self.engine.0, &mut self.state, rules, now);
        draft.end_blocked();
        if records.iter().any(|record| matches!(record.event, Event::Enabled { .. })) {
            trial::give_up(&mut draft, "");
        }
        let Draft { records, mut decided, .. } = draft;
        let refused: Vec<_> = waiting.into_iter().map(|one| one.refused(refusal)).collect();
        if records.is_empty() {
            return self.answer(refused);
        }
        decided.waiting = refused;
        self.submit(before, records, decided, now);
    }

    pub(super) fn announce(&self, records: &[Record]) {
        let reads = Reads::new(self.shared(), &self.state);
        for view in records.iter().filter_map(|record| reads.view(&record.event.subject()?)) {
            // The send fails without watchers.
            let _ = self.shared().changes.send(GrantUpdate { view, warning: None });
        }
    }

    pub(super) fn answer(&self, waiting: Vec<Waiting>) {
        let reads = Reads::new(self.shared(), &self.state);
        waiting.into_iter().for_each(|one| one.answer(&reads));
    }
}

/// Records what happened without a record: findings of the start, restores, the end of a trial, disk failures, losses of layers, and ends.
fn record_late(
    draft: &mut Draft<'_>,
    committer: &super::Committer<Decided>,
    restores: &mut restores::Restores,
    guard: &mut super::guard::Guard,
) {
    if let Some(findings) = committer.startup() {
        start::record(draft, findings);
    }
    restores.record(draft);
    trial::record_lapsed(draft);
    if let Some(Gap { since, why, refused }) = committer.gap().cloned() {
        draft.push(None, Event::Unrecorded { since, reason: why, refused });
    }
    for (event, noticed) in guard.take() {
        draft.push_at(None, event, &noticed);
    }
    draft.expire();
    draft.end_blocked();
}

fn opens(record: &Record) -> Option<Uuid> {
    match &record.event {
        Event::Granted { grant } | Event::BreakGlass { grant } => Some(grant.id),
        Event::Activated { grant } => Some(*grant),
        _ => None,
    }
}

/// Sends `records`, whose lines in the journal are `written`, to those who watch the journal. The worker does not wait for them.
pub(super) fn publish<'a>(
    lines: &broadcast::Sender<Arc<Published>>,
    ledger: &Ledger,
    records: impl IntoIterator<Item = &'a Record>,
    written: &[u8],
) {
    for (record, line) in records.into_iter().zip(written.split(|byte| *byte == b'\n')) {
        let held = record.event.subject().and_then(|id| ledger.get(&id));
        let (life, record, line) = (held.map(|held| held.request.without_payload()), record.clone(), line.to_vec());
        let _ = lines.send(Arc::new(Published { record, life, line }));
    }
}
