//! The same SYN by other paths: tunnels, translation, other devices and addresses.
//!
//! Each path is walked on bare Linux first. Then posternd closes it, a grant for exactly this source opens it, and its
//! end closes it again, also while posternd is dead.

use crate::PORT;
use postern_tests::frame::{self, Ipv4, Ipv6, Tcp, protocol};
use postern_tests::net::{
    CLIENT_LINK_LOCAL, CLIENT_MAC, Net, PHANTOM, SERVER, SERVER_LINK_LOCAL, SERVER_MAC, SERVER_OTHER, STRANGER, join,
};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::wire::Tun;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

fn serve(net: &Net) -> Service {
    Service::tcp_echo(&net.server, SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)))
}

/// A path into the server: from one of the namespace's addresses to an address and port of the server's.
struct Path<'a> {
    namespace: &'a Netns,
    from: IpAddr,
    to: SocketAddr,
}

impl Path<'_> {
    /// Whether the server answers; waits longer where it should.
    fn answers(&self, expected: bool) -> bool {
        let Self { namespace, from, to } = *self;
        if expected {
            probe::tcp_answers(namespace, from, to)
        } else {
            probe::tcp(namespace, from, to) == Outcome::Answered
        }
    }
}

/// How long to wait for an answer.
fn patience(expected: bool) -> Duration {
    if expected { probe::LONG_PATIENCE } else { probe::PATIENCE }
}

/// Walks paths that were set up already, through the whole story at the top of this file.
fn closed_but_for_grants(net: &Net, paths: &[Path<'_>]) {
    with_service(net, &serve(net), paths);
}

fn with_service(net: &Net, _service: &Service, paths: &[Path<'_>]) {
    let each = |expected: bool, when: &str| {
        for path in paths {
            let answered = path.answers(expected);
            assert_eq!(answered, expected, "{} to {}: answered = {answered} {when}", path.from, path.to);
        }
    };
    each(true, "on bare Linux");
    // A session that is still there when the port becomes protected would be let in again.
    postern_tests::until("the sessions of bare Linux are over", || !has_sessions(&net.server));
    let mut postern = Postern::start(&net.server, Options::default());
    each(false, "with posternd");
    let sources: Vec<_> = paths.iter().map(|path| path.from).collect();
    let grant = postern.grant(&["22/tcp"], &sources, 600).expect("a grant");
    each(true, "with a grant");
    postern.revoke(&grant.id).expect("to revoke it");
    each(false, "after the grant");
    postern.kill();
    each(false, "while posternd is dead");
}

/// Whether a TCP session of the namespace is not closed on its side.
fn has_sessions(namespace: &Netns) -> bool {
    let listed = namespace.command("ss").args(["-Htn", "exclude", "time-wait"]).output().expect("ss of iproute2");
    String::from_utf8_lossy(&listed.stdout).lines().any(|line| !line.starts_with("LISTEN"))
}

/// The paths between two pairs of addresses, IPv4 and IPv6.
fn both<'a>(namespace: &'a Netns, from: [IpAddr; 2], to: [IpAddr; 2], port: u16) -> Vec<Path<'a>> {
    let path = |(from, to)| Path { namespace, from, to: SocketAddr::new(to, port) };
    from.into_iter().zip(to).map(path).collect()
}

/// Addresses of host `host` in `10.NUMBER.0.0/24` and `fd00:NUMBER::/64`.
fn subnet(number: u8, host: u8) -> [IpAddr; 2] {
    [Ipv4Addr::new(10, number, 0, host).into(), Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, host.into()).into()]
}

/// Gives a device addresses of [`subnet`] and brings it up.
fn address(namespace: &Netns, device: &str, number: u8, host: u8) {
    let [v4, v6] = subnet(number, host);
    namespace.ip(&format!("addr add {v4}/24 dev {device}\naddr add {v6}/64 dev {device} nodad\nlink set {device} up"));
    namespace.wait_until_running(device);
}

#[test]
fn inside_vxlan() {
    let net = Net::pair();
    for (namespace, local, remote, host) in [(&net.client, STRANGER, SERVER, 2), (&net.server, SERVER, STRANGER, 1)] {
        namespace.ip(&format!("link add vx type vxlan id 7 local {} remote {} dstport 4789", local.v4, remote.v4));
        address(namespace, "vx", 7, host);
    }
    closed_but_for_grants(&net, &both(&net.client, subnet(7, 2), subnet(7, 1), PORT));
}

