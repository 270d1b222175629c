//! A connected socket is judged by its own remote address, not by an outer header.
//!
//! The same with IPsec, which this kernel may lack, is in the virtual machine (`src/bin/guest/ipsec.rs`). Here the kernel
//! encapsulates by segment routing (SRv6), as early as IPsec does: the cut sees nothing but the outer header, with the gateway's
//! address. The gateway is the client's first address, [`STRANGER`]; behind it is [`GRANTED`].

use postern_tests::net::{GRANTED, Host, NEIGHBOUR, Net, SERVER, STRANGER, disconnect};
use postern_tests::postern::{Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::until;
use postern_tests::wire::Wire;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

const PORT: u16 = 22;
const STREAM: u16 = 3389;
/// Enough to call a wire silent.
const QUIET: Duration = Duration::from_millis(400);
/// Enough for an answer on a busy machine.
const DEADLINE: Duration = Duration::from_secs(10);

/// Two hosts; what the server sends to [`GRANTED`] travels inside packets to [`STRANGER`].
fn behind_a_gateway() -> Net {
    let net = Net::pair();
    for interface in ["all", "eth0"] {
        net.client.sysctl(&format!("net/ipv6/conf/{interface}/seg6_enabled"), "1");
    }
    for peer in GRANTED.both() {
        let length = if peer.is_ipv4() { 32 } else { 128 };
        net.server.ip(&format!("route add {peer}/{length} encap seg6 mode encap segs {} dev eth0", STRANGER.v6));
    }
    net
}

fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

/// Whether what a service streams ("tick") is on the wire, inside whatever it travels in.
fn streams(wire: &Wire, patience: Duration) -> bool {
    let _before = wire.arrived();
    wire.find(patience, |frame| frame.windows(4).any(|bytes| bytes == b"tick").then_some(())).is_some()
}

/// Waits until the kernel holds the peer's grant for over: it no longer answers a new connection.
fn wait_for_the_end(net: &Net, peer: IpAddr) {
    let to = SocketAddr::new(SERVER.like(peer), PORT);
    until("the grant's end", || probe::tcp(&net.client, peer, to) != Outcome::Answered);
}

fn session(net: &Net, from: IpAddr, port: u16) -> TcpStream {
    probe::connect(&net.client, from, SocketAddr::new(SERVER.like(from), port)).expect("a connection")
}

#[test]
fn a_granted_peer_behind_an_ungranted_gateway_has_its_session() {
    let net = behind_a_gateway();
    let _service = Service::tcp_echo(&net.server, any(PORT));
    let postern = Postern::start(&net.server, Options::default());
    postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    for from in GRANTED.both() {
        let mut stream = session(&net, from, PORT);
        stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        stream.write_all(b"probe").expect("to send");
        stream.read_exact(&mut [0; 5]).unwrap_or_else(|error| panic!("{from}: no echo: {error}"));
        assert_ne!(probe::tcp(&net.client, STRANGER.like(from), (SERVER.like(from), PORT).into()), Outcome::Answered);
    }
}

#[test]
fn a_granted_gateway_carries_nothing_to_a_peer_whose_grant_is_over() {
    for agent_dies in [false, true] {
        for peer in GRANTED.both() {
            let net = behind_a_gateway();
            let _services = [Service::tcp_chatter(&net.server, any(PORT))];
            let mut postern = Postern::start(&net.server, Options::default());
            postern.grant(&["22/tcp"], &STRANGER.both(), 600).expect("a grant for the gateway");
            postern.grant(&["22/tcp"], &[peer], 3).expect("a grant for the peer");
            let _stream = session(&net, peer, PORT);
            let wire = net.client_wire();
            assert!(streams(&wire, DEADLINE), "{peer}: the session streams under its grant");
            if agent_dies {
                postern.kill();
            }
            wait_for_the_end(&net, peer);
            assert!(!streams(&wire, QUIET), "{peer}: left for the peer after its end (agent dies: {agent_dies})");
        }
    }
}

/// Nothing shows where an encapsulated datagram of an unconnected socket goes, so it does not go at all.
#[test]
fn an_unconnected_udp_service_sends_nothing_through_a_granted_gateway() {
    for peer in GRANTED.both() {
        let net = behind_a_gateway();
        let _service = Service::udp_chatter(&net.server, any(STREAM));
        let wire = net.client_wire();
        let subscribe = || {
            let to = SocketAddr::new(SERVER.like(peer), STREAM);
            net.client
                .run(|| UdpSocket::bind((peer, 0)).and_then(|socket| socket.send_to(b"me", to)))
                .expect("to send");
        };
        subscribe();
        assert!(streams(&wire, DEADLINE), "{peer}: on bare Linux");
        let mut postern = Postern::start(&net.server, Options::default());
        postern.grant(&["3389/udp"], &STRANGER.both(), 600).expect("a grant for the gateway");
        assert!(!streams(&wire, QUIET), "{peer}: streams to an ungranted peer behind a granted gateway");
        postern.grant(&["3389/udp"], &[peer], 600).expect("a grant for the peer");
        assert!(!streams(&wire, QUIET), "{peer}: the datagrams of an unconnected socket have no known peer");
        postern.kill();
        assert!(!streams(&wire, QUIET), "{peer}: while posternd is dead");
    }
}

/// A server's UDP socket on the protected port, of its own family, not connected yet.
fn datagrams(net: &Net, at: IpAddr) -> UdpSocket {
    net.server.run(|| UdpSocket::bind((at, STREAM))).expect("a socket")
}

/// A client's socket that waits for what the server sends.
fn waiting(net: &Net, host: Host, like: IpAddr) -> UdpSocket {
    let socket = net.client.run(|| UdpSocket::bind((host.like(like), 0))).expect("a socket");
    socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out");
    socket
}

/// Whether what `send` sends comes to `to`, tried until `patience` has passed.
fn arrives(to: &UdpSocket, patience: Duration, send: impl Fn(SocketAddr)) -> bool {
    let (address, end) = (to.local_addr().expect("its address"), std::time::Instant::now() + patience);
    while std::time::Instant::now() < end {
        send(address);
        if to.recv(&mut [0; 16]).is_ok() {
            return true;
        }
    }
    false
}

/// Has `client` send a datagram to the server first. A socket that connects to a peer from which none ever came makes a connection of
/// the host's own, which no grant is asked for (docs/decisions/0051).
fn meet(server: &UdpSocket, client: &UdpSocket) {
    let to = server.local_addr().expect("its address");
    server.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out");
    until("the client's datagram", || client.send_to(b"me", to).is_ok() && server.recv(&mut [0; 16]).is_ok());
}

#[test]
fn a_connected_udp_socket_sends_through_an_ungranted_gateway_to_its_own_peer() {
    let net = behind_a_gateway();
    let mut postern = Postern::start(&net.server, Options::default());
    let grant = postern.grant(&["3389/udp"], &GRANTED.both(), 600).expect("a grant");
    let sockets = GRANTED.both().map(|like| {
        let (server, client) = (datagrams(&net, SERVER.like(like)), waiting(&net, GRANTED, like));
        meet(&server, &client);
        server.connect(client.local_addr().expect("its address")).expect("to connect");
        (server, client)
    });
    let sends = |server: &UdpSocket| drop(server.send(b"tick"));
    for (server, client) in &sockets {
        assert!(arrives(client, DEADLINE, |_| sends(server)), "{client:?}: under its grant");
    }
    postern.revoke(&grant.id).expect("to end it");
    postern.grant(&["3389/udp"], &STRANGER.both(), 600).expect("a grant for the gateway");
    postern.kill();
    for (server, client) in &sockets {
        assert!(!arrives(client, QUIET, |_| sends(server)), "{client:?}: after its end");
    }
}

/// `sendto(2)` on a connected socket goes where it says, so both have to be granted.
#[test]
fn a_connected_udp_socket_reaches_its_peer_alone() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::default());
    postern.grant(&["3389/udp"], &GRANTED.both(), 600).expect("a grant");
    let once = postern.grant(&["3389/udp"], &NEIGHBOUR.both(), 600).expect("a grant");
    for like in GRANTED.both() {
        meet(&datagrams(&net, SERVER.like(like)), &waiting(&net, NEIGHBOUR, like));
    }
    postern.revoke(&once.id).expect("to end it");
    for like in GRANTED.both() {
        let (granted, other) = (waiting(&net, GRANTED, like), waiting(&net, NEIGHBOUR, like));
        let second = waiting(&net, GRANTED, like);
        for (connected, to, expected) in [
            (&granted, &granted, true),
            (&granted, &second, true),
            (&granted, &other, false),
            (&other, &granted, false),
            (&other, &other, false),
        ] {
            let server = datagrams(&net, SERVER.like(like));
            server.connect(connected.local_addr().expect("its address")).expect("to connect");
            let patience = if expected { DEADLINE } else { QUIET };
            let arrived = arrives(to, patience, |to| drop(server.send_to(b"tick", to)));
            assert_eq!(arrived, expected, "connected to {connected:?}, sent to {to:?}");
        }
    }
}

