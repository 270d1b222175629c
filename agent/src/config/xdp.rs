//! The key `xdp`: which devices get the prefilter, and how it is attached to them. Reads no device.

use std::collections::BTreeSet;

use super::keys;
use super::value::Value;
use crate::system::links::{Link, LinkState};

/// `xdp = "off"` or `xdp = { interfaces = …, mode = … }`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PrefilterConfig {
    /// No prefilter. Every promise still holds.
    Off,
    /// Devices that hardware or a hypervisor backs, or that have a default route; by TCX.
    #[default]
    Auto,
    /// The named devices, by TCX.
    List(Vec<String>),
    /// The named devices, by XDP.
    Xdp(Vec<String>, Xdp),
}

/// Where XDP drops a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Xdp {
    /// In the driver.
    Native,
    /// After the driver.
    Generic,
}

impl PrefilterConfig {
    /// The devices that get the prefilter during a flood, as index and name.
    ///
    /// `Auto` takes Ethernet devices at which packets reach the IP layer: devices that hardware or a hypervisor backs, devices stacked on
    /// them, and devices with a default route. Not taken: ports of bonds, bridges, teams and VRFs, and the host ends of containers' veths.
    #[must_use]
    pub fn targets(&self, state: &LinkState) -> Vec<(u32, String)> {
        let served = served(&state.links);
        let wanted = |link: &&Link| match self {
            Self::Off => false,
            Self::Auto => link.controller.is_none() && (link.default_route || served.contains(&link.index)),
            Self::List(names) | Self::Xdp(names, _) => names.contains(&link.name),
        };
        let targets = state.links.iter().filter(|link| link.ethernet).filter(wanted);
        targets.map(|link| (link.index, link.name.clone())).collect()
    }
}

/// The devices that hardware or a hypervisor backs, and those stacked on them.
fn served(links: &[Link]) -> BTreeSet<u32> {
    let mut served: BTreeSet<u32> = links.iter().filter(|l| l.ethernet && l.backed).map(|l| l.index).collect();
    loop {
        let before = served.len();
        for link in links {
            if link.below.is_some_and(|below| served.contains(&below)) {
                served.insert(link.index);
            }
            if let Some(controller) = link.controller.filter(|_| served.contains(&link.index)) {
                served.insert(controller);
            }
        }
        if served.len() == before {
            return served;
        }
    }
}

pub(super) fn read(value: &Value<'_>) -> Option<PrefilterConfig> {
    if !value.is_table() {
        value.choice(&[("off", ())])?;
        return Some(PrefilterConfig::Off);
    }
    let section = value.section(keys::XDP)?;
    let interfaces = section.need("interfaces");
    let modes = [("tcx", None), ("native", Some(Xdp::Native)), ("generic", Some(Xdp::Generic))];
    let mode = section.get("mode").map(|mode| mode.choice(&modes));
    let interfaces = interfaces?;
    let names = if interfaces.is_array() {
        Some(interfaces.texts()?)
    } else {
        interfaces.choice(&[("auto", ())])?;
        None
    };
    match (names, mode.unwrap_or(Some(None))?) {
        (Some(names), None) => Some(PrefilterConfig::List(names)),
        (Some(names), Some(xdp)) => Some(PrefilterConfig::Xdp(names, xdp)),
        (None, None) => Some(PrefilterConfig::Auto),
        (None, Some(_)) => {
            interfaces.wrong("mode is not \"tcx\": name the interfaces, XDP is attached to no others".to_owned());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::system::links::tests::link;

    fn auto(links: Vec<Link>) -> Vec<u32> {
        let state = LinkState { links, addresses: Vec::new() };
        PrefilterConfig::Auto.targets(&state).into_iter().map(|(index, _)| index).collect()
    }

    #[test]
    fn the_prefilter_is_for_ethernet_devices_that_lead_outside() {
        let links = vec![
            link(1, false, true, false),
            link(2, true, true, false),
            link(3, true, false, false),
            link(4, true, false, true),
            link(5, false, false, true),
        ];
        assert_eq!(auto(links.clone()), [2, 4]);
        let state = LinkState { links, addresses: Vec::new() };
        assert!(PrefilterConfig::Off.targets(&state).is_empty());
        let named = vec!["if3".to_owned(), "if5".into(), "none".into()];
        assert_eq!(PrefilterConfig::List(named.clone()).targets(&state), [(3, "if3".to_owned())]);
        assert_eq!(PrefilterConfig::Xdp(named, Xdp::Native).targets(&state), [(3, "if3".to_owned())]);
    }

    #[test]
    fn a_packet_is_judged_where_it_reaches_the_ip_layer() {
        let port = Link { controller: Some(7), ..link(2, true, true, false) };
        let bond = Link { controller: Some(8), controls: true, ..link(7, true, false, false) };
        let bridge = Link { controls: true, ..link(8, true, false, true) };
        let vlan = Link { below: Some(8), ..link(9, true, false, true) };
        assert_eq!(auto(vec![port.clone(), bond.clone(), bridge.clone(), vlan.clone()]), [8, 9]);
        let quiet = Link { default_route: false, ..bridge.clone() };
        assert_eq!(auto(vec![port, bond, quiet.clone()]), [8], "a bridge above hardware");
        let container = Link { controller: Some(8), ..link(3, true, false, false) };
        assert_eq!(auto(vec![container.clone(), bridge]), [8], "it has the default route");
        assert!(auto(vec![container, quiet]).is_empty(), "a bridge of veths alone");
        assert_eq!(auto(vec![vlan]), [9]);
    }
    fn read(value: &str) -> Result<PrefilterConfig, String> {
        let config = Config::parse(&format!("xdp = {value}\n[[port]]\nnumber = 22\nmax_duration = \"1h\"\n"));
        config.map(|config| config.xdp).map_err(|problems| format!("{problems:?}"))
    }

    #[test]
    fn xdp_is_for_named_interfaces_alone() {
        let names = || vec!["eth0".to_owned()];
        assert_eq!(read("{ interfaces = ['eth0'] }"), Ok(PrefilterConfig::List(names())));
        assert_eq!(read("{ interfaces = ['eth0'], mode = 'tcx' }"), Ok(PrefilterConfig::List(names())));
        assert_eq!(read("{ interfaces = ['eth0'], mode = 'native' }"), Ok(PrefilterConfig::Xdp(names(), Xdp::Native)));
        assert_eq!(
            read("{ interfaces = ['eth0'], mode = 'generic' }"),
            Ok(PrefilterConfig::Xdp(names(), Xdp::Generic))
        );
        assert_eq!(read("{ interfaces = 'auto', mode = 'tcx' }"), Ok(PrefilterConfig::Auto));
        for (wrong, said) in [
            ("{ interfaces = 'auto', mode = 'native' }", "name the interfaces"),
            ("{ interfaces = ['eth0'], mode = 'xdp' }", "is none of"),
            ("{ mode = 'native' }", "interfaces"),
        ] {
            let told = read(wrong).expect_err(wrong);
            assert!(told.contains(said), "{wrong}: {told}");
        }
    }
}
