//! Promise 4: packets that are not for a protected port pass as if there were no Postern.
//!
//! Each workload is run on bare Linux first, so that its failure with posternd means something.

use postern_tests::frame::protocol::{DESTINATION, HOP_BY_HOP, ROUTING, UDP};
use postern_tests::frame::{self, Ipv4, Ipv6, filler_options, routing_header};
use postern_tests::net::{CLIENT_MAC, GRANTED, Net, SERVER, SERVER_MAC, STRANGER, join};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern, ROLES, port};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::Duration;

/// A port that nobody protects.
const FREE: u16 = 8022;

#[test]
fn with_all_layers() {
    unharmed(Options::default(), false);
}

#[test]
fn without_the_prefilter() {
    unharmed(Options::without_xdp(), false);
}

#[test]
fn after_the_agents_death() {
    unharmed(Options::default(), true);
}

/// Runs every workload on bare Linux, then with posternd, then once more while the port is shown to be closed.
fn unharmed(options: Options, dead: bool) {
    let net = Net::pair();
    let world = World::new(&net);
    for (name, work) in WORKLOADS {
        println!("bare Linux: {name}");
        work(&world);
    }
    let mut postern = Postern::start(&net.server, options);
    if dead {
        postern.kill();
    }
    for (name, work) in WORKLOADS {
        println!("with posternd: {name}");
        work(&world);
    }
    for server in SERVER.both() {
        let outcome = probe::tcp(&net.client, STRANGER.like(server), SocketAddr::new(server, 22));
        assert_ne!(outcome, Outcome::Answered, "the protected port at {server}");
    }
}

type Workload = fn(&World<'_>);

const WORKLOADS: &[(&str, Workload)] = &[
    ("TCP and UDP on another port", other_ports),
    ("ARP and neighbour discovery", neighbours),
    ("ping both ways", ping),
    ("path MTU discovery", path_mtu),
    ("connections of the host's own", outgoing),
    ("the host talking to itself", loopback),
    ("forwarded traffic to the same port number", forwarded),
    ("another namespace's server on the same port number", other_namespace),
    ("fragmented datagrams", fragments),
    ("IPv6 extension headers", extension_headers),
    ("broadcast and multicast", one_to_many),
];

/// Two hosts, and two more behind them.
///
/// ```text
/// far 10.3.0.2 --- 10.3.0.1 client 10.1.0.2 --- 10.1.0.1 server 10.2.0.1 --- 10.2.0.2 inner
///          (the client forwards with an MTU of 1300)        (the server forwards)
/// ```
struct World<'a> {
    net: &'a Net,
    far: Netns,
    inner: Netns,
    _services: Vec<Service>,
}

const FAR: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 3, 0, 2), Ipv6Addr::new(0xfd00, 3, 0, 0, 0, 0, 0, 2));
const INNER: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 2, 0, 2), Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 2));

impl<'a> World<'a> {
    fn new(net: &'a Net) -> Self {
        let (far, inner) = (Netns::new(), Netns::new());
        behind(&net.client, "far0", &far, 3, "mtu 1300");
        behind(&net.server, "inner0", &inner, 2, "");
        net.server
            .ip(&format!("route add 10.3.0.0/24 via {0}\nroute add fd00:3::/64 via {1}", STRANGER.v4, STRANGER.v6));
        net.client.ip(&format!("route add 10.2.0.0/24 via {0}\nroute add fd00:2::/64 via {1}", SERVER.v4, SERVER.v6));
        let all = |port| SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let services = vec![
            Service::tcp_echo(&net.server, all(22)),
            Service::tcp_echo(&net.server, all(FREE)),
            Service::udp_echo(&net.server, all(FREE)),
            Service::tcp_echo(&inner, all(22)),
            Service::udp_echo(&inner, all(22)),
            Service::tcp_echo(&net.client, all(22)),
        ];
        Self { net, far, inner, _services: services }
    }
}