/// The kernel leaves the last peer's address in a socket that is no longer connected.
#[test]
fn a_former_peer_sends_nothing() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::default());
    postern.grant(&["3389/udp"], &GRANTED.both(), 600).expect("a grant");
    for like in GRANTED.both() {
        let (granted, other) = (waiting(&net, GRANTED, like), waiting(&net, NEIGHBOUR, like));
        for (former, to, expected) in [(&granted, &other, false), (&other, &granted, true)] {
            let server = datagrams(&net, SERVER.like(like));
            server.connect(former.local_addr().expect("its address")).expect("to connect");
            disconnect(&server);
            let patience = if expected { DEADLINE } else { QUIET };
            let arrived = arrives(to, patience, |to| drop(server.send_to(b"tick", to)));
            assert_eq!(arrived, expected, "formerly connected to {former:?}, sent to {to:?}");
        }
    }
}

/// Translation of ports changes what a socket's own datagram looks like; the answer goes out all the same.
#[test]
fn a_redirected_datagram_is_answered() {
    let net = Net::pair();
    net.server.nft(&format!(
        "table ip redirected {{\n chain c {{\n type nat hook prerouting priority dstnat\n \
         udp dport 8022 redirect to :{PORT}\n }}\n }}\n"
    ));
    let _service = Service::udp_echo(&net.server, any(PORT));
    let to = SocketAddr::from((SERVER.v4, 8022));
    assert!(probe::udp_answers(&net.client, GRANTED.v4, to), "on bare Linux");
    let postern = Postern::start(&net.server, Options::default());
    assert_ne!(probe::udp(&net.client, STRANGER.v4, to), Outcome::Answered);
    postern.grant(&["22/udp"], &[GRANTED.v4.into()], 600).expect("a grant");
    assert!(probe::udp_answers(&net.client, GRANTED.v4, to), "with a grant");
}
