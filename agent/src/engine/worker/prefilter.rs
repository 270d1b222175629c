//! The prefilter, which is attached while a flood lasts. This module owns when and to which devices it is attached, and its condition. It
//! opens and closes nothing, because the lock and the cut refuse the same packets.

use std::collections::BTreeMap;

use postern_core::condition::Condition;
use postern_core::flood::Flood;
use postern_core::time::Now;

use super::conditions::Conditions;
use crate::config::{PrefilterConfig, Xdp};
use crate::enforcer::{Enforcer, Unattached, XdpMode, XdpStatus};
use crate::system::files::Opener;
use crate::system::links::{self, Link, LinkState};
use crate::system::translations::{self, READING, Translations};

/// The reason in the status while no flood lasts.
const AT_REST: &str = "it is attached while a flood lasts";

pub(super) struct Prefilter {
    wanted: PrefilterConfig,
    network: LinkState,
    flood: Flood,
    /// The rules that may send packets elsewhere, while a flood lasts.
    rules: Option<Result<Translations, String>>,
    watch: translations::Watch,
    /// The devices with the prefilter, as they were when it was attached.
    attached: BTreeMap<u32, Link>,
    /// The devices that do not get the prefilter again during this flood, and why.
    given_way: BTreeMap<u32, Unattached>,
    statuses: Vec<XdpStatus>,
}

impl Prefilter {
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

    pub(super) fn follow(&mut self, network: LinkState, enforcer: &mut Enforcer, conditions: &mut Conditions) {
        self.network = network;
        self.settle(enforcer, conditions);
    }

    pub(super) fn want(&mut self, wanted: PrefilterConfig, enforcer: &mut Enforcer, conditions: &mut Conditions) {
        if wanted == self.wanted {
            return;
        }
        for index in self.attached.keys().copied().collect::<Vec<_>>() {
            self.take_off(index, enforcer);
        }
        self.given_way.clear();
        self.wanted = wanted;
        self.settle(enforcer, conditions);
    }

    /// Checks whether a flood lasts, and attaches or detaches the prefilter.
    pub(super) fn watch_flood(
        &mut self,
        opener: &Opener,
        enforcer: &mut Enforcer,
        conditions: &mut Conditions,
        now: &Now,
    ) {
        if self.wanted == PrefilterConfig::Off {
            return;
        }
        let lasts = self.flood.look(enforcer.refused_connections(), now.boot);
        if !lasts && self.rules.is_none() {
            return;
        }
        self.rules = lasts.then(|| self.watch.ask(opener));
        if let (Some(what), Some(Ok(rules))) = (enforcer.bypass(), &mut self.rules) {
            rules.host.get_or_insert_with(|| what.to_owned());
        }
        if !lasts {
            self.watch.rest();
            self.given_way.clear();
        }
        self.settle(enforcer, conditions);
    }

    pub(super) fn statuses(&self) -> &[XdpStatus] {
        &self.statuses
    }

    fn mode(&self) -> XdpMode {
        match self.wanted {
            PrefilterConfig::Xdp(_, Xdp::Native) => XdpMode::Native,
            PrefilterConfig::Xdp(_, Xdp::Generic) => XdpMode::Generic,
            PrefilterConfig::Off | PrefilterConfig::Auto | PrefilterConfig::List(_) => XdpMode::Tcx,
        }
    }

    /// Attaches and detaches the prefilter until every device has its wanted state.
    fn settle(&mut self, enforcer: &mut Enforcer, conditions: &mut Conditions) {
        let targets = self.wanted.targets(&self.network);
        let targets: Vec<Link> =
            self.network.links.iter().filter(|link| targets.iter().any(|t| t.0 == link.index)).cloned().collect();
        let gone: Vec<_> = self.attached.keys().copied().filter(|i| targets.iter().all(|t| t.index != *i)).collect();
        gone.into_iter().for_each(|index| self.take_off(index, enforcer));
        self.statuses = targets.iter().map(|link| self.settle_one(link, enforcer)).collect();
        conditions.set(Condition::XdpLost, self.condition());
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

    /// Attaches the prefilter to the device if that does no harm, or returns the reason in words.
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
                        "the prefilter is not attached, because it could drop packets that go elsewhere: there is {what}"
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
            // TCX sees the same packets after the change. XDP depends on the driver.
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

    /// The devices on which the prefilter gives way to another program, or is not attached as configured.
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
