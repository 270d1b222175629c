//! A device under the prefilter keeps its traffic, its ports and its other owners, also when the device is changed meanwhile.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Instant;

use postern_proto::v1::XdpMode;
use postern_tests::bpf::{self, Pass};
use postern_tests::bulk::{self, MANY};
use postern_tests::flood::Flood;
use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern};
use postern_tests::prefilter::{self, dropped, has_xdp, tcx_programs};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::until::until;

/// A port that nothing protects.
const OPEN: u16 = 8443;

fn xdp(mode: &str, devices: &[&str]) -> Options {
    Options { xdp: format!("{{ interfaces = {devices:?}, mode = {mode:?} }}"), ..Options::default() }
}

fn degraded(postern: &Postern) -> Vec<String> {
    postern.client().details().expect("a status")
}

fn arrived(net: &Net) -> usize {
    bulk::arrived(&net.client, STRANGER.v4, &net.server, (SERVER.v4, OPEN).into())
}

#[test]
fn at_rest_nothing_is_attached_and_a_flood_brings_the_prefilter_and_takes_it_away() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 22));
    let postern = Postern::start(&net.server, Options::default());
    prefilter::until(&postern, "eth0", XdpMode::Standby);
    assert!(!has_xdp(&net.server, "eth0") && tcx_programs(&net.server, "eth0") == 0, "at rest");
    assert_eq!(degraded(&postern), [""; 0]);
    postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");

    let flood = Flood::start(&net, &[22]);
    prefilter::until(&postern, "eth0", XdpMode::Tcx);
    assert!(!has_xdp(&net.server, "eth0") && tcx_programs(&net.server, "eth0") == 1);
    until("SYNs that the prefilter drops", || dropped(&postern) > 1000);
    assert!(!postern.pinned().iter().any(|name| name.starts_with("xdp")), "a prefilter is never pinned");
    for source in GRANTED.both() {
        assert!(probe::tcp_answers(&net.client, source, (SERVER.like(source), 22).into()), "{source} has a grant");
    }
    assert_ne!(probe::tcp(&net.client, STRANGER.v4, (SERVER.v4, 22).into()), Outcome::Answered);
    assert_eq!(degraded(&postern), [""; 0], "a flood that is dropped is no fault");
    println!("{:?}", flood.held());
    drop(flood);
    prefilter::until(&postern, "eth0", XdpMode::Standby);
    assert_eq!(tcx_programs(&net.server, "eth0"), 0, "after the flood");
}

/// posternd dies during a flood: nobody watches the device any more, so nothing may be left on it.
#[test]
fn a_dead_posternd_leaves_nothing_on_a_device() {
    let net = Net::pair();
    let mut postern = Postern::start(&net.server, xdp("native", &["eth0"]));
    let _flood = Flood::start(&net, &[22]);
    prefilter::until(&postern, "eth0", XdpMode::Native);
    postern.kill();
    until("a free device", || !has_xdp(&net.server, "eth0"));
}

/// DHCP or netplan raises the MTU while the prefilter runs in the driver.
#[test]
fn an_mtu_that_is_raised_during_a_flood_loses_nothing() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, xdp("native", &["eth0"]));
    prefilter::until(&postern, "eth0", XdpMode::Standby);
    assert_eq!(arrived(&net), MANY, "at rest");
    let _flood = Flood::start(&net, &[22]);
    prefilter::until(&postern, "eth0", XdpMode::Native);
    assert!(has_xdp(&net.server, "eth0"));
    assert_eq!(arrived(&net), MANY, "under a flood");
    net.client.ip("link set eth0 mtu 9000");
    net.server.ip("link set eth0 mtu 9000");
    let start = Instant::now();
    while has_xdp(&net.server, "eth0") {
        assert!(start.elapsed() < postern_tests::until::PATIENCE, "XDP stays after a change of MTU");
    }
    println!("XDP was off {:?} after the change of MTU, as seen through ip(8)", start.elapsed());
    assert_eq!(arrived(&net), MANY, "after the change");
    let said = prefilter::of(&postern, "eth0");
    assert_eq!((said.mode(), said.reason.contains("was changed")), (XdpMode::Off, true), "{said:?}");
}

/// What changes about a device without a change of its addresses takes XDP off as well.
#[test]
fn a_change_of_features_takes_xdp_off() {
    takes_xdp_off(|server| server.offload_checksums("eth0", false));
}

