//! Sessions at the end of their grant, and at the beginning of a port's protection.
//!
//! Owns when to ask the kernel which sessions there are, and what is recorded of the answer. It is asked shortly before an end, because
//! the end itself comes without the agent: while it is dead, sessions end with their grant. It never lets anything new in but by
//! `bootstrap`, for sources that were in.

use std::collections::BTreeSet;
use std::time::Duration;

use postern_core::bootstrap::{self, MOST_IN_A_RECORD};
use postern_core::condition::Condition;
use postern_core::grant::Grant;
use postern_core::ledger::{Event, Ledger, Seen};
use postern_core::mode::{self, Mode};
use postern_core::policy::{OnExpiry, Policy};
use postern_core::refusal::Refusal;
use postern_core::request::EndCause;
use postern_core::retained::{self, Session};
use postern_core::table::{self, Table};
use postern_core::time::{BootNanos, Now};
use uuid::Uuid;

use super::{Batch, Worker, nanos};
use crate::engine::Rules;
use crate::system::sessions::{self, OwnSockets, Scope};

/// How long before a grant's end its sessions are looked for: early enough for a busy machine and a slow disk, and once more
/// for those that came up since.
const LOOKS: [Duration; 2] = [Duration::from_secs(2), Duration::from_millis(250)];

impl Worker {
    /// When sessions that may outlive their grant are to be looked for next.
    pub(super) fn next_look(&self) -> Option<BootNanos> {
        let policy = self.shared().rules().policy;
        let soft = self.ledger.active().filter(|grant| may_leave_sessions(&policy, grant));
        soft.flat_map(looks).filter(|look| self.looked < *look).min()
    }

    /// Has sessions outlive the grants that end soon, as far as the policy lets them.
    pub(super) fn keep_sessions(&mut self, batch: &mut Batch, now: &Now) {
        let policy = self.shared().rules().policy;
        let due = |look: BootNanos| self.looked < look && look <= now.boot;
        let ending: Vec<_> = self
            .ledger
            .active()
            .filter(|grant| {
                now.boot < grant.expires_boot && looks(grant).any(due) && may_leave_sessions(&policy, grant)
            })
            .cloned()
            .collect();
        self.looked = now.boot;
        if ending.is_empty() {
            return;
        }
        let scopes: Vec<_> = ending.iter().flat_map(sessions::scopes).collect();
        let outcome = forget_closed(&mut self.ledger, now)
            .and_then(|()| sessions::inbound(&scopes, || self.enforcer.own_sockets()).map_err(unasked));
        match outcome {
            Ok(established) => self.keep(&policy, &ending, &established, batch, now),
            Err(error) => drop(self.degraded.insert(Condition::SessionsNotKept, error)),
        }
    }

    fn keep(&mut self, policy: &Policy, ending: &[Grant], established: &[Session], batch: &mut Batch, now: &Now) {
        let mut left_out = 0;
        for grant in ending {
            let wanted = retained::outliving(policy, grant, established);
            let mut kept = self.ledger.keeping().longer(wanted, now);
            let room = room(&self.ledger, now);
            left_out += kept.len().saturating_sub(room);
            kept.truncate(room);
            for kept in kept.chunks(MOST_IN_A_RECORD) {
                self.push(batch, None, Event::SessionsKept { grant: grant.id, kept: kept.to_vec() }, now);
            }
        }
        let most = sessions::MOST_RETAINED;
        match left_out {
            0 => drop(self.degraded.remove(&Condition::SessionsNotKept)),
            _ => drop(self.degraded.insert(
                Condition::SessionsNotKept,
                format!("{left_out} sessions end with their grant: {most} others outlive theirs already"),
            )),
        }
    }

    /// Ends the sessions that outlived `grant`.
    pub(super) fn cut_retained(
        &mut self,
        batch: &mut Batch,
        grant: Uuid,
        message: Option<Seen>,
        by: String,
        reason: String,
        now: &Now,
    ) {
        let of_grant = self.ledger.keeping().sessions(now).filter(|(of, _)| *of == grant);
        batch.over.extend(of_grant.filter_map(|(_, kept)| kept.session()).map(|session| Scope::from(&session)));
        self.push(batch, message, Event::SessionsCut { grant, by, reason }, now);
    }

