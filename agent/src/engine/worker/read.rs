//! What the worker tells readers.
//!
//! Owns the views of grants and of the host. It never changes anything.

use postern_core::grant::Use;
use postern_core::refusal::{Reason, Refusal};
use postern_core::request::{Request, RequestRecord, State};
use postern_core::time::{BootNanos, Now};
use postern_core::verdict::Hook;
use uuid::Uuid;

use super::Worker;
use crate::enforcer::{LayerState, LayerStatus};
use crate::engine::audit::latest_first;
use crate::engine::{Command, Explanation, Filter, GrantView, HostState, LayerView, Query, Reader, explain};

impl Worker {
    pub(super) fn serve(&mut self, command: Command) {
        // A caller who went away needs no answer.
        match command {
            Command::Get { reader, id, answer } => {
                drop(answer.send(self.shared().reread(&reader).and_then(|reader| self.get(&reader, &id))));
            }
            Command::List { reader, filter, before, limit, answer } => {
                let reader = self.shared().reread(&reader);
                drop(answer.send(reader.map(|reader| self.list(&reader, &filter, before, limit))));
            }
            Command::Explain { query, reader, answer } => {
                let reader = self.shared().reread(&reader);
                drop(answer.send(reader.map(|reader| self.explain(&query, &reader))));
            }
            Command::Status { reader, answer } => {
                let reread = self.shared().reread(&reader);
                drop(answer.send(reread.map(|_| self.status())));
            }
            Command::Observed { answer } => drop(answer.send(self.observed(&[], &self.shared().now()))),
            Command::Request { .. }
            | Command::Approve { .. }
            | Command::Revoke { .. }
            | Command::BreakGlass { .. }
            | Command::Enable { .. }
            | Command::Confirm { .. }
            | Command::RollBack { .. }
            | Command::Refuse { .. }
            | Command::Network(_)
            | Command::LimitSyns(..)
            | Command::Degraded { .. }
            | Command::Reload { .. }
            | Command::Counted
            | Command::Clock
            | Command::Stop { .. } => {}
        }
    }

    fn explain(&self, query: &Query, reader: &Reader) -> Explanation {
        let (shared, now) = (self.shared(), self.shared().now());
        let all = Filter { include_ended: true, ..Filter::default() };
        let seen = explain::Seen {
            policy: &shared.rules().policy,
            ledger: &self.ledger,
            grants: self.list(reader, &all, None, explain::MOST_GRANTS),
            denied: latest_first(shared.denied.at(&query.ports), self.observed(&query.ports, &now)),
            now: &now,
            observes: self.ledger.mode_state().observes(&now),
        };
        explain::explain(query, reader, seen)
    }

    fn get(&self, reader: &Reader, id: &Uuid) -> Result<GrantView, Refusal> {
        let held = self.ledger.get(id).filter(|held| reader.may_see(&held.request.signer().principal));
        // Only here, for who approves: what is signed may be long.
        let whole = |held: &RequestRecord| GrantView { life: held.request.clone(), ..self.view_of(held) };
        held.map(whole).ok_or_else(|| Refusal::new(Reason::GrantNotFound, id).at("id"))
    }

    fn list(&self, reader: &Reader, filter: &Filter, before: Option<u64>, limit: usize) -> Vec<GrantView> {
        let now = self.shared().now();
        let visible = |held: &&RequestRecord| {
            filter.wants(state_of(held, &now)) && reader.may_see(&held.request.signer().principal)
        };
        let grants = self.ledger.newest_before(before.unwrap_or(u64::MAX));
        grants.filter(visible).take(limit).map(|held| self.view_of(held)).collect()
    }

    pub(super) fn view(&self, id: &Uuid) -> Option<GrantView> {
        self.ledger.get(id).map(|held| self.view_of(held))
    }

    fn view_of(&self, held: &RequestRecord) -> GrantView {
        let now = self.shared().now();
        let state = state_of(held, &now);
        let active = held.grant().filter(|_| state == State::Active);
        GrantView {
            seq: held.seq,
            life: held.request.without_payload(),
            state,
            ending: held.ending.clone(),
            remaining_ns: active.map_or(0, |grant| now.boot.until(grant.expires_boot)),
            usage: if held.ending.is_none() { self.usage(held, &now) } else { held.usage },
            steps: held.steps.clone(),
            superseded_by: held.superseded_by,
        }
    }

    /// What a live grant's packets have added up to: what an earlier run noted and what the kernel has counted since.
    pub(super) fn usage(&self, held: &RequestRecord, now: &Now) -> Use {
        let Some(grant) = held.grant().filter(|grant| held.opened && grant.boot_id == now.boot_id) else {
            return held.usage;
        };
        let counted = self.enforcer.usage(grant.slot);
        let moment = |boot: u64| (boot > 0).then(|| now.wall_at(BootNanos(boot)));
        held.usage.plus(Use {
            packets_in: counted.packets_in,
            bytes_in: counted.bytes_in,
            packets_out: counted.packets_out,
            bytes_out: counted.bytes_out,
            first: moment(counted.first_boot_ns),
            last: moment(counted.last_boot_ns),
        })
    }

    fn status(&mut self) -> HostState {
        let now = self.shared().now();
        let mode = self.mode(&now);
        let conditions = self.conditions(&mode, &now);
        let shared = self.shared();
        let network = self.surroundings.network();
        let layers: Vec<_> = self.enforcer.layers().into_iter().map(|layer| layer_view(layer, network)).collect();
        HostState {
            host_id: shared.identity().host_id,
            names: shared.identity().names.clone(),
            started: self.started,
            boot_id: now.boot_id,
            conditions,
            clock: self.clock_view(),
            layers,
            mode,
            prefilters: self.prefilter.views(),
            ports: shared.rules().policy.ports.clone(),
            counters: self.counters(),
            unverified: shared.tally.totals(),
            live_grants: u32::try_from(self.ledger.active().count()).unwrap_or(u32::MAX),
            journal_seq: self.ledger.last_seq(),
            journal_head: shared.journal.head(),
            journal_path: shared.journal.path().display().to_string(),
        }
    }

    /// What happened at all, by hook and reason.
    fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        let counted = self.enforcer.counters().into_iter().filter(|(_, _, count)| *count > 0);
        counted.map(|(hook, fate, count)| (hook.code(), fate.code(), count)).collect()
    }
}

/// Where it is in its life: the kernel does not wait for the record of an end.
fn state_of(held: &RequestRecord, now: &Now) -> State {
    match (held.state(), &held.request) {
        (State::Active, Request::Granted(grant)) if grant.boot_id != now.boot_id || !grant.is_live(now.boot) => {
            State::Expired
        }
        (State::Pending, Request::Pending(pending)) if pending.lapses_boot <= now.boot => State::Expired,
        (state, _) => state,
    }
}

/// `network` is the namespace that the lock closes, where that is not the host's first.
fn layer_view(layer: LayerStatus, network: Option<&str>) -> LayerView {
    let attached = layer.state == LayerState::InForce;
    let state = layer.state.code();
    let detail = match network.filter(|_| attached && layer.hook == Hook::Lock) {
        None => state.to_owned(),
        Some(network) => format!("{state} in the network namespace {network}, which is not the host's first"),
    };
    LayerView { name: layer.hook.code(), attached, detail }
}
