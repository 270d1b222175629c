//! Each principal's share of the engine. This module owns the budgets ([`Budgets`]) and [`Place`], which a message holds from its verified
//! signature until its answer. Only signed messages count.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_core::budget::{Budgets, Class, Rates};
use postern_core::policy::{Policy, Role};
use postern_core::refusal::Refusal;
use tokio::sync::Semaphore;

use super::command::Command;
use super::{Engine, QUEUE, Reader};

/// Places in the worker's queue that are reserved for commands that end access, and for root.
pub(super) const RESERVED: usize = QUEUE / 8;

/// How many threads check signatures. One suffices for any honest load (ed25519: 20,000 a second, DESIGN 10). RSA takes longer.
const VERIFIERS: usize = 2;

/// How many audits may read the journal at once. Each occupies a core until it has read the whole journal.
const SCANS: usize = 2;

/// The limits of concurrent long work, by purpose.
pub(super) struct Turns {
    pub(super) verifiers: Semaphore,
    /// One more verifier, for messages that claim to end something.
    pub(super) closers: Semaphore,
    pub(super) scans: Arc<Semaphore>,
    pub(super) root_scans: Arc<Semaphore>,
}

impl Turns {
    pub(super) fn new() -> Self {
        let scans = || Arc::new(Semaphore::new(SCANS));
        let (verifiers, closers) = (Semaphore::new(VERIFIERS), Semaphore::new(1));
        Self { verifiers, closers, scans: scans(), root_scans: scans() }
    }
}

pub(super) struct Shares(Mutex<Budgets>);

impl Shares {
    pub(super) fn new(rates: Rates, policy: &Policy) -> Self {
        let shares = Self(Mutex::new(Budgets::new(rates)));
        shares.track(policy);
        shares
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Budgets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn track(&self, policy: &Policy) {
        let names = policy.roles.iter().flat_map(|role| &role.principals);
        self.lock().track(names.map(String::as_str));
    }
}

/// The place of one message in progress.
pub struct Place {
    engine: Engine,
    principal: String,
    class: Class,
    free: bool,
}

impl Place {
    /// Makes the message cost nothing, because it ended something.
    pub(super) fn free(mut self) {
        self.free = true;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.engine.0.shares.lock().end(&self.principal, self.class, self.free);
    }
}

impl Engine {
    pub(super) fn begin(&self, principal: &str, class: Class, bytes: usize) -> Result<Place, Refusal> {
        let now = self.0.now();
        let mut budgets = self.0.shares.lock();
        let begun = budgets.begin(principal, class, bytes, now.boot);
        if let Err(refusal) = &begun {
            budgets.count(principal, refusal.reason, &now);
        }
        drop(budgets);
        match begun {
            Ok(()) => Ok(Place { engine: self.clone(), principal: principal.to_owned(), class, free: false }),
            Err(refusal) => {
                self.have_summed_up();
                Err(refusal)
            }
        }
    }

    /// A place for a stream of `reader`, for as long as the stream lasts. Root needs none.
    ///
    /// # Errors
    /// [`postern_core::refusal::Reason::RateLimited`].
    pub fn watching(&self, reader: &Reader) -> Result<Option<Place>, Refusal> {
        self.place_of(reader, Class::Watch)
    }

    pub(super) fn place_of(&self, reader: &Reader, class: Class) -> Result<Option<Place>, Refusal> {
        match reader {
            Reader::Root => Ok(None),
            Reader::Person(person) => self.begin(&person.signer.principal, class, 0).map(Some),
        }
    }

    /// The budget for a message of `principal` that ends something.
    pub(super) fn ending_class(&self, principal: &str) -> Class {
        let policy = self.0.rules().policy;
        let over_all = [Role::Approver, Role::Admin].iter().any(|kind| policy.holds(principal, *kind));
        if over_all { Class::Revoke } else { Class::GiveBack }
    }

    /// Sends `command` to the worker, unless the queue is full. Urgent commands may also take the reserved places.
    pub(super) fn enqueue(&self, command: Command) -> bool {
        if command.goes_first() {
            return self.0.first.try_send(command).is_ok();
        }
        let room = command.is_urgent() || self.0.commands.capacity() > RESERVED;
        room && self.0.commands.try_send(command).is_ok()
    }
}
