//! Closing what nobody uses: `first_use_within` and `idle_timeout`.
//!
//! Owns when to look at the kernel's counters again. It is housekeeping for the sake of less being open: where the agent is dead, a
//! grant lasts until its end, never longer. What happened before a start of the agent is not held against a grant.

use postern_core::grant::Grant;
use postern_core::ledger::Record;
use postern_core::request::{EndCause, Ending};
use postern_core::time::{BootNanos, Now};
use uuid::Uuid;

use super::{Batch, Worker};

impl Worker {
    /// Notes when to look at grants that have just opened.
    pub(super) fn look_for_use(&mut self, records: &[Record]) {
        for id in records.iter().filter_map(|record| record.event.subject()) {
            let opened = self.ledger.get(&id).filter(|held| held.opened && held.ending.is_none());
            let due = opened.and_then(|held| Some(self.deadline(held.grant()?)?.0));
            self.use_due = self.use_due.into_iter().chain(due).min();
        }
    }

    /// Ends grants that were not used for longer than they may.
    pub(super) fn close_unused(&mut self, batch: &mut Batch, now: &Now) {
        if self.use_due.is_none_or(|due| now.boot < due) {
            return;
        }
        let looks: Vec<(Uuid, (BootNanos, EndCause))> =
            self.ledger.active().filter_map(|grant| Some((grant.id, self.deadline(grant)?))).collect();
        self.use_due = looks.iter().map(|(_, (due, _))| *due).filter(|due| now.boot < *due).min();
        for (id, (_, cause)) in looks.into_iter().filter(|(_, (due, _))| *due <= now.boot) {
            self.end(batch, id, Ending::by_itself(now.wall, cause), None, now);
        }
    }

    /// When this grant has to be used next, or else ends, and why.
    fn deadline(&self, grant: &Grant) -> Option<(BootNanos, EndCause)> {
        if grant.first_use_within.is_none() && grant.idle_timeout.is_none() {
            return None;
        }
        let last = BootNanos(self.enforcer.usage(grant.slot).last_boot_ns);
        let used_before = self.ledger.get(&grant.id).is_some_and(|held| held.usage.packets_in > 0);
        grant.use_by(last, used_before, self.started_boot)
    }
}
