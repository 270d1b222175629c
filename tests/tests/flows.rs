//! Sessions that outlive their grant, on the real kernel, without the rest of the agent: the sockets named in `FLOWS` go on until
//! their own end, and nothing else of their source does.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use postern_agent::{
    enforcer::{Enforcer, EnforcerError, Settings, XdpMode},
    system::sessions::{Scope, Session, established},
};
use postern_core::{
    key::{Address, GrantKey, TCP, UDP},
    table::{Entry, Flow, Table, diff},
    time::BootNanos,
    verdict::{Fate, Hook},
};
use postern_tests::{
    clock::{StampedStream, boot_ns},
    net::{GRANTED, NEIGHBOUR, Net, SERVER, SERVER_OTHER, defer_accept, interface_index},
    pins::Pins,
    probe::{self, Outcome},
    until,
};
use socket2::SockRef;

const PORT: u16 = 22;
/// Room for flows in these tests' kernel tables.
const FLOWS: u32 = 4;
const SECOND: u64 = 1_000_000_000;

#[test]
fn only_the_retained_session_of_a_source_outlives_its_grant() {
    for (at, like) in families() {
        let mut world = World::new();
        let (from, to) = (GRANTED.like(like), SERVER.like(like));
        world.xdp();
        let listener = world.listen(at);
        world.install(&[from], &[], u64::MAX);
        let (mut kept, mut lost) = (world.session(&listener, from, to), world.session(&listener, from, to));

        // sock_diag names both, by the number that the socket itself says and that the cut reads.
        let sessions = world.established(from);
        assert_eq!(cookies(&sessions), [cookie(&kept.server), cookie(&lost.server)].into(), "{sessions:?}");
        assert!(sessions.iter().all(|s| (s.protocol, s.port, s.peer) == (TCP, PORT, from)), "{sessions:?}");

        // The grant ends; one of the two may go on.
        let end = boot_ns() + 2 * SECOND;
        let named: Vec<_> = sessions.into_iter().filter(|s| s.cookie == cookie(&kept.server)).collect();
        world.install(&[], &named, end);
        kept.assert_alive();
        assert!(
            world.fate(Hook::CutIngress, Fate::Established) > 0 && world.fate(Hook::CutEgress, Fate::Established) > 0
        );

        // The other connection of the same source is cut, both ways.
        lost.nonblocking();
        until("the cut of the other session, both ways", || {
            let _ = (lost.client.write(b"x"), lost.server.write(b"y"));
            world.fate(Hook::CutIngress, Fate::OnlyEstablished) > 0
                && world.fate(Hook::CutEgress, Fate::OnlyEstablished) > 0
        });
        assert!(lost.is_silent(), "{from}");
        // A new one is refused by the lock, which the prefilter lets it come to; others are as closed as ever.
        let before = world.fate(Hook::Lock, Fate::OnlyEstablished);
        assert_eq!(world.probe(from, to), Outcome::Refused);
        assert!(
            world.fate(Hook::Lock, Fate::OnlyEstablished) > before
                && world.fate(Hook::Prefilter, Fate::Established) > 0
        );
        assert_ne!(world.probe(NEIGHBOUR.like(like), to), Outcome::Answered, "lock or prefilter");

        World::assert_ends_at(end, kept);
    }
}

#[test]
fn with_a_dead_agent_it_ends_on_time_and_the_next_agent_carries_it_on() {
    let mut world = World::new();
    let (from, to) = (GRANTED.v4.into(), SERVER.v4.into());
    let listener = world.listen(Ipv4Addr::UNSPECIFIED.into());
    world.install(&[from], &[], u64::MAX);
    let mut kept = world.session(&listener, from, to);
    let sessions = world.established(from);
    let until = boot_ns() + 3 * SECOND;
    world.install(&[], &sessions, until);
    kept.assert_alive();

    // A new start fills its maps before its programs are swapped in: no packet of the session is lost.
    world.enforcer = None;
    kept.assert_alive();
    world.start();
    assert_eq!(world.fate(Hook::CutIngress, Fate::OnlyEstablished), 0);
    kept.assert_alive();
    assert!(world.fate(Hook::CutIngress, Fate::Established) > 0);
    assert_eq!(world.probe(from, to), Outcome::Refused);

    // What SIGKILL does: the descriptors close, the pins stay.
    world.enforcer = None;
    kept.assert_alive();
    World::assert_ends_at(until, kept);
    assert_eq!(world.probe(from, to), Outcome::Refused);
}

