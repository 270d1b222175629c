//! Sessions at the end of their grant, and at the beginning of a port's protection. This module owns when the worker lists the kernel's
//! sessions, and which of them it records as retained. It lists them shortly before an end, because the kernel ends a grant without
//! posternd. While posternd is dead, sessions end with their grant. Only `bootstrap` lets anybody in anew.

use std::collections::BTreeSet;
use std::sync::Arc;

use postern_core::bootstrap::{self, MOST_IN_A_RECORD};
use postern_core::condition::Condition;
use postern_core::grant::Grant;
use postern_core::ledger::{Event, Ledger};
use postern_core::policy::{OnExpiry, Policy};
use postern_core::refusal::Refusal;
use postern_core::request::EndCause;
use postern_core::retained::{self, RetainedSession, Session};
use postern_core::time::{BootNanos, Now};
use uuid::Uuid;

use super::State;
use super::draft::Draft;
use super::wake::{SESSION_LOOKS, nanos};
use crate::engine::Rules;
use crate::system::sessions::{self, OwnSockets, Scope};

pub(super) struct Watch {
    /// All looks that were due until then are done.
    looked: BootNanos,
}

impl Watch {
    pub(super) fn new() -> Self {
        Self { looked: BootNanos(0) }
    }

    pub(super) fn next_look(&self, policy: &Policy, ledger: &Ledger) -> Option<BootNanos> {
        let soft = ledger.active().filter(|grant| may_leave_sessions(policy, grant));
        soft.flat_map(looks).filter(|look| self.looked < *look).min()
    }

    /// Records the sessions that outlive grants which end soon, as far as the policy allows it.
    pub(super) fn retain(&mut self, draft: &mut Draft<'_>) {
        let (policy, now) = (Arc::clone(&draft.rules.policy), draft.now);
        let due = |look: BootNanos| self.looked < look && look <= now.boot;
        let ends_soon = |grant: &&Grant| {
            now.boot < grant.expires_boot && looks(grant).any(due) && may_leave_sessions(&policy, grant)
        };
        let ending: Vec<_> = draft.state.ledger.active().filter(ends_soon).cloned().collect();
        self.looked = now.boot;
        if ending.is_empty() {
            return;
        }
        let scopes: Vec<_> = ending.iter().flat_map(sessions::scopes).collect();
        let outcome = forget_closed(&mut draft.state.ledger, &now)
            .and_then(|()| sessions::inbound(&scopes, || draft.state.kernel.own_sockets()).map_err(not_listed));
        let why = match outcome {
            Ok(established) => record_outliving(draft, &ending, &established),
            Err(error) => Some(error),
        };
        draft.state.conditions.set(Condition::SessionsNotKept, why);
    }
}

/// Records the sessions of `established` that outlive the grants `ending`. Returns a reason if there is no room for some.
fn record_outliving(draft: &mut Draft<'_>, ending: &[Grant], established: &[Session]) -> Option<String> {
    let mut left_out = 0;
    for grant in ending {
        let wanted = retained::outliving(&draft.rules.policy, grant, established);
        let mut kept = draft.state.ledger.keeping().longer(wanted, &draft.now);
        let room = room(&draft.state.ledger, &draft.now);
        left_out += kept.len().saturating_sub(room);
        kept.truncate(room);
        for kept in kept.chunks(MOST_IN_A_RECORD) {
            draft.push(None, Event::SessionsKept { grant: grant.id, kept: kept.to_vec() });
        }
    }
    let most = sessions::MOST_RETAINED;
    (left_out > 0).then(|| format!("{left_out} sessions end with their grant: {most} others outlive theirs already"))
}

/// Retains the existing sessions on ports that `policy` protects and `closed` lacks, and lets their sources in for a while.
pub(super) fn bootstrap(draft: &mut Draft<'_>, policy: &Policy, closed: &BTreeSet<(u8, u16)>) {
    let State { ledger, kernel, .. } = &mut *draft.state;
    let existing = existing_sessions(policy, closed, ledger, || kernel.own_sockets(), &draft.now);
    let planned = existing.map(|(existing, served)| {
        bootstrap::plan(ledger, &existing, &served, kernel.capacity, &draft.now, Uuid::new_v4)
    });
    let (events, refusal) = match planned {
        Ok(planned) => planned,
        Err(error) => return draft.state.conditions.set(Condition::BootstrapIncomplete, Some(error)),
    };
    for event in events {
        if let Event::Granted { grant } = &event
            && let Err(error) = draft.state.kernel.enforcer.reset_usage(grant.slot)
        {
            tracing::warn!(%error, slot = grant.slot, "the usage of a grant goes on from that of an earlier grant");
        }
        log_bootstrap(&event);
        draft.push(None, event);
    }
    draft.state.conditions.set(Condition::BootstrapIncomplete, refusal.as_ref().map(no_room));
}

/// Forgets the retained sessions whose own end has come, which needs no record. Returns their scopes.
pub(super) fn forget_over(ledger: &mut Ledger, now: &Now) -> Vec<Scope> {
    let over = ledger.forget_over(now);
    over.iter().filter_map(RetainedSession::session).map(|session| Scope::from(&session)).collect()
}

