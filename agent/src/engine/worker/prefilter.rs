//! The prefilter comes with a flood and goes with it.
//!
//! Owns when and where it is attached, and what the status says of it. It opens nothing and closes nothing: lock and cut refuse
//! the same packets. When a flood begins and ends is decided in `postern_core::flood`, which devices it suits in `links`.

use std::collections::BTreeMap;

use postern_core::condition::Condition;
use postern_core::flood::Flood;
use postern_core::time::Now;

use super::Worker;
use crate::config::{PrefilterConfig, Xdp};
use crate::enforcer::{Enforcer, Unattached, XdpMode, XdpStatus};
use crate::engine::XdpView;
use crate::system::links::{self, Link, LinkState};
use crate::system::translations::{self, READING, Translations};

/// What is said of a device that has none at rest.
const AT_REST: &str = "it is attached while a flood lasts";

/// What the worker knows of floods and devices.
pub(super) struct Prefilter {
    wanted: PrefilterConfig,
    network: LinkState,
    flood: Flood,
    /// Whether a flood lasts, and then what may send packets elsewhere.
    rules: Option<Result<Translations, String>>,
    watch: translations::Watch,
    /// The devices that have it, as they were when they got it.
    attached: BTreeMap<u32, Link>,
    /// The devices that get it no more during this flood, and why.
    given_way: BTreeMap<u32, Unattached>,
    statuses: Vec<XdpStatus>,
}

impl Prefilter {
    /// Attached to nothing, until the network and a flood are known.
    pub(super) fn new(wanted: PrefilterConfig) -> Self {
        Self {
            wanted,
            network: LinkState::default(),
            flood: Flood::default(),
            rules: None,
            watch: translations::Watch::default(),
            attached: BTreeMap::new(),
            given_way: BTreeMap::new(),
            statuses: Vec::new(),
        }
    }

    /// What the status shows.
    pub(super) fn views(&self) -> Vec<XdpView> {
        let view = |XdpStatus { ifindex, name, mode, reason }: &XdpStatus| XdpView {
            name: name.clone(),
            index: *ifindex,
            mode: mode.code(),
            reason: reason.clone(),
        };
        self.statuses.iter().map(view).collect()
    }

    fn mode(&self) -> XdpMode {
        match self.wanted {
            PrefilterConfig::Xdp(_, Xdp::Native) => XdpMode::Native,
            PrefilterConfig::Xdp(_, Xdp::Generic) => XdpMode::Generic,
            PrefilterConfig::Off | PrefilterConfig::Auto | PrefilterConfig::List(_) => XdpMode::Tcx,
        }
    }

    /// Brings every device to what it has to have now.
    fn settle(&mut self, enforcer: &mut Enforcer) {
        let targets = self.wanted.targets(&self.network);
        let targets: Vec<Link> =
            self.network.links.iter().filter(|link| targets.iter().any(|t| t.0 == link.index)).cloned().collect();
        let gone: Vec<_> = self.attached.keys().copied().filter(|i| targets.iter().all(|t| t.index != *i)).collect();
        gone.into_iter().for_each(|index| self.take_off(index, enforcer));
        self.statuses = targets.iter().map(|link| self.settle_one(link, enforcer)).collect();
    }

    fn settle_one(&mut self, link: &Link, enforcer: &mut Enforcer) -> XdpStatus {
        let (mode, reason) = match self.place(link, enforcer) {
            Ok(mode) => (mode, if mode == XdpMode::Standby { AT_REST.to_owned() } else { String::new() }),
            Err(reason) => (XdpMode::Off, reason),
        };
        if !mode.is_attached() {
            self.take_off(link.index, enforcer);
        }
        XdpStatus { ifindex: link.index, name: link.name.clone(), mode, reason }
    }