#[test]
fn a_cookie_serves_neither_another_source_nor_a_listener_nor_a_handshake() {
    let mut world = World::new();
    let (from, to) = (IpAddr::from(GRANTED.v4), IpAddr::from(SERVER.v4));
    let listener = world.listen(to);
    defer_accept(&listener);
    listener.set_nonblocking(true).expect("a listener");
    world.install(&[from], &[], u64::MAX);
    // The client believes in the connection; the server's side is a request, completed by the first data.
    let mut half_open = world.connect(from, to).expect("an open port");
    half_open.set_nonblocking(true).expect("a socket");
    assert_eq!(world.established(from), []);

    // The worst table that could be: the listener's own cookie. The lock is gone, so the cut stands alone.
    let forged = Session { cookie: cookie(&listener), protocol: TCP, port: PORT, peer: from };
    world.install(&[], &[forged], u64::MAX);
    world.pins.detach("lock");
    let before = world.fate(Hook::CutIngress, Fate::OnlyEstablished);
    until("the cut of the handshake's end", || {
        let _ = half_open.write(b"what would complete it");
        world.fate(Hook::CutIngress, Fate::OnlyEstablished) > before
    });
    assert_eq!(listener.accept().expect_err("no connection").kind(), ErrorKind::WouldBlock);
    assert_eq!(world.probe(from, to), Outcome::Silent);

    // An established session under a cookie that is noted for another source, or another port.
    world.install(&[from], &[], u64::MAX);
    until("the connection", || {
        let _ = half_open.write(b"now");
        !world.established(from).is_empty()
    });
    let own = world.established(from);
    let (cookie, flow) = own[0].until(u64::MAX);
    for wrong in [Flow { peer: address(NEIGHBOUR.v4.into()), ..flow }, Flow { port: PORT + 1, ..flow }] {
        let entry = Entry { established_boot_ns: u64::MAX, ..Entry::default() };
        let table = Table { grants: [(flow.key(), entry)].into(), flows: [(cookie, wrong)].into(), ..protected() };
        world.bring(table);
        let before = world.fate(Hook::CutIngress, Fate::OnlyEstablished);
        until("the cut of a session under a false name", || {
            let _ = half_open.write(b"x");
            world.fate(Hook::CutIngress, Fate::OnlyEstablished) > before
        });
    }
}

#[test]
fn a_connected_udp_socket_goes_on_and_a_server_socket_does_not() {
    for (at, like) in families() {
        let mut world = World::new();
        let (from, to) = (GRANTED.like(like), SERVER.like(like));
        let bind = |world: &World, at: SocketAddr| world.net.server.run(|| UdpSocket::bind(at)).expect("a socket");
        let client = world.net.client.run(|| UdpSocket::bind((from, 4000))).expect("a socket");
        client.connect((to, PORT)).expect("a peer");
        client.set_read_timeout(Some(PATIENCE)).expect("a socket");

        // Unconnected: whatever FLOWS says, its cookie stands for everybody that may send to it.
        let server = bind(&world, (at, PORT).into());
        server.set_read_timeout(Some(PATIENCE)).expect("a socket");
        world.install(&[from], &[], u64::MAX);
        assert_eq!(cookies(&world.established(from)), [].into());
        // Else the connection below would be one that the host opens by itself.
        client.send(b"hello").expect("to send");
        server.recv(&mut [0; 8]).expect("a datagram under the grant");
        let forged = Session { cookie: cookie(&server), protocol: UDP, port: PORT, peer: from };
        world.install(&[], &[forged], u64::MAX);
        let _ = client.send(b"x");
        until("the lock's refusal", || world.fate(Hook::Lock, Fate::OnlyEstablished) > 0);

        let mapped = if at.is_ipv6() && from.is_ipv4() { mapped(from) } else { from };
        server.connect((mapped, 4000)).expect("a peer");
        world.install(&[from], &[], u64::MAX);
        let sessions = world.established(from);
        assert_eq!(cookies(&sessions), [cookie(&server)].into(), "{from}");
        world.install(&[], &sessions, boot_ns() + SECOND);
        let exchange = || -> io::Result<()> {
            client.send(b"ping")?;
            server.recv(&mut [0; 8])?;
            server.send(b"pong")?;
            client.recv(&mut [0; 8]).map(drop)
        };
        // An ICMP error of the refusal above may be waiting.
        let _ = client.take_error();
        exchange().expect("a session that goes on");
        assert!(world.fate(Hook::CutIngress, Fate::Established) > 0);
        client.set_nonblocking(true).expect("a socket");
        until("the end, both ways", || {
            let _ = (client.send(b"x"), server.send(b"y"));
            world.fate(Hook::CutIngress, Fate::Expired) > 0 && world.fate(Hook::CutEgress, Fate::Expired) > 0
        });
    }
}

