//! A protected port inside VRFs: the host's own connections pass, those of others need a grant, and no other machine passes for the host.
//!
//! Bare Linux has no check for a source address of its own that comes in over IPv6, so a stranger can claim one. This kernel has the
//! module for VRF devices; the build machine may not.

use crate::stage::Stage;
use crate::world::{OPEN, PORT, SPARE, STREAM, World};
use postern_tests::frame::{self, Ipv6, Tcp, protocol};
use postern_tests::net::{GRANTED, SERVER, STRANGER, join};
use postern_tests::netns::Netns;
use postern_tests::probe::{self, Outcome, PATIENCE};
use postern_tests::service::Service;
use postern_tests::until;
use postern_tests::wire::Wire;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// Hardware addresses of the two ends of the port of the first VRF.
const PORT_MAC: [u8; 6] = [2, 0, 0, 0, 2, 1];
const STRANGER_MAC: [u8; 6] = [2, 0, 0, 0, 2, 2];
/// The server's addresses in the first VRF: on its port, and on the VRF device itself.
const OWN: [[&str; 2]; 2] = [["10.40.0.1", "10.40.9.1"], ["fd00:40::1", "fd00:40:9::1"]];
/// The server's addresses in the second VRF, to which the first one leads by leaked routes.
const BLUE: [&str; 2] = ["10.43.0.1", "fd00:43::1"];
/// Two remote addresses behind the port of the first VRF.
const REMOTE: [[&str; 2]; 2] = [["10.40.0.2", "10.40.0.3"], ["fd00:40::2", "fd00:40::3"]];
/// Where the server's own client is; a stranger who claims to be the server names the same port.
const OWN_CLIENT: u16 = 5353;
/// UDP that is not protected, with an echo on it.
const OPEN_UDP: u16 = 4001;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

/// The services inside the first VRF.
struct Services {
    datagrams: Service,
    open: Service,
    _streams: Service,
}

impl Services {
    /// Bound to the VRF device. Those of the world are bound to no device and take what comes through VRFs by sysctl.
    fn start(server: &Netns) -> Self {
        let datagrams = |port| {
            let socket = Service::udp_bound(server, any(port));
            socket2::SockRef::from(&socket).bind_device(Some(b"red")).expect("the VRF device");
            Service::udp_socket(socket)
        };
        let _streams = Service::tcp_echo_on(server, any(SPARE), "red");
        Self { datagrams: datagrams(SPARE), open: datagrams(OPEN_UDP), _streams }
    }
}

fn make(world: &World) {
    let (server, client) = (&world.net.server, &world.net.client);
    join(server, "port", PORT_MAC, client, "port", STRANGER_MAC);
    join(server, "other", [2, 0, 0, 0, 3, 1], client, "other", [2, 0, 0, 0, 3, 2]);
    server.ip("link add red type vrf table 10\nlink set red up\nlink add blue type vrf table 11\nlink set blue up\n\
         link set port master red\nlink set other master blue\n\
         addr add 10.40.0.1/24 dev port\naddr add fd00:40::1/64 dev port nodad\n\
         addr add 10.40.9.1/32 dev red\naddr add fd00:40:9::1/128 dev red nodad\n\
         addr add 10.43.0.1/24 dev other\naddr add fd00:43::1/64 dev other nodad\n\
         route add vrf red 10.43.0.1/32 dev blue\nroute add vrf blue 10.40.0.1/32 dev red\n\
         route add vrf red fd00:43::1/128 dev blue\nroute add vrf blue fd00:40::1/128 dev red");
    client.ip("addr add 10.40.0.2/24 dev port\naddr add 10.40.0.3/24 dev port\n\
         addr add fd00:40::2/64 dev port nodad\naddr add fd00:40::3/64 dev port nodad");
    for (namespace, local, remote) in [(server, SERVER.v4, STRANGER.v4), (client, STRANGER.v4, SERVER.v4)] {
        namespace.ip(&format!("link add six type sit local {local} remote {remote} ttl 64\nlink set six up"));
    }
    server.ip("link set six master red");
    for name in ["net/ipv4/tcp_l3mdev_accept", "net/ipv4/udp_l3mdev_accept"] {
        server.sysctl(name, "1");
    }
    server.wait_until_running("port");
    client.wait_until_running("port");
}

