//! Connections that the host itself makes from a protected port go on as on a host without Postern.

use postern_proto::v1::GrantState;
use postern_tests::frame::{self, Seen, flag};
use postern_tests::net::{CLIENT_MAC, GRANTED, Net, SERVER, SERVER_MAC, STRANGER, disconnect};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern, ROLES, port};
use postern_tests::probe::{self, LONG_PATIENCE, Outcome, PATIENCE};
use postern_tests::service::Service;
use postern_tests::until;
use postern_tests::wire::Wire;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

/// The port that the host's own programs bind before they connect. Postern protects it.
pub(super) const OWN: u16 = 831;
/// As [`OWN`], for UDP.
const NTP: u16 = 123;
/// Where the other host listens.
pub(super) const FAR: u16 = 7000;

pub(super) fn options() -> Options {
    let rules = [port(OWN, "any"), port(NTP, "udp"), ROLES.to_owned()].concat();
    Options { rules, ..Options::without_xdp() }
}

/// The other host's services, over IPv4 and IPv6.
pub(super) fn far_services(net: &Net) -> Vec<Service> {
    // A datagram's answer comes from the address that it was sent to only where the socket is bound to that.
    let addresses = [GRANTED, STRANGER].into_iter().flat_map(|host| host.both());
    let udp = addresses.map(|address| Service::udp_echo(&net.client, SocketAddr::new(address, FAR)));
    let tcp = Service::mptcp_echo(&net.client, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), FAR));
    udp.chain([tcp]).collect()
}

fn far(like: IpAddr) -> SocketAddr {
    SocketAddr::new(GRANTED.like(like), FAR)
}

fn own(like: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(SERVER.like(like), port)
}

/// A socket of the host that is bound to `at` and shares the port.
fn bound(host: &Netns, kind: Type, protocol: Protocol, at: SocketAddr) -> Socket {
    host.run(|| {
        let socket = Socket::new(Domain::for_address(at), kind, Some(protocol)).expect("a socket");
        socket.set_reuse_address(true).expect("to share the port");
        socket.set_reuse_port(true).expect("to share the port");
        socket.bind(&at.into()).expect("the port");
        socket
    })
}

/// A connection of the host's own from its port [`OWN`].
pub(super) fn connect(host: &Netns, like: IpAddr) -> io::Result<TcpStream> {
    let socket = bound(host, Type::STREAM, Protocol::TCP, own(like, OWN));
    socket.connect_timeout(&far(like).into(), LONG_PATIENCE)?;
    Ok(socket.into())
}

/// A UDP socket of the host's own that is bound to `port` and connected to the other host.
pub(super) fn connect_udp(host: &Netns, like: IpAddr, port: u16) -> UdpSocket {
    let socket: UdpSocket = bound(host, Type::DGRAM, Protocol::UDP, own(like, port)).into();
    socket.connect(far(like)).expect("to connect");
    socket
}

/// Whether the stream's other end sends back what this end sends.
pub(super) fn talks(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(LONG_PATIENCE)).expect("a time-out");
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut [0; 4]).is_ok()
}

/// As [`talks`], for a datagram to the socket's peer.
pub(super) fn talks_udp(socket: &UdpSocket) -> bool {
    socket.set_read_timeout(Some(LONG_PATIENCE)).expect("a time-out");
    socket.send(b"ping").is_ok() && socket.recv(&mut [0; 8]).is_ok()
}

/// Whether a connection from `from` to the host's port `port` is answered.
pub(super) fn gets_in(net: &Net, from: IpAddr, port: u16) -> bool {
    probe::tcp(&net.client, from, own(from, port)) == Outcome::Answered
}

fn gets_in_udp(net: &Net, from: IpAddr, port: u16) -> bool {
    probe::udp(&net.client, from, own(from, port)) == Outcome::Answered
}