impl State {
    /// Destroys the sessions in the scopes `over`, except retained sessions and those that a live grant carries.
    pub(super) fn end_sessions(&mut self, over: &[Scope], now: &Now) {
        // An observing host ends nothing.
        if over.is_empty() || self.ledger.mode_state().observes(now) {
            return;
        }
        let live = |grant: &&Grant| grant.is_live(now.boot);
        let carried: Vec<_> = self.ledger.active().filter(live).flat_map(sessions::scopes).collect();
        let spared: BTreeSet<_> = self.ledger.keeping().sessions(now).map(|(_, kept)| kept.cookie).collect();
        let why = match sessions::destroy_but(&spared, || self.kernel.own_sockets(), over, &carried) {
            Ok(destroyed) => {
                tracing::info!(?destroyed, "sessions ended");
                match destroyed.errno.map(std::io::Error::from_raw_os_error) {
                    None => sessions::cannot_end(),
                    Some(error) => {
                        let refused = destroyed.refused;
                        Some(format!("{refused} sockets could not be destroyed, they hang silently: {error}"))
                    }
                }
            }
            Err(error) => Some(format!("sockets could not be destroyed, they hang silently: {error}")),
        };
        self.conditions.set(Condition::SessionsNotEnded, why);
    }
}

fn looks(grant: &Grant) -> impl Iterator<Item = BootNanos> + use<> {
    let end = grant.expires_boot.0;
    SESSION_LOOKS.into_iter().map(move |before| BootNanos(end.saturating_sub(nanos(before))))
}

fn may_leave_sessions(policy: &Policy, grant: &Grant) -> bool {
    let soft = |port| policy.rule(port).is_some_and(|(_, rule)| rule.on_expiry != OnExpiry::Cut);
    grant.ports.iter().any(|port| soft(*port))
}

/// Everything that `rules` no longer allow, and why: requests, grants, and ended grants with retained sessions.
pub(super) fn forbidden(rules: &Rules, ledger: &Ledger, now: &Now) -> Vec<(Uuid, EndCause)> {
    let living = ledger.living().filter_map(|held| Some((held.request.id(), rules.forbid(held, now)?)));
    let outlived: BTreeSet<_> = ledger.keeping().sessions(now).map(|(grant, _)| grant).collect();
    let ended = outlived.into_iter().filter_map(|id| match ledger.get(&id) {
        Some(held) if held.ending.is_none() => None,
        Some(held) => Some((id, rules.forbid(held, now)?)),
        // The ledger has forgotten the owner of the grant, because so many grants ended since.
        None => Some((id, EndCause::PolicyChanged)),
    });
    living.chain(ended).collect()
}

/// The established sessions on ports that `policy` protects and `closed` lacks, as many as there is room for, and the cookies of those that
/// the other side could open anew. Sessions that the host itself opened are left out, as far as `own` shows them.
pub(super) fn existing_sessions(
    policy: &Policy,
    closed: &BTreeSet<(u8, u16)>,
    ledger: &Ledger,
    own: impl Fn() -> std::io::Result<OwnSockets>,
    now: &Now,
) -> Result<(Vec<Session>, BTreeSet<u64>), String> {
    let fresh = policy.protected().filter(|transport| !closed.contains(transport));
    let scopes: Vec<_> = fresh.flat_map(|(protocol, port)| everyone(protocol, port)).collect();
    let mut existing = sessions::inbound(&scopes, own).map_err(not_listed)?;
    let room = room(ledger, now);
    if existing.len() > room {
        tracing::error!(
            sessions = existing.len(),
            kept = room,
            "not every session on a port that becomes protected is kept"
        );
        existing.truncate(room);
    }
    let served = sessions::served(&existing).map_err(not_listed)?;
    Ok((existing, served))
}

fn room(ledger: &Ledger, now: &Now) -> usize {
    (sessions::MOST_RETAINED as usize).saturating_sub(ledger.keeping().sessions(now).count())
}

pub(super) fn everyone(protocol: u8, port: u16) -> [Scope; 2] {
    let families = [ipnet::Ipv4Net::default().into(), ipnet::Ipv6Net::default().into()];
    families.map(|source| Scope { protocol, port, source })
}

/// Forgets the retained sessions that ended by themselves, to make room for others.
pub(super) fn forget_closed(ledger: &mut Ledger, now: &Now) -> Result<(), String> {
    let kept = ledger.keeping().sessions(now).filter_map(|(_, kept)| kept.session());
    let ports: BTreeSet<_> = kept.map(|session| (session.protocol, session.port)).collect();
    let scopes: Vec<_> = ports.into_iter().flat_map(|(protocol, port)| everyone(protocol, port)).collect();
    if scopes.is_empty() {
        return Ok(());
    }
    let alive = sessions::established(&scopes).map_err(not_listed)?;
    ledger.forget_closed(&alive.iter().map(|session| session.cookie).collect());
    Ok(())
}

pub(super) fn log_bootstrap(event: &Event) {
    match event {
        Event::Granted { grant } if grant.expires_boot <= grant.starts_boot => tracing::warn!(
            ports = ?grant.ports, sources = ?grant.sources, id = %grant.id,
            "bootstrap: these had sessions when the port became protected, and nobody listens there: they may not connect anew"
        ),
        Event::Granted { grant } => tracing::warn!(
            ports = ?grant.ports, sources = ?grant.sources, id = %grant.id,
            "bootstrap: these had sessions when the port became protected, and may connect anew for {}", bootstrap::BOOTSTRAP
        ),
        Event::SessionsKept { kept, grant } => {
            tracing::warn!(sessions = kept.len(), id = %grant, "bootstrap: these sessions are retained");
        }
        _ => {}
    }
}

pub(super) fn no_room(refusal: &Refusal) -> String {
    format!("not every session that was there when its port became protected could be kept: {}", refusal.sentence())
}

pub(super) fn not_listed(error: std::io::Error) -> String {
    format!("the kernel did not list its sessions: {error}")
}