/// Joins a namespace to a router's; the router's route to it has these attributes.
fn behind(router: &Netns, device: &str, host: &Netns, number: u8, attributes: &str) {
    join(router, device, [2, 0, 0, 0, number, 1], host, "eth0", [2, 0, 0, 0, number, 2]);
    router.ip(&format!("addr add 10.{number}.0.1/24 dev {device}\naddr add fd00:{number}::1/64 dev {device} nodad"));
    if !attributes.is_empty() {
        router.ip(&format!(
            "route replace 10.{number}.0.2/32 dev {device} {attributes}\n\
             route replace fd00:{number}::2/128 dev {device} {attributes}"
        ));
    }
    host.ip(&format!(
        "addr add 10.{number}.0.2/24 dev eth0\naddr add fd00:{number}::2/64 dev eth0 nodad\n\
         route add default via 10.{number}.0.1\nroute add default via fd00:{number}::1"
    ));
    router.sysctl("net/ipv4/ip_forward", "1");
    router.sysctl("net/ipv6/conf/all/forwarding", "1");
}

fn answered_tcp(from: &Netns, source: IpAddr, to: SocketAddr) {
    assert!(probe::tcp_answers(from, source, to), "TCP {source} to {to}");
}

fn answered_udp(from: &Netns, source: IpAddr, to: SocketAddr) {
    assert!(probe::udp_answers(from, source, to), "UDP {source} to {to}");
}

fn other_ports(world: &World<'_>) {
    for server in SERVER.both() {
        let to = SocketAddr::new(server, FREE);
        answered_tcp(&world.net.client, STRANGER.like(server), to);
        answered_udp(&world.net.client, STRANGER.like(server), to);
    }
}

fn neighbours(world: &World<'_>) {
    let Net { client, server } = world.net;
    for namespace in [client, server] {
        namespace.ip("neigh flush dev eth0");
    }
    // Whoever speaks first has to ask, in each direction.
    other_ports(world);
    server.ip("neigh flush dev eth0");
    outgoing(world);
}

fn ping(world: &World<'_>) {
    let Net { client, server } = world.net;
    for (from, to) in [(client, SERVER), (server, STRANGER)] {
        for to in to.both() {
            let mut command = from.command("ping");
            command.args(["-c", "2", "-i", "0.01", "-W", "2", "-s", "3000"]).arg(to.to_string());
            let output = command.output().expect("ping (cargo xtask setup installs it)");
            assert!(output.status.success(), "ping {to}: {}", String::from_utf8_lossy(&output.stdout));
        }
    }
}

/// The server sends more than the path to `far` carries in one packet; only the router's ICMP errors tell it so.
fn path_mtu(world: &World<'_>) {
    for (server, from) in [(SERVER.both()[0], IpAddr::V4(FAR.0)), (SERVER.both()[1], IpAddr::V6(FAR.1))] {
        // What an earlier run has learnt must not help.
        for flush in ["route flush cache", "-6 route flush cache"] {
            let mut command = world.net.server.command("ip");
            let status = command.args(flush.split(' ')).stdout(Stdio::null()).stderr(Stdio::null()).status();
            assert!(status.expect("ip").success());
        }
        let stream = probe::connect(&world.far, from, SocketAddr::new(server, FREE)).expect("a connection");
        echo_much(stream, 200_000);
        let mut command = world.net.server.command("ip");
        let output = command.args(["route", "get", &from.to_string()]).output().expect("ip");
        let route = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(route.contains("mtu 1300"), "the server did not learn the path's MTU: {route}");
    }
}

/// Sends and gets back so many bytes.
fn echo_much(stream: TcpStream, bytes: usize) {
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
    let mut reader = stream.try_clone().expect("the stream");
    let mut writer = stream;
    let sent: Vec<u8> = (0..bytes).map(|at| at as u8).collect();
    let copy = sent.clone();
    let writing = std::thread::spawn(move || writer.write_all(&copy));
    let mut back = vec![0; bytes];
    reader.read_exact(&mut back).expect("everything back");
    writing.join().expect("a thread").expect("everything sent");
    assert!(back == sent, "what came back is not what was sent");
}

/// The remote port is 22 here, which is nobody's business on this host.
fn outgoing(world: &World<'_>) {
    for client in STRANGER.both() {
        answered_tcp(&world.net.server, SERVER.like(client), SocketAddr::new(client, 22));
    }
}

fn loopback(world: &World<'_>) {
    let server = &world.net.server;
    for (from, to) in [
        (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv4Addr::LOCALHOST)),
        (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
        (SERVER.v4.into(), SERVER.v4.into()),
        (SERVER.v6.into(), SERVER.v6.into()),
        (Ipv4Addr::LOCALHOST.into(), SERVER.v4.into()),
    ] {
        for port in [22, FREE] {
            answered_tcp(server, from, SocketAddr::new(to, port));
        }
    }
}

