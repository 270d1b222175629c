//! Restores of the machine from a snapshot, and the recorded state of the wall clock. A restore closes everything, first in the kernel and
//! then on record. No other event of the wall clock touches a running grant, because grants run on the boot clock.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use postern_core::ledger::{Event, Ledger, Record};
use postern_core::request::{EndCause, Ending};
use postern_core::time::Now;
use postern_core::wall::ClockState;
use uuid::Uuid;

use super::draft::Draft;
use crate::engine::shared::Shared;

#[derive(Default)]
pub(super) struct Restores {
    /// How many restores are on record.
    recorded: u64,
    /// How many are on record once the batch in flight is durable.
    submitted: u64,
    /// How many there were at the last look.
    seen: u64,
    /// Everything that was open at a restore, until the record of the restore is durable. The kernel holds none of it.
    void: BTreeSet<Uuid>,
}

impl Restores {
    /// Compares the count of restores with that of the last look. After a new restore everything in `ledger` is void.
    pub(super) fn notice(&mut self, restores: u64, ledger: &Ledger, now: &Now) -> bool {
        if restores == self.seen {
            return false;
        }
        self.seen = restores;
        let grants = ledger.living().count();
        tracing::error!(grants, "the machine was restored from a snapshot or copied: every grant ends");
        self.void_all(ledger, now);
        true
    }

    pub(super) fn void(&self) -> &BTreeSet<Uuid> {
        &self.void
    }

    fn void_all(&mut self, ledger: &Ledger, now: &Now) {
        let living = ledger.living().map(|held| held.request.id());
        let outlived = ledger.keeping().sessions(now).map(|(grant, _)| grant);
        self.void = living.chain(outlived).collect();
    }

    /// Records a changed state of the wall clock, and the end of everything after a restore.
    pub(super) fn record(&mut self, draft: &mut Draft<'_>) {
        if self.seen != self.recorded {
            self.submitted = self.seen;
            self.end_all(draft);
        }
        record_clock(draft);
    }

    /// Records the end of everything. The restore set the boot clock back too, and the kernel is closed already.
    fn end_all(&mut self, draft: &mut Draft<'_>) {
        self.void_all(&draft.state.ledger, &draft.now);
        let living: Vec<_> = draft.state.ledger.living().map(|held| held.request.id()).collect();
        draft.push(None, Event::Clock { state: ClockState::Restored });
        for id in &living {
            draft.end(*id, Ending::by_itself(draft.now.wall, EndCause::Restored), None);
        }
        for id in self.void.iter().filter(|id| !living.contains(id)) {
            draft.cut_retained(*id, None, String::new(), EndCause::Restored.sentence().to_owned());
        }
    }

    pub(super) fn recorded(&mut self, records: &[Record], ledger: &Ledger, shared: &Shared, now: &Now) {
        shared.clock.recorded(ledger.high());
        let unsure_until = ledger.unsure_until(shared.clock.boot_id());
        shared.unsure_until.fetch_max(unsure_until.0, Ordering::SeqCst);
        if records.iter().any(|record| record.event == Event::Clock { state: ClockState::Restored }) {
            self.recorded = self.submitted;
            self.void.clear();
        }
        if self.recorded != self.seen {
            // A grant whose record was in flight at a restore does not open either.
            self.void_all(ledger, now);
        }
    }
}

/// Records the state of the wall clock if it has changed.
pub(super) fn record_clock(draft: &mut Draft<'_>) {
    let recorded = draft.state.ledger.clock_of(draft.now.boot_id).map_or(ClockState::default(), |seen| seen.state);
    let state = draft.now.clock;
    if recorded != state {
        tracing::warn!(state = state.code(), "the wall clock: {}", state.sentence());
        draft.push(None, Event::Clock { state });
    }
}
