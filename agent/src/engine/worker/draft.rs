//! A batch that the worker is deciding. A draft owns its records and the callers that wait for it. It applies each record to the ledger at
//! once, so that the next decision sees the record. The worker puts the ledger back before the batch goes to the disk.

use postern_core::ledger::{Event, Record, Seen};
use postern_core::request::{EndCause, Ending};
use postern_core::time::Now;
use uuid::Uuid;

use super::State;
use super::answers::Decided;
use crate::engine::Rules;
use crate::engine::shared::Shared;
use crate::system::sessions::{self, Scope};

pub(super) struct Draft<'a> {
    pub shared: &'a Shared,
    pub state: &'a mut State,
    /// The rules under which its records are made.
    pub rules: Rules,
    pub records: Vec<Record>,
    pub decided: Decided,
    pub now: Now,
}

impl<'a> Draft<'a> {
    pub(super) fn new(shared: &'a Shared, state: &'a mut State, rules: Rules, now: &Now) -> Self {
        Self { shared, state, rules, records: Vec::new(), decided: Decided::default(), now: *now }
    }

    /// Records an event. `message` is the signed message that caused it.
    pub(super) fn push(&mut self, message: Option<Seen>, event: Event) {
        self.push_at(message, event, &self.now.clone());
    }

    /// As [`Draft::push`], for an event that was noticed earlier.
    pub(super) fn push_at(&mut self, message: Option<Seen>, event: Event, at: &Now) {
        let record = Record::next(&self.state.ledger, message, event, at);
        self.state.ledger.apply(&record);
        self.records.push(record);
    }

    /// Records what the clock ended: grants that the kernel has stopped by itself, and requests that waited too long.
    pub(super) fn expire(&mut self) {
        for (id, cause) in self.state.ledger.overdue(&self.now) {
            // The record may be late, but the grant ended at its own time.
            let ended = self.state.ledger.get(&id).and_then(|held| held.grant()).filter(|_| cause == EndCause::Expired);
            let at = ended.map_or(self.now.wall, |grant| self.now.wall_at(grant.expires_boot));
            self.end(id, Ending::by_itself(at, cause), None);
        }
    }

    /// Opens scheduled grants if the current rules still allow them, because a key may have expired since.
    pub(super) fn open_scheduled(&mut self) {
        for grant in self.state.ledger.due_to_open(&self.now) {
            match self.state.ledger.get(&grant).and_then(|held| self.rules.forbid(held, &self.now)) {
                None => self.push(None, Event::Activated { grant }),
                Some(cause) => self.end(grant, Ending::by_itself(self.now.wall, cause), None),
            }
        }
    }

    pub(super) fn end(&mut self, id: Uuid, ending: Ending, message: Option<Seen>) {
        let Some(held) = self.state.ledger.get(&id) else { return };
        let opened: Vec<_> = held.grant().filter(|_| held.opened).into_iter().flat_map(sessions::scopes).collect();
        let usage = self.state.kernel.usage(held, &self.now);
        self.push(message, Event::Ended { grant: id, ending, usage });
        self.decided.over.extend(opened);
    }

    /// Ends requests and grants, and retained sessions.
    pub(super) fn end_each(&mut self, gone: impl IntoIterator<Item = (Uuid, EndCause)>) {
        for (id, cause) in gone {
            if self.state.ledger.get(&id).is_some_and(|held| held.ending.is_none()) {
                self.end(id, Ending::by_itself(self.now.wall, cause), None);
            } else if self.state.ledger.keeping().sessions(&self.now).any(|(grant, _)| grant == id) {
                self.cut_retained(id, None, String::new(), cause.sentence().to_owned());
            }
        }
    }

    pub(super) fn end_blocked(&mut self) {
        self.end_each(self.state.blocked.clone());
    }

    /// Ends the sessions that outlived `grant`.
    pub(super) fn cut_retained(&mut self, grant: Uuid, message: Option<Seen>, by: String, reason: String) {
        let of_grant = self.state.ledger.keeping().sessions(&self.now).filter(|(of, _)| *of == grant);
        let scopes = of_grant.filter_map(|(_, kept)| kept.session()).map(|session| Scope::from(&session));
        self.decided.over.extend(scopes);
        self.push(message, Event::SessionsCut { grant, by, reason });
    }
}