fn forwarded(world: &World<'_>) {
    for inner in [IpAddr::V4(INNER.0), IpAddr::V6(INNER.1)] {
        let to = SocketAddr::new(inner, 22);
        answered_tcp(&world.net.client, STRANGER.like(inner), to);
        answered_udp(&world.net.client, STRANGER.like(inner), to);
        let stream = probe::connect(&world.net.client, GRANTED.like(inner), to).expect("a connection");
        echo_much(stream, 200_000);
    }
}

/// From the protected host itself and from its neighbour.
fn other_namespace(world: &World<'_>) {
    for (inner, host) in [
        (IpAddr::V4(INNER.0), IpAddr::from(Ipv4Addr::new(10, 2, 0, 1))),
        (IpAddr::V6(INNER.1), Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 1).into()),
    ] {
        answered_tcp(&world.net.server, host, SocketAddr::new(inner, 22));
        answered_tcp(&world.inner, inner, SocketAddr::new(host, FREE));
    }
}

/// Large datagrams by the kernel, and small ones in pieces of eight bytes by hand.
fn fragments(world: &World<'_>) {
    for server in SERVER.both() {
        let from = SocketAddr::new(STRANGER.like(server), 0);
        let back = world.net.client.run(|| {
            let socket = std::net::UdpSocket::bind(from).expect("a socket");
            socket.set_read_timeout(Some(probe::LONG_PATIENCE)).expect("a time-out");
            socket.send_to(&[7; 8000], SocketAddr::new(server, FREE)).expect("to send");
            socket.recv(&mut [0; 9000]).expect("an answer to a datagram in fragments")
        });
        assert_eq!(back, 8000);
    }
    let v4 = Ipv4 { protocol: UDP, id: 0x7007, ..Ipv4::new(STRANGER.v4, SERVER.v4) };
    let datagram = frame::udp((v4.source.into(), 7001), (v4.destination.into(), FREE), &[7; 40]);
    let pieces = v4.fragments(&datagram, &[0, 8, 16]);
    expect_answer(world, frame::IPV4, pieces.iter().rev().cloned().collect(), 7001);
    let v6 = Ipv6::new(STRANGER.v6, SERVER.v6);
    let datagram = frame::udp((v6.source.into(), 7002), (v6.destination.into(), FREE), &[7; 40]);
    let pieces = v6.fragments(&[], UDP, &datagram, &[0, 8, 16], 0x7007);
    expect_answer(world, frame::IPV6, pieces.iter().rev().cloned().collect(), 7002);
}

fn extension_headers(world: &World<'_>) {
    let options = |kind: u8, length| (kind, filler_options(length));
    let chains = [
        vec![options(HOP_BY_HOP, 8)],
        vec![options(DESTINATION, 1400)],
        vec![options(DESTINATION, 8); 20],
        vec![(ROUTING, routing_header(253)), options(DESTINATION, 64)],
    ];
    for (number, chain) in chains.into_iter().enumerate() {
        let port = 7010 + number as u16;
        let ip = Ipv6 { extensions: chain, ..Ipv6::new(STRANGER.v6, SERVER.v6) };
        let datagram = frame::udp((ip.source.into(), port), (ip.destination.into(), FREE), b"probe");
        expect_answer(world, frame::IPV6, vec![ip.packet(UDP, &datagram)], port);
    }
}

/// Sends packets by hand from [`STRANGER`] and waits for the UDP answer to `port`.
fn expect_answer(world: &World<'_>, kind: u16, packets: Vec<Vec<u8>>, port: u16) {
    let wire = world.net.client_wire();
    for packet in &packets {
        wire.send(&frame::ethernet(SERVER_MAC, CLIENT_MAC, kind, packet));
    }
    let answer =
        |bytes: &[u8]| frame::read(bytes).filter(|seen| (seen.source_port, seen.destination_port) == (FREE, port));
    assert!(wire.find(probe::LONG_PATIENCE, answer).is_some(), "no answer to UDP port {port}");
}

