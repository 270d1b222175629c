//! The one writer to the kernel, on its own thread. This module owns the order of a turn: check what is in force → decide the waiting
//! changes → record them with one sync → bring the kernel in step → answer. Decisions change [`State`], a [`draft::Draft`] collects their
//! records, and [`Committer`] makes these durable. The worker never verifies signatures, and never waits for network or disk.

use std::collections::BTreeMap;

use postern_core::condition::Condition;
use postern_core::ledger::Ledger;
use postern_core::refusal::{Reason, Refusal};
use postern_core::request::EndCause;
use postern_core::time::{BootNanos, Now};
use uuid::Uuid;

use super::command::{Change, Command, Notice, Query};
use super::commit::Committer;
use super::pulse::Beat;
use super::shared::Shared;
use super::{Engine, Rules};
use answers::Decided;
use conditions::Conditions;
use kernel::Kernel;
use wake::{RETRY, nanos};

mod answers;
mod append_failure;
mod conditions;
mod decide;
mod draft;
mod guard;
mod idle;
mod kernel;
mod park;
mod pipeline;
mod prefilter;
mod queries;
mod requests;
mod restores;
mod retained;
mod slow_disk;
mod start;
mod summaries;
mod surroundings;
mod trial;
mod tunnels;
mod upkeep;
mod wake;
mod warnings;

pub use start::{Confine, Setup, StartError, start};

/// How many changes share one sync of the journal (group commit).
const BATCH: usize = 256;

pub(super) struct Worker {
    engine: Engine,
    /// Shows the watchdog that this thread is not stuck.
    beat: Beat,
    committer: Committer<Decided>,
    state: State,
    /// Queries that wait briefly for the batch in flight.
    queries: Vec<Query>,
    stopping: bool,
    /// When to try again, while the kernel is behind the ledger or the journal behind the kernel.
    retry_due: Option<BootNanos>,
    guard: guard::Guard,
    tunnels: tunnels::Watch,
    prefilter: prefilter::Prefilter,
    restores: restores::Restores,
    retained: retained::Watch,
    idle: idle::Watch,
    warnings: warnings::Warnings,
    upkeep: upkeep::Upkeep,
}

/// The state that decisions read and change.
struct State {
    /// The sum of all records, including those that took effect before they were written.
    ledger: Ledger,
    kernel: Kernel,
    conditions: Conditions,
    /// Grants and requests that may not be open although no record has ended them yet.
    blocked: BTreeMap<Uuid, EndCause>,
    summaries: summaries::Summaries,
    surroundings: surroundings::Watch,
}

impl Worker {
    fn turn(&mut self, commands: Vec<Command>) {
        let now = self.shared().now();
        self.close_after_restore(&now);
        self.look(&now);
        let over = retained::forget_over(&mut self.state.ledger, &now);
        self.state.end_sessions(&over, &now);
        for command in commands {
            match command {
                Command::Change(change) => self.take_up(change, &now),
                Command::Notice(notice) => self.note(notice, &now),
                Command::Query(query) => self.queries.push(query),
            }
        }
        if self.committer.in_flight().is_some() {
            self.meanwhile(&now);
        } else if !self.committer.backlog.is_empty() || self.retry_due.is_none_or(|due| due <= now.boot) {
            self.decide_all(&now);
        }
        self.warnings.give(&self.engine.0, &self.state, &now);
        // Readers wait for a batch in flight, unless the disk is slow.
        if self.committer.in_flight().is_none_or(|batch| batch.age(now.boot) >= wake::BRISK) {
            self.answer_queries();
        }
    }

    /// Runs the periodic checks. Each of them only heals or closes.
    fn look(&mut self, now: &Now) {
        let State { kernel, conditions, .. } = &mut self.state;
        if let Some(losses) = self.guard.look(&mut kernel.enforcer, conditions, now) {
            let opener = &self.engine.0.files.opener;
            self.prefilter.watch_flood(opener, &mut kernel.enforcer, conditions, now);
            self.follow_conditions(&losses, now);
        }
        let State { kernel, conditions, surroundings, .. } = &mut self.state;
        self.tunnels.look(kernel, now);
        surroundings.look(kernel, conditions, now);
    }

    fn take_up(&mut self, change: Change, now: &Now) {
        self.stopping |= matches!(change, Change::Stop { .. });
        if let Change::Reload { rules, .. } = &change
            && (self.committer.in_flight().is_some() || self.retry_due.is_some())
        {
            self.close_ahead(rules, now);
        }
        self.committer.backlog.push(change);
    }

    fn note(&mut self, notice: Notice, now: &Now) {
        let State { kernel, conditions, surroundings, summaries, .. } = &mut self.state;
        match notice {
            Notice::Links(links) => {
                // A new interface may be a tunnel.
                self.tunnels.hurry();
                surroundings.set_own(links.addresses.clone(), kernel, conditions);
                self.prefilter.follow(links, &mut kernel.enforcer, conditions);
            }
            Notice::Prefilter(wanted) => self.prefilter.want(wanted, &mut kernel.enforcer, conditions),
            Notice::LimitSyns(addresses, rate) => surroundings.limit_syns(addresses, rate, kernel, conditions),
            Notice::Condition(condition, why) => conditions.set(condition, why),
            // Every turn checks the clock.
            Notice::Clock => {}
            Notice::Counted => summaries.later(now),
        }
    }

    /// Closes everything after a restore, before any record: posternd does not know what ended or was used after the snapshot.
    fn close_after_restore(&mut self, now: &Now) {
        if self.restores.notice(self.engine.0.clock.restores(), &self.state.ledger, now) {
            let _ = self.bring_in_step(now);
        }
    }

    /// Closes what these rules forbid before the rules are on record. A restart would close it too, because it reads the same files.
    fn close_ahead(&mut self, rules: &Rules, now: &Now) {
        self.shared().announce_rules(rules);
        self.state.block(rules, now);
        if let Some(batch) = self.committer.in_flight() {
            self.state.blocked.extend(retained::forbidden(rules, &batch.after, now));
        }
        let _ = self.bring_in_step(now);
    }

    /// Edits the kernel until it holds the wanted table. After a failure the next batch tries again, so some callers ignore the error.
    fn bring_in_step(&mut self, now: &Now) -> Result<(), Refusal> {
        let policy = self.shared().rules().policy;
        let forbidden = self.state.blocked.keys().chain(self.restores.void()).copied().collect();
        let file = trial::file(policy.mode, &self.state.ledger, self.committer.is_start_recorded());
        let wanted = kernel::wanted(&policy, &self.state.ledger, &forbidden, file, now);
        let failed = self.state.kernel.hold(&wanted).err();
        self.retry_due = failed.is_some().then(|| now.boot.plus_nanos(nanos(RETRY)));
        let why = failed.as_ref().map(|error| format!("the kernel refused a change: {error}"));
        self.state.conditions.set(Condition::KernelRefused, why);
        failed.map_or(Ok(()), |error| Err(Refusal::new(Reason::KernelFailed, error)))
    }

    fn shared(&self) -> &Shared {
        &self.engine.0
    }

    /// The rules for the next record: those of the newest `policy-loaded`, which may be in flight.
    fn next_rules(&self) -> Rules {
        let ahead = self.committer.in_flight().and_then(|batch| batch.decided.reloaded());
        ahead.unwrap_or_else(|| self.shared().rules())
    }
}

impl State {
    /// Blocks what `rules` forbid until its end is on record.
    fn block(&mut self, rules: &Rules, now: &Now) {
        self.blocked.extend(retained::forbidden(rules, &self.ledger, now));
    }
}