/// A socket of the server's inside a VRF.
fn socket(kind: Type, device: &str, from: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::for_address(from), kind, None::<Protocol>).expect("a socket");
    socket.bind_device(Some(device.as_bytes())).expect("a device");
    if kind == Type::STREAM {
        socket.set_reuse_address(true).expect("to share the port");
    }
    socket.bind(&from.into()).expect("an address");
    socket
}

/// The server connects to itself, and what it sends comes back.
fn streams(server: &Netns, device: &str, from: IpAddr, to: SocketAddr) -> bool {
    server.run(|| {
        let socket = socket(Type::STREAM, device, (from, 0).into());
        if socket.connect_timeout(&to.into(), PATIENCE * 4).is_err() {
            return false;
        }
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE * 4)).expect("a time-out");
        stream.write_all(b"own").is_ok() && stream.read_exact(&mut [0; 3]).is_ok()
    })
}

/// As [`streams`], with datagrams: from a connected socket, or from one that is not.
fn datagrams(server: &Netns, from: IpAddr, to: SocketAddr, connected: bool) -> bool {
    server.run(|| {
        let socket = UdpSocket::from(socket(Type::DGRAM, "red", (from, 0).into()));
        socket.set_read_timeout(Some(PATIENCE * 4)).expect("a time-out");
        let sent =
            if connected { socket.connect(to).and_then(|()| socket.send(b"own")) } else { socket.send_to(b"own", to) };
        sent.is_ok() && socket.recv(&mut [0; 16]).is_ok()
    })
}

/// Every own connection, on ports of every kind; those that fail are named.
fn own_traffic(world: &World, when: &str) {
    let server = &world.net.server;
    let mut failed = Vec::new();
    let mut note = |what: &str, from: IpAddr, to: SocketAddr, answered: bool| {
        if !answered {
            failed.push(format!("{what} from {from} to {to}"));
        }
    };
    for family in OWN {
        for (from, to) in family.iter().flat_map(|from| family.iter().map(|to| (ip(from), ip(to)))) {
            for port in [OPEN, PORT, SPARE] {
                note("TCP", from, (to, port).into(), streams(server, "red", from, (to, port).into()));
            }
            for port in [OPEN_UDP, SPARE] {
                let to = SocketAddr::new(to, port);
                note("UDP", from, to, datagrams(server, from, to, false));
                // The service answers from the address that it would use itself for the client's.
                if from == to.ip() {
                    note("connected UDP", from, to, datagrams(server, from, to, true));
                }
            }
        }
    }
    // To another VRF of this host.
    for (family, blue) in OWN.into_iter().zip(BLUE) {
        for port in [OPEN, PORT] {
            let (from, to) = (ip(family[0]), (ip(blue), port).into());
            note("TCP by leaked routes", from, to, streams(server, "red", from, to));
        }
    }
    assert!(failed.is_empty(), "the host cannot talk to itself {when}: {failed:#?}");
}

/// The remote addresses, as `granted` says.
fn remotes(world: &World, granted: [bool; 2], when: &str) {
    let client = &world.net.client;
    for (family, own) in REMOTE.into_iter().zip(OWN) {
        for (from, granted) in family.into_iter().zip(granted) {
            let (from, to) = (ip(from), ip(own[0]));
            assert!(probe::tcp_answers(client, from, (to, OPEN).into()), "no path from {from} {when}");
            for port in [PORT, SPARE] {
                let to = SocketAddr::new(to, port);
                let answered = if granted {
                    probe::tcp_answers(client, from, to)
                } else {
                    probe::tcp(client, from, to) == Outcome::Answered
                };
                assert_eq!(answered, granted, "TCP from {from} to {to} {when}");
            }
            let to = SocketAddr::new(to, SPARE);
            let answered = if granted {
                probe::udp_answers(client, from, to)
            } else {
                probe::udp(client, from, to) == Outcome::Answered
            };
            assert_eq!(answered, granted, "UDP from {from} to {to} {when}");
        }
    }
}