fn one_to_many(world: &World<'_>) {
    let group = Ipv4Addr::new(239, 1, 2, 3);
    let socket = Service::udp_bound(&world.net.server, (Ipv4Addr::UNSPECIFIED, FREE + 1).into());
    socket.join_multicast_v4(&group, &SERVER.v4).expect("a membership");
    let _service = Service::udp_socket(socket);
    for to in [group, Ipv4Addr::new(10, 1, 255, 255), Ipv4Addr::BROADCAST] {
        world.net.client.run(|| {
            let socket = std::net::UdpSocket::bind((STRANGER.v4, 0)).expect("a socket");
            socket.set_broadcast(true).expect("to broadcast");
            socket.set_read_timeout(Some(probe::LONG_PATIENCE)).expect("a time-out");
            socket2::SockRef::from(&socket).bind_device(Some(b"eth0")).expect("the interface");
            socket.send_to(b"probe", (to, FREE + 1)).expect("to send");
            let (_, from) =
                socket.recv_from(&mut [0; 64]).unwrap_or_else(|error| panic!("no answer from {to}: {error}"));
            assert_eq!(from.ip(), IpAddr::from(SERVER.v4));
        });
    }
}

/// A stream that runs while posternd starts, grants, dies and comes back notices nothing.
#[test]
fn a_bulk_stream_runs_through_start_and_death() {
    let net = Net::pair();
    let stream = Iperf::start(&net, 3);
    let mut postern = Postern::start(&net.server, Options::default());
    postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 60).expect("a grant");
    postern.kill();
    postern.launch();
    let intervals = stream.finish();
    println!("bytes per interval: {intervals:?}");
    assert!(intervals.len() >= 20, "{intervals:?}");
    assert!(intervals.iter().all(|bytes| *bytes > 0), "the stream stood still: {intervals:?}");
}

/// A real iperf3 on its own port, from client to server.
struct Iperf {
    server: std::process::Child,
    client: std::process::Child,
}

impl Iperf {
    fn start(net: &Net, seconds: u32) -> Self {
        let mut server = net.server.command("iperf3");
        let server = server.args(["-s", "-1", "--forceflush"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut server = server.expect("iperf3 (cargo xtask setup installs it)");
        // Its second line says that it listens.
        let mut output = std::io::BufReader::new(server.stdout.take().expect("its output"));
        let mut line = String::new();
        while !line.contains("listening") {
            line.clear();
            assert!(std::io::BufRead::read_line(&mut output, &mut line).expect("its output") > 0, "iperf3 ended");
        }
        std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
        let mut client = net.client.command("iperf3");
        client.args(["-J", "-i", "0.1", "-c", &SERVER.v4.to_string(), "-t", &seconds.to_string()]);
        let client = client.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("iperf3");
        Self { server, client }
    }

    /// Bytes in each tenth of a second.
    fn finish(mut self) -> Vec<u64> {
        let output = self.client.wait_with_output().expect("iperf3's end");
        assert!(self.server.wait().expect("iperf3's end").success());
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("iperf3's report");
        let intervals = report["intervals"].as_array().unwrap_or_else(|| panic!("{report}"));
        intervals.iter().filter_map(|interval| interval["sum"]["bytes"].as_u64()).collect()
    }
}

/// A protected port in the ephemeral range is never chosen for the host's own connections, so none of them is cut.
#[test]
fn the_hosts_own_connections_never_get_a_protected_port() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.client, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 9000)));
    net.server.sysctl("net/ipv4/ip_local_port_range", "40000 40007");
    let rules = [port(40002, "tcp"), port(40003, "any"), ROLES.to_owned()].concat();
    let _postern = Postern::start(&net.server, Options { rules, ..Options::default() });
    for client in STRANGER.both() {
        // Six free ports of eight: all at once, so that the range is exhausted.
        let connect =
            || net.server.run(|| TcpStream::connect_timeout(&SocketAddr::new(client, 9000), Duration::from_secs(1)));
        let streams: Vec<_> = (0..6).map(|_| connect().expect("a connection")).collect();
        let mut ports: Vec<_> = streams.iter().map(|stream| stream.local_addr().expect("an address").port()).collect();
        ports.sort_unstable();
        assert_eq!(ports, [40000, 40001, 40004, 40005, 40006, 40007], "to {client}");
        streams.into_iter().for_each(|stream| echo_much(stream, 1000));
    }
}