    /// Attaches the prefilter to the device where that does no harm.
    ///
    /// # Errors
    /// Why it is not to be there, in words.
    fn place(&mut self, link: &Link, enforcer: &mut Enforcer) -> Result<XdpMode, String> {
        let mode = self.mode();
        let xdp = mode != XdpMode::Tcx;
        if let Some(obstacle) = links::obstacle(link, &self.network.links, xdp) {
            return Err(obstacle.to_owned());
        }
        match &self.rules {
            None => return Ok(XdpMode::Standby),
            Some(Err(error)) if error == READING => return Ok(XdpMode::Standby),
            Some(Err(error)) => return Err(error.clone()),
            Some(Ok(rules)) => {
                if let Some(what) = rules.host.as_ref().or_else(|| rules.devices.get(&link.index)) {
                    return Err(format!(
                        "the prefilter stays away, so that it drops nothing that goes elsewhere: there is {what}"
                    ));
                }
            }
        }
        if let Some(why) = self.given_way.get(&link.index) {
            return Err(why.words().to_owned());
        }
        let mut unfit = |why: Unattached| {
            let words = why.words().to_owned();
            self.given_way.insert(link.index, why);
            words
        };
        match self.attached.get(&link.index) {
            // What TCX sees does not depend on the device; XDP is the driver's.
            Some(before) if xdp && before != link => {
                Err(unfit(Unattached::Refused("the device was changed while the prefilter was attached".to_owned())))
            }
            Some(_) => enforcer.check_prefilter(link.index).map(|()| mode).map_err(unfit),
            None => {
                enforcer.attach_prefilter(link.index, mode).map_err(unfit)?;
                tracing::info!(name = %link.name, mode = mode.code(), "a flood: the prefilter is attached");
                self.attached.insert(link.index, link.clone());
                Ok(mode)
            }
        }
    }

    fn take_off(&mut self, index: u32, enforcer: &mut Enforcer) {
        if let Some(link) = self.attached.remove(&index) {
            enforcer.detach_prefilter(index);
            tracing::info!(name = %link.name, "the prefilter is detached");
        }
    }

    /// The condition: devices on which the prefilter gives way to somebody else, or does not work in the way that was asked for.
    fn condition(&self) -> Option<String> {
        let asked = matches!(self.wanted, PrefilterConfig::Xdp(..));
        let said = self.statuses.iter().filter(|status| status.mode == XdpMode::Off).filter(|status| {
            let given_way = self.given_way.get(&status.ifindex);
            asked && self.rules.is_none() || given_way.is_some_and(|why| asked || matches!(why, Unattached::Taken(_)))
        });
        let said: Vec<_> = said.map(|status| format!("{}: {}", status.name, status.reason)).collect();
        (!said.is_empty()).then(|| format!("floods are not dropped before the network stack: {}", said.join("; ")))
    }
}

impl Worker {
    /// Follows the host's devices.
    pub(super) fn follow_links(&mut self, network: LinkState) {
        self.prefilter.network = network;
        self.settle_prefilter();
    }

    /// Follows the configuration.
    pub(super) fn want_prefilter(&mut self, wanted: PrefilterConfig) {
        if wanted == self.prefilter.wanted {
            return;
        }
        for index in self.prefilter.attached.keys().copied().collect::<Vec<_>>() {
            self.prefilter.take_off(index, &mut self.enforcer);
        }
        self.prefilter.given_way.clear();
        self.prefilter.wanted = wanted;
        self.settle_prefilter();
    }

    /// Looks whether a flood lasts, and follows it.
    pub(super) fn watch_flood(&mut self, now: &Now) {
        if self.prefilter.wanted == PrefilterConfig::Off {
            return;
        }
        let lasts = self.prefilter.flood.look(self.enforcer.refused_connections(), now.boot);
        if !lasts && self.prefilter.rules.is_none() {
            return;
        }
        self.prefilter.rules = lasts.then(|| self.prefilter.watch.ask(&self.engine.0.files.opener));
        if let (Some(what), Some(Ok(rules))) = (self.enforcer.bypass(), &mut self.prefilter.rules) {
            rules.host.get_or_insert_with(|| what.to_owned());
        }
        if !lasts {
            self.prefilter.watch.rest();
            self.prefilter.given_way.clear();
        }
        self.settle_prefilter();
    }

    fn settle_prefilter(&mut self) {
        self.prefilter.settle(&mut self.enforcer);
        match self.prefilter.condition() {
            Some(why) => drop(self.degraded.insert(Condition::XdpLost, why)),
            None => drop(self.degraded.remove(&Condition::XdpLost)),
        }
    }
}
