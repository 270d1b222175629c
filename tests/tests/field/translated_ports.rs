//! A port that the host translates is the one that the translation names, with and without the prefilter, at rest and in a flood.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use postern_proto::v1::XdpMode;
use postern_tests::bpf;
use postern_tests::flood::Flood;
use postern_tests::net::{GRANTED, NEIGHBOUR, Net, SERVER, STRANGER, join};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern};
use postern_tests::prefilter;
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::until::until;

/// The container behind the server, as Docker numbers the first one.
const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);
/// A port of the server's own that nothing protects.
const OPEN: u16 = 8022;

/// A host with a container, and a stranger outside.
struct Scene {
    net: Net,
    _container: Netns,
    _services: [Service; 3],
}

impl Scene {
    fn new() -> Self {
        let (net, container) = (Net::pair(), Netns::new());
        join(&net.server, "docker0", [2, 0, 0, 0, 9, 1], &container, "eth0", [2, 0, 0, 0, 9, 2]);
        net.server.ip("addr add 172.17.0.1/16 dev docker0");
        container.ip(&format!("addr add {CONTAINER}/16 dev eth0\nroute add default via 172.17.0.1"));
        net.server.sysctl("net/ipv4/ip_forward", "1");
        let any = |port: u16| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
        let services = [
            Service::tcp_echo(&container, any(22)),
            Service::tcp_echo(&container, any(3389)),
            Service::tcp_echo(&net.server, any(OPEN)),
        ];
        Self { net, _container: container, _services: services }
    }

    fn answers(&self, from: impl Into<IpAddr>, port: u16) -> bool {
        probe::tcp_answers(&self.net.client, from, (SERVER.v4, port).into())
    }

    fn is_closed(&self, from: impl Into<IpAddr>, port: u16) -> bool {
        probe::tcp(&self.net.client, from, (SERVER.v4, port).into()) != Outcome::Answered
    }
}

/// Chains as Docker's and podman's rules have them, with these rules at prerouting.
fn nat(rules: &str) -> String {
    format!(
        "table ip nat {{\n chain pre {{ type nat hook prerouting priority -100; {rules}\n }}\n \
         chain post {{ type nat hook postrouting priority 100; ip saddr 172.17.0.0/16 oifname != \"docker0\" masquerade\n }}\n}}\n"
    )
}

#[test]
fn a_port_that_is_translated_to_a_container_is_the_containers() {
    let scene = Scene::new();
    scene.net.server.nft(&nat("fib daddr type local tcp dport 3389 dnat to 172.17.0.2"));
    assert!(scene.answers(STRANGER.v4, 3389), "bare Linux");
    for options in [Options::without_xdp(), Options::default()] {
        let postern = Postern::start(&scene.net.server, options.clone());
        assert!(scene.answers(STRANGER.v4, 3389), "at rest: {}", options.xdp);
        let _flood = Flood::start(&scene.net, &[22]);
        if options.xdp != "\"off\"" {
            let said = prefilter::until(&postern, "eth0", XdpMode::Off);
            assert!(said.reason.contains("dnat in table nat"), "{said:?}");
        }
        assert!(scene.answers(STRANGER.v4, 3389), "in a flood: {}", options.xdp);
        assert!(scene.is_closed(STRANGER.v4, 22), "the host's own port");
        let degraded = postern.client().details().expect("a status");
        assert_eq!(degraded, [""; 0], "a fact, and no fault");
    }
}

/// The flood comes from elsewhere and meets the lock; one source alone is translated.
#[test]
fn a_port_that_is_translated_for_one_source_is_the_containers_for_that_source() {
    let scene = Scene::new();
    scene.net.server.nft(&nat(&format!("ip saddr {} tcp dport 22 dnat to 172.17.0.2", STRANGER.v4)));
    let postern = Postern::start(&scene.net.server, Options::default());
    let _flood = Flood::start(&scene.net, &[22]);
    prefilter::until(&postern, "eth0", XdpMode::Off);
    assert!(scene.answers(STRANGER.v4, 22));
    assert!(scene.is_closed(NEIGHBOUR.v4, 22));
}

