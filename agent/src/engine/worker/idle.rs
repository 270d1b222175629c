//! Unused grants: `first_use_within` and `idle_timeout`. This module owns when to look at the kernel's counters again. While posternd is
//! dead, an unused grant lasts until its own end, never longer. The time before a start of posternd does not count against a grant.

use postern_core::grant::Grant;
use postern_core::ledger::Record;
use postern_core::request::{EndCause, Ending};
use postern_core::time::{BootNanos, Now};
use uuid::Uuid;

use super::State;
use super::draft::Draft;

pub(super) struct Watch {
    due: Option<BootNanos>,
    started: BootNanos,
}

impl Watch {
    /// The first look is due at once, because open grants may have such limits.
    pub(super) fn new(now: &Now) -> Self {
        Self { due: Some(now.boot), started: now.boot }
    }

    pub(super) fn due(&self) -> Option<BootNanos> {
        self.due
    }

    /// Notes when to look at grants that these records opened.
    pub(super) fn note(&mut self, records: &[Record], state: &State) {
        for id in records.iter().filter_map(|record| record.event.subject()) {
            let opened = state.ledger.get(&id).filter(|held| held.opened && held.ending.is_none());
            let due = opened.and_then(|held| Some(self.deadline(held.grant()?, state)?.0));
            self.due = self.due.into_iter().chain(due).min();
        }
    }

    pub(super) fn close_unused(&mut self, draft: &mut Draft<'_>) {
        let now = draft.now;
        if self.due.is_none_or(|due| now.boot < due) {
            return;
        }
        let active = draft.state.ledger.active();
        let looks: Vec<(Uuid, (BootNanos, EndCause))> =
            active.filter_map(|grant| Some((grant.id, self.deadline(grant, draft.state)?))).collect();
        self.due = looks.iter().map(|(_, (due, _))| *due).filter(|due| now.boot < *due).min();
        for (id, (_, cause)) in looks.into_iter().filter(|(_, (due, _))| *due <= now.boot) {
            draft.end(id, Ending::by_itself(now.wall, cause), None);
        }
    }

    /// The time by which this grant must be used, and the cause of its end otherwise.
    fn deadline(&self, grant: &Grant, state: &State) -> Option<(BootNanos, EndCause)> {
        if grant.first_use_within.is_none() && grant.idle_timeout.is_none() {
            return None;
        }
        let last = BootNanos(state.kernel.enforcer.usage(grant.slot).last_boot_ns);
        let used_before = state.ledger.get(&grant.id).is_some_and(|held| held.usage.packets_in > 0);
        grant.use_by(last, used_before, self.started)
    }
}