#[test]
fn a_connection_from_a_protected_port_outlives_restarts_and_an_upgrade() {
    let net = Net::pair();
    let _far = far_services(&net);
    let mut postern = Postern::start(&net.server, options());
    let mut streams = SERVER.both().map(|like| connect(&net.server, like).expect("a connection of the host's own"));
    let sockets = [OWN, NTP].map(|port| SERVER.both().map(|like| connect_udp(&net.server, like, port)));
    let mut all_talk = |when: &str| {
        for stream in &mut streams {
            assert!(talks(stream), "{:?}: TCP is silent {when}", stream.local_addr());
        }
        for socket in sockets.iter().flatten() {
            assert!(talks_udp(socket), "{:?}: UDP is silent {when}", socket.local_addr());
        }
    };
    all_talk("at once");
    postern.kill();
    all_talk("while posternd is dead");
    postern.launch();
    all_talk("after a restart");
    postern.upgrade();
    assert_eq!(postern.stop().code(), Some(0));
    all_talk("while posternd is stopped");
    postern.launch();
    postern.reload();
    all_talk("after an upgrade");
    assert_eq!(postern.client().details().expect("the status"), Vec::<String>::new());
    // Nobody gets in by it, not even from where the connection goes.
    let any = |port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
    let _service = (Service::tcp_echo(&net.server, any(OWN)), Service::udp_echo(&net.server, any(3000)));
    for from in STRANGER.both().into_iter().chain(GRANTED.both()) {
        assert!(!gets_in(&net, from, OWN), "{from} got in");
    }
    all_talk("after others tried");
}

#[test]
fn an_ipv6_socket_that_carries_ipv4_is_the_hosts_own() {
    let net = Net::pair();
    let _far = far_services(&net);
    let _postern = Postern::start(&net.server, options());
    let mapped = SocketAddr::new(GRANTED.v4.to_ipv6_mapped().into(), FAR);
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let kind = if protocol == Protocol::TCP { Type::STREAM } else { Type::DGRAM };
        let socket = net.server.run(|| {
            let socket = Socket::new(Domain::IPV6, kind, Some(protocol)).expect("a socket");
            socket.set_only_v6(false).expect("both families");
            socket.bind(&SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), OWN).into()).expect("the port");
            socket
        });
        if protocol == Protocol::TCP {
            socket.connect_timeout(&mapped.into(), LONG_PATIENCE).expect("a connection");
            assert!(talks(&mut socket.into()));
        } else {
            socket.connect(&mapped.into()).expect("to connect");
            assert!(talks_udp(&socket.into()));
        }
    }
}

#[test]
fn a_grants_end_spares_the_hosts_own_connection_to_the_same_address() {
    let net = Net::pair();
    let _far = far_services(&net);
    let postern = Postern::start(&net.server, options());
    let [v4, v6] = SERVER.both();
    let mut before = connect(&net.server, v4).expect("a connection before the grant");
    let datagrams = connect_udp(&net.server, v4, OWN);
    assert!(talks_udp(&datagrams));
    let grant = postern.grant(&["831/tcp", "831/udp"], &GRANTED.both(), 600).expect("a grant");
    let mut during = connect(&net.server, v6).expect("a connection during the grant");
    let also = connect_udp(&net.server, v6, OWN);
    let _service = Service::tcp_echo(&net.server, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), OWN));
    let mut session = probe::connect(&net.client, GRANTED.v4, own(v4, OWN)).expect("a session by the grant");
    assert!(talks(&mut session) && talks(&mut before) && talks(&mut during), "silent during the grant");
    assert!(talks_udp(&datagrams) && talks_udp(&also), "silent during the grant");
    assert_ne!(postern.revoke(&grant.id).expect("to revoke").state(), GrantState::Active);
    until("the session's end", || session.write_all(b"ping").is_err() || session.read(&mut [0; 4]).is_err());
    assert!(talks(&mut before) && talks(&mut during), "the host's own connection ended with the grant");
    assert!(talks_udp(&datagrams) && talks_udp(&also), "the host's own datagrams ended with the grant");
    assert!(!GRANTED.both().into_iter().any(|from| gets_in(&net, from, OWN)));
}

#[test]
fn a_socket_that_once_connected_lets_no_peer_in_when_it_listens() {
    let net = Net::pair();
    let _far = far_services(&net);
    let _postern = Postern::start(&net.server, options());
    for like in SERVER.both() {
        let socket = bound(&net.server, Type::STREAM, Protocol::TCP, own(like, OWN));
        socket.connect_timeout(&far(like).into(), LONG_PATIENCE).expect("a connection");
        let mut stream = TcpStream::from(socket);
        assert!(talks(&mut stream));
        // `connect(2)` with AF_UNSPEC ends the connection and leaves the port.
        let socket = UdpSocket::from(std::os::fd::OwnedFd::from(stream));
        disconnect(&socket);
        let listener = TcpListener::from(std::os::fd::OwnedFd::from(socket));
        let socket = Socket::from(listener);
        socket
            .bind(&own(like, OWN).into())
            .or_else(|error| match error.raw_os_error() {
                // The port was bound by the program, so the kernel kept it.
                Some(libc::EINVAL) => Ok(()),
                _ => Err(error),
            })
            .expect("the port");
        socket.listen(8).expect("to listen");
        for from in [GRANTED.like(like), STRANGER.like(like)] {
            assert!(!gets_in(&net, from, OWN), "{from} got in");
        }
    }
}

