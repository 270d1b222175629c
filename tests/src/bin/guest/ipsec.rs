//! A protected port through IPsec, which this kernel has and a build machine may not: transport mode, tunnel mode, and tunnel mode
//! through an interface, over IPv4 and IPv6.
//!
//! Each way leads to a peer of its own. In tunnel mode the client's first address is the gateway, and the packets that leave the
//! server show nothing else. What leaves is counted on the wire, encrypted as it is.

use crate::stage::Stage;
use crate::world::{PORT, SPARE, World};
use postern_core::key::{TCP, UDP};
use postern_tests::net::{GRANTED, SERVER, STRANGER, disconnect};
use postern_tests::netns::Netns;
use postern_tests::probe::{self, LONG_PATIENCE, Outcome};
use postern_tests::service::Service;
use postern_tests::until;
use postern_tests::wire::Wire;
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// IP protocol number of ESP (RFC 4303).
const ESP: u8 = 50;
/// Longer than an emulated machine takes to send anything again.
const QUIET: Duration = Duration::from_secs(2);
/// What `ip xfrm state add` takes: a cipher with a key that is no secret.
const CIPHER: &str = "aead rfc4106(gcm(aes)) 0x0102030405060708090a0b0c0d0e0f1011121314 128";

/// One way through IPsec.
struct Way {
    name: &'static str,
    mode: &'static str,
    /// The peer, whom a grant names.
    peer: IpAddr,
    /// `0`: none.
    interface: u32,
}

