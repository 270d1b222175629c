//! Answers to queries: views of grants and of the host. This module owns what a reader may see of the durable state.

use postern_core::grant::{PortSpec, Protocol};
use postern_core::refusal::{Reason, Refusal};
use postern_core::request::{Request, RequestRecord, State as Stage};
use postern_core::time::{BootNanos, Now};
use postern_core::verdict::Hook;
use uuid::Uuid;

use super::{State, Worker, trial};
use crate::enforcer::{LayerState, LayerStatus, Observed};
use crate::engine::audit::latest_first;
use crate::engine::command::Query;
use crate::engine::shared::Shared;
use crate::engine::{
    ClockView, DeniedView, ExplainQuery, Explanation, Filter, GrantView, HostState, LayerView, ModeView, Reader,
    explain,
};

pub(super) struct Reads<'a> {
    shared: &'a Shared,
    state: &'a State,
    now: Now,
}

impl Worker {
    pub(super) fn answer_queries(&mut self) {
        for query in std::mem::take(&mut self.queries) {
            // One turn may answer hundreds of queries. The watchdog does not wait for all of them.
            self.beat.turn();
            self.answer_query(query);
        }
    }

    fn answer_query(&mut self, query: Query) {
        let shared = &self.engine.0;
        let reads = Reads::new(shared, &self.state);
        // A caller that has gone away needs no answer.
        match query {
            Query::Get { reader, id, answer } => {
                drop(answer.send(shared.reread(&reader).and_then(|reader| reads.get(&reader, &id))));
            }
            Query::List { reader, filter, before, limit, answer } => {
                let reader = shared.reread(&reader);
                drop(answer.send(reader.map(|reader| reads.list(&reader, &filter, before, limit))));
            }
            Query::Explain { query, reader, answer } => {
                drop(answer.send(shared.reread(&reader).map(|reader| reads.explain(&query, &reader))));
            }
            Query::Status { reader, answer } => {
                let reader = shared.reread(&reader);
                drop(answer.send(reader.map(|_| self.status())));
            }
            Query::Observed { answer } => drop(answer.send(reads.observed(&[]))),
        }
    }

    fn status(&mut self) -> HostState {
        let conditions = self.conditions(&self.shared().now());
        let (shared, State { ledger, kernel, surroundings, .. }) = (self.shared(), &self.state);
        let reads = Reads::new(shared, &self.state);
        let layers = kernel.enforcer.layers().into_iter().map(|layer| layer_view(layer, surroundings.network()));
        HostState {
            host_id: shared.identity().host_id,
            names: shared.identity().names.clone(),
            started: shared.started,
            boot_id: reads.now.boot_id,
            conditions,
            clock: reads.clock(),
            layers: layers.collect(),
            mode: reads.mode(),
            prefilters: self.prefilter.statuses().to_vec(),
            ports: shared.rules().policy.ports.clone(),
            counters: reads.counters(),
            unverified: shared.tally.totals(),
            live_grants: u32::try_from(ledger.active().count()).unwrap_or(u32::MAX),
            journal_seq: ledger.last_seq(),
            journal_head: shared.journal.head(),
            journal_path: shared.journal.path().display().to_string(),
        }
    }
}

impl<'a> Reads<'a> {
    pub(super) fn new(shared: &'a Shared, state: &'a State) -> Self {
        Self { shared, state, now: shared.now() }
    }

    fn explain(&self, query: &ExplainQuery, reader: &Reader) -> Explanation {
        let all = Filter { include_ended: true, ..Filter::default() };
        let seen = explain::Seen {
            policy: &self.shared.rules().policy,
            ledger: &self.state.ledger,
            approvers: &[],
            unsigned: None,
            grants: self.list(reader, &all, None, explain::MOST_GRANTS),
            denied: latest_first(self.shared.denied.at(&query.ports), self.observed(&query.ports)),
            now: &self.now,
            observes: self.state.ledger.mode_state().observes(&self.now),
        };
        explain::explain(query, reader, seen)
    }