#[test]
fn only_whole_established_sessions_are_listed() {
    let world = World::open();
    let listener = world.listen(Ipv6Addr::UNSPECIFIED.into());
    let (from, to) = (IpAddr::from(GRANTED.v4), IpAddr::from(SERVER.v4));
    let (kept, closing, gone) =
        (world.session(&listener, from, to), world.session(&listener, from, to), world.session(&listener, from, to));
    // The host with itself, and what is left of a connection that the server closed first.
    let itself = probe::connect(&world.net.server, SERVER_OTHER.v4, SocketAddr::new(to, PORT)).expect("a connection");
    let _itself = (itself, listener.accept().expect("the connection"));
    drop(gone.server);
    drop(gone.client);
    // Closed by the client alone: the server still may send.
    let wanted = [cookie(&kept.server), cookie(&closing.server)].into();
    closing.client.shutdown(std::net::Shutdown::Write).expect("to close");
    until("the closed one to be gone from the list", || cookies(&world.established(from)) == wanted);
    assert_eq!(world.established(NEIGHBOUR.v4.into()), []);
    let everyone =
        ["0.0.0.0/0", "::/0"].map(|net| Scope { protocol: TCP, port: PORT, source: net.parse().expect("a net") });
    let all = world.net.server.run(|| established(&everyone)).expect("sessions");
    assert_eq!(cookies(&all), wanted);
}

#[test]
fn a_full_table_of_flows_refuses_and_evicts_no_flow() {
    let mut world = World::new();
    let flow = |n: u32| Session { cookie: n.into(), protocol: TCP, port: PORT, peer: Ipv4Addr::from(n).into() };
    let fitting: Vec<_> = (1..=FLOWS).map(flow).collect();
    world.install(&[], &fitting, u64::MAX);
    let table = protected().keeping((1..=FLOWS + 1).map(|n| flow(n).until(u64::MAX)), BootNanos(0));
    let edits = diff(&world.installed, &table);
    let result = edits.iter().try_for_each(|edit| world.enforcer().apply(edit));
    assert!(matches!(result, Err(EnforcerError::TableFull(_))), "{result:?}");
    // Room again, without which the next flow would be refused too.
    world.install(&[], &fitting[1..], u64::MAX);
    world.install(&[], &(2..=FLOWS + 1).map(flow).collect::<Vec<_>>(), u64::MAX);
}

// ---- below: what the tests share ----

/// How long an answer that must come may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the server listens, and which family the client speaks. The last is IPv4 on an IPv6 socket.
fn families() -> [(IpAddr, IpAddr); 3] {
    let (v4, v6) = (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Ipv6Addr::UNSPECIFIED));
    [(v4, v4), (v6, v6), (v6, v4)]
}

struct World {
    net: Net,
    pins: Pins,
    settings: Settings,
    enforcer: Option<Enforcer>,
    installed: Table,
}

/// One connection.
struct Ends {
    server: TcpStream,
    client: TcpStream,
}

impl World {
    fn new() -> Self {
        let mut world = Self::open();
        world.installed = protected();
        world.start();
        world
    }

    /// Without an enforcer.
    fn open() -> Self {
        let pins = Pins::new();
        let settings =
            Settings { pin_dir: pins.path().to_owned(), pins: None, cgroup: None, grants: 16, flows: FLOWS, slots: 8 };
        Self { net: Net::pair(), pins, settings, enforcer: None, installed: Table::default() }
    }

    /// Starts with what was installed last, as the agent does with what its journal holds.
    fn start(&mut self) {
        let started = self.net.server.run(|| Enforcer::start(&self.settings, &self.installed));
        self.enforcer = Some(started.expect("to start (takes root)"));
    }

    fn enforcer(&mut self) -> &mut Enforcer {
        self.enforcer.as_mut().expect("a running enforcer")
    }

    fn xdp(&mut self) {
        let index = interface_index(&self.net.server, "eth0");
        let own = [SERVER.both(), SERVER_OTHER.both()].concat();
        let enforcer = self.enforcer.as_mut().expect("a running enforcer");
        enforcer.set_local(&own).expect("addresses");
        self.net.server.run(|| enforcer.attach_prefilter(index, XdpMode::Native)).expect("to attach");
    }

    /// Grants without end for `granted`, and `kept` until `until`.
    fn install(&mut self, granted: &[IpAddr], kept: &[Session], until: u64) {
        let entry = Entry { expires_boot_ns: u64::MAX, ..Entry::default() };
        let grants = granted.iter().flat_map(|ip| [TCP, UDP].map(|protocol| (key(*ip, protocol), entry))).collect();
        let table = Table { grants, ..protected() };
        self.bring(table.keeping(kept.iter().map(|session| session.until(until)), BootNanos(boot_ns())));
    }

    fn bring(&mut self, table: Table) {
        let edits = diff(&self.installed, &table);
        edits.iter().try_for_each(|edit| self.enforcer().apply(edit)).expect("a table");
        self.installed = table;
    }