    /// Keeps the sessions that `policy` meets on ports that are not in `closed`, which were open until now, and lets their
    /// sources in for a while.
    pub(super) fn bootstrap(&mut self, policy: &Policy, closed: &BTreeSet<(u8, u16)>, batch: &mut Batch, now: &Now) {
        let planned = met(policy, closed, &self.ledger, || self.enforcer.own_sockets(), now)
            .map(|(met, served)| bootstrap::plan(&self.ledger, &met, &served, self.capacity, now, Uuid::new_v4));
        let (events, refusal) = match planned {
            Ok(planned) => planned,
            Err(error) => return drop(self.degraded.insert(Condition::BootstrapIncomplete, error)),
        };
        for event in events {
            if let Event::Granted { grant } = &event
                && let Err(error) = self.enforcer.reset_usage(grant.slot)
            {
                tracing::warn!(%error, slot = grant.slot, "what a grant is used for counts on from another's");
            }
            tell_bootstrap(&event);
            self.push(batch, None, event, now);
        }
        match refusal {
            None => drop(self.degraded.remove(&Condition::BootstrapIncomplete)),
            Some(refusal) => drop(self.degraded.insert(Condition::BootstrapIncomplete, no_room(&refusal))),
        }
    }

    /// Destroys the sessions that `over` carried, unless a live grant carries them or they outlive theirs.
    pub(super) fn end_sessions(&mut self, over: &[Scope], now: &Now) {
        // A host that only observes ends nothing.
        if over.is_empty() || self.ledger.mode_state().observes(now) {
            return;
        }
        let live = |grant: &&Grant| grant.is_live(now.boot);
        let carried: Vec<_> = self.ledger.active().filter(live).flat_map(sessions::scopes).collect();
        let spared: BTreeSet<_> = self.ledger.keeping().sessions(now).map(|(_, kept)| kept.cookie).collect();
        match sessions::destroy_but(&spared, || self.enforcer.own_sockets(), over, &carried) {
            Ok(destroyed) => {
                match destroyed.errno.map(std::io::Error::from_raw_os_error) {
                    None => match sessions::cannot_end() {
                        None => self.degraded.remove(&Condition::SessionsNotEnded),
                        Some(why) => self.degraded.insert(Condition::SessionsNotEnded, why),
                    },
                    Some(error) => self.degraded.insert(
                        Condition::SessionsNotEnded,
                        format!("{} sockets could not be destroyed, they hang silently: {error}", destroyed.refused),
                    ),
                };
                tracing::info!(?destroyed, "sessions ended");
            }
            Err(error) => {
                self.degraded.insert(
                    Condition::SessionsNotEnded,
                    format!("sockets could not be destroyed, they hang silently: {error}"),
                );
            }
        }
    }
}

fn looks(grant: &Grant) -> impl Iterator<Item = BootNanos> + use<> {
    let end = grant.expires_boot.0;
    LOOKS.into_iter().map(move |before| BootNanos(end.saturating_sub(nanos(before))))
}

fn may_leave_sessions(policy: &Policy, grant: &Grant) -> bool {
    let soft = |port| policy.rule(port).is_some_and(|(_, rule)| rule.on_expiry != OnExpiry::Cut);
    grant.ports.iter().any(|port| soft(*port))
}

/// What the kernel should hold where the configuration says `file`: nothing of another boot, of a time that is over, or of the grants in `forbidden`.
pub(super) fn table(policy: &Policy, ledger: &Ledger, forbidden: &BTreeSet<Uuid>, file: Mode, now: &Now) -> Table {
    let current = ledger.active().filter(|grant| grant.boot_id == now.boot_id && !forbidden.contains(&grant.id));
    let kept = ledger.keeping().sessions(now).filter(|(grant, _)| !forbidden.contains(grant));
    let flows = kept.filter_map(|(_, kept)| kept.flow()).take(sessions::MOST_RETAINED as usize);
    let observe_from = mode::observe_from(file, &ledger.mode_state().enabling, now.boot_id);
    Table { observe_from, ..table::compile(policy, current, now.boot).keeping(flows, now.boot) }
}

