//! What stands before the IP header, and after the packet: tags, other framings, trailers, hardware addresses.

use super::Build;
use crate::frame::{IPV4, QINQ, VLAN, tagged};

pub(super) fn cases(build: &mut Build) {
    build.v4("plain IPv4", |_, _| {});
    build.v6("plain IPv6", |_, _| {});
    for depth in 1..=16 {
        tags(build, true, &format!("IPv4 behind {depth} priority tags"), &vec![(VLAN, 0); depth]);
    }
    for depth in [1, 2, 3, 8, 16] {
        tags(build, false, &format!("IPv6 behind {depth} priority tags"), &vec![(VLAN, 0); depth]);
    }
    tags(build, true, "802.1ad priority tag", &[(QINQ, 0)]);
    tags(build, true, "802.1ad then 802.1Q priority tag", &[(QINQ, 0), (VLAN, 0)]);
    tags(build, true, "802.1Q then 802.1ad priority tag", &[(VLAN, 0), (QINQ, 0)]);
    tags(build, false, "802.1ad, 802.1Q, 802.1ad priority tags", &[(QINQ, 0), (VLAN, 0), (QINQ, 0)]);
    tags(build, true, "priority tag with priority 7", &[(VLAN, 0xe000)]);
    tags(build, true, "priority tag with drop eligible", &[(VLAN, 0x1000)]);
    tags(build, true, "VLAN 5 without a device", &[(VLAN, 5)]);
    tags(build, true, "VLAN 4095 without a device", &[(VLAN, 4095)]);
    tags(build, true, "priority tag then VLAN 5", &[(VLAN, 0), (VLAN, 5)]);
    tags(build, true, "0x9100 tag", &[(0x9100, 0)]);
    other_framings(build);
    for length in [1, 20, 200] {
        build.v4(format!("IPv4 and {length} bytes of trailer"), |_, _| {});
        build.rewrite(|frame| frame.resize(frame.len() + length, 0x55));
        build.v6(format!("IPv6 and {length} bytes of trailer"), |_, _| {});
        build.rewrite(|frame| frame.resize(frame.len() + length, 0x55));
    }
    build.v4("from another hardware address", |_, _| {});
    build.rewrite(|frame| frame[6..12].copy_from_slice(&[2, 9, 9, 9, 9, 9]));
    build.v4("to the broadcast hardware address", |_, _| {});
    build.rewrite(|frame| frame[..6].fill(0xff));
    build.v6("to a multicast hardware address", |_, _| {});
    build.rewrite(|frame| frame[..6].copy_from_slice(&[0x33, 0x33, 0, 0, 0, 1]));
}

/// Framings that Linux does not unpack without a device for them.
fn other_framings(build: &mut Build) {
    let framings: [(&str, u16, &[u8]); 3] = [
        ("PPPoE session", 0x8864, &[0x11, 0, 0, 1, 0, 46, 0, 0x21]),
        ("MPLS", 0x8847, &[0, 1, 0x01, 64]),
        ("LLC/SNAP", 52, &[0xaa, 0xaa, 3, 0, 0, 0, 8, 0]),
    ];
    for (name, kind, header) in framings {
        build.v4(name, |_, _| {});
        build.rewrite(|frame| {
            debug_assert_eq!(frame[12..14], IPV4.to_be_bytes());
            *frame = [&frame[..12], &kind.to_be_bytes(), header, &frame[14..]].concat();
        });
    }
}

fn tags(build: &mut Build, ipv4: bool, name: &str, tags: &[(u16, u16)]) {
    if ipv4 {
        build.v4(name, |_, _| {});
    } else {
        build.v6(name, |_, _| {});
    }
    build.rewrite(|frame| *frame = tagged(frame, tags));
}