/// Frames of a machine behind the VRF's port that claims to be the host.
struct Impostor<'a> {
    services: &'a Services,
    /// The other end of the VRF's port.
    wire: Wire,
    /// The other end of a tunnel that is a port of the VRF as well. Its packets have no hardware addresses.
    tunnel: Wire,
    /// On the VRF device. Because somebody looks there, the kernel gives packets of the tunnel an Ethernet header: one with the VRF's
    /// own hardware address.
    _inside: Wire,
}

/// By which path a claim comes.
#[derive(Clone, Copy)]
enum Path {
    /// In a frame for this hardware address.
    Frame([u8; 6]),
    Tunnel,
}

impl Impostor<'_> {
    fn claims(&self, path: Path, to_port: u16, kind: u8) {
        for own in OWN[1] {
            let header = Ipv6::new(own.parse().expect("IPv6"), OWN[1][0].parse().expect("IPv6"));
            let (from, to) = (IpAddr::from(header.source), IpAddr::from(header.destination));
            let payload = match kind {
                protocol::UDP => frame::udp((from, OWN_CLIENT), (to, to_port), b"claim"),
                _ => Tcp::syn(OWN_CLIENT + 1, to_port).segment(from, to),
            };
            let packet = header.packet(kind, &payload);
            match path {
                Path::Frame(mac) => self.wire.send(&frame::ethernet(mac, STRANGER_MAC, frame::IPV6, &packet)),
                Path::Tunnel => self.tunnel.send(&packet),
            }
        }
    }

    /// Sends handshakes and datagrams to the protected ports, then datagrams to an open one: what reaches that one shows that the
    /// others were looked at.
    fn is_stopped(&self, path: Path, when: &str) {
        let (datagrams, open) = (self.services.datagrams.served(), self.services.open.served());
        for port in [PORT, SPARE] {
            self.claims(path, port, protocol::TCP);
        }
        self.claims(path, SPARE, protocol::UDP);
        // A frame for the VRF device's own hardware address is for another host: it reaches no port at all.
        self.claims(if let Path::Tunnel = path { path } else { Path::Frame(PORT_MAC) }, OPEN_UDP, protocol::UDP);
        until("datagrams to an open port arrive", || self.services.open.served() >= open + 2);
        assert_eq!(self.services.datagrams.served(), datagrams, "datagrams that reached the socket {when}");
    }

    /// As [`Impostor::is_stopped`], and the cut counts each of them for a stranger's.
    fn is_counted(&self, world: &World, path: Path, each: u64, when: &str) {
        let [own, refused] = counts(world);
        self.is_stopped(path, when);
        assert_eq!(counts(world), [own, refused + each], "[own traffic, refused] {when}");
    }
}

/// What the cut has counted of packets that came in: own traffic, and what no grant covers.
fn counts(world: &World) -> [u64; 2] {
    let counters = world.postern.client().status().expect("a status").counters;
    ["own-traffic", "no-grant"]
        .map(|reason| counters.iter().filter(|c| c.hook == "cut-ingress" && c.reason == reason).map(|c| c.count).sum())
}

/// How long the grant of [`routed_sessions_end`] lasts.
const SHORT: Duration = Duration::from_secs(20);

