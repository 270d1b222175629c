//! What the worker does about the clock.
//!
//! Owns the record of how the wall clock stands, and the end of everything when the machine was restored from a snapshot. What runs is
//! not touched by anything else that happens to the wall clock: it runs on the boot clock.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use postern_core::ledger::{Event, Record};
use postern_core::request::{EndCause, Ending};
use postern_core::time::Now;
use postern_core::wall::ClockState;
use uuid::Uuid;

use super::{Batch, Worker};
use crate::engine::ClockView;

/// What the worker knows of restores.
#[derive(Default)]
pub(super) struct Restores {
    /// How many are on record, and with the batch that is being written.
    told: u64,
    telling: u64,
    /// How many there were when the worker looked last.
    seen: u64,
    /// What was open at one that is not on record yet: the kernel holds it no longer.
    pub(super) void: BTreeSet<Uuid>,
}

impl Worker {
    /// Closes everything after a restore, before any record: nobody knows what was ended or used after the snapshot, and this only
    /// closes.
    pub(super) fn mind_the_clock(&mut self, now: &Now) {
        let seen = self.shared().clock.restores();
        if seen == self.restores.seen {
            return;
        }
        self.restores.seen = seen;
        tracing::error!(
            grants = self.ledger.living().count(),
            "the machine was restored from a snapshot or copied: every grant ends"
        );
        self.void_all(now);
        // What fails here is tried again with the batch.
        let _ = self.bring_in_step(now);
    }

    /// Everything that is known is over.
    fn void_all(&mut self, now: &Now) {
        let living = self.ledger.living().map(|held| held.request.id());
        let kept = self.ledger.keeping().sessions(now).map(|(grant, _)| grant);
        self.restores.void = living.chain(kept).collect();
    }

    /// Records how the wall clock stands, when that has changed; and the end of everything after a restore.
    pub(super) fn tell_the_clock(&mut self, batch: &mut Batch, now: &Now) {
        if self.restores.seen != self.restores.told {
            self.restores.telling = self.restores.seen;
            self.end_all(batch, now);
        }
        self.record_clock(batch, now);
    }

    pub(super) fn record_clock(&mut self, batch: &mut Batch, now: &Now) {
        let told = self.ledger.clock_of(now.boot_id).map_or(ClockState::default(), |seen| seen.state);
        if told != now.clock {
            tracing::warn!(state = now.clock.code(), "the wall clock: {}", now.clock.sentence());
            self.push(batch, None, Event::Clock { state: now.clock }, now);
        }
    }

    /// The boot clock went back with everything else. The kernel is closed already.
    fn end_all(&mut self, batch: &mut Batch, now: &Now) {
        self.void_all(now);
        let living: Vec<_> = self.ledger.living().map(|held| held.request.id()).collect();
        let outlived: Vec<_> = self.restores.void.iter().copied().filter(|id| !living.contains(id)).collect();
        self.push(batch, None, Event::Clock { state: ClockState::Restored }, now);
        for id in living {
            self.end(batch, id, Ending::by_itself(now.wall, EndCause::Restored), None, now);
        }
        for id in outlived {
            let why = EndCause::Restored.sentence().to_owned();
            self.cut_retained(batch, id, None, String::new(), why, now);
        }
    }

    /// Notes what is durable now.
    pub(super) fn clock_recorded(&mut self, records: &[Record], now: &Now) {
        let shared = self.shared();
        shared.clock.recorded(self.ledger.high());
        let unsure_until = self.ledger.unsure_until(shared.clock.boot_id());
        shared.unsure_until.fetch_max(unsure_until.0, Ordering::SeqCst);
        let restored = |record: &Record| record.event == Event::Clock { state: ClockState::Restored };
        if records.iter().any(restored) {
            self.restores.told = self.restores.telling;
            self.restores.void.clear();
        }
        if self.restores.told != self.restores.seen {
            // What was on its way to the disk at a restore does not open either.
            self.void_all(now);
        }
    }

    /// How the clock stands, for people.
    pub(super) fn clock_view(&self) -> ClockView {
        let shared = self.shared();
        let now = shared.now();
        ClockView {
            state: now.clock,
            forgetful: shared.is_unsure(&now),
            unnoticed: shared.clock.unnoticed().map(str::to_owned),
            restores: shared.clock.restores(),
        }
    }
}