/// What `rules` no longer let be, and why: requests, grants, and ended grants that sessions outlive.
pub(super) fn forbidden(rules: &Rules, ledger: &Ledger, now: &Now) -> Vec<(Uuid, EndCause)> {
    let living = ledger.living().filter_map(|held| Some((held.request.id(), rules.forbid(held, now)?)));
    let outlived: BTreeSet<_> = ledger.keeping().sessions(now).map(|(grant, _)| grant).collect();
    let ended = outlived.into_iter().filter_map(|id| match ledger.get(&id) {
        Some(held) if held.ending.is_none() => None,
        Some(held) => Some((id, rules.forbid(held, now)?)),
        // So many grants ended since that nobody remembers whose it was.
        None => Some((id, EndCause::PolicyChanged)),
    });
    living.chain(ended).collect()
}

/// The established sessions on ports that `policy` protects and that are not in `closed`, as many as there is room for, and the
/// cookies of those that the other side could open anew. None that the host itself opened, as far as `own` shows it.
pub(super) fn met(
    policy: &Policy,
    closed: &BTreeSet<(u8, u16)>,
    ledger: &Ledger,
    own: impl Fn() -> std::io::Result<OwnSockets>,
    now: &Now,
) -> Result<(Vec<Session>, BTreeSet<u64>), String> {
    let fresh = policy.protected().filter(|transport| !closed.contains(transport));
    let scopes: Vec<_> = fresh.flat_map(|(protocol, port)| everyone(protocol, port)).collect();
    let mut met = sessions::inbound(&scopes, own).map_err(unasked)?;
    let room = room(ledger, now);
    if met.len() > room {
        tracing::error!(
            sessions = met.len(),
            kept = room,
            "not every session on a port that becomes protected is kept"
        );
        met.truncate(room);
    }
    let served = sessions::served(&met).map_err(unasked)?;
    Ok((met, served))
}

fn room(ledger: &Ledger, now: &Now) -> usize {
    (sessions::MOST_RETAINED as usize).saturating_sub(ledger.keeping().sessions(now).count())
}

pub(super) fn everyone(protocol: u8, port: u16) -> [Scope; 2] {
    let families = [ipnet::Ipv4Net::default().into(), ipnet::Ipv6Net::default().into()];
    families.map(|source| Scope { protocol, port, source })
}

/// Forgets the kept sessions that ended by themselves, so that there is room for others.
pub(super) fn forget_closed(ledger: &mut Ledger, now: &Now) -> Result<(), String> {
    let kept = ledger.keeping().sessions(now).filter_map(|(_, kept)| kept.session());
    let ports: BTreeSet<_> = kept.map(|session| (session.protocol, session.port)).collect();
    let scopes: Vec<_> = ports.into_iter().flat_map(|(protocol, port)| everyone(protocol, port)).collect();
    if scopes.is_empty() {
        return Ok(());
    }
    let alive = sessions::established(&scopes).map_err(unasked)?;
    ledger.forget_closed(&alive.iter().map(|session| session.cookie).collect());
    Ok(())
}

/// Whoever reads the log shall see who was let in.
pub(super) fn tell_bootstrap(event: &Event) {
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
            tracing::warn!(sessions = kept.len(), id = %grant, "bootstrap: these sessions go on");
        }
        _ => {}
    }
}

/// For the status, where not everybody could be kept.
pub(super) fn no_room(refusal: &Refusal) -> String {
    format!("not every session that was there when its port became protected could be kept: {}", refusal.sentence())
}

pub(super) fn unasked(error: std::io::Error) -> String {
    format!("the kernel could not be asked for its sessions: {error}")
}
