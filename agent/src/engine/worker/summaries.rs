//! Summaries of unverified messages, and of refusals without a line of their own. `tally` and `share` count; this module owns the time.

use postern_core::budget::Summed;
use postern_core::ledger::Event;
use postern_core::time::{BootNanos, Now};

use super::draft::Draft;
use super::wake::{SUMMARY_EVERY, nanos};

#[derive(Default)]
pub(super) struct Summaries {
    due: Option<BootNanos>,
}

impl Summaries {
    pub(super) fn due(&self) -> Option<BootNanos> {
        self.due
    }

    /// Schedules a summary for the time when more counts have gathered.
    pub(super) fn later(&mut self, now: &Now) {
        self.due.get_or_insert(now.boot.plus_nanos(nanos(SUMMARY_EVERY)));
    }

    /// Schedules a summary for the next batch.
    pub(super) fn at_once(&mut self, now: &Now) {
        self.due = Some(now.boot);
    }
}

pub(super) fn write_due(draft: &mut Draft<'_>) {
    if draft.state.summaries.due.is_some_and(|due| due <= draft.now.boot) {
        draft.state.summaries.due = None;
        write(draft, false);
    }
}

/// Writes a summary. `all` includes counts that are not due yet, because posternd stops.
pub(super) fn write(draft: &mut Draft<'_>, all: bool) {
    let counts = draft.shared.tally.take();
    if !counts.is_empty() {
        draft.push(None, Event::Unverified { counts });
    }
    let summaries = draft.shared.shares.lock().take_summaries(draft.now.boot, all);
    for (principal, Summed { counts, first, last }) in summaries {
        draft.push(None, Event::Refusals { principal, counts, first, last });
    }
    if draft.shared.shares.lock().is_summary_due() {
        draft.state.summaries.later(&draft.now);
    }
}