fn ways() -> Vec<Way> {
    let inner =
        |n: u8| [IpAddr::from(Ipv4Addr::new(10, n, 0, 10)), Ipv6Addr::new(0xfd00, n.into(), 0, 0, 0, 0, 0, 10).into()];
    let way = |name, mode, interface| move |peer| Way { name, mode, peer, interface };
    let transport = GRANTED.both().map(way("transport", "transport", 0));
    let tunnel = inner(40).map(way("tunnel", "tunnel", 0));
    let device = inner(41).map(way("interface", "tunnel", 42));
    transport.into_iter().chain(tunnel).chain(device).collect()
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Keys and policies for each way, at both ends.
fn make(world: &World, ways: &[Way]) {
    for host in [&world.net.server, &world.net.client] {
        host.ip("link add xfrm0 type xfrm dev eth0 if_id 42\nlink set xfrm0 up");
    }
    for (number, way) in ways.iter().enumerate() {
        let (server, peer) = (SERVER.like(way.peer), way.peer);
        let gateway = if way.mode == "tunnel" { STRANGER.like(peer) } else { peer };
        if way.mode == "tunnel" {
            world.net.client.ip(&format!("addr add {peer}/{} dev lo", bits(peer)));
            let by = if way.interface == 0 { format!("via {gateway}") } else { "dev xfrm0".to_owned() };
            world.net.server.ip(&format!("route add {peer}/{} {by} src {server}", bits(peer)));
        }
        if way.interface != 0 {
            let family = if peer.is_ipv4() { "-4" } else { "-6" };
            ip(&world.net.client, &[family, "rule", "add", "from", &peer.to_string(), "lookup", "41"]);
            ip(&world.net.client, &[family, "route", "add", "default", "dev", "xfrm0", "table", "41"]);
        }
        states(world, way, number, gateway);
    }
}

fn ip(host: &Netns, words: &[&str]) {
    let done = host.command("ip").args(words).status().expect("ip");
    assert!(done.success(), "ip {words:?}");
}

fn states(world: &World, way: &Way, number: usize, gateway: IpAddr) {
    let (server, peer, bits) = (SERVER.like(way.peer), way.peer, bits(way.peer));
    let interface = if way.interface == 0 { String::new() } else { format!("if_id {}", way.interface) };
    let id = 100 + number;
    for (from, to, spi) in [(server, gateway, 0x1000 + number), (gateway, server, 0x2000 + number)] {
        let line = format!(
            "xfrm state add src {from} dst {to} proto esp spi {spi} reqid {id} mode {} {interface} {CIPHER}",
            way.mode
        );
        [&world.net.server, &world.net.client].iter().for_each(|host| host.ip(&line));
    }
    // TCP and UDP alone: neighbour discovery stays as it is.
    for protocol in [TCP, UDP] {
        for (from, to, ends, outwards) in
            [(server, peer, (server, gateway), true), (peer, server, (gateway, server), false)]
        {
            for (host, is_server) in [(&world.net.server, true), (&world.net.client, false)] {
                let direction = if outwards == is_server { "out" } else { "in" };
                host.ip(&format!(
                    "xfrm policy add src {from}/{bits} dst {to}/{bits} proto {protocol} dir {direction} {interface} \
                     tmpl src {} dst {} proto esp reqid {id} mode {}",
                    ends.0, ends.1, way.mode
                ));
            }
        }
    }
}

fn unmake(world: &World, ways: &[Way]) {
    for host in [&world.net.server, &world.net.client] {
        host.ip("xfrm policy flush\nxfrm state flush\nlink del xfrm0");
    }
    for way in ways.iter().filter(|way| way.mode == "tunnel") {
        world.net.client.ip(&format!("addr del {}/{} dev lo", way.peer, bits(way.peer)));
    }
}

/// Whether this frame is an encrypted one from the server.
fn leaves(frame: &[u8]) -> Option<()> {
    let packet = frame.get(14..)?;
    let (protocol, source): (u8, IpAddr) = match frame.get(12..14)? {
        [0x08, 0x00] => (packet[9], IpAddr::from(<[u8; 4]>::try_from(packet.get(12..16)?).ok()?)),
        [0x86, 0xdd] => (packet[6], IpAddr::from(<[u8; 16]>::try_from(packet.get(8..24)?).ok()?)),
        _ => return None,
    };
    (protocol == ESP && source == SERVER.like(source)).then_some(())
}

/// Nothing is decrypted at any peer any more, and in the end nothing leaves at all. A listener's last handshakes may, before that:
/// those of the probes that found the end.
fn assert_over(wire: &Wire, ways: &[Way], sessions: &mut [TcpStream]) {
    let mut arrived = |patience| {
        let mut count = 0;
        for session in sessions.iter_mut() {
            session.set_read_timeout(Some(patience)).expect("a time-out");
            while let Ok(length @ 1..) = session.read(&mut [0; 1 << 16]) {
                count += length;
            }
        }
        count
    };
    let _before = arrived(Duration::from_millis(100));
    let late = arrived(QUIET / ways.len() as u32);
    assert_eq!(late, 0, "bytes that peers got after the end, while posternd was dead");
    until("nothing leaves", || {
        let _before = wire.arrived();
        wire.find(QUIET, leaves).is_none()
    });
    assert_eq!(arrived(QUIET / ways.len() as u32), 0, "bytes that peers got later");
}

/// A session that gets a stream.
fn streaming(world: &World, way: &Way) -> TcpStream {
    let to = SocketAddr::new(SERVER.like(way.peer), SPARE);
    let mut stream = probe::connect(&world.net.client, way.peer, to)
        .unwrap_or_else(|error| panic!("{} to {}: no session under its grant: {error}", way.name, way.peer));
    stream.set_read_timeout(Some(LONG_PATIENCE)).expect("a time-out");
    stream.read_exact(&mut [0; 64]).unwrap_or_else(|error| panic!("{} to {}: no stream: {error}", way.name, way.peer));
    stream
}

/// Has the peer send a datagram to the server's port. From then on no socket at that port makes a connection of the host's own to
/// this peer: it answers the peer.
fn meet(world: &World, way: &Way) {
    let server = world.net.server.run(|| UdpSocket::bind((SERVER.like(way.peer), SPARE))).expect("a socket");
    let client = world.net.client.run(|| UdpSocket::bind((way.peer, 0))).expect("a socket");
    server.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    let to = server.local_addr().expect("its address");
    until("the peer's datagram", || client.send_to(b"tick", to).is_ok() && server.recv(&mut [0; 16]).is_ok());
}

/// A datagram to the client's peer by a socket of the server's, connected or not.
fn datagram_arrives(world: &World, way: &Way, connected: bool, patience: Duration) -> bool {
    let server = world.net.server.run(|| UdpSocket::bind((SERVER.like(way.peer), SPARE))).expect("a socket");
    let client = world.net.client.run(|| UdpSocket::bind((way.peer, 0))).expect("a socket");
    client.set_read_timeout(Some(Duration::from_millis(100))).expect("a time-out");
    let to = client.local_addr().expect("its address");
    server.connect(to).expect("to connect");
    if !connected {
        disconnect(&server);
    }
    let end = std::time::Instant::now() + patience;
    while std::time::Instant::now() < end {
        let _refused = if connected { server.send(b"tick") } else { server.send_to(b"tick", to) };
        if client.recv(&mut [0; 16]).is_ok() {
            return true;
        }
    }
    false
}

pub fn ends_with_the_peers_grant(stage: &mut Stage) {
    let mut world = stage.world();
    let ways = ways();
    make(&world, &ways);
    let _stream = Service::tcp_chatter(&world.net.server, (Ipv6Addr::UNSPECIFIED, SPARE).into());
    let closed = |world: &World, when: &str| {
        for way in &ways {
            let to = SocketAddr::new(SERVER.like(way.peer), PORT);
            let outcome = probe::tcp(&world.net.client, way.peer, to);
            assert_ne!(outcome, Outcome::Answered, "{} from {} {when}", way.name, way.peer);
        }
    };
    // The gateway's grant opens nothing for whom it stands in front of.
    let ports = ["22/tcp", "4000/any"];
    let peers: Vec<IpAddr> = ways.iter().map(|way| way.peer).collect();
    let met = world.grant(&ports, &peers, 3600);
    ways.iter().for_each(|way| meet(&world, way));
    world.revoke(&met.id);
    let gateway = world.grant(&ports, &STRANGER.both(), 3600);
    closed(&world, "with a grant for the gateway alone");
    for way in &ways {
        for connected in [true, false] {
            assert!(!datagram_arrives(&world, way, connected, QUIET), "{} to {}: {connected}", way.name, way.peer);
        }
    }
    let wire = world.net.client_wire();
    // Nor does a peer need a grant for the gateway.
    world.revoke(&gateway.id);
    world.grant(&ports, &peers, 60);
    let mut sessions: Vec<_> = ways.iter().map(|way| streaming(&world, way)).collect();
    assert!(wire.find(LONG_PATIENCE, leaves).is_some(), "nothing is encrypted");
    for way in &ways {
        assert!(datagram_arrives(&world, way, true, LONG_PATIENCE), "{} to {}: connected UDP", way.name, way.peer);
        assert!(!datagram_arrives(&world, way, false, QUIET), "{} to {}: unconnected UDP", way.name, way.peer);
    }
    for (way, session) in ways.iter().zip(&mut sessions) {
        session.read_exact(&mut [0; 64]).unwrap_or_else(|error| panic!("{} to {}: {error}", way.name, way.peer));
    }
    // A gateway that may go on keeps no peer in.
    world.grant(&ports, &STRANGER.both(), 3600);
    world.postern.kill();
    for way in &ways {
        let to = SocketAddr::new(SERVER.like(way.peer), PORT);
        until("the grant's end", || probe::tcp(&world.net.client, way.peer, to) != Outcome::Answered);
    }
    assert_over(&wire, &ways, &mut sessions);
    closed(&world, "after the end");
    drop(sessions);
    unmake(&world, &ways);
    world.postern.launch();
    stage.note(&format!("{} ways through IPsec", ways.len()));
    stage.leave(world);
}
