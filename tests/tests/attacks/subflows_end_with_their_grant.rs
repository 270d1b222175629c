//! Every MPTCP subflow ends with the grant of its connection.
//!
//! The server announces an address with a port of its own (`ip mptcp endpoint … port 5000 signal`), and the client joins its
//! connection there. Port 5000 is not protected; the connection's port 22 is.

use postern_tests::frame::{self, Seen, flag};
use postern_tests::net::{GRANTED, Net, SERVER, SERVER_OTHER, STRANGER};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::until;
use postern_tests::wire::Wire;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

const PORT: u16 = 22;
/// Not protected.
const OPEN: u16 = 8022;
/// The endpoint's own port, not protected.
const JOIN: u16 = 5000;
/// Enough for an answer on a busy machine.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longer than it takes MPTCP to move its data from a silent subflow to another.
const QUIET: Duration = Duration::from_millis(1500);

/// Two hosts, with an endpoint at the server's other address. What the client opens to it comes from `joins_from`.
fn hosts(like: IpAddr, joins_from: IpAddr) -> Net {
    let (net, other) = (Net::pair(), SERVER_OTHER.like(like));
    // An IPv6 address with a port leaves no room for timestamps in a TCP header.
    [&net.client, &net.server].iter().for_each(|host| host.sysctl("net/ipv4/tcp_timestamps", "0"));
    let limits = "mptcp limits set subflows 4 add_addr_accepted 4";
    net.server.ip(&format!("{limits}\nmptcp endpoint add {other} port {JOIN} signal"));
    let route = if like.is_ipv4() {
        format!("route add {other}/32 dev eth0 src {joins_from}")
    } else {
        format!("route replace {other}/128 via {} src {joins_from}", SERVER.v6)
    };
    net.client.ip(&format!("{limits}\n{route}"));
    net
}

fn at(like: IpAddr, port: u16) -> SocketAddr {
    let any = if like.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, port)
}

fn session(client: &Netns, from: IpAddr, port: u16) -> TcpStream {
    let to = SocketAddr::new(SERVER.like(from), port);
    client.run(|| {
        let protocol = Some(socket2::Protocol::MPTCP);
        let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, protocol);
        let socket = socket.expect("MPTCP");
        socket.bind(&SocketAddr::new(from, 0).into()).expect("an address");
        socket.connect_timeout(&to.into(), DEADLINE).expect("a connection");
        socket.into()
    })
}

/// Whether the server sends, from its endpoint's port to `to`, what `wanted` says.
fn sends(wire: &Wire, to: IpAddr, patience: Duration, wanted: impl Fn(&Seen, &[u8]) -> bool) -> bool {
    let ours = |seen: &Seen| (seen.source_port, seen.destination) == (JOIN, to);
    let found = |bytes: &[u8]| frame::read(bytes).filter(|seen| ours(seen) && wanted(seen, bytes)).map(drop);
    wire.find(patience, found).is_some()
}

/// The last segment of a join is an acknowledgement from the server: the client uses the subflow from then on.
fn joined(wire: &Wire, from: IpAddr, patience: Duration) -> bool {
    sends(wire, from, patience, |seen, _| seen.flags & (flag::SYN | flag::ACK | flag::RST) == flag::ACK)
}

/// Whether the server's stream ("tick") is on the wire, over whichever subflow.
fn streams(wire: &Wire, patience: Duration) -> bool {
    wire.find(patience, |bytes| bytes.windows(4).any(|bytes| bytes == b"tick").then_some(())).is_some()
}

#[test]
fn a_subflow_on_a_port_of_its_own_ends_with_the_grant() {
    for agent_dies in [false, true] {
        for from in GRANTED.both() {
            let net = hosts(from, from);
            let service = Service::mptcp_chatter(&net.server, at(from, PORT));
            let mut postern = Postern::start(&net.server, Options::without_xdp());
            postern.grant(&["22/tcp"], &[from], 4).expect("a grant");
            let wire = net.client_wire();
            let stream = session(&net.client, from, PORT);
            assert!(joined(&wire, from, DEADLINE), "{from}: no join under the grant");
            assert!(streams(&wire, DEADLINE), "{from}: no stream under the grant");
            if agent_dies {
                postern.kill();
            }
            let to = SocketAddr::new(SERVER.like(from), PORT);
            until("the grant's end", || probe::tcp(&net.client, from, to) != Outcome::Answered);
            let _before = wire.arrived();
            assert!(!streams(&wire, QUIET), "{from}: data left after the end (agent dies: {agent_dies})");
            drop(service);
            assert!(!streams(&wire, QUIET), "{from}: data left when the service closed (agent dies: {agent_dies})");
            drop(stream);
        }
    }
}

#[test]
fn a_join_from_an_ungranted_address_carries_nothing() {
    for from in GRANTED.both() {
        let stranger = STRANGER.like(from);
        let net = hosts(from, stranger);
        let _service = Service::mptcp_chatter(&net.server, at(from, PORT));
        let wire = net.client_wire();
        let stream = session(&net.client, from, PORT);
        assert!(joined(&wire, stranger, DEADLINE), "{stranger}: no join on bare Linux");
        drop(stream);
        let mut postern = Postern::start(&net.server, Options::without_xdp());
        postern.grant(&["22/tcp"], &[from], 600).expect("a grant");
        for when in ["with posternd", "while posternd is dead"] {
            let _before = wire.arrived();
            let _stream = session(&net.client, from, PORT);
            assert!(sends(&wire, stranger, DEADLINE, |seen, _| seen.is_syn_ack()), "{stranger}: no try {when}");
            let data = |_: &Seen, bytes: &[u8]| bytes.windows(4).any(|bytes| bytes == b"tick");
            assert!(!joined(&wire, stranger, QUIET), "{stranger}: joined {when}");
            assert!(!sends(&wire, stranger, QUIET, data), "{stranger}: got data {when}");
            assert!(streams(&wire, DEADLINE), "{from}: its session stands still {when}");
            if when == "with posternd" {
                postern.kill();
            }
        }
    }
}

#[test]
fn a_connection_of_another_port_keeps_its_subflows() {
    for from in STRANGER.both() {
        let net = hosts(from, from);
        let _service = Service::mptcp_chatter(&net.server, at(from, OPEN));
        let mut postern = Postern::start(&net.server, Options::without_xdp());
        for when in ["with posternd", "while posternd is dead"] {
            let wire = net.client_wire();
            let _stream = session(&net.client, from, OPEN);
            assert!(joined(&wire, from, DEADLINE), "{from}: no join {when}");
            assert!(streams(&wire, DEADLINE), "{from}: no stream {when}");
            if when == "with posternd" {
                postern.kill();
            }
        }
    }
}
