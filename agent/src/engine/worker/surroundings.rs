//! Where posternd runs, and settings of the kernel that others may change.
//!
//! Owns how soon a change is noticed, which conditions follow, and the lists that the kernel has yet to take: own addresses and limits
//! of SYNs.

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

/// What the worker knows of its surroundings.
pub(super) struct Watch {
    due: BootNanos,
    found: Surroundings,
    /// The host's own addresses, while the kernel has not taken them.
    own: Vec<IpAddr>,
    /// The addresses at which the kernel limits SYNs, while it has not taken them.
    limits: Option<(Vec<SocketAddr>, SynRate)>,
}

impl Watch {
    /// The first look is due.
    pub(super) fn new(found: Surroundings) -> Self {
        Self { due: BootNanos(0), found, own: Vec::new(), limits: None }
    }

    /// As [`Surroundings::network`].
    pub(super) fn network(&self) -> Option<&str> {
        self.found.network()
    }

    /// Looks, if that is due, and notes the conditions that changed.
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

    /// Gives the kernel the lists that it did not take before.
    fn give_again(&mut self, kernel: &mut Kernel, conditions: &mut Conditions) {
        if conditions.why(Condition::OwnAddresses).is_some() {
            let own = std::mem::take(&mut self.own);
            self.set_own(own, kernel, conditions);
        }
        if let Some((addresses, rate)) = self.limits.take() {
            self.limit_syns(addresses, rate, kernel, conditions);
        }
    }

    /// Gives the kernel the host's own addresses.
    pub(super) fn set_own(&mut self, addresses: Vec<IpAddr>, kernel: &mut Kernel, conditions: &mut Conditions) {
        let failed = kernel.enforcer.set_local(&addresses).err();
        let why = failed.map(|error| format!("the kernel's list of own addresses is behind: {error}"));
        self.own = if why.is_some() { addresses } else { Vec::new() };
        conditions.set_and_log(Condition::OwnAddresses, why);
    }

    /// Has the kernel limit SYNs to the API.
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

    /// Whether the ports stay closed after the death of posternd.
    ///
    /// # Errors
    /// [`Reason::NothingOutlives`], with the condition that is why.
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