    fn get(&self, reader: &Reader, id: &Uuid) -> Result<GrantView, Refusal> {
        let held = self.state.ledger.get(id).filter(|held| reader.may_see(&held.request.signer().principal));
        // The payload may be long. Only this answer has it, because an approver needs it.
        let whole = |held: &RequestRecord| GrantView { life: held.request.clone(), ..self.view_of(held) };
        held.map(whole).ok_or_else(|| Refusal::new(Reason::GrantNotFound, id).at("id"))
    }

    fn list(&self, reader: &Reader, filter: &Filter, before: Option<u64>, limit: usize) -> Vec<GrantView> {
        let visible = |held: &&RequestRecord| {
            filter.wants(stage_of(held, &self.now)) && reader.may_see(&held.request.signer().principal)
        };
        let grants = self.state.ledger.newest_before(before.unwrap_or(u64::MAX));
        grants.filter(visible).take(limit).map(|held| self.view_of(held)).collect()
    }

    pub(super) fn view(&self, id: &Uuid) -> Option<GrantView> {
        self.state.ledger.get(id).map(|held| self.view_of(held))
    }

    fn view_of(&self, held: &RequestRecord) -> GrantView {
        let (now, state) = (&self.now, stage_of(held, &self.now));
        let active = held.grant().filter(|_| state == Stage::Active);
        GrantView {
            seq: held.seq,
            life: held.request.without_payload(),
            state,
            ending: held.ending.clone(),
            remaining_ns: active.map_or(0, |grant| now.boot.until(grant.expires_boot)),
            usage: if held.ending.is_none() { self.state.kernel.usage(held, now) } else { held.usage },
            steps: held.steps.clone(),
            superseded_by: held.superseded_by,
        }
    }

    pub(super) fn mode(&self) -> ModeView {
        trial::view(&self.state.ledger, &self.now)
    }

    fn clock(&self) -> ClockView {
        let clock = &self.shared.clock;
        ClockView {
            state: self.now.clock,
            forgetful: self.shared.is_unsure(&self.now),
            unnoticed: clock.unnoticed().map(str::to_owned),
            restores: clock.restores(),
        }
    }

    /// The packets to any of `ports` that enforcement would have dropped. No ports means all ports.
    fn observed(&self, ports: &[PortSpec]) -> Vec<DeniedView> {
        let wanted = |port: PortSpec| {
            ports.is_empty() || ports.iter().any(|p| p.number == port.number && p.protocol.covers(port.protocol))
        };
        let observed = self.state.kernel.enforcer.observed();
        let views = observed.iter().filter_map(|observed| observed_view(observed, &self.now));
        views.filter(|attempt| wanted(attempt.port)).collect()
    }

    fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        let counted = self.state.kernel.enforcer.counters().into_iter().filter(|(_, _, count)| *count > 0);
        counted.map(|(hook, fate, count)| (hook.code(), fate.code(), count)).collect()
    }
}

fn observed_view(observed: &Observed, now: &Now) -> Option<DeniedView> {
    let Observed { source: address, protocol, port: number, lookups, packets, last_boot_ns } = *observed;
    let port = PortSpec { number, protocol: Protocol::of_number(protocol)? };
    // Each hook sees a packet once, and no hook sees all packets.
    let (count, last_seen) = (lookups.max(packets), now.wall_at(BootNanos(last_boot_ns)));
    Some(DeniedView { address, port, last_seen, count, observed: true, new_flows: lookups })
}

/// The state of `held`. The clock decides if the record of an end is late, because the kernel does not wait for it.
fn stage_of(held: &RequestRecord, now: &Now) -> Stage {
    match (held.state(), &held.request) {
        (Stage::Active, Request::Granted(grant)) if grant.boot_id != now.boot_id || !grant.is_live(now.boot) => {
            Stage::Expired
        }
        (Stage::Pending, Request::Pending(pending)) if pending.lapses_boot <= now.boot => Stage::Expired,
        (state, _) => state,
    }
}

/// `network` is the network namespace that the lock protects, if that is not the host's first.
fn layer_view(layer: LayerStatus, network: Option<&str>) -> LayerView {
    let attached = layer.state == LayerState::InForce;
    let state = layer.state.code();
    let detail = match network.filter(|_| attached && layer.hook == Hook::Lock) {
        None => state.to_owned(),
        Some(network) => format!("{state} in the network namespace {network}, which is not the host's first"),
    };
    LayerView { name: layer.hook.code(), attached, detail }
}