#[test]
fn another_port_redirected_by_nftables() {
    let net = Net::pair();
    net.server.nft(&format!(
        "table inet redirected {{\n chain c {{\n type nat hook prerouting priority dstnat\n \
         tcp dport 8022 redirect to :{PORT}\n }}\n }}\n"
    ));
    closed_but_for_grants(&net, &both(&net.client, STRANGER.both(), SERVER.both(), 8022));
}

#[test]
fn a_bridge() {
    let net = Net::pair();
    net.server.ip("link add br0 type bridge\nlink set br0 up\nlink set eth0 master br0");
    address(&net.server, "br0", 5, 1);
    address(&net.client, "eth0", 5, 2);
    closed_but_for_grants(&net, &both(&net.client, subnet(5, 2), subnet(5, 1), PORT));
}

/// The listener gets packets for addresses and ports that are not its own, and the lock is never asked.
#[test]
fn another_port_taken_by_tproxy() {
    let net = Net::pair();
    for family in ["-4", "-6"] {
        for words in ["rule add fwmark 1 lookup 100", "route add local default dev lo table 100"] {
            let status = net.server.command("ip").arg(family).args(words.split(' ')).status();
            assert!(status.expect("ip").success(), "ip {family} {words}");
        }
    }
    net.server.nft(&format!(
        "table inet taken {{\n chain c {{\n type filter hook prerouting priority mangle\n \
         meta nfproto ipv4 tcp dport 8022 meta mark set 1 tproxy ip to :{PORT} accept\n \
         meta nfproto ipv6 tcp dport 8022 meta mark set 1 tproxy ip6 to :{PORT} accept\n }}\n }}\n"
    ));
    let service = Service::tcp_transparent(&net.server, SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)));
    with_service(&net, &service, &both(&net.client, STRANGER.both(), SERVER.both(), 8022));
}

#[test]
fn a_macvlan_device() {
    let net = Net::pair();
    net.server.ip("link add link eth0 name mv0 type macvlan mode bridge");
    address(&net.server, "mv0", 8, 1);
    address(&net.client, "eth0", 8, 2);
    closed_but_for_grants(&net, &both(&net.client, subnet(8, 2), subnet(8, 1), PORT));
}

#[test]
fn an_address_of_another_interface() {
    let net = Net::pair();
    closed_but_for_grants(&net, &both(&net.client, STRANGER.both(), SERVER_OTHER.both(), PORT));
}

#[test]
fn ipv6_link_local() {
    let net = Net::pair();
    let scope = net.client.interface("eth0");
    let to = SocketAddrV6::new(SERVER_LINK_LOCAL, PORT, 0, scope).into();
    closed_but_for_grants(&net, &[Path { namespace: &net.client, from: CLIENT_LINK_LOCAL.into(), to }]);
}

#[test]
fn an_interface_made_while_the_agent_is_dead() {
    let net = Net::pair();
    let _service = serve(&net);
    let mut postern = Postern::start(&net.server, Options::default());
    postern.kill();
    join(&net.client, "eth1", [2, 0, 0, 0, 9, 2], &net.server, "eth1", [2, 0, 0, 0, 9, 1]);
    address(&net.client, "eth1", 9, 2);
    address(&net.server, "eth1", 9, 1);
    // The path is there: another port answers on it.
    let _open = Service::tcp_echo(&net.server, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8022)));
    let answers = |port, expected| {
        both(&net.client, subnet(9, 2), subnet(9, 1), port).iter().all(|path| path.answers(expected) == expected)
    };
    assert!(answers(8022, true), "the path itself");
    assert!(answers(PORT, false), "while posternd is dead");
    postern.launch();
    assert!(answers(PORT, false), "with posternd back");
    postern.grant(&["22/tcp"], &subnet(9, 2), 600).expect("a grant");
    assert!(answers(PORT, true), "with a grant");
}

/// IP packets from a user's process, without an Ethernet header anywhere.
#[test]
fn a_tun_device() {
    let net = Net::pair();
    let _service = serve(&net);
    let tun = net.server.run(|| Tun::new("tun0")).expect("a TUN device");
    address(&net.server, "tun0", 4, 1);
    assert_eq!(through_tun(&tun, 3000, true), [true; 2], "on bare Linux");
    let mut postern = Postern::start(&net.server, Options::default());
    assert_eq!(through_tun(&tun, 3010, false), [false; 2], "with posternd");
    let grant = postern.grant(&["22/tcp"], &subnet(4, 2), 600).expect("a grant");
    assert_eq!(through_tun(&tun, 3020, true), [true; 2], "with a grant");
    postern.revoke(&grant.id).expect("to revoke it");
    postern.kill();
    assert_eq!(through_tun(&tun, 3030, false), [false; 2], "while posternd is dead");
}

