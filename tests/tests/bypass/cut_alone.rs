//! What never asks for a listening socket, so that only the cut sees it: broadcast and multicast, late handshakes,
//! joined subflows, and strangers who claim the host's own address.

use crate::PORT;
use postern_tests::frame::{self, Ipv6, Seen, Tcp, protocol};
use postern_tests::net::{
    CLIENT_MAC, GRANTED, Host, NEIGHBOUR, Net, PHANTOM, SERVER, SERVER_MAC, SERVER_OTHER, STRANGER,
};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern};
use postern_tests::service::Service;
use postern_tests::wire::Wire;
use postern_tests::{pause, within};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// Enough for an answer on a busy machine.
const DEADLINE: Duration = Duration::from_secs(2);
/// Enough to call a wire silent.
const QUIET: Duration = Duration::from_millis(300);

const GROUP4: Ipv4Addr = Ipv4Addr::new(239, 1, 2, 3);
const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0x123);

#[test]
fn broadcast_and_multicast_to_members() {
    let net = Net::pair();
    let service = members(&net);
    let everybody =
        [IpAddr::V4(GROUP4), Ipv4Addr::new(10, 1, 255, 255).into(), Ipv4Addr::BROADCAST.into(), GROUP6.into()];
    for to in everybody {
        assert!(delivered(&net, &service, STRANGER, to, DEADLINE), "{to} on bare Linux");
    }
    let mut postern = Postern::start(&net.server, Options::default());
    let none = |when: &str| {
        for to in everybody {
            assert!(!delivered(&net, &service, STRANGER, to, QUIET), "{to} {when}");
        }
    };
    none("with posternd");
    postern.grant(&["22/udp"], &GRANTED.both(), 600).expect("a grant");
    for to in everybody {
        assert!(delivered(&net, &service, GRANTED, to, DEADLINE), "{to} with a grant");
    }
    none("with a grant for another");
    postern.kill();
    none("while posternd is dead");
    postern.detach("lock");
    none("with the cut alone");
    postern.detach("cut-");
    for to in everybody {
        assert!(delivered(&net, &service, STRANGER, to, DEADLINE), "{to} without any layer");
    }
}

/// A UDP service on the protected port that is a member of both groups.
fn members(net: &Net) -> Service {
    let socket = Service::udp_bound(&net.server, SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)));
    net.server.run(|| {
        socket.join_multicast_v6(&GROUP6, 0).expect("a membership");
        let options = socket2::SockRef::from(&socket);
        // An IPv6 socket is a member of IPv4 groups by the IPv4 option.
        options.join_multicast_v4(&GROUP4, &SERVER.v4).expect("a membership");
    });
    Service::udp_socket(socket)
}

/// Whether a datagram from the client's host `from` reaches the service.
fn delivered(net: &Net, service: &Service, from: Host, to: IpAddr, patience: Duration) -> bool {
    let before = service.served();
    net.client.run(|| {
        let socket = UdpSocket::bind((from.like(to), 0)).expect("a socket");
        let options = socket2::SockRef::from(&socket);
        options.set_broadcast(true).expect("to broadcast");
        options.bind_device(Some(b"eth0")).expect("the interface");
        socket.send_to(b"probe", (to, PORT)).expect("to send");
    });
    within(patience, || service.served() > before)
}

/// SYN and SYN-ACK under the grant, the third segment after its end: it never becomes a connection.
#[test]
fn a_handshake_finished_after_the_end() {
    late_handshakes(false);
}

#[test]
fn a_handshake_finished_after_the_end_of_grant_and_agent() {
    late_handshakes(true);
}

fn late_handshakes(agent_dies: bool) {
    let net = Net::pair();
    let service = Service::tcp_echo(&net.server, SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)));
    let hands = PHANTOM.both().map(|from| Hand { wire: net.client_wire(), from });
    let mut postern = Postern::start(&net.server, Options::default());
    postern.grant(&["22/tcp"], &PHANTOM.both(), 2).expect("a grant");
    if agent_dies {
        postern.kill();
    }
    let begun = hands.each_ref().map(|hand| {
        let [early, late] = [4000, 4001].map(|port| hand.begin(port, DEADLINE).expect("a SYN-ACK under the grant"));
        hand.finish(&early);
        (early, late)
    });
    assert!(within(DEADLINE, || service.served() == 2), "handshakes under the grant: {}", service.served());
    for (hand, (early, late)) in hands.iter().zip(&begun) {
        hand.wait_for_the_end();
        hand.finish(late);
        assert!(!within(QUIET, || service.served() > 2), "{}: a handshake was finished after the end", hand.from);
        // Also not a byte more to the connection that there was, and not one back.
        hand.finish(early);
        assert_eq!(hand.answer_but_a_reset(), None, "{}: left after the end", hand.from);
    }
}

/// Handshakes by hand from an address that no kernel answers for.
struct Hand {
    wire: Wire,
    from: IpAddr,
}

impl Hand {
    /// Sends a SYN; what answers it.
    fn begin(&self, port: u16, patience: Duration) -> Option<(Tcp, Seen)> {
        let syn = Tcp::syn(port, PORT);
        self.send(&syn);
        let mine = |seen: &Seen| seen.is_syn_ack() && (seen.destination, seen.destination_port) == (self.from, port);
        self.wire.find(patience, |bytes| frame::read(bytes).filter(mine)).map(|seen| (syn, seen))
    }

    /// The end of a grant is when the kernel no longer answers a new SYN.
    fn wait_for_the_end(&self) {
        let over = Instant::now() + Duration::from_secs(10);
        for port in 4002.. {
            if self.begin(port, QUIET).is_none() {
                break;
            }
            assert!(Instant::now() < over, "the grant does not end");
            // Not a flood: the listener's queue is to have room for the handshake that matters.
            pause(Duration::from_millis(20));
        }
        let _sent_before = self.wire.arrived();
    }

