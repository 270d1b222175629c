//! What the worker tells readers.
//!
//! Owns the views of grants and of the host. It never changes anything.

use postern_core::grant::Use;
use postern_core::ledger::Held;
use postern_core::refusal::{Reason, Refusal};
use postern_core::time::{BootNanos, Now};
use uuid::Uuid;

use super::Worker;
use crate::enforcer::{LayerState, LayerStatus, ShedStatus};
use crate::engine::{Command, GrantView, HostState, LayerView, Reader, ShedView, explain};

impl Worker {
    pub(super) fn serve(&mut self, command: Command) {
        // A caller who went away needs no answer.
        match command {
            Command::Get { reader, id, answer } => drop(answer.send(self.get(&reader, &id))),
            Command::List { reader, include_ended, before, limit, answer } => {
                drop(answer.send(self.list(&reader, include_ended, before, limit)));
            }
            Command::Explain { query, reader, answer } => {
                let (shared, now) = (self.shared(), self.shared().now());
                let seen = explain::Seen {
                    policy: &shared.rules().policy,
                    ledger: &self.ledger,
                    grants: self.list(&reader, true, None, explain::MOST_GRANTS),
                    knocks: shared.knocks.at(&query.ports),
                    now: &now,
                };
                drop(answer.send(explain::explain(&query, &reader, seen)));
            }
            Command::Status { answer } => drop(answer.send(self.status())),
            Command::Request { .. }
            | Command::Revoke { .. }
            | Command::Refuse { .. }
            | Command::Network(_)
            | Command::Degraded { .. }
            | Command::Reload { .. }
            | Command::Heal
            | Command::Counted
            | Command::Stop { .. } => {}
        }
    }

    fn get(&self, reader: &Reader, id: &Uuid) -> Result<GrantView, Refusal> {
        let held = self.ledger.get(id).filter(|held| reader.may_see(&held.grant.signer.principal));
        held.map(|held| self.view_of(held)).ok_or_else(|| Refusal::new(Reason::GrantNotFound, id).at("id"))
    }

    fn list(&self, reader: &Reader, include_ended: bool, before: Option<u64>, limit: usize) -> Vec<GrantView> {
        let visible =
            |held: &&Held| (include_ended || held.ending.is_none()) && reader.may_see(&held.grant.signer.principal);
        let grants = self.ledger.newest_before(before.unwrap_or(u64::MAX));
        grants.filter(visible).take(limit).map(|held| self.view_of(held)).collect()
    }

    pub(super) fn view(&self, id: &Uuid) -> Option<GrantView> {
        self.ledger.get(id).map(|held| self.view_of(held))
    }

    fn view_of(&self, held: &Held) -> GrantView {
        let now = self.shared().now();
        let Held { seq, grant, ending, usage } = held;
        let live = ending.is_none();
        GrantView {
            seq: *seq,
            grant: grant.clone(),
            ending: ending.clone(),
            remaining_ns: if live { now.boot.until(grant.expires_boot) } else { 0 },
            usage: if live { self.usage(held, &now) } else { *usage },
        }
    }

    /// What a live grant's packets have added up to: what an earlier run noted and what the kernel has counted since.
    pub(super) fn usage(&self, held: &Held, now: &Now) -> Use {
        if held.grant.boot_id != now.boot_id {
            return held.usage;
        }
        let counted = self.enforcer.usage(held.grant.slot);
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

    fn status(&self) -> HostState {
        let shared = self.shared();
        let layers: Vec<_> = self.enforcer.layers().into_iter().map(layer_view).collect();
        let lost =
            layers.iter().filter(|l| !l.attached).map(|l| format!("the {} is not attached: {}", l.name, l.detail));
        HostState {
            host_id: shared.identity.host_id,
            names: shared.identity.names.clone(),
            started: self.started,
            boot_id: shared.now().boot_id,
            degraded: lost.chain(self.degraded.values().cloned()).collect(),
            layers,
            sheds: self.shed_views(),
            ports: shared.rules().policy.ports.clone(),
            counters: self.counters(),
            unverified: shared.tally.totals(),
            live_grants: u32::try_from(self.ledger.live().count()).unwrap_or(u32::MAX),
            journal_seq: self.ledger.last_seq(),
            journal_head: self.journal.head().to_owned(),
            journal_path: self.journal.path().display().to_string(),
        }
    }

    /// What happened at all, by hook and reason.
    fn counters(&self) -> Vec<(&'static str, &'static str, u64)> {
        let counted = self.enforcer.counters().into_iter().filter(|(_, _, count)| *count > 0);
        counted.map(|(hook, fate, count)| (hook.code(), fate.code(), count)).collect()
    }

    fn shed_views(&self) -> Vec<ShedView> {
        let view = |(&index, status): (&u32, &ShedStatus)| ShedView {
            name: status.name.clone(),
            index,
            mode: status.mode.code(),
            reason: status.reason.clone(),
        };
        self.sheds.iter().map(view).collect()
    }
}

fn layer_view(layer: LayerStatus) -> LayerView {
    let attached = layer.state == LayerState::InForce;
    LayerView { name: layer.hook.code(), attached, detail: layer.state.code().to_owned() }
}
