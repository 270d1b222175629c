//! The table that the kernel holds, and the table that it should hold. This module owns the enforcer and the last table that the kernel
//! acknowledged. The ledger and the rules decide who has access, and [`wanted`] compiles both.

use std::collections::BTreeSet;

use postern_core::grant::Use;
use postern_core::key::UDP;
use postern_core::ledger::{Capacity, Ledger};
use postern_core::mode::{self, Mode};
use postern_core::policy::Policy;
use postern_core::request::RequestRecord;
use postern_core::table::{self, Table};
use postern_core::time::{BootNanos, Now};
use uuid::Uuid;

use crate::enforcer::{Enforcer, EnforcerError};
use crate::system::sessions::{self, OwnSockets};

pub(super) struct Kernel {
    pub enforcer: Enforcer,
    /// The table that the kernel holds, as far as it acknowledged the edits.
    installed: Table,
    pub capacity: Capacity,
}

impl Kernel {
    pub(super) fn new(enforcer: Enforcer, installed: Table, capacity: Capacity) -> Self {
        Self { enforcer, installed, capacity }
    }

    /// Edits the kernel until it holds `wanted`, or refuses an edit.
    pub(super) fn hold(&mut self, wanted: &Table) -> Result<(), EnforcerError> {
        for edit in table::diff(&self.installed, wanted) {
            if let Err(error) = self.enforcer.apply(&edit) {
                tracing::error!(%error, ?edit, "the kernel refused a change");
                return Err(error);
            }
            self.installed.apply(&edit);
        }
        Ok(())
    }

    /// The protected (protocol, port) pairs.
    pub(super) fn protected(&self) -> &BTreeSet<(u8, u16)> {
        &self.installed.protected
    }

    pub(super) fn protects_udp(&self) -> bool {
        self.protected().iter().any(|(protocol, _)| *protocol == UDP)
    }

    /// The sockets that the host itself opened, as far as the kernel shows them.
    pub(super) fn own_sockets(&self) -> std::io::Result<OwnSockets> {
        self.enforcer.own_sockets()
    }

    /// The packets of a grant so far: the count of earlier runs, and the kernel's count since.
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
}

/// The table that the kernel should hold in the mode `file`, without grants of another boot, grants that are over, or those in `forbidden`.
pub(super) fn wanted(policy: &Policy, ledger: &Ledger, forbidden: &BTreeSet<Uuid>, file: Mode, now: &Now) -> Table {
    let current = ledger.active().filter(|grant| grant.boot_id == now.boot_id && !forbidden.contains(&grant.id));
    let retained = ledger.keeping().sessions(now).filter(|(grant, _)| !forbidden.contains(grant));
    let flows = retained.filter_map(|(_, session)| session.flow()).take(sessions::MOST_RETAINED as usize);
    let observe_from = mode::observe_from(file, &ledger.mode_state().enabling, now.boot_id);
    Table { observe_from, ..table::compile(policy, current, now.boot).keeping(flows, now.boot) }
}
