//! Looking after what is in force.
//!
//! Owns how soon a loss is noticed, and what is recorded of it. It heals first and records afterwards, however long that takes,
//! because healing only closes. It never opens anything.

use std::collections::BTreeMap;
use std::time::Duration;

use postern_core::condition::Condition;
use postern_core::ledger::Event;
use postern_core::time::{BootNanos, Now};

use super::{Worker, nanos};
use crate::enforcer::Loss;

/// How often the kernel is asked. It tells of none of these losses by itself, except of removed pins. One look takes some 40
/// system calls that do not wait: well under a millisecond of processor time a second.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Records that wait for a disk that takes them; all beyond are in the log alone.
const MOST_WAITING: usize = 64;

/// What the worker knows of losses.
pub(super) struct Guard {
    due: BootNanos,
    /// What is lost, as far as it was recorded.
    told: BTreeMap<String, &'static str>,
    /// What is to be recorded, and when it was noticed.
    waiting: Vec<(Event, Now)>,
}

impl Guard {
    /// Nothing is lost, and the first look is due.
    pub(super) fn new() -> Self {
        Self { due: BootNanos(0), told: BTreeMap::new(), waiting: Vec::new() }
    }

    /// When the next look is due.
    pub(super) fn due(&self) -> BootNanos {
        self.due
    }

    /// Has an event recorded with the next batch.
    pub(super) fn keep(&mut self, event: Event, noticed: &Now) {
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push((event, *noticed));
        }
    }

    /// What is to be recorded.
    pub(super) fn take(&mut self) -> Vec<(Event, Now)> {
        std::mem::take(&mut self.waiting)
    }

    /// Notes what is lost now, and says what is new about it.
    fn note(&mut self, losses: &[Loss]) -> Vec<Event> {
        let mut events = Vec::new();
        for Loss { part, state, why } in losses {
            if self.told.insert(part.clone(), state) != Some(state) {
                tracing::error!(%part, state, why, "a part of what keeps the ports closed is not in force");
                events.push(Event::Layer { name: part.clone(), state: (*state).to_owned() });
            }
        }
        self.told.retain(|part, _| {
            let lost = losses.iter().any(|loss| loss.part == *part);
            if !lost {
                tracing::info!(%part, "it is in force again");
                events.push(Event::Layer { name: part.clone(), state: "in-force".to_owned() });
            }
            lost
        });
        events
    }
}

impl Worker {
    /// Looks whether everything is in force, and brings it back if not. Each layer is whole by itself, so nothing is open
    /// meanwhile. What is to be recorded of it waits for the next batch.
    pub(super) fn look(&mut self, now: &Now) {
        if self.guard.due > now.boot {
            return;
        }
        self.guard.due = now.boot.plus_nanos(nanos(LOOK_EVERY));
        let losses = self.enforcer.losses();
        self.note_losses(&losses, now);
        let (mut left, mut failed) = (Vec::new(), None);
        if !losses.is_empty() {
            failed = self.enforcer.heal().err();
            left = self.enforcer.losses();
            self.note_losses(&left, now);
        }
        self.watch_flood(now);
        match failed {
            Some(error) => drop(self.degraded.insert(Condition::PinDirectory, error.to_string())),
            None => drop(self.degraded.remove(&Condition::PinDirectory)),
        }
        self.follow_conditions(&left, now);
    }

    fn note_losses(&mut self, losses: &[Loss], now: &Now) {
        for event in self.guard.note(losses) {
            self.guard.keep(event, now);
        }
    }

    /// Has recorded what the start found in the place of what it would have adopted, and what it could not bring into force.
    pub(super) fn note_found(&mut self, now: &Now) {
        let found = self.enforcer.take_found();
        self.note_losses(&found, now);
        let left = self.enforcer.losses();
        self.note_losses(&left, now);
    }
}
