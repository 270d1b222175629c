//! The mode: trials of enforcement, their confirmation and their end. This module owns the records of the mode, and the sentence about it.
//! The kernel keeps the time of a trial, and the record of its end follows later.

use std::collections::BTreeSet;
use std::sync::Arc;

use postern_core::condition::Condition;
use postern_core::ledger::{Event, Ledger};
use postern_core::mode::{self, MAX_TRIAL, MIN_TRIAL, Mode, Trial};
use postern_core::refusal::{Reason, Refusal};
use postern_core::time::{Now, Seconds};
use uuid::Uuid;

use super::draft::Draft;
use super::{State, retained};
use crate::engine::{ModeView, Rules};
use crate::system::sessions;

/// The name in the record: only root may change the mode, over the Unix socket.
const ROOT: &str = "root";

pub(super) fn view(ledger: &Ledger, now: &Now) -> ModeView {
    let standing = ledger.mode_state();
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

/// The configured mode, as far as the kernel may follow it. Before this start is on record, the kernel may close but not open.
pub(super) fn file(mode: Mode, ledger: &Ledger, is_start_recorded: bool) -> Mode {
    match mode {
        Mode::Enforce if !is_start_recorded => Mode::Enforce,
        _ => ledger.mode_state().file,
    }
}

/// Begins a trial. Existing sessions stay, and their sources may reconnect for a while. Everybody else needs a grant.
pub(super) fn enable(draft: &mut Draft<'_>, within: Seconds, only_while_running: bool) -> Result<(), Refusal> {
    let (standing, now) = (draft.state.ledger.mode_state(), draft.now);
    if !standing.observes(&now) {
        let trial = standing.trial(&now).map(|trial| format!("on trial until {}", trial.until)).unwrap_or_default();
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
        let State { surroundings, kernel, conditions, .. } = &mut *draft.state;
        surroundings.check_outlives(kernel, conditions, &draft.shared.now())?;
    }
    let policy = Arc::clone(&draft.rules.policy);
    retained::bootstrap(draft, &policy, &BTreeSet::new());
    let until_boot = now.boot.plus_nanos(within.0.saturating_mul(1_000_000_000));
    let trial = Trial { until_boot, until: now.wall_at(until_boot), boot_id: now.boot_id };
    tracing::warn!(until = %trial.until, "{ROOT} has the host enforce on trial");
    draft.push(None, Event::Enabled { trial, by: ROOT.to_owned() });
    Ok(())
}

/// Confirms a trial. The caller has checked the configuration file. Returns the grant that proves the way in.
pub(super) fn confirm(draft: &mut Draft<'_>, without_proof: bool) -> Result<Option<Uuid>, Refusal> {
    check_trial(draft)?;
    let grant = if without_proof { None } else { Some(way_in(draft)?) };
    tracing::warn!(?grant, "{ROOT} confirmed that the host enforces");
    draft.push(None, Event::Confirmed { by: ROOT.to_owned(), grant });
    Ok(grant)
}

pub(super) fn roll_back(draft: &mut Draft<'_>) -> Result<(), Refusal> {
    check_trial(draft)?;
    give_up(draft, ROOT);
    Ok(())
}

pub(super) fn give_up(draft: &mut Draft<'_>, by: &str) {
    tracing::error!(by, "a trial was given up: every protected port is open");
    draft.push(None, Event::RolledBack { at: draft.now.wall, by: by.to_owned() });
}

/// Records the end of a trial that the kernel has ended by itself.
pub(super) fn record_lapsed(draft: &mut Draft<'_>) {
    let Some(trial) = draft.state.ledger.mode_state().lapsed(&draft.now) else { return };
    let at = trial.until;
    tracing::error!(%at, "nobody confirmed the trial: every protected port is open again");
    draft.push(None, Event::RolledBack { at, by: String::new() });
}

/// Records new rules, and retains existing sessions on ports that the rules close.
pub(super) fn load_policy(draft: &mut Draft<'_>, rules: &Rules) {
    let (policy, standing, now) = (&rules.policy, draft.state.ledger.mode_state(), &draft.now);
    let observed = standing.observes(now);
    match (observed, mode::is_observing(policy.mode, &standing.enabling_after_reload(), now)) {
        (_, false) => {
            let closed = if observed { BTreeSet::new() } else { draft.state.kernel.protected().clone() };
            retained::bootstrap(draft, policy, &closed);
        }
        (false, true) => tracing::error!("the configuration says mode = \"observe\": every protected port is open"),
        (true, true) => {}
    }
    draft.push(None, policy_loaded(rules));
}

fn check_trial(draft: &Draft<'_>) -> Result<(), Refusal> {
    let trial = draft.state.ledger.mode_state().trial(&draft.now);
    trial.map(drop).ok_or_else(|| Refusal::new(Reason::NoTrial, ""))
}

/// The signed grant under which somebody has come in since the trial began.
fn way_in(draft: &Draft<'_>) -> Result<Uuid, Refusal> {
    let unproven = |why: &str| Refusal::new(Reason::WayInUnproven, why);
    let policy = draft.shared.rules().policy;
    let scopes: Vec<_> = policy.protected().flat_map(|(protocol, port)| retained::everyone(protocol, port)).collect();
    let there = sessions::inbound(&scopes, || draft.state.kernel.own_sockets()).map_err(retained::not_listed);
    let there = there.map_err(|why| unproven(&why))?;
    mode::way_in(&draft.state.ledger, &there, &draft.now).ok_or_else(|| unproven(""))
}

pub(super) fn policy_loaded(rules: &Rules) -> Event {
    let Rules { policy, digest, .. } = rules;
    let protected = policy.ports.iter().map(|rule| rule.port).collect();
    Event::PolicyLoaded { rules: digest.to_string(), protected, mode: policy.mode }
}

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
