//! What does not hold because of where posternd runs, and settings of the kernel that others may change.
//!
//! Owns how soon a change is noticed, and which conditions come of it. It changes nothing in the kernel.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_core::condition::Condition;
use postern_core::key::SynRate;
use postern_core::refusal::{Reason, Refusal};
use postern_core::time::{BootNanos, Now};

use super::{Worker, nanos};
use crate::enforcer::LayerState;
use crate::system::surroundings::Surroundings;
use crate::system::sysctl;

/// How often the surroundings are looked at, with a look at the layers that is due anyway. It reads two lists of mounts.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What the worker knows of its surroundings.
pub(super) struct Watch {
    due: BootNanos,
    found: Surroundings,
    /// The host's own addresses, as far as the kernel has yet to take them.
    own: Vec<IpAddr>,
    /// Where the kernel is to limit SYNs, as far as it has yet to.
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
}

impl Worker {
    /// Notes what the surroundings keep from holding, as far as it has changed.
    pub(super) fn look_around(&mut self, now: &Now) {
        if self.surroundings.due > now.boot {
            return;
        }
        self.surroundings.due = now.boot.plus_nanos(nanos(LOOK_EVERY));
        self.give_again();
        let subflows = if self.enforcer.judges_subflows() { None } else { sysctl::unjudged_subflows() };
        self.note_condition(Condition::PinsNotLasting, self.surroundings.found.pins_not_lasting());
        self.note_condition(Condition::CgroupPart, self.enforcer.judged_part());
        self.note_condition(Condition::SubflowsUnjudged, subflows);
    }

    /// Gives the kernel what it has not taken before. Cheap where there is nothing to give.
    fn give_again(&mut self) {
        if self.degraded.contains_key(&Condition::OwnAddresses) {
            let own = std::mem::take(&mut self.surroundings.own);
            self.set_own(own);
        }
        if let Some((addresses, rate)) = self.surroundings.limits.take() {
            self.limit_syns(addresses, rate);
        }
    }

    /// Has the kernel know the host's own addresses.
    pub(super) fn set_own(&mut self, addresses: Vec<IpAddr>) {
        let failed = self.enforcer.set_local(&addresses).err();
        let why = failed.map(|error| format!("the kernel's list of own addresses is behind: {error}"));
        self.surroundings.own = if why.is_some() { addresses } else { Vec::new() };
        self.note_condition(Condition::OwnAddresses, why);
    }

    /// Has the kernel limit SYNs to the API.
    pub(super) fn limit_syns(&mut self, addresses: Vec<SocketAddr>, rate: SynRate) {
        let why = self.enforcer.limit_syns(&addresses, rate).err().map(|error| error.to_string());
        self.surroundings.limits = why.is_some().then_some((addresses, rate));
        self.note_condition(Condition::SynRate, why);
    }

    fn note_condition(&mut self, condition: Condition, why: Option<String>) {
        match why {
            Some(why) if self.degraded.get(&condition) == Some(&why) => {}
            Some(why) => {
                tracing::error!(condition = condition.code(), "{why}");
                self.degraded.insert(condition, why);
            }
            None => drop(self.degraded.remove(&condition)),
        }
    }

    /// Whether the ports stay closed after the death of posternd.
    ///
    /// # Errors
    /// [`Reason::NothingOutlives`], with the condition that is why.
    pub(super) fn outlives(&mut self) -> Result<(), Refusal> {
        self.surroundings.due = BootNanos(0);
        let now = self.shared().now();
        self.look_around(&now);
        let refuse = |why: String| Err(Refusal::new(Reason::NothingOutlives, why).at("only_while_running"));
        if let Some(why) = self.degraded.get(&Condition::PinsNotLasting) {
            return refuse(why.clone());
        }
        if self.enforcer.layers().iter().any(|layer| layer.state == LayerState::InForce) {
            return Ok(());
        }
        refuse(self.enforcer.losses().iter().map(crate::enforcer::Loss::sentence).collect::<Vec<_>>().join("; "))
    }
}
