//! The state that the engine's handle and its worker share: the rules in force, the host's identity and the current challenges.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use jiff::Timestamp;
use postern_core::message::{Challenger, Freshness, Identity};
use postern_core::mode::Mode;
use postern_core::policy::Policy;
use postern_core::time::Now;
use tokio::sync::{broadcast, mpsc, watch};

use super::command::Command;
use super::pulse::Pulse;
use super::share::{Shares, Turns};
use super::tally::Tally;
use super::verifier::Repeats;
use super::{DeniedAttempts, GrantUpdate, Published, Rules};
use crate::config::effective::RootFiles;
use crate::journal::scan::Scanner;
use crate::system::clock::Clock;

pub(super) struct Shared {
    pub identity: RwLock<Identity>,
    /// The host's names in statements. The host keys signed these names, so a new key does not change them.
    pub names: Vec<String>,
    pub clock: Clock,
    pub started: Timestamp,
    pub challenger: RwLock<Challenger>,
    pub rules: RwLock<Rules>,
    /// Rules whose record is not durable yet. They restrict reading already.
    pub coming: RwLock<Option<Rules>>,
    pub rules_changed: watch::Sender<()>,
    /// Replay history is incomplete until then: nanoseconds of the boot clock.
    pub unsure_until: AtomicU64,
    pub tally: Tally,
    pub shares: Shares,
    pub repeats: Repeats,
    pub turns: Turns,
    pub journal: Scanner,
    pub denied: DeniedAttempts,
    /// The configuration file, whose mode decides whether a trial may be confirmed.
    pub config_file: PathBuf,
    /// How this process reaches the configuration file and root's other files.
    pub files: RootFiles,
    pub commands: mpsc::Sender<Command>,
    /// The queue for commands that go first.
    pub first: mpsc::Sender<Command>,
    pub pulse: Pulse,
    pub changes: broadcast::Sender<GrantUpdate>,
    /// Every line of the journal, once it is durable.
    pub lines: broadcast::Sender<Arc<Published>>,
}

impl Shared {
    pub(super) fn now(&self) -> Now {
        self.clock.now()
    }

    /// Whether a single-use message needs a challenge. Without complete replay history, only a challenge proves that a message is new.
    pub(super) fn freshness(&self, now: &Now) -> Freshness {
        match (now.wall_trusted(), self.is_unsure(now)) {
            (true, false) => Freshness::Clock,
            _ => Freshness::Challenge,
        }
    }

    /// Whether replay history is incomplete, so that a fresh message may have been used before.
    pub(super) fn is_unsure(&self, now: &Now) -> bool {
        now.boot.0 < self.unsure_until.load(Ordering::SeqCst)
    }

    pub(super) fn identity(&self) -> RwLockReadGuard<'_, Identity> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn challenger(&self) -> RwLockReadGuard<'_, Challenger> {
        self.challenger.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rules(&self) -> Rules {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Newer rules whose record is not durable yet.
    pub(super) fn coming(&self) -> Option<Rules> {
        self.coming.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forbids everybody to read what these rules forbid, although older rules are still in force.
    pub(super) fn announce_rules(&self, rules: &Rules) {
        *self.coming.write().unwrap_or_else(PoisonError::into_inner) = Some(rules.clone());
        self.rules_changed.send_replace(());
    }

    /// Puts rules in force. `waiting` are newer rules whose record is not durable yet.
    pub(super) fn put_in_force(&self, rules: Rules, waiting: Option<Rules>) {
        self.shares.track(&rules.policy);
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        *self.coming.write().unwrap_or_else(PoisonError::into_inner) = waiting;
        self.rules_changed.send_replace(());
    }

    /// Notes a confirmed trial: the configuration file has `mode = "enforce"`, and so do the rules in force from now on.
    pub(super) fn note_confirmed(&self) {
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        rules.policy = Arc::new(Policy { mode: Mode::Enforce, ..Policy::clone(&rules.policy) });
    }
}