/// The host routes packets of others into the VRF by a leaked route of the main table, and the VRF device loops these packets back as
/// it does with the host's own. Their sessions end with the grant, in the direction to the host too. Leaves posternd dead.
fn routed_sessions_end(world: &mut World) {
    let (server, client) = (&world.net.server, &world.net.client);
    for (own, via, remote) in [
        (OWN[0][1], IpAddr::from(SERVER.v4), IpAddr::from(GRANTED.v4)),
        (OWN[1][1], SERVER.v6.into(), GRANTED.v6.into()),
    ] {
        server.ip(&format!("route add {own} dev red\nroute add vrf red {remote} dev eth0"));
        client.ip(&format!("route add {own} via {via}"));
    }
    for name in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
        server.sysctl(name, "1");
    }
    world.grant(&["3389/tcp"], &GRANTED.both(), SHORT.as_secs());
    let over = Instant::now() + SHORT + Duration::from_secs(1);
    let sessions = GRANTED.both().into_iter().zip(OWN).map(|(from, own)| {
        let to = SocketAddr::new(ip(own[1]), STREAM);
        let listener = server.run(|| socket(Type::STREAM, "red", to));
        listener.listen(1).expect("to listen");
        let mut remote = probe::connect(client, from, to).expect("a session by a leaked route");
        let mut inside = TcpListener::from(listener).accept().expect("the session").0;
        inside.set_read_timeout(Some(PATIENCE * 4)).expect("a time-out");
        remote.write_all(b"1").expect("to send");
        inside.read_exact(&mut [0; 1]).expect("what was sent under the grant");
        (from, remote, inside)
    });
    let sessions: Vec<_> = sessions.collect();
    world.postern.kill();
    until("the grant is over", || Instant::now() >= over);
    for (from, mut remote, mut inside) in sessions {
        remote.write_all(b"2").expect("to send");
        assert!(inside.read(&mut [0; 1]).is_err(), "{from} reaches its session after the grant, by a leaked route");
    }
}

fn mac(namespace: &Netns, device: &str) -> [u8; 6] {
    let mut command = namespace.command("ip");
    let output = command.args(["-o", "link", "show", "dev", device]).output().expect("ip");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let after = text.split("link/ether ").nth(1).expect("a hardware address");
    let bytes = after[..17].split(':').map(|byte| u8::from_str_radix(byte, 16).expect("a byte"));
    bytes.collect::<Vec<_>>().try_into().expect("six bytes")
}

pub fn own_traffic_passes_and_strangers_do_not(stage: &mut Stage) {
    let mut world = stage.world();
    make(&world);
    let services = Services::start(&world.net.server);
    own_traffic(&world, "with posternd");
    remotes(&world, [false; 2], "without a grant");
    let granted = REMOTE.map(|family| ip(family[1]));
    let grant = world.grant(&["22/any", "4000/any"], &granted, 600);
    remotes(&world, [false, true], "with a grant");
    world.revoke(&grant.id);
    remotes(&world, [false; 2], "after the grant");

    // A socket of the host's at the port that the stranger claims, connected to nobody.
    let own_client = world.net.server.run(|| socket(Type::DGRAM, "red", (ip(OWN[1][0]), OWN_CLIENT).into()));
    let vrf_mac = mac(&world.net.server, "red");
    let open = |namespace: &Netns, device: &str| namespace.run(|| Wire::open(device)).expect("a packet socket");
    let impostor = Impostor {
        services: &services,
        wire: open(&world.net.client, "port"),
        tunnel: open(&world.net.client, "six"),
        _inside: open(&world.net.server, "red"),
    };
    impostor.is_counted(&world, Path::Frame(PORT_MAC), 6, "with posternd");
    impostor.is_counted(&world, Path::Frame(vrf_mac), 0, "with the hardware address of the VRF device");
    impostor.is_counted(&world, Path::Tunnel, 6, "through a tunnel");
    // Not what anybody should do, and the port's frames look like the VRF device's then.
    let text = PORT_MAC.map(|byte| format!("{byte:02x}")).join(":");
    world.net.server.ip(&format!("link set red address {text}"));
    impostor.is_counted(&world, Path::Frame(PORT_MAC), 6, "with the same hardware address on port and VRF device");
    routed_sessions_end(&mut world);
    own_traffic(&world, "while posternd is dead");
    impostor.is_stopped(Path::Frame(PORT_MAC), "while posternd is dead");
    drop((own_client, services));
    world.net.server.ip("link del six\nlink del red\nlink del blue\nlink del port\nlink del other");
    world.net.client.ip("link del six");
    let switched = ["ipv4/tcp_l3mdev_accept", "ipv4/udp_l3mdev_accept", "ipv4/ip_forward", "ipv6/conf/all/forwarding"];
    switched.iter().for_each(|name| world.net.server.sysctl(&format!("net/{name}"), "0"));
    world.postern.launch();
    stage.leave(world);
}
