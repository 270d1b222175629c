//! The layers that keep the ports closed, and their losses. This module owns how soon posternd notices a loss, and which events it records.
//! Healing only closes, so it comes before the record.

use std::collections::BTreeMap;

use postern_core::condition::Condition;
use postern_core::ledger::Event;
use postern_core::time::{BootNanos, Now};

use super::conditions::Conditions;
use super::wake::{LAYERS_EVERY, nanos};
use crate::enforcer::{Enforcer, Loss};

/// The most events that wait for a disk. Only the log has the others.
const MOST_WAITING: usize = 64;

pub(super) struct Guard {
    due: BootNanos,
    /// The lost parts and their states, as far as there is an event for each.
    lost: BTreeMap<String, &'static str>,
    /// Events for the next batch, and when each was noticed.
    waiting: Vec<(Event, Now)>,
}

impl Guard {
    pub(super) fn new() -> Self {
        Self { due: BootNanos(0), lost: BTreeMap::new(), waiting: Vec::new() }
    }

    pub(super) fn due(&self) -> BootNanos {
        self.due
    }

    /// Has an event recorded with the next batch.
    pub(super) fn keep(&mut self, event: Event, noticed: &Now) {
        if self.waiting.len() < MOST_WAITING {
            self.waiting.push((event, *noticed));
        }
    }

    pub(super) fn take(&mut self) -> Vec<(Event, Now)> {
        std::mem::take(&mut self.waiting)
    }

    /// Checks the layers, and heals them if one is lost. Each layer suffices alone, so nothing is open meanwhile. Returns the remaining
    /// losses, or `None` if no check was due.
    pub(super) fn look(
        &mut self,
        enforcer: &mut Enforcer,
        conditions: &mut Conditions,
        now: &Now,
    ) -> Option<Vec<Loss>> {
        if self.due > now.boot {
            return None;
        }
        self.due = now.boot.plus_nanos(nanos(LAYERS_EVERY));
        let (mut losses, mut failed) = (enforcer.losses(), None);
        self.note(&losses, now);
        if !losses.is_empty() {
            failed = enforcer.heal().err();
            losses = enforcer.losses();
            self.note(&losses, now);
        }
        conditions.set(Condition::PinDirectory, failed.map(|error| error.to_string()));
        Some(losses)
    }

    /// Records what the start found instead of what it would have adopted, and what it could not bring into force.
    pub(super) fn note_start(&mut self, enforcer: &mut Enforcer, now: &Now) {
        self.note(&enforcer.take_found(), now);
        self.note(&enforcer.losses(), now);
    }

    /// Makes events of the differences to the earlier losses.
    fn note(&mut self, losses: &[Loss], now: &Now) {
        let layer = |name: &String, state: &str| Event::Layer { name: name.clone(), state: state.to_owned() };
        for Loss { part, state, why } in losses {
            if self.lost.insert(part.clone(), state) != Some(state) {
                tracing::error!(%part, state, why, "a layer that keeps the ports closed is not in force");
                self.keep(layer(part, state), now);
            }
        }
        let healed: Vec<_> =
            self.lost.keys().filter(|part| losses.iter().all(|loss| loss.part != **part)).cloned().collect();
        for part in healed {
            tracing::info!(%part, "the layer is in force again");
            self.lost.remove(&part);
            self.keep(layer(&part, "in-force"), now);
        }
    }
}