#[test]
fn a_bridge_that_takes_the_device_takes_xdp_off() {
    takes_xdp_off(|server| server.ip("link add br9 type bridge\nlink set eth0 master br9"));
}

fn takes_xdp_off(change: impl Fn(&Netns)) {
    let net = Net::pair();
    let postern = Postern::start(&net.server, xdp("native", &["eth0"]));
    let _flood = Flood::start(&net, &[22]);
    prefilter::until(&postern, "eth0", XdpMode::Native);
    change(&net.server);
    prefilter::until(&postern, "eth0", XdpMode::Off);
    assert!(!has_xdp(&net.server, "eth0"));
}

/// XDP never goes to a device that has ports, to a port, or below another device, not even where it is asked for.
#[test]
fn xdp_keeps_off_devices_that_others_depend_on() {
    let net = Net::pair();
    net.server.ip(
        "link add br0 type bridge\nlink set br0 up\nlink add in0 type veth peer name out0\nlink set in0 master br0\nlink set in0 up\n\
         link set out0 up\nlink add mac0 link out0 type macvlan\nlink set mac0 up",
    );
    for mode in ["native", "generic"] {
        let postern = Postern::start(&net.server, xdp(mode, &["br0", "in0", "out0"]));
        let _flood = Flood::start(&net, &[22]);
        for device in ["br0", "in0", "out0"] {
            let said = prefilter::of(&postern, device);
            assert_eq!(said.mode(), XdpMode::Off, "{said:?}");
            assert!(!has_xdp(&net.server, device), "{mode}: {device}");
        }
        until("the condition", || degraded(&postern).iter().any(|said| said.contains("br0") && said.contains("ports")));
    }
}

#[test]
fn another_agents_xdp_has_the_device() {
    let net = Net::pair();
    let index = net.server.interface("eth0");
    let other = || net.server.run(|| bpf::attach_device(Pass::Xdp, index));

    // Beside TCX there is room for it, at rest and in a flood.
    let postern = Postern::start(&net.server, Options::default());
    let theirs = other().expect("room for XDP at rest");
    let flood = Flood::start(&net, &[22]);
    prefilter::until(&postern, "eth0", XdpMode::Tcx);
    drop(theirs);
    let mut theirs = None;
    // The kernel takes a program off a little after its link is closed.
    until("room for XDP in a flood", || {
        theirs = other().ok();
        theirs.is_some()
    });
    assert_eq!(degraded(&postern), [""; 0]);
    drop(flood);
    drop(postern);

    // Where XDP was asked for, it gives way and says so.
    let postern = Postern::start(&net.server, xdp("native", &["eth0"]));
    let flood = Flood::start(&net, &[22]);
    let said = prefilter::until(&postern, "eth0", XdpMode::Off);
    assert!(said.reason.contains("another XDP program"), "{said:?}");
    assert!(degraded(&postern).iter().any(|why| why.contains("eth0") && why.contains("another XDP program")));
    assert!(has_xdp(&net.server, "eth0"), "theirs is still there");
    drop((theirs, flood, postern));

    // An administrator makes room for it: at once, without a restart.
    let postern = Postern::start(&net.server, xdp("native", &["eth0"]));
    let _flood = Flood::start(&net, &[22]);
    prefilter::until(&postern, "eth0", XdpMode::Native);
    other().expect_err("two in one place");
    postern.configure(&Options { xdp: "{ interfaces = [] }".to_owned(), ..Options::default() });
    postern.reload();
    until("room for another", || other().is_ok());
    assert_eq!(degraded(&postern), [""; 0], "nothing was promised");
}

/// A program that may translate or redirect packets keeps the prefilter off, whichever was there first.
#[test]
fn another_program_of_tcx_makes_the_prefilter_give_way() {
    let net = Net::pair();
    let index = net.server.interface("eth0");
    let postern = Postern::start(&net.server, Options::default());
    let _flood = Flood::start(&net, &[22]);
    prefilter::until(&postern, "eth0", XdpMode::Tcx);
    let _theirs = net.server.run(|| bpf::attach_device(Pass::Tcx, index)).expect("room for another");
    let said = prefilter::until(&postern, "eth0", XdpMode::Off);
    assert!(said.reason.contains("another program"), "{said:?}");
    assert_eq!(tcx_programs(&net.server, "eth0"), 1, "theirs alone");
    assert!(degraded(&postern).iter().any(|why| why.contains("another program")));
}
