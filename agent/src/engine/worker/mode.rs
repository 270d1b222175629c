//! Whether the host enforces: trials, their confirmation and their end.
//!
//! Owns what is recorded of the mode, and what closing meets. It never keeps the time of a trial: the kernel does, and what is
//! recorded of its end is recorded afterwards.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use postern_core::condition::Condition;
use postern_core::grant::{PortSpec, Protocol};
use postern_core::ledger::{Event, Record};
use postern_core::mode::{self, MAX_TRIAL, MIN_TRIAL, Mode, Trial};
use postern_core::policy::Policy;
use postern_core::refusal::{Reason, Refusal};
use postern_core::time::{BootNanos, Now, Seconds};
use uuid::Uuid;

use super::{Batch, Worker, retained};
use crate::enforcer::Observed;
use crate::engine::{DeniedView, ModeView, Rules};
use crate::system::sessions;

/// Who asks over the Unix socket, and nobody else may.
const ROOT: &str = "root";

impl Worker {
    /// Which mode holds, for people.
    pub(super) fn mode(&self, now: &Now) -> ModeView {
        let standing = self.ledger.mode_state();
        let lapsed = standing.lapsed(now);
        let over = lapsed.or_else(|| standing.failed(now)).map(|trial| trial.until);
        ModeView {
            effective: if standing.observes(now) { Mode::Observe } else { Mode::Enforce },
            file: standing.file,
            since: lapsed.map(|trial| trial.until).or(standing.since),
            by: if lapsed.is_some() { String::new() } else { standing.by.clone() },
            until: standing.trial(now).map(|trial| trial.until),
            rolled_back: over,
        }
    }

    /// What the file says, as far as the kernel may know: it may close before that is on record, and not open.
    pub(super) fn file(&self) -> Mode {
        let untold = self.found.is_some() || self.commit.as_ref().is_some_and(|commit| commit.found.is_some());
        match self.shared().rules().policy.mode {
            Mode::Enforce if untold => Mode::Enforce,
            _ => self.ledger.mode_state().file,
        }
    }

    /// Begins a trial: whoever has a session keeps it and the way in for a while, everybody else needs a grant.
    pub(super) fn enable(
        &mut self,
        within: Seconds,
        only_while_running: bool,
        batch: &mut Batch,
        now: &Now,
    ) -> Result<(), Refusal> {
        let standing = self.ledger.mode_state();
        if !standing.observes(now) {
            let trial = standing.trial(now).map(|trial| format!("on trial until {}", trial.until)).unwrap_or_default();
            return Err(Refusal::new(Reason::AlreadyEnforcing, trial));
        }
        let wrong = match within {
            short if short < MIN_TRIAL => Some(Reason::DurationTooShort),
            long if long > MAX_TRIAL => Some(Reason::DurationTooLong),
            _ => None,
        };
        if let Some(reason) = wrong {
            let detail = format!("a trial is between {MIN_TRIAL} and {MAX_TRIAL}");
            return Err(Refusal::new(reason, detail).at("confirm_within"));
        }
        if !only_while_running {
            self.outlives()?;
        }
        let policy = self.next_rules().policy;
        self.bootstrap(&policy, &BTreeSet::new(), batch, now);
        let until_boot = now.boot.plus_nanos(within.0.saturating_mul(1_000_000_000));
        let trial = Trial { until_boot, until: now.wall_at(until_boot), boot_id: now.boot_id };
        tracing::warn!(until = %trial.until, "{ROOT} has the host enforce on trial");
        self.push(batch, None, Event::Enabled { trial, by: ROOT.to_owned() }, now);
        Ok(())
    }

    /// Ends a trial well. The file was asked before.
    pub(super) fn confirm(
        &mut self,
        without_proof: bool,
        batch: &mut Batch,
        now: &Now,
    ) -> Result<Option<Uuid>, Refusal> {
        self.need_trial(now)?;
        let grant = if without_proof { None } else { Some(self.way_in(now)?) };
        tracing::warn!(?grant, "{ROOT} confirmed that the host enforces");
        self.push(batch, None, Event::Confirmed { by: ROOT.to_owned(), grant }, now);
        Ok(grant)
    }

    /// Ends a trial before its time.
    pub(super) fn roll_back(&mut self, batch: &mut Batch, now: &Now) -> Result<(), Refusal> {
        self.need_trial(now)?;
        self.give_up_trial(ROOT, batch, now);
        Ok(())
    }

    pub(super) fn give_up_trial(&mut self, by: &str, batch: &mut Batch, now: &Now) {
        tracing::error!(by, "a trial was given up: every protected port is open");
        self.push(batch, None, Event::RolledBack { at: now.wall, by: by.to_owned() }, now);
    }

