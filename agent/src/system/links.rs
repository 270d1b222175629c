//! The host's interfaces and addresses, now and after each change.
//!
//! Owns the exchange with rtnetlink. Attaches nothing. Lock and cut do not depend on it, because they do not use interfaces.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::stream::BoxStream;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkEvent, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use tokio::time::{Instant, sleep_until};

use crate::system::netlink::own_addresses;

/// The least time between two readings. Events come in bursts (about six for a new interface): the first causes a reading at once, the
/// others one reading together.
const SETTLE: Duration = Duration::from_millis(20);
/// How long to wait after rtnetlink fails.
const RETRY: Duration = Duration::from_secs(1);

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in this network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether its frames begin with an Ethernet header; false for loopback.
    pub ethernet: bool,
    /// Whether hardware or a hypervisor backs it: it has a parent device (`IFLA_PARENT_DEV_NAME`, Linux 5.14) or, for older kernels, no
    /// kind (`IFLA_INFO_KIND`), which software devices have.
    pub backed: bool,
    /// The bridge, bond, team or VRF whose port it is (`IFLA_MASTER`).
    pub controller: Option<u32>,
    /// Whether other devices can be its ports.
    pub controls: bool,
    /// The largest packet (`IFLA_MTU`), in bytes.
    pub mtu: u32,
    /// How often its features were changed since the watch began (`IFLA_EVENT_FEATURES`).
    pub changes: u32,
    /// The device below it, through which all its frames come (`IFLA_LINK` of a VLAN, macvlan or ipvlan).
    pub below: Option<u32>,
    /// Whether a default route uses it.
    pub default_route: bool,
}

/// The network as the host sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkState {
    /// By index.
    pub links: Vec<Link>,
    /// Every address of the host in this network namespace.
    pub addresses: Vec<IpAddr>,
}

/// Why the prefilter would do harm at this device or have no effect; `None` if it may be attached. XDP may prevent the kernel from adding
/// a port to a bond, and sees the packets of stacked devices without the VLAN tag that the hardware removed.
#[must_use]
pub fn obstacle(link: &Link, links: &[Link], xdp: bool) -> Option<&'static str> {
    if link.controller.is_some() {
        return Some(
            "it is a port of another device, whose packets the prefilter does not judge: name that device instead",
        );
    }
    if !xdp {
        return None;
    }
    if link.controls {
        return Some("other devices can be its ports, and XDP may keep them from it");
    }
    let above = links.iter().any(|other| other.below == Some(link.index));
    above.then_some("another device is stacked on it, whose packets XDP cannot tell from its own")
}

/// Reports the network now and after each change, or why rtnetlink fails. Never ends, and is idle between two changes.
pub async fn follow<F: Future<Output = ()>>(report: impl Fn(Result<LinkState, String>) -> F) {
    loop {
        let error = match follow_once(&report).await {
            Ok(()) => "rtnetlink closed the connection".to_owned(),
            Err(error) => error,
        };
        tracing::warn!(%error, "network devices are not followed");
        report(Err(error)).await;
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow_once<F: Future<Output = ()>>(report: impl Fn(Result<LinkState, String>) -> F) -> Result<(), String> {
    let mut watch = Watch::open()?;
    while let Some(state) = watch.next().await? {
        report(Ok(state)).await;
    }
    Ok(())
}

/// Watches the network namespace in which the watch was opened.
pub struct Watch {
    handle: Handle,
    events: BoxStream<'static, NetlinkPayload<RouteNetlinkMessage>>,
    known: Option<LinkState>,
    looked: Option<Instant>,
    changes: BTreeMap<u32, u32>,
}

impl Watch {
    /// Subscribes. Needs a tokio runtime.
    ///
    /// # Errors
    /// Fails if the kernel refuses the socket or a group.
    pub fn open() -> Result<Self, String> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, handle, events) = new_multicast_connection(&groups).map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        let events = events.map(|(message, _)| message.payload).boxed();
        Ok(Self { handle, events, known: None, looked: None, changes: BTreeMap::new() })
    }

    /// The state at once at the first call, then each state that differs from the previous one; `None` when the connection is closed.
    ///
    /// # Errors
    /// Fails if the kernel does not answer.
    pub async fn next(&mut self) -> Result<Option<LinkState>, String> {
        loop {
            if let Some(looked) = self.looked {
                let Some(()) = self.event().await else { return Ok(None) };
                sleep_until(looked + SETTLE).await;
                // One look answers all events that are queued meanwhile.
                while let Some(event) = self.events.next().now_or_never().flatten() {
                    self.count(&event);
                }
            }
            self.looked = Some(Instant::now());
            let mut state = snapshot(&self.handle).await.map_err(|e| e.to_string())?;
            for link in &mut state.links {
                link.changes = self.changes.get(&link.index).copied().unwrap_or_default();
            }
            if self.known.as_ref() != Some(&state) {
                self.known = Some(state.clone());
                return Ok(Some(state));
            }
        }
    }

    /// Waits for an event that can matter. A lost event (`ENOBUFS`) counts too, because the next look reads everything.
    async fn event(&mut self) -> Option<()> {
        loop {
            let event = self.events.next().await?;
            self.count(&event);
            if matters(&event) {
                return Some(());
            }
        }
    }

    /// Counts changes of features, because no attribute shows them.
    fn count(&mut self, event: &NetlinkPayload<RouteNetlinkMessage>) {
        let NetlinkPayload::InnerMessage(message) = event else { return };
        match message {
            RouteNetlinkMessage::NewLink(link)
                if link.attributes.contains(&LinkAttribute::Event(LinkEvent::Features)) =>
            {
                *self.changes.entry(link.header.index).or_default() += 1;
            }
            RouteNetlinkMessage::DelLink(link) => drop(self.changes.remove(&link.header.index)),
            _ => {}
        }
    }
}

