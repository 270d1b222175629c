//! The consequences of an append failure. Nothing of the batch happened, each caller gets the reason, and events without a caller are
//! recorded later. Only root's break-glass takes effect (`slow_disk`). A retry follows.

use std::sync::atomic::Ordering;

use jiff::Timestamp;
use postern_core::budget::Summed;
use postern_core::condition::Condition;
use postern_core::ledger::{Event, Record};
use postern_core::refusal::{Reason, Refusal};
use postern_core::time::Now;

use super::answers::{Decided, Waiting};
use super::slow_disk::is_break_glass;
use super::wake::{RETRY, nanos};
use super::{State, Worker, start};
use crate::engine::commit::{Failure, Reopened};

impl Worker {
    /// Handles a batch that was not written. The ledger is without it already.
    pub(super) fn failed(&mut self, decided: Decided, records: &[Record], failure: Failure, now: &Now) {
        let Failure { why, reopened } = failure;
        let retry_due = if reopened.is_some() { now.boot } else { now.boot.plus_nanos(nanos(RETRY)) };
        match reopened {
            Some(reopened) => self.take_in(&reopened, now),
            None => self.state.conditions.set_and_log(
                Condition::JournalUnwritten,
                Some(format!(
                    "the journal could not be written: {why}. Nothing new is granted, and open grants end on time. posternd tries again \
                     by itself; root on this host may open a port meanwhile (postern break-glass)"
                )),
            ),
        }
        if let Some(rules) = decided.reloaded().filter(|_| !self.committer.backlog.has_newer_rules()) {
            self.close_ahead(&rules, now);
            self.committer.backlog.retry(rules);
        }
        let since = records.first().map_or(now.wall, |record| record.time);
        self.committer.note_gap(&why, since, 0);
        // The clock ended these grants, with or without a record.
        self.state.end_sessions(&decided.over, now);
        self.keep_unrecorded(records, now);
        let refusal = Refusal::new(Reason::JournalFailed, &why);
        let (roots, others): (Vec<_>, Vec<_>) = decided.waiting.into_iter().partition(
            |one| matches!(one, Waiting::Grant(id, _) if records.iter().any(|record| is_break_glass(record, id))),
        );
        self.refuse_unrecorded(others, &refusal, since);
        for one in roots {
            self.open_for_root(one, records, &refusal, now);
        }
        self.retry_due = Some(retry_due);
    }

    /// Goes on with a journal that could only be opened now, and that differs from what the start could read of it.
    fn take_in(&mut self, reopened: &Reopened, now: &Now) {
        let shared = &self.engine.0;
        if reopened.set_aside {
            shared.unsure_until.fetch_max(start::stale(now).0, Ordering::Relaxed);
        }
        self.upkeep.verify();
        let ledger = &self.state.ledger;
        shared.clock.resume(ledger.high(), ledger.clock_of(shared.clock.boot_id()));
        self.state.block(&shared.rules(), now);
        self.state.conditions.set(Condition::JournalUnwritten, None);
        let _ = self.bring_in_step(now);
    }

    /// Keeps the events of a failed batch that have no caller, so that a later batch records them.
    fn keep_unrecorded(&mut self, records: &[Record], now: &Now) {
        let (shared, State { summaries, .. }) = (&self.engine.0, &mut self.state);
        for record in records {
            match &record.event {
                Event::Layer { .. } => {
                    let noticed = Now { wall: record.time, boot: record.boot, ..*now };
                    self.guard.keep(record.event.clone(), &noticed);
                }
                Event::Unverified { counts } => {
                    shared.tally.put_back(counts);
                    summaries.at_once(now);
                }
                Event::Refusals { principal, counts, first, last } => {
                    let summed = Summed { counts: counts.clone(), first: *first, last: *last };
                    shared.shares.lock().put_back(principal, summed);
                    summaries.at_once(now);
                }
                _ => {}
            }
        }
    }

    /// Refuses the callers, and counts them for the next record.
    pub(super) fn refuse_unrecorded(&mut self, waiting: Vec<Waiting>, refusal: &Refusal, since: Timestamp) {
        let refused = waiting.iter().filter(|one| !matches!(one, Waiting::Stopped(_))).count() as u64;
        self.committer.note_gap(&refusal.detail, since, refused);
        self.answer(waiting.into_iter().map(|one| one.refused(refusal)).collect());
    }
}
