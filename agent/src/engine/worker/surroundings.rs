//! The surroundings of posternd, and kernel settings that others may change. This module owns how soon posternd notices a change, which
//! conditions follow, and the lists that the kernel has not taken yet: own addresses and SYN limits.

use std::net::{IpAddr, SocketAddr};

use postern_core::condition::Condition;
use postern_core::key::SynRate;
use postern_core::refusal::{Reason, Refusal};
use postern_core::time::{BootNanos, Now};

use super::conditions::Conditions;
use super::kernel::Kernel;
use super::wake::{SURROUNDINGS_EVERY, nanos};
use crate::enforcer::{LayerState, Loss};
use crate::system::surroundings::Surroundings;
use crate::system::sysctl;

pub(super) struct Watch {
    due: BootNanos,
    found: Surroundings,
    /// The host's own addresses, while the kernel has not taken them.
    own: Vec<IpAddr>,
    /// The SYN limits, while the kernel has not taken them.
    limits: Option<(Vec<SocketAddr>, SynRate)>,
}

impl Watch {
    pub(super) fn new(found: Surroundings) -> Self {
        Self { due: BootNanos(0), found, own: Vec::new(), limits: None }
    }

    pub(super) fn network(&self) -> Option<&str> {
        self.found.network()
    }

    pub(super) fn look(&mut self, kernel: &mut Kernel, conditions: &mut Conditions, now: &Now) {
        if self.due > now.boot {
            return;
        }
        self.due = now.boot.plus_nanos(nanos(SURROUNDINGS_EVERY));
        self.give_again(kernel, conditions);
        let subflows = if kernel.enforcer.judges_subflows() { None } else { sysctl::unjudged_subflows() };
        conditions.set_and_log(Condition::PinsNotLasting, self.found.pins_not_lasting());
        conditions.set_and_log(Condition::CgroupPart, kernel.enforcer.judged_part());
        conditions.set_and_log(Condition::SubflowsUnjudged, subflows);
    }

    /// Retries the lists that the kernel did not take.
    fn give_again(&mut self, kernel: &mut Kernel, conditions: &mut Conditions) {
        if conditions.why(Condition::OwnAddresses).is_some() {
            let own = std::mem::take(&mut self.own);
            self.set_own(own, kernel, conditions);
        }
        if let Some((addresses, rate)) = self.limits.take() {
            self.limit_syns(addresses, rate, kernel, conditions);
        }
    }

    pub(super) fn set_own(&mut self, addresses: Vec<IpAddr>, kernel: &mut Kernel, conditions: &mut Conditions) {
        let failed = kernel.enforcer.set_local(&addresses).err();
        let why = failed.map(|error| format!("the kernel's list of own addresses is behind: {error}"));
        self.own = if why.is_some() { addresses } else { Vec::new() };
        conditions.set_and_log(Condition::OwnAddresses, why);
    }

    pub(super) fn limit_syns(
        &mut self,
        addresses: Vec<SocketAddr>,
        rate: SynRate,
        kernel: &mut Kernel,
        conditions: &mut Conditions,
    ) {
        let why = kernel.enforcer.limit_syns(&addresses, rate).err().map(|error| error.to_string());
        self.limits = why.is_some().then_some((addresses, rate));
        conditions.set_and_log(Condition::SynRate, why);
    }

    /// Checks that the ports stay closed after the death of posternd. Fails with [`Reason::NothingOutlives`] and the condition that is why.
    pub(super) fn check_outlives(
        &mut self,
        kernel: &mut Kernel,
        conditions: &mut Conditions,
        now: &Now,
    ) -> Result<(), Refusal> {
        self.due = BootNanos(0);
        self.look(kernel, conditions, now);
        let refuse = |why: String| Err(Refusal::new(Reason::NothingOutlives, why).at("only_while_running"));
        if let Some(why) = conditions.why(Condition::PinsNotLasting) {
            return refuse(why.clone());
        }
        if kernel.enforcer.layers().iter().any(|layer| layer.state == LayerState::InForce) {
            return Ok(());
        }
        refuse(kernel.enforcer.losses().iter().map(Loss::sentence).collect::<Vec<_>>().join("; "))
    }
}