    /// Housekeeping: the kernel has ended the trial by itself; here that is recorded.
    pub(super) fn roll_back_lapsed(&mut self, batch: &mut Batch, now: &Now) {
        let Some(trial) = self.ledger.mode_state().lapsed(now) else { return };
        let at = trial.until;
        tracing::error!(%at, "nobody confirmed the trial: every protected port is open again");
        self.push(batch, None, Event::RolledBack { at, by: String::new() }, now);
    }

    /// What a reload brings, besides the end of grants: where it closes, the sessions that it meets are kept.
    pub(super) fn load_policy(&mut self, rules: &Rules, batch: &mut Batch, now: &Now) {
        let (policy, standing) = (&rules.policy, self.ledger.mode_state());
        let observed = standing.observes(now);
        match (observed, mode::is_observing(policy.mode, &standing.enabling_after_reload(), now)) {
            (_, false) => {
                let closed = if observed { BTreeSet::new() } else { self.installed.protected.clone() };
                self.bootstrap(policy, &closed, batch, now);
            }
            (false, true) => tracing::error!("the configuration says mode = \"observe\": every protected port is open"),
            (true, true) => {}
        }
        self.push(batch, None, policy_loaded(rules), now);
    }

    /// What was confirmed is what the file says, so that is what the rules say from now on.
    pub(super) fn note_confirmed(&self, records: &[Record]) {
        if records.iter().any(|record| matches!(record.event, Event::Confirmed { .. })) {
            let mut rules = self.shared().rules.write().unwrap_or_else(PoisonError::into_inner);
            rules.policy = Arc::new(Policy { mode: Mode::Enforce, ..Policy::clone(&rules.policy) });
        }
    }

    /// What would have been dropped at any of `ports`; at all where none is named.
    pub(super) fn observed(&self, ports: &[PortSpec], now: &Now) -> Vec<DeniedView> {
        let wanted = |port: PortSpec| {
            ports.is_empty() || ports.iter().any(|p| p.number == port.number && p.protocol.covers(port.protocol))
        };
        let views = self.enforcer.observed().into_iter().filter_map(|observed| view(&observed, now));
        views.filter(|attempt| wanted(attempt.port)).collect()
    }

    fn need_trial(&self, now: &Now) -> Result<(), Refusal> {
        self.ledger.mode_state().trial(now).map(drop).ok_or_else(|| Refusal::new(Reason::NoTrial, ""))
    }

    fn way_in(&self, now: &Now) -> Result<Uuid, Refusal> {
        let policy = self.shared().rules().policy;
        let scopes: Vec<_> =
            policy.protected().flat_map(|(protocol, port)| retained::everyone(protocol, port)).collect();
        let there = sessions::inbound(&scopes, || self.enforcer.own_sockets()).map_err(retained::unasked);
        let there = there.map_err(|why| Refusal::new(Reason::WayInUnproven, why))?;
        mode::way_in(&self.ledger, &there, now).ok_or_else(|| Refusal::new(Reason::WayInUnproven, ""))
    }
}

pub(super) fn policy_loaded(rules: &Rules) -> Event {
    let Rules { policy, digest, .. } = rules;
    let protected = policy.ports.iter().map(|rule| rule.port).collect();
    Event::PolicyLoaded { rules: digest.to_string(), protected, mode: policy.mode }
}

fn view(observed: &Observed, now: &Now) -> Option<DeniedView> {
    let Observed { source: address, protocol, port: number, lookups, packets, last_boot_ns } = *observed;
    let port = PortSpec { number, protocol: Protocol::of_number(protocol)? };
    // Each hook sees a packet once, and not each sees all of them.
    let (count, last_seen) = (lookups.max(packets), now.wall_at(BootNanos(last_boot_ns)));
    Some(DeniedView { address, port, last_seen, count, observed: true, new_flows: lookups })
}

/// What the mode keeps from holding.
pub(super) fn condition(mode: &ModeView) -> Option<(Condition, String)> {
    let condition = match mode.effective {
        Mode::Observe => Condition::Observing,
        Mode::Enforce => Condition::OnTrial,
    };
    Some((condition, sentence(mode)?))
}

fn sentence(mode: &ModeView) -> Option<String> {
    let ModeView { effective, file, until, rolled_back, .. } = mode;
    let open = "every protected port is open to everybody";
    match (effective, until, rolled_back) {
        (Mode::Enforce, None, _) => None,
        (Mode::Enforce, Some(until), _) => Some(format!(
            "the host enforces on trial until {until}: then {open} again, unless postern confirm comes first"
        )),
        (Mode::Observe, _, Some(at)) if *file == Mode::Enforce => Some(format!(
            "observe mode: nobody confirmed a trial, so {open} since {at}, although the configuration file says enforce; \
             a reload closes them, and so does a boot"
        )),
        (Mode::Observe, _, Some(at)) => Some(format!("observe mode: nobody confirmed a trial, so {open} since {at}")),
        (Mode::Observe, _, None) => Some(format!("observe mode: nothing is dropped, {open}")),
    }
}