/// Some hosts add and remove thousands of routes; only default routes matter here.
fn matters(event: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    match event {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)) => {
            route.header.destination_prefix_length == 0
        }
        _ => true,
    }
}

async fn snapshot(handle: &Handle) -> Result<LinkState, rtnetlink::Error> {
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    let mut routes: Vec<RouteMessage> = handle.route().get(v4).execute().try_collect().await?;
    routes.extend(handle.route().get(v6).execute().try_collect::<Vec<_>>().await?);
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    let addresses: Vec<_> = handle.address().get().execute().try_collect().await?;
    Ok(LinkState::of(&links, &addresses, &routes))
}

impl LinkState {
    /// The state that the kernel's answers describe.
    #[must_use]
    pub fn of(links: &[LinkMessage], addresses: &[AddressMessage], routes: &[RouteMessage]) -> Self {
        let defaults = default_routes(routes);
        let own: BTreeSet<IpAddr> = addresses.iter().flat_map(own_addresses).collect();
        let mut links: Vec<_> = links.iter().filter_map(|message| link(message, &defaults)).collect();
        links.sort_by_key(|link| link.index);
        Self { links, addresses: own.into_iter().collect() }
    }
}

fn default_routes(routes: &[RouteMessage]) -> BTreeSet<u32> {
    let is_default = |route: &&RouteMessage| {
        // The kernel's own "unreachable" default leads nowhere.
        route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast
    };
    let defaults = routes.iter().filter(is_default);
    let interface = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => Some(vec![*index]),
        RouteAttribute::MultiPath(hops) => Some(hops.iter().map(|hop| hop.interface_index).collect()),
        _ => None,
    };
    defaults.flat_map(|route| route.attributes.iter().filter_map(interface).flatten()).collect()
}

fn link(message: &LinkMessage, defaults: &BTreeSet<u32>) -> Option<Link> {
    let index = message.header.index;
    let (mut name, mut controller, mut lower, mut mtu) = (None, None, None, 0);
    let (mut kind, mut parent, mut elsewhere) = (None, false, false);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(text) => name = Some(text.clone()),
            LinkAttribute::Controller(index) => controller = Some(*index),
            LinkAttribute::Link(index) => lower = Some(*index),
            LinkAttribute::Mtu(bytes) => mtu = *bytes,
            // The device below is in another network namespace (IFLA_LINK_NETNSID, Linux 4.0).
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::ParentDevName(_) => parent = true,
            LinkAttribute::LinkInfo(infos) => kind = infos.iter().find_map(kind_of),
            _ => {}
        }
    }
    // Only these kinds get all their frames from the device below. A tunnel's frames are encapsulated there; a veth's is its peer.
    let stacked = matches!(
        kind,
        Some(InfoKind::Vlan | InfoKind::MacVlan | InfoKind::MacVtap | InfoKind::IpVlan | InfoKind::IpVtap)
    );
    Some(Link {
        index,
        name: name?,
        // Loopback has its own type. A VRF's device receives only the host's traffic with itself.
        ethernet: message.header.link_layer_type == LinkLayerType::Ether && kind != Some(&InfoKind::Vrf),
        backed: parent || kind.is_none(),
        controller,
        controls: kind.is_some_and(controls),
        mtu,
        changes: 0,
        below: lower.filter(|_| stacked && !elsewhere),
        default_route: defaults.contains(&index),
    })
}

fn controls(kind: &InfoKind) -> bool {
    use InfoKind::{BatAdv, Bond, Bridge, Dsa, Hsr, Other, Team, Vrf};
    match kind {
        Bond | Bridge | Team | Vrf | Hsr | BatAdv | Dsa => true,
        Other(name) => ["openvswitch", "failover", "net_failover"].contains(&name.as_str()),
        _ => false,
    }
}

fn kind_of(info: &LinkInfo) -> Option<&InfoKind> {
    match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::slice;

    /// A device without ports, controllers or devices above.
    pub(crate) fn link(index: u32, ethernet: bool, backed: bool, default_route: bool) -> Link {
        let (name, mtu) = (format!("if{index}"), 1500);
        let (controller, below, controls, changes) = (None, None, false, 0);
        Link { index, name, ethernet, backed, controller, controls, mtu, changes, below, default_route }
    }

    #[test]
    fn xdp_keeps_off_whatever_has_ports_or_devices_above() {
        let plain = link(2, true, true, true);
        let bond = Link { controls: true, ..plain.clone() };
        let port = Link { controller: Some(7), ..plain.clone() };
        let vlan = Link { below: Some(2), ..link(9, true, false, false) };
        for xdp in [false, true] {
            assert_eq!(obstacle(&plain, slice::from_ref(&plain), xdp), None);
            assert!(obstacle(&port, slice::from_ref(&port), xdp).is_some());
            assert_eq!(obstacle(&bond, slice::from_ref(&bond), xdp).is_some(), xdp);
            assert_eq!(obstacle(&plain, &[plain.clone(), vlan.clone()], xdp).is_some(), xdp);
        }
    }
}