    /// What the server sends, other than resets.
    fn answer_but_a_reset(&self) -> Option<Seen> {
        let answer = |seen: &Seen| seen.destination == self.from && seen.flags & frame::flag::RST == 0;
        self.wire.find(QUIET, |bytes| frame::read(bytes).filter(answer))
    }

    /// Sends the third segment, with data.
    fn finish(&self, (syn, syn_ack): &(Tcp, Seen)) {
        self.send(&syn.answer(syn_ack, b"late"));
    }

    fn send(&self, segment: &Tcp) {
        let bytes = segment.segment(self.from, SERVER.like(self.from));
        let (kind, packet) = match self.from {
            IpAddr::V4(from) => (frame::IPV4, frame::Ipv4::new(from, SERVER.v4).packet(&bytes)),
            IpAddr::V6(from) => (frame::IPV6, Ipv6::new(from, SERVER.v6).packet(protocol::TCP, &bytes)),
        };
        self.wire.send(&frame::ethernet(SERVER_MAC, CLIENT_MAC, kind, &packet));
    }
}

/// IPv6 has no martian check: a stranger may claim to be the host. The answer stays inside, so look inside.
#[test]
fn a_source_spoofed_as_the_hosts_own() {
    let net = Net::pair();
    let all = SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT));
    let datagrams = Service::udp_echo(&net.server, all);
    let _streams = Service::tcp_echo(&net.server, all);
    let wire = net.client_wire();
    let inside = net.server.run(|| Wire::open("lo")).expect("a packet socket");
    let spoof = |port: u16, patience: Duration| {
        let before = datagrams.served();
        let ip = Ipv6::new(SERVER_OTHER.v6, SERVER.v6);
        let (from, to) = (IpAddr::from(ip.source), IpAddr::from(ip.destination));
        for (kind, payload) in [
            (protocol::UDP, frame::udp((from, port), (to, PORT), b"probe")),
            (protocol::TCP, Tcp::syn(port, PORT).segment(from, to)),
        ] {
            wire.send(&frame::ethernet(SERVER_MAC, CLIENT_MAC, frame::IPV6, &ip.packet(kind, &payload)));
        }
        let answer =
            |bytes: &[u8]| frame::read(bytes).filter(|seen| seen.is_syn_ack() && seen.destination_port == port);
        let syn_ack = inside.find(patience, answer).is_some();
        [syn_ack, within(patience, || datagrams.served() > before)]
    };
    assert_eq!(spoof(5000, DEADLINE), [true; 2], "on bare Linux");
    let mut postern = Postern::start(&net.server, Options::default());
    assert_eq!(spoof(5001, QUIET), [false; 2], "with posternd");
    postern.kill();
    assert_eq!(spoof(5002, QUIET), [false; 2], "while posternd is dead");
    postern.detach("lock");
    assert_eq!(spoof(5003, QUIET), [false; 2], "with the cut alone");
}

/// The first subflow is granted, the second comes from an address that is not. Without the prefilter, which would drop the
/// join before the test could see that it was tried.
#[test]
fn an_mptcp_join_from_an_ungranted_address() {
    let net = Net::pair();
    net.server.ip("mptcp limits set subflows 4 add_addr_accepted 4");
    net.client.ip(&format!(
        "mptcp limits set subflows 4 add_addr_accepted 4\nmptcp endpoint add {} dev eth0 subflow",
        NEIGHBOUR.v4
    ));
    let _service = Service::mptcp_echo(&net.server, SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT)));
    assert_eq!(join_outcome(&net), (true, true), "on bare Linux");
    let mut postern = Postern::start(&net.server, Options::without_xdp());
    postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
    assert_eq!(join_outcome(&net), (true, false), "with posternd");
    let second = postern.grant(&["22/tcp"], &[NEIGHBOUR.v4.into()], 600).expect("a grant");
    assert_eq!(join_outcome(&net), (true, true), "with a grant for both");
    postern.revoke(&second.id).expect("to revoke it");
    postern.kill();
    assert_eq!(join_outcome(&net), (true, false), "while posternd is dead");
}

/// Opens an MPTCP connection from [`GRANTED`]: whether a join from [`NEIGHBOUR`] was tried, and whether it was answered.
fn join_outcome(net: &Net) -> (bool, bool) {
    let (client_side, server_side) = (net.client_wire(), net.server_wire());
    let _stream = mptcp_echoed(&net.client, (SERVER.v4, PORT).into());
    let neighbour = IpAddr::from(NEIGHBOUR.v4);
    let tried =
        |bytes: &[u8]| frame::read(bytes).filter(|seen| seen.source == neighbour && seen.destination_port == PORT);
    let answered = |bytes: &[u8]| frame::read(bytes).filter(|seen| seen.is_syn_ack() && seen.destination == neighbour);
    (server_side.find(DEADLINE, tried).is_some(), client_side.find(QUIET, answered).is_some())
}

fn mptcp_echoed(client: &Netns, to: SocketAddr) -> std::net::TcpStream {
    client.run(|| {
        let protocol = Some(socket2::Protocol::MPTCP);
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, protocol).expect("MPTCP");
        socket.bind(&SocketAddr::from((GRANTED.v4, 0)).into()).expect("an address");
        socket.connect_timeout(&to.into(), DEADLINE).expect("a connection");
        let mut stream = std::net::TcpStream::from(socket);
        stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        stream.write_all(b"probe").expect("to send");
        stream.read_exact(&mut [0; 5]).expect("an echo");
        stream
    })
}