    fn established(&self, from: IpAddr) -> Vec<Session> {
        let scopes = [TCP, UDP].map(|protocol| Scope { protocol, port: PORT, source: from.into() });
        self.net.server.run(|| established(&scopes)).expect("sessions")
    }

    fn listen(&self, at: IpAddr) -> TcpListener {
        self.net.server.run(|| TcpListener::bind((at, PORT))).expect("a listener")
    }

    fn connect(&self, from: IpAddr, to: IpAddr) -> io::Result<TcpStream> {
        probe::connect(&self.net.client, from, SocketAddr::new(to, PORT))
    }

    fn session(&self, listener: &TcpListener, from: IpAddr, to: IpAddr) -> Ends {
        let client = self.connect(from, to).expect("an open port");
        let (server, _) = listener.accept().expect("the connection");
        for end in [&server, &client] {
            end.set_read_timeout(Some(PATIENCE)).expect("a socket");
        }
        Ends { server, client }
    }

    fn probe(&self, from: IpAddr, to: IpAddr) -> Outcome {
        probe::tcp(&self.net.client, from, SocketAddr::new(to, PORT))
    }

    fn fate(&self, hook: Hook, fate: Fate) -> u64 {
        let counters = self.enforcer.as_ref().expect("a running enforcer").counters();
        counters.into_iter().find(|c| (c.0, c.1) == (hook, fate)).expect("every counter").2
    }

    /// Has both ends write without a pause until well after `until`: what came in last, came in before it, and then nothing
    /// comes in or goes out any more.
    fn assert_ends_at(until: u64, ends: Ends) {
        ends.nonblocking();
        let Ends { server, mut client } = ends;
        let server = StampedStream::new(server);
        let talk = talk(&server, &mut client, until + SECOND / 2);
        let last = talk.last.expect("data while the session lived");
        assert!(last < until, "something arrived {} us after the end", last.saturating_sub(until) / 1000);
        println!(
            "{} reads in, {} out; the last byte came in {} us before the end",
            talk.reads,
            talk.out,
            (until - last) / 1000
        );
        assert!(talk.reads > 100 && talk.out > 100);
        let silence = self::talk(&server, &mut client, boot_ns() + SECOND / 4);
        assert_eq!((silence.reads, silence.out), (0, 0));
    }
}

/// What two ends got from each other.
struct Talk {
    /// Reads of the server that brought something.
    reads: u64,
    /// When what the server read last had arrived.
    last: Option<u64>,
    /// Reads of the client that brought something.
    out: u64,
}

fn talk(server: &StampedStream, client: &mut TcpStream, until: u64) -> Talk {
    let mut talk = Talk { reads: 0, last: None, out: 0 };
    while boot_ns() < until {
        // Full buffers, at the latest when nothing passes any more.
        let _ = (client.write(b"x"), server.stream().write(b"y"));
        talk.out += u64::from(client.read(&mut [0; 4096]).is_ok_and(|read| read > 0));
        if let Ok((1.., at)) = server.read() {
            talk.reads += 1;
            talk.last = at;
        }
    }
    talk
}

impl Ends {
    fn assert_alive(&mut self) {
        let (from, to) = (&mut self.server, &mut self.client);
        from.write_all(b"a").expect("to write");
        to.read_exact(&mut [0]).expect("to read");
        to.write_all(b"b").expect("to write");
        from.read_exact(&mut [0]).expect("to read");
    }

    fn nonblocking(&self) {
        for end in [&self.server, &self.client] {
            end.set_nonblocking(true).expect("a socket");
        }
    }

    /// Whether neither end got anything.
    fn is_silent(&mut self) -> bool {
        [&mut self.server, &mut self.client]
            .into_iter()
            .all(|end| end.read(&mut [0]).is_err_and(|e| e.kind() == ErrorKind::WouldBlock))
    }
}

fn protected() -> Table {
    Table { protected: [(TCP, PORT), (UDP, PORT)].into(), ..Table::default() }
}

fn cookies(sessions: &[Session]) -> std::collections::BTreeSet<u64> {
    sessions.iter().map(|session| session.cookie).collect()
}

/// What the socket itself says (`SO_COOKIE`).
fn cookie(socket: &impl AsFd) -> u64 {
    SockRef::from(socket).cookie().expect("a cookie")
}

fn key(from: IpAddr, protocol: u8) -> GrantKey {
    GrantKey::new(address(from), 128, protocol, PORT)
}

fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::v4(ip.octets()),
        IpAddr::V6(ip) => Address::v6(ip.octets()),
    }
}

/// IPv4 as an IPv6 socket shows it.
fn mapped(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        IpAddr::V6(_) => ip,
    }
}
