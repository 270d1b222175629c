//! Sessions of an ended grant end on the real kernel: both ends see an error at once, and other sessions go on.
//!
//! No posternd and no hook here: what ends these sessions is `postern_agent::system::sessions` alone.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use postern_agent::system::sessions::{Destroyed, Scope, destroy};
use postern_tests::net::{GRANTED, NEIGHBOUR, Net, SERVER, SERVER_OTHER, defer_accept};
use postern_tests::netns::Netns;
use socket2::{Domain, Socket, Type};

const TCP: u8 = 6;
const UDP: u8 = 17;
const PORT: u16 = 2222;
const OTHER_PORT: u16 = 2223;
/// How long a read may block before the test fails.
const PATIENCE: Duration = Duration::from_secs(5);

fn scope(protocol: u8, port: u16, source: &str) -> Scope {
    Scope { protocol, port, source: source.parse().unwrap() }
}

fn only(protocol: u8, source: IpAddr) -> Scope {
    Scope { protocol, port: PORT, source: source.into() }
}

fn ended(sockets: usize) -> Destroyed {
    Destroyed { sockets, ..Destroyed::default() }
}

fn listen(namespace: &Netns, at: impl Into<IpAddr>, port: u16) -> TcpListener {
    let at = SocketAddr::new(at.into(), port);
    namespace.run(|| TcpListener::bind(at)).unwrap()
}

/// With more patience than a probe: a busy machine may be slow, and the first SYN may be lost while the wire comes up.
fn connect(namespace: &Netns, from: impl Into<IpAddr>, to: SocketAddr) -> std::io::Result<TcpStream> {
    let from = SocketAddr::new(from.into(), 0);
    namespace.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        Ok(socket.into())
    })
}

/// A connection from `from` on `client`: (the server's end, the client's end).
fn session(listener: &TcpListener, client: &Netns, from: IpAddr, to: IpAddr) -> (TcpStream, TcpStream) {
    let port = listener.local_addr().unwrap().port();
    let theirs = connect(client, from, SocketAddr::new(to, port)).unwrap();
    let (ours, _) = listener.accept().unwrap();
    for end in [&ours, &theirs] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    (ours, theirs)
}

fn assert_alive((ours, theirs): &mut (TcpStream, TcpStream)) {
    let mut byte = [0];
    ours.write_all(b"a").unwrap();
    theirs.read_exact(&mut byte).unwrap();
    theirs.write_all(b"b").unwrap();
    ours.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"b");
}

fn assert_ended((ours, theirs): &mut (TcpStream, TcpStream)) {
    assert_eq!(ours.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
    assert_eq!(theirs.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_tcp_session_ends_for_both_and_its_neighbours_live() {
    let any4 = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    let any6 = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    // The last is IPv4 on an IPv6 socket.
    for (at, like) in [(any4, any4), (any6, any6), (any6, any4)] {
        // A child that another test forks holds this one's listeners until it runs `ip`: no port is used twice.
        let net = Net::pair();
        let (from, beside, to) = (GRANTED.like(like), NEIGHBOUR.like(like), SERVER.like(like));
        let (listener, other) = (listen(&net.server, at, PORT), listen(&net.server, at, OTHER_PORT));
        let mut victim = session(&listener, &net.client, from, to);
        let mut neighbour = session(&listener, &net.client, beside, to);
        let mut other_port = session(&other, &net.client, from, to);

        let outcome = net.server.run(|| destroy(&[only(TCP, from)], &[])).unwrap();

        assert_eq!(outcome, ended(1), "{at} {from}");
        assert_ended(&mut victim);
        assert_alive(&mut neighbour);
        assert_alive(&mut other_port);
        assert_alive(&mut session(&listener, &net.client, beside, to));
    }
}

#[test]
fn a_live_grant_keeps_its_sessions() {
    let net = Net::pair();
    let listener = listen(&net.server, SERVER.v4, PORT);
    let mut kept = session(&listener, &net.client, GRANTED.v4.into(), SERVER.v4.into());
    let mut lost = session(&listener, &net.client, NEIGHBOUR.v4.into(), SERVER.v4.into());
    let broad = scope(TCP, PORT, "10.0.0.0/8");
    let live = only(TCP, GRANTED.v4.into());
    assert_eq!(net.server.run(|| destroy(&[broad], &[live])).unwrap(), ended(1));
    assert_alive(&mut kept);
    assert_ended(&mut lost);
}

#[test]
fn the_host_talking_to_itself_is_spared() {
    let net = Net::pair();
    let everyone = [scope(TCP, PORT, "0.0.0.0/0"), scope(TCP, PORT, "::/0")];
    let listener = listen(&net.server, Ipv6Addr::UNSPECIFIED, PORT);
    let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
    let mut own =
        [(loopback, loopback), (SERVER_OTHER.v4.into(), SERVER.v4.into()), (SERVER.v6.into(), SERVER_OTHER.v6.into())]
            .map(|(from, to)| session(&listener, &net.server, from, to));
    let mut stranger = session(&listener, &net.client, GRANTED.v6.into(), SERVER.v6.into());
    assert_eq!(net.server.run(|| destroy(&everyone, &[])).unwrap(), ended(1));
    assert_ended(&mut stranger);
    own.iter_mut().for_each(assert_alive);
}

#[test]
fn a_half_open_handshake_is_forgotten() {
    let net = Net::pair();
    let listener = listen(&net.server, SERVER.v4, PORT);
    defer_accept(&listener);
    // The client believes in the connection; the server's side is still a request (SYN_RECV).
    let mut theirs = connect(&net.client, GRANTED.v4, SocketAddr::new(SERVER.v4.into(), PORT)).unwrap();
    theirs.set_read_timeout(Some(PATIENCE)).unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);

    assert_eq!(net.server.run(|| destroy(&[only(TCP, GRANTED.v4.into())], &[])).unwrap(), ended(1));

    theirs.write_all(b"what would have completed it").unwrap();
    assert_eq!(theirs.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_connected_udp_socket_ends_and_a_server_socket_does_not() {
    let net = Net::pair();
    for (from, beside, to) in [
        (IpAddr::from(GRANTED.v4), IpAddr::from(NEIGHBOUR.v4), IpAddr::from(SERVER.v4)),
        (GRANTED.v6.into(), NEIGHBOUR.v6.into(), SERVER.v6.into()),
    ] {
        let socket = |namespace: &Netns, at: IpAddr, port| {
            let socket = namespace.run(|| UdpSocket::bind((at, port))).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket
        };
        let victim = socket(&net.server, to, PORT);
        victim.connect((from, 4000)).unwrap();
        let server = socket(&net.server, to, OTHER_PORT);
        let neighbour = socket(&net.server, SERVER_OTHER.like(to), PORT);
        neighbour.connect((beside, 4000)).unwrap();

        let over = [only(UDP, from), Scope { port: OTHER_PORT, ..only(UDP, from) }, only(TCP, from)];
        assert_eq!(net.server.run(|| destroy(&over, &[])).unwrap(), ended(1), "{from}");

        assert_eq!(victim.recv(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionAborted);
        assert!(neighbour.peer_addr().is_ok() && neighbour.take_error().unwrap().is_none());
        let client = socket(&net.client, from, 4000);
        client.send_to(b"x", (to, OTHER_PORT)).unwrap();
        assert_eq!(server.recv_from(&mut [0]).unwrap().1, SocketAddr::new(from, 4000));
    }
}