/// The prefilter drops, then somebody starts a container.
#[test]
fn a_translation_that_comes_during_a_flood_is_honoured() {
    let scene = Scene::new();
    let postern = Postern::start(&scene.net.server, Options::default());
    let _flood = Flood::start(&scene.net, &[22]);
    prefilter::until(&postern, "eth0", XdpMode::Tcx);
    assert!(scene.is_closed(STRANGER.v4, 22));
    scene.net.server.nft(&nat(&format!("ip saddr {} tcp dport 22 dnat to 172.17.0.2", STRANGER.v4)));
    prefilter::until(&postern, "eth0", XdpMode::Off);
    assert!(scene.answers(STRANGER.v4, 22));
    // Somebody stops it again.
    scene.net.server.nft("delete table ip nat");
    prefilter::until(&postern, "eth0", XdpMode::Tcx);
    assert!(scene.is_closed(STRANGER.v4, 22));
}

/// Other ways in which a packet to a protected port is not for that port.
#[test]
fn redirects_tproxy_stateless_rewrites_and_routing_rules_keep_the_prefilter_away() {
    let scene = Scene::new();
    let server = &scene.net.server;
    let postern = Postern::start(server, Options::default());
    let _flood = Flood::start(&scene.net, &[22]);
    prefilter::until(&postern, "eth0", XdpMode::Tcx);
    let redirect = format!("ip saddr {} tcp dport 22 redirect to :{OPEN}", GRANTED.v4);
    server.nft(&nat(&redirect));
    prefilter::until(&postern, "eth0", XdpMode::Off);
    assert!(scene.answers(GRANTED.v4, 22), "a redirect");
    server.nft("delete table ip nat");
    let filter = |rule: &str| {
        format!("table ip other {{ chain pre {{ type filter hook prerouting priority -300; {rule}\n }}\n}}\n")
    };
    for rule in [
        format!("ip saddr {} tcp dport 22 tproxy to :{OPEN}", GRANTED.v4),
        format!("ip saddr {} tcp dport 22 tcp dport set {OPEN}", GRANTED.v4),
    ] {
        prefilter::until(&postern, "eth0", XdpMode::Tcx);
        server.nft(&filter(&rule));
        let said = prefilter::until(&postern, "eth0", XdpMode::Off);
        assert!(said.reason.contains("table other"), "{rule}: {said:?}");
        server.nft("delete table ip other");
    }
    prefilter::until(&postern, "eth0", XdpMode::Tcx);
    server.ip("rule add pref 10 lookup local\nrule add pref 5 iif eth0 lookup 77\nrule del pref 0");
    let said = prefilter::until(&postern, "eth0", XdpMode::Off);
    assert!(said.reason.contains("routing rule"), "{said:?}");
    server.ip("rule del pref 5\nrule del pref 10\nrule add pref 0 lookup local");
    prefilter::until(&postern, "eth0", XdpMode::Tcx);
    let tc = server.command("tc").args(["qdisc", "add", "dev", "eth0", "clsact"]).output().expect("tc");
    assert!(tc.status.success(), "{tc:?}");
    let said = prefilter::until(&postern, "eth0", XdpMode::Off);
    assert!(said.reason.contains("filters of tc"), "{said:?}");
}

/// Another `sk_lookup` program hands a connection to a socket, whatever the lock says.
#[test]
fn a_program_beside_the_lock_keeps_the_prefilter_away() {
    let scene = Scene::new();
    let server = &scene.net.server;
    let listener = server.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, OPEN + 1))).expect("a listener");
    let postern = Postern::start(server, Options::default());
    let _flood = Flood::start(&scene.net, &[22]);
    prefilter::until(&postern, "eth0", XdpMode::Tcx);
    let _other = server.run(|| bpf::hijack(&listener, 22)).expect("another program");
    let said = prefilter::until(&postern, "eth0", XdpMode::Off);
    assert!(said.reason.contains("sk_lookup"), "{said:?}");
}

/// A router's and a firewall's rules translate nothing that comes in: they keep nobody's prefilter away.
#[test]
fn rules_that_only_look_mark_and_masquerade_keep_nothing_away() {
    let scene = Scene::new();
    scene.net.server.nft(&nat("fib daddr type local counter accept"));
    scene.net.server.nft(
        "table inet firewalld { set block { type ipv4_addr; }\n chain pre { type filter hook prerouting priority -150; \
         ct state established,related accept; ip saddr @block drop; meta mark set 7; tcp flags syn limit rate 9000/second accept\n }\n}\n",
    );
    let postern = Postern::start(&scene.net.server, Options::default());
    let flood = Flood::start(&scene.net, &[22]);
    prefilter::until(&postern, "eth0", XdpMode::Tcx);
    until("SYNs that the prefilter drops", || prefilter::dropped(&postern) > 100);
    let _ = flood.held();
}
