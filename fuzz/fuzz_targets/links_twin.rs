//! Links, addresses and default routes as they stand in rtnetlink's messages, by their offsets and numbers in the kernel's headers.
//!
//! Owns the twin's reading. It refuses nothing: it is asked about messages that were accepted.

use std::collections::BTreeSet;
use std::net::IpAddr;

use postern_agent::system::links::{Link, LinkState};

/// What the accepted messages of a datagram add up to: each with its type and what is behind its header.
pub fn state(messages: &[(u16, &[u8])]) -> LinkState {
    let of = |kind: u16| messages.iter().filter(move |(own, _)| *own == kind).map(|(_, bytes)| *bytes);
    // RTM_NEWLINK, RTM_NEWADDR and RTM_NEWROUTE of linux/rtnetlink.h
    let defaults: BTreeSet<u32> = of(24).flat_map(default_route).collect();
    let addresses: BTreeSet<IpAddr> = of(20).flat_map(addresses).collect();
    let mut links: Vec<_> = of(16).filter_map(|bytes| link(bytes, &defaults)).collect();
    links.sort_by_key(|link| link.index);
    LinkState { links, addresses: addresses.into_iter().collect() }
}

/// `struct ifinfomsg` (type 2, index 4, 16 bytes) and the attributes IFLA_* of linux/if_link.h.
fn link(bytes: &[u8], defaults: &BTreeSet<u32>) -> Option<Link> {
    let (index, attributes) = (u32_at(bytes, 4), attributes(&bytes[16..]));
    let last = |kind: u16| attributes.iter().rev().find(|(own, _)| *own == kind).map(|(_, value)| *value);
    let (name, below, controller, info) = (last(3)?, last(5), last(10), last(18));
    let (elsewhere, parent) = (last(37).is_some(), last(56).is_some());
    let info = info.map(self::attributes).unwrap_or_default();
    // IFLA_INFO_KIND
    let kind = info.iter().find(|(kind, _)| *kind == 1).map(|(_, value)| text(value));
    let controls = ["bond", "bridge", "team", "vrf", "hsr", "batadv", "dsa", "openvswitch", "failover", "net_failover"];
    let stacks = ["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"];
    let stacked = kind.is_some_and(|kind| stacks.contains(&kind));
    Some(Link {
        index,
        name: text(name).to_owned(),
        // ARPHRD_ETHER
        ethernet: bytes[2..4] == [1, 0] && kind != Some("vrf"),
        backed: parent || kind.is_none(),
        controller: controller.map(|value| u32_at(value, 0)),
        controls: kind.is_some_and(|kind| controls.contains(&kind)),
        // IFLA_MTU
        mtu: last(4).map_or(0, |value| u32_at(value, 0)),
        changes: 0,
        below: below.filter(|_| stacked && !elsewhere).map(|value| u32_at(value, 0)),
        default_route: defaults.contains(&index),
    })
}

/// `struct ifaddrmsg` (8 bytes): IFA_LOCAL, and IFA_ADDRESS where it is one of IPv6; an IPv4 one may be the peer's.
fn addresses(bytes: &[u8]) -> Vec<IpAddr> {
    let address = |(kind, value): (u16, &[u8])| match (kind, value.len()) {
        (2, 4) => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        (1 | 2, 16) => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    };
    attributes(&bytes[8..]).into_iter().filter_map(address).collect()
}

/// `struct rtmsg` (destination's length 1, type 7, 12 bytes): where a unicast route to everywhere leads.
fn default_route(bytes: &[u8]) -> Vec<u32> {
    let mut found = Vec::new();
    if bytes[1] != 0 || bytes[7] != 1 {
        return found;
    }
    for (kind, value) in attributes(&bytes[12..]) {
        match kind {
            // RTA_OIF
            4 => found.push(u32_at(value, 0)),
            // RTA_MULTIPATH: struct rtnexthop (length 0, index 4), one behind the other.
            9 => {
                let mut rest = value;
                while !rest.is_empty() {
                    found.push(u32_at(rest, 4));
                    rest = &rest[usize::from(u16_at(rest, 0))..];
                }
            }
            _ => {}
        }
    }
    found
}

/// `struct nlattr`: length 0, type 2 without its two flags, the value, and zeros up to a multiple of four.
fn attributes(bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while !rest.is_empty() {
        let length = usize::from(u16_at(rest, 0));
        found.push((u16_at(rest, 2) % (1 << 14), &rest[4..length]));
        rest = &rest[((length + 3) / 4 * 4).min(rest.len())..];
    }
    found
}

/// Without the zero that ends it.
fn text(value: &[u8]) -> &str {
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).expect("accepted text")
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from(bytes[at]) + 256 * u16::from(bytes[at + 1])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) + 65536 * u32::from(u16_at(bytes, at + 2))
}