#[test]
fn a_udp_server_that_connects_to_its_client_ends_with_the_grant() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, options());
    for like in SERVER.both() {
        let from = GRANTED.like(like);
        let grant = postern.grant(&["123/udp"], &[from], 600).expect("a grant");
        let server: UdpSocket = bound(&net.server, Type::DGRAM, Protocol::UDP, own(like, NTP)).into();
        let client = net.client.run(|| UdpSocket::bind(SocketAddr::new(from, 0))).expect("a socket");
        client.connect(own(like, NTP)).expect("to connect");
        client.send(b"hello").expect("a first datagram");
        server.set_read_timeout(Some(LONG_PATIENCE)).expect("a time-out");
        let (_, peer) = server.recv_from(&mut [0; 8]).expect("the first datagram");
        // One socket connects at once (DTLS), one after the grant's end, as a slow server would.
        let quick: UdpSocket = bound(&net.server, Type::DGRAM, Protocol::UDP, own(like, NTP)).into();
        quick.connect(peer).expect("to connect");
        client.set_read_timeout(Some(LONG_PATIENCE)).expect("a time-out");
        quick.send(b"hello").expect("an answer");
        client.recv(&mut [0; 8]).expect("the answer");
        postern.revoke(&grant.id).expect("to revoke");
        let slow: UdpSocket = bound(&net.server, Type::DGRAM, Protocol::UDP, own(like, NTP)).into();
        slow.connect(peer).expect("to connect");
        server.connect(peer).expect("to connect");
        client.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        for (name, socket) in [("quick", &quick), ("slow", &slow), ("same", &server)] {
            let _refused = socket.send(b"after");
            assert!(client.recv(&mut [0; 8]).is_err(), "{like}: the {name} socket still reaches its client");
        }
    }
}

#[test]
fn a_udp_socket_is_the_hosts_own_for_its_present_peer_alone() {
    let net = Net::pair();
    let _far = far_services(&net);
    let _postern = Postern::start(&net.server, options());
    for like in SERVER.both() {
        let socket = connect_udp(&net.server, like, NTP);
        assert!(talks_udp(&socket));
        let other = SocketAddr::new(STRANGER.like(like), FAR);
        assert!(socket.send_to(b"ping", other).is_err(), "{like}: a datagram to another peer left");
        disconnect(&socket);
        socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        assert!(socket.send_to(b"ping", far(like)).is_err(), "{like}: an unconnected socket sends");
        socket.connect(other).expect("to connect");
        assert!(talks_udp(&socket), "{like}: connected to another peer");
        assert!(!gets_in_udp(&net, GRANTED.like(like), NTP));
    }
}

/// A host that only observes lets in everybody, and nobody who was let in is forgotten.
#[test]
fn a_condition_is_reported_when_no_further_udp_socket_can_be_marked() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options { extra: "mode = \"observe\"".to_owned(), ..options() });
    let says = || postern.client().conditions().expect("root is answered").iter().any(|code| code == "own-connections");
    let server: UdpSocket = bound(&net.server, Type::DGRAM, Protocol::UDP, own(STRANGER.v4.into(), NTP)).into();
    server.set_nonblocking(true).expect("not to block");
    let wire = net.client_wire();
    let drained = || while server.recv(&mut [0; 8]).is_ok() {};
    let from = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let source = Ipv4Addr::new(10, 1, high, low);
        let datagram = frame::udp((source.into(), FAR), (SERVER.v4.into(), NTP), b"ping");
        let header = frame::Ipv4 { protocol: frame::protocol::UDP, ..frame::Ipv4::new(source, SERVER.v4) };
        wire.send(&frame::ethernet(SERVER_MAC, CLIENT_MAC, frame::IPV4, &header.packet(&datagram)));
        drained();
    };
    assert!(!says(), "before anybody was met");
    until("it is said", || {
        (0x1000..0x1000 + 8192 + 256).for_each(from);
        says()
    });
}

