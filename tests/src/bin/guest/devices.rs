//! What people do with network cards while posternd runs: a larger MTU, bonds whose ports leave and come back, VLANs and MACVLANs.
//!
//! Two virtio cards on one wire, one for each host. Owns nothing that another scenario needs.

use crate::stage::Stage;
use crate::world::{World, options};
use postern_proto::v1::XdpMode;
use postern_tests::bulk::{self, MANY};
use postern_tests::flood::Flood;
use postern_tests::netns::Netns;
use postern_tests::postern::Options;
use postern_tests::prefilter::{self, has_xdp, tcx_programs};
use std::net::Ipv4Addr;
use std::process::Command;

/// A port that nothing protects.
const OPEN: u16 = 8443;

/// Both hosts' addresses in a network of the cards.
fn hosts(network: u8) -> [Ipv4Addr; 2] {
    [1, 2].map(|host| Ipv4Addr::new(10, network, 0, host))
}

/// Gives each host its card, by the name `nic0`.
fn deal(world: &World) {
    for (last, namespace) in [(1, &world.net.server), (2, &world.net.client)] {
        let (name, path) = (card(last), namespace.path());
        for line in [
            format!("link set {name} down"),
            format!("link set {name} name nic0"),
            format!("link set nic0 netns {path}"),
        ] {
            let done = Command::new("ip").args(line.split(' ')).status().expect("ip");
            assert!(done.success(), "ip {line}");
        }
        let [server, client] = hosts(60);
        let own = if last == 1 { server } else { client };
        namespace.ip(&format!("addr add {own}/24 dev nic0\nlink set nic0 up"));
    }
    world.net.server.wait_until_running("nic0");
    world.net.client.wait_until_running("nic0");
}

/// The card with this last digit of its hardware address.
fn card(last: u8) -> String {
    let mac = format!("52:54:00:00:00:{last:02x}");
    let names = std::fs::read_dir("/sys/class/net").expect("the devices").flatten().map(|entry| entry.path());
    let mut named =
        names.filter(|path| std::fs::read_to_string(path.join("address")).is_ok_and(|address| address.trim() == mac));
    let path = named.next().unwrap_or_else(|| panic!("no card {mac}"));
    path.file_name().expect("a name").to_string_lossy().into_owned()
}

fn want(world: &World, xdp: &str) {
    world.postern.configure(&Options { xdp: xdp.to_owned(), ..options() });
    world.postern.reload();
}

/// Everything arrives over the network `network`.
fn all_arrives(world: &World, network: u8, when: &str) {
    let [server, client] = hosts(network);
    let arrived = bulk::arrived(&world.net.client, client, &world.net.server, (server, OPEN).into());
    assert_eq!(arrived, MANY, "{when}");
}

fn mtu(world: &World, bytes: u32) {
    let line = format!("link set nic0 mtu {bytes}");
    world.net.client.ip(&line);
    world.net.server.ip(&line);
}

fn is_quiet(server: &Netns, device: &str) -> bool {
    !has_xdp(server, device) && tcx_programs(server, device) == 0
}

/// DHCP or netplan sets 9000 after posternd has started; and the same in a flood.
fn a_larger_mtu(stage: &mut Stage, world: &World) {
    let server = &world.net.server;
    want(world, "{ interfaces = \"auto\" }");
    prefilter::until(&world.postern, "nic0", XdpMode::Standby);
    assert!(is_quiet(server, "nic0"), "at rest");
    all_arrives(world, 60, "at rest");
    mtu(world, 9000);
    all_arrives(world, 60, "with a larger MTU at rest");
    mtu(world, 1500);

    let flood = Flood::start(&world.net, &[22]);
    let attached = prefilter::until_not(&world.postern, "nic0", XdpMode::Standby);
    stage.note(&format!("in a flood: {attached:?}"));
    mtu(world, 9000);
    assert!(!has_xdp(server, "nic0"));
    assert_eq!(prefilter::of(&world.postern, "nic0").mode(), attached.mode(), "as before the change");
    // The flood takes an emulated processor for itself. The prefilter stays for seconds.
    drop(flood);
    all_arrives(world, 60, "with a larger MTU in a flood");
    prefilter::until(&world.postern, "nic0", XdpMode::Standby);
    mtu(world, 1500);
}

/// The card is a port of a bond, leaves it and comes back, as when a driver is reloaded; VLAN and MACVLAN are above.
fn bonds(stage: &mut Stage, world: &World) {
    let (server, [own, _]) = (&world.net.server, hosts(60));
    want(world, "{ interfaces = \"auto\" }");
    server.ip(&format!(
        "addr del {own}/24 dev nic0\nlink set nic0 down\nlink add bond0 type bond mode active-backup miimon 20\n\
         link set nic0 master bond0\nlink set bond0 up\naddr add {own}/24 dev bond0"
    ));
    for (network, (namespace, below)) in [(server, "bond0"), (&world.net.client, "nic0")].into_iter().enumerate() {
        let (tagged, other) = (hosts(61)[network], hosts(62)[network]);
        namespace.ip(&format!(
            "link add link {below} name tagged type vlan id 7\naddr add {tagged}/24 dev tagged\nlink set tagged up\n\
             link add mac0 link {below} type macvlan mode bridge\naddr add {other}/24 dev mac0\nlink set mac0 up"
        ));
    }
    let leave_and_return = |stage: &mut Stage, when: &str| {
        server.ip("link set nic0 nomaster\nlink set nic0 down");
        let _ = prefilter::of(&world.postern, "nic0");
        server.ip("link set nic0 master bond0");
        server.wait_until_running("bond0");
        for network in 60..63 {
            all_arrives(world, network, &format!("{when}, network {network}"));
            stage.note(&format!("{when}: everything arrives over network {network}"));
        }
    };
    prefilter::until(&world.postern, "bond0", XdpMode::Standby);
    leave_and_return(stage, "at rest");
    let flood = Flood::start(&world.net, &[22]);
    let attached = prefilter::until_not(&world.postern, "bond0", XdpMode::Standby);
    stage.note(&format!("in a flood: {attached:?}"));
    assert!(!has_xdp(server, "bond0") && !has_xdp(server, "nic0"));
    drop(flood);
    leave_and_return(stage, "in a flood");
    for namespace in [server, &world.net.client] {
        namespace.ip("link del mac0\nlink del tagged");
    }
    server.ip("link del bond0");
}

pub fn keep_their_traffic(stage: &mut Stage) {
    let world = stage.world();
    deal(&world);
    a_larger_mtu(stage, &world);
    bonds(stage, &world);
    want(&world, &options().xdp);
    stage.leave(world);
}
