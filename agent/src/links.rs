//! The host's interfaces and addresses, as they are now and whenever they change.
//!
//! Owns the conversation with rtnetlink and the choice of interfaces for the shed. It never attaches anything (the engine
//! does) and no promise depends on it: lock and cut know no interfaces.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};

use crate::config::Shed;
use crate::engine::Engine;

/// Events come in bursts (a new interface brings half a dozen); one look serves them all.
const SETTLE: Duration = Duration::from_millis(20);
/// How long to wait before asking again after rtnetlink failed.
const RETRY: Duration = Duration::from_secs(1);

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index in this network namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether its frames begin with an Ethernet header, and it is not loopback.
    pub ethernet: bool,
    /// Whether hardware or a hypervisor backs it (`IFLA_PARENT_DEV_NAME`, Linux 5.14).
    pub backed: bool,
    /// Whether it is one end of a veth pair.
    pub veth: bool,
    /// Whether a default route leads over it.
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

/// The interfaces that get a shed: (index, name).
///
/// `Auto` takes Ethernet devices that hardware or a hypervisor backs and those that carry a default route: never the host ends of
/// containers' veths (native XDP halves their TCP, DESIGN 3), never devices without an Ethernet header.
#[must_use]
pub fn shed_targets(shed: &Shed, state: &LinkState) -> Vec<(u32, String)> {
    let wanted = |link: &&Link| match shed {
        Shed::Off => false,
        Shed::Auto => link.ethernet && (link.backed || link.default_route),
        Shed::List(names) => link.ethernet && names.contains(&link.name),
    };
    state.links.iter().filter(wanted).map(|link| (link.index, link.name.clone())).collect()
}

/// Tells the engine what the network looks like, now and after each change, for ever. Nothing wakes it up in between.
pub async fn follow(engine: Engine) {
    loop {
        let error = match follow_once(&engine).await {
            Ok(()) => "rtnetlink closed the connection".to_owned(),
            Err(error) => error,
        };
        tracing::warn!(%error, "interfaces are not followed");
        engine.degraded("interfaces", Some(format!("interfaces are not followed: {error}"))).await;
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow_once(engine: &Engine) -> Result<(), String> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, handle, mut events) = new_multicast_connection(&groups).map_err(|e| e.to_string())?;
    let _connection = tokio::spawn(connection);
    let mut known = None;
    loop {
        let state = snapshot(&handle).await.map_err(|e| e.to_string())?;
        if known.as_ref() != Some(&state) {
            known = Some(state.clone());
            engine.network_changed(state).await;
            engine.degraded("interfaces", None).await;
        }
        // Any event will do, a lost one too: what counts is the next look.
        if events.next().await.is_none() {
            return Ok(());
        }
        let _ = tokio::time::timeout(SETTLE, async { while events.next().await.is_some() {} }).await;
    }
}

/// Everything at once.
async fn snapshot(handle: &Handle) -> Result<LinkState, rtnetlink::Error> {
    let defaults = default_routes(handle).await?;
    let links: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    let addresses: Vec<_> = handle.address().get().execute().try_collect().await?;
    let own = addresses.iter().flat_map(|message| &message.attributes).filter_map(|attribute| match attribute {
        // IFA_LOCAL is the host's end of a point-to-point link; IPv6 has IFA_ADDRESS alone.
        AddressAttribute::Local(address) => Some(*address),
        AddressAttribute::Address(address @ IpAddr::V6(_)) => Some(*address),
        _ => None,
    });
    let own: BTreeSet<IpAddr> = own.collect();
    let mut links: Vec<_> = links.iter().filter_map(|message| link(message, &defaults)).collect();
    links.sort_by_key(|link| link.index);
    Ok(LinkState { links, addresses: own.into_iter().collect() })
}

/// Indices of the interfaces that default routes lead over.
async fn default_routes(handle: &Handle) -> Result<BTreeSet<u32>, rtnetlink::Error> {
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    let mut routes: Vec<RouteMessage> = handle.route().get(v4).execute().try_collect().await?;
    routes.extend(handle.route().get(v6).execute().try_collect::<Vec<_>>().await?);
    let defaults = routes.iter().filter(|route| route.header.destination_prefix_length == 0);
    let interface = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Oif(index) => Some(vec![*index]),
        RouteAttribute::MultiPath(hops) => Some(hops.iter().map(|hop| hop.interface_index).collect()),
        _ => None,
    };
    Ok(defaults.flat_map(|route| route.attributes.iter().filter_map(interface).flatten()).collect())
}

fn link(message: &LinkMessage, defaults: &BTreeSet<u32>) -> Option<Link> {
    let index = message.header.index;
    let name = message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    })?;
    let is_veth = |info: &LinkInfo| matches!(info, LinkInfo::Kind(InfoKind::Veth));
    Some(Link {
        index,
        name,
        // Loopback has a type of its own.
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        backed: message.attributes.iter().any(|a| matches!(a, LinkAttribute::ParentDevName(_))),
        veth: message
            .attributes
            .iter()
            .any(|a| matches!(a, LinkAttribute::LinkInfo(infos) if infos.iter().any(is_veth))),
        default_route: defaults.contains(&index),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, ethernet: bool, backed: bool, veth: bool, default_route: bool) -> Link {
        Link { index, name: format!("if{index}"), ethernet, backed, veth, default_route }
    }

    #[test]
    fn the_shed_goes_where_it_pays_and_does_no_harm() {
        let links = vec![
            link(1, false, false, false, false),
            link(2, true, true, false, false),
            link(3, true, false, true, false),
            link(4, true, false, true, true),
            link(5, false, false, false, true),
            link(6, true, false, false, false),
        ];
        let state = LinkState { links, addresses: Vec::new() };
        let indices = |shed| shed_targets(&shed, &state).into_iter().map(|(index, _)| index).collect::<Vec<_>>();
        assert_eq!(indices(Shed::Auto), [2, 4]);
        assert!(indices(Shed::Off).is_empty());
        assert_eq!(indices(Shed::List(vec!["if3".into(), "if5".into(), "none".into()])), [3]);
    }

    #[tokio::test]
    async fn the_kernel_tells_of_loopback() {
        let (connection, handle, _) = rtnetlink::new_connection().unwrap();
        tokio::spawn(connection);
        let state = snapshot(&handle).await.unwrap();
        let lo = state.links.iter().find(|link| link.name == "lo").unwrap();
        assert!((lo.index, lo.ethernet, lo.veth) == (1, false, false));
        assert!(state.addresses.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
}