/// The far side announces the address `at` to whom it has an MPTCP connection with.
fn announces(host: &Netns, at: IpAddr) {
    host.ip(&format!("mptcp limits set subflows 4 add_addr_accepted 4\nmptcp endpoint add {at} signal"));
}

/// Whether a SYN of the host's to `to` is on the wire.
fn opens_to(wire: &Wire, to: IpAddr, patience: std::time::Duration) -> bool {
    let syn = |seen: &Seen| seen.destination == to && seen.flags & (flag::SYN | flag::ACK) == flag::SYN;
    wire.find(patience, |bytes| frame::read(bytes).filter(&syn).map(drop)).is_some()
}

/// Whether a whole handshake with `to` is on the wire: the host acknowledges what came from there.
fn joins(wire: &Wire, to: IpAddr) -> bool {
    let done = |seen: &Seen| seen.destination == to && seen.flags & (flag::SYN | flag::ACK | flag::RST) == flag::ACK;
    wire.find(LONG_PATIENCE, |bytes| frame::read(bytes).filter(&done).map(drop)).is_some()
}

#[test]
fn a_subflow_has_the_direction_of_its_connection() {
    for like in SERVER.both() {
        let net = Net::pair();
        // An IPv6 address leaves no room for timestamps in a TCP header.
        [&net.client, &net.server].iter().for_each(|host| host.sysctl("net/ipv4/tcp_timestamps", "0"));
        net.server.ip("mptcp limits set subflows 4 add_addr_accepted 4");
        announces(&net.client, STRANGER.like(like));
        let _far = far_services(&net);
        let mut postern = Postern::start(&net.server, options());
        let wire = net.client_wire();
        let socket = bound(&net.server, Type::STREAM, Protocol::MPTCP, own(like, OWN));
        socket.connect_timeout(&far(like).into(), LONG_PATIENCE).expect("a connection");
        let mut stream = TcpStream::from(socket);
        assert!(talks(&mut stream), "{like}: silent");
        assert!(joins(&wire, STRANGER.like(like)), "{like}: the host's own subflow does not come up");
        postern.kill();
        postern.launch();
        // What goes by the second path goes on when the first one is gone.
        net.client.ip(&format!("addr del {}/{} dev eth0", GRANTED.like(like), if like.is_ipv4() { 16 } else { 64 }));
        assert!(talks(&mut stream), "{like}: silent by the second path");
    }
}

#[test]
fn a_subflow_that_the_host_opens_for_a_peers_connection_needs_a_grant() {
    for like in SERVER.both() {
        let net = Net::pair();
        [&net.client, &net.server].iter().for_each(|host| host.sysctl("net/ipv4/tcp_timestamps", "0"));
        net.server.ip("mptcp limits set subflows 4 add_addr_accepted 4");
        announces(&net.client, STRANGER.like(like));
        let _service = Service::mptcp_echo(&net.server, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), OWN));
        let session = || {
            let from = SocketAddr::new(GRANTED.like(like), 0);
            let socket = bound(&net.client, Type::STREAM, Protocol::MPTCP, from);
            socket.connect_timeout(&own(like, OWN).into(), LONG_PATIENCE).expect("a session");
            TcpStream::from(socket)
        };
        let wire = net.client_wire();
        // A busy kernel may leave an announced address alone, so one session may show nothing.
        until("a SYN on bare Linux", || {
            let mut bare = session();
            talks(&mut bare) && opens_to(&wire, STRANGER.like(like), PATIENCE)
        });
        let postern = Postern::start(&net.server, options());
        postern.grant(&["831/tcp"], &[GRANTED.like(like)], 600).expect("a grant");
        let _before = wire.arrived();
        let granted: Vec<_> = (0..4).map(|_| session()).collect();
        for mut stream in &granted {
            assert!(stream.write_all(b"ping").is_ok() && stream.read_exact(&mut [0; 4]).is_ok(), "{like}: silent");
        }
        assert!(!opens_to(&wire, STRANGER.like(like), PATIENCE * 4), "{like}: a subflow to an address without a grant");
    }
}
