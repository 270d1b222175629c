//! The state that the engine's handle and its worker share.
//!
//! Owns the rules in force, the host's identity and the current challenges. It never decides anything.

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

/// What the handle and the worker both need.
pub(super) struct Shared {
    pub identity: RwLock<Identity>,
    /// The host's names in statements. The host keys signed these names, so a new key does not change them.
    pub names: Vec<String>,
    pub clock: Clock,
    /// When posternd started.
    pub started: Timestamp,
    pub challenger: RwLock<Challenger>,
    pub rules: RwLock<Rules>,
    /// Rules whose record is not durable yet. Nobody may read any more what these rules forbid.
    pub coming: RwLock<Option<Rules>>,
    /// Signals each change of the rules.
    pub rules_changed: watch::Sender<()>,
    /// Until then replay history is incomplete: nanoseconds of the boot clock.
    pub unsure_until: AtomicU64,
    pub tally: Tally,
    pub shares: Shares,
    pub repeats: Repeats,
    pub turns: Turns,
    pub journal: Scanner,
    pub denied: DeniedAttempts,
    /// The configuration file: its mode decides whether a trial may be confirmed.
    pub config_file: PathBuf,
    /// How this process reaches the configuration file and root's other files.
    pub files: RootFiles,
    pub commands: mpsc::Sender<Command>,
    /// The queue for commands that go first.
    pub first: mpsc::Sender<Command>,
    pub pulse: Pulse,
    pub changes: broadcast::Sender<GrantUpdate>,
    /// Every line of the journal, once the line is durable.
    pub lines: broadcast::Sender<Arc<Published>>,
}

impl Shared {
    /// The present, and the state of the wall clock.
    pub(super) fn now(&self) -> Now {
        self.clock.now()
    }

    /// Whether a message that may be used only once needs a challenge. While replay history is incomplete, only a challenge proves
    /// that the message is new.
    pub(super) fn freshness(&self, now: &Now) -> Freshness {
        match (now.wall_trusted(), self.is_unsure(now)) {
            (true, false) => Freshness::Clock,
            _ => Freshness::Challenge,
        }
    }

    /// Whether replay history is incomplete: a fresh message may have been used before.
    pub(super) fn is_unsure(&self, now: &Now) -> bool {
        now.boot.0 < self.unsure_until.load(Ordering::SeqCst)
    }

    /// The host's names and keys.
    pub(super) fn identity(&self) -> RwLockReadGuard<'_, Identity> {
        self.identity.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The challenges that are issued and accepted now.
    pub(super) fn challenger(&self) -> RwLockReadGuard<'_, Challenger> {
        self.challenger.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules in force.
    pub(super) fn rules(&self) -> Rules {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Newer rules whose record is not durable yet.
    pub(super) fn coming(&self) -> Option<Rules> {
        self.coming.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on nobody reads what these rules forbid, although older rules are still in force.
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

    /// Notes a confirmed trial: the configuration file says `mode = "enforce"`, so the rules in force do too.
    pub(super) fn note_confirmed(&self) {
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        rules.policy = Arc::new(Policy { mode: Mode::Enforce, ..Policy::clone(&rules.policy) });
    }
}