/// Whether SYNs over IPv4 and IPv6 are answered.
fn through_tun(tun: &Tun, port: u16, expected: bool) -> [bool; 2] {
    let ([IpAddr::V4(from4), IpAddr::V6(from6)], [IpAddr::V4(to4), IpAddr::V6(to6)]) = (subnet(4, 2), subnet(4, 1))
    else {
        unreachable!("one of each family")
    };
    let syn = Tcp::syn(port, PORT);
    let v4 = Ipv4::new(from4, to4).packet(&syn.segment(from4.into(), to4.into()));
    let v6 = Ipv6::new(from6, to6).packet(protocol::TCP, &syn.segment(from6.into(), to6.into()));
    [(frame::IPV4, v4), (frame::IPV6, v6)].map(|(kind, packet)| {
        tun.send(&packet);
        let answer = |packet: &[u8]| {
            let seen = frame::read(&frame::ethernet([0; 6], [0; 6], kind, packet))?;
            (seen.is_syn_ack() && seen.destination_port == port).then_some(())
        };
        tun.find(patience(expected), answer).is_some()
    })
}

/// With `route_localnet` a neighbour can reach 127.0.0.1. By hand: no client's kernel would send such a packet, nor
/// answer the server's ARP request, which comes from 127.0.0.1.
#[test]
fn loopback_addresses_from_outside() {
    let net = Net::pair();
    net.server.sysctl("net/ipv4/conf/all/route_localnet", "1");
    let _service = serve(&net);
    let wire = net.client_wire();
    let answered = |port: u16, expected| {
        let ip = Ipv4::new(PHANTOM.v4, Ipv4Addr::LOCALHOST);
        let packet = ip.packet(&Tcp::syn(port, PORT).segment(ip.source.into(), ip.destination.into()));
        wire.send(&frame::ethernet(SERVER_MAC, CLIENT_MAC, frame::IPV4, &packet));
        let answer =
            |bytes: &[u8]| frame::read(bytes).filter(|seen| seen.is_syn_ack() && seen.destination_port == port);
        wire.find(patience(expected), answer).is_some()
    };
    assert!(answered(3000, true), "on bare Linux");
    let mut postern = Postern::start(&net.server, Options::default());
    assert!(!answered(3001, false), "with posternd");
    let grant = postern.grant(&["22/tcp"], &[PHANTOM.v4.into()], 600).expect("a grant");
    assert!(answered(3002, true), "with a grant");
    postern.revoke(&grant.id).expect("to revoke it");
    postern.kill();
    assert!(!answered(3003, false), "while posternd is dead");
}

/// Containers and virtual machines have a port 22 of their own; the cut on the root cgroup sees their packets too.
#[test]
fn another_namespaces_server_stays_reachable() {
    let net = Net::pair();
    let (routed, bridged) = (Netns::new(), Netns::new());
    join(&net.server, "inner0", [2, 0, 0, 0, 3, 1], &routed, "eth0", [2, 0, 0, 0, 3, 2]);
    address(&net.server, "inner0", 3, 1);
    address(&routed, "eth0", 3, 2);
    net.server
        .ip(&format!("link add link eth0 name mv0 type macvlan mode bridge\nlink set mv0 netns {}", bridged.path()));
    address(&bridged, "mv0", 8, 3);
    address(&net.client, "eth0", 8, 2);
    let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    let _services = [serve(&net), Service::tcp_echo(&routed, all), Service::tcp_echo(&bridged, all)];
    let _datagrams = [Service::udp_echo(&routed, all), Service::udp_echo(&bridged, all)];
    let mut postern = Postern::start(&net.server, Options::default());
    for when in ["with posternd", "while posternd is dead"] {
        let paths =
            [both(&net.client, subnet(8, 2), subnet(8, 3), PORT), both(&net.server, subnet(3, 1), subnet(3, 2), PORT)];
        for path in paths.iter().flatten() {
            assert!(path.answers(true), "{} {when}", path.to);
            assert!(probe::udp_answers(path.namespace, path.from, path.to), "UDP {} {when}", path.to);
        }
        // The host's own is closed all the while.
        for path in both(&net.client, STRANGER.both(), SERVER.both(), PORT) {
            assert!(!path.answers(false), "{} {when}", path.to);
        }
        if when == "with posternd" {
            postern.kill();
        }
    }
}
