//! The enforcer on the real kernel, without the rest of the agent. The network is the one drawn in `postern_tests`.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use postern_agent::enforcer::{Enforcer, EnforcerError, LayerState, Settings, Unattached, XdpMode, unlock};
use postern_core::{
    key::{Address, GrantKey, TCP, UDP},
    table::{Edit, Entry, Table, diff},
    verdict::{Fate, Hook},
};
use postern_tests::{
    clock::boot_ns,
    net::{GRANTED, NEIGHBOUR, Net, SERVER, SERVER_OTHER, STRANGER},
    pins::Pins,
    prefilter,
    probe::{self, Outcome},
    service::Service,
    until,
};

const PORT: u16 = 22;

#[test]
fn a_port_is_closed_opens_for_a_grant_and_closes_at_its_end() {
    let mut world = World::new();
    let mut denied = world.enforcer().take_denied().expect("the first time");
    let listener = world.net.server.run(|| TcpListener::bind(("::", PORT))).expect("a listener");

    // 1. Closed: the host answers as if nobody listened, and says who was denied.
    assert_eq!(world.probe(GRANTED.v4, SERVER.v4), Outcome::Refused);
    assert_eq!(world.probe(GRANTED.v6, SERVER.v6), Outcome::Refused);
    assert_eq!(world.fate(Hook::Lock, Fate::NoGrant), 2);
    let seen: Vec<_> = denied.drain().into_iter().map(|k| (k.source, k.port, k.hook, k.fate)).collect();
    let refused = |source: IpAddr| (source, PORT, Hook::Lock, Fate::NoGrant);
    assert_eq!(seen, [refused(GRANTED.v4.into()), refused(GRANTED.v6.into())]);

    // 2. Open for this source alone; what passes is counted both ways.
    let end = boot_ns() + 1_000_000_000;
    world.put(GRANTED.v4, TCP, end, 3);
    let mut client = world.connect(GRANTED.v4, SERVER.v4).expect("an open port");
    let (mut server, _) = listener.accept().expect("the connection");
    client.write_all(b"hello").expect("to write");
    server.read_exact(&mut [0; 5]).expect("to read");
    server.write_all(b"hello").expect("to write");
    client.read_exact(&mut [0; 5]).expect("to read");
    assert_eq!(world.probe(NEIGHBOUR.v4, SERVER.v4), Outcome::Refused);
    assert_eq!(world.probe(GRANTED.v6, SERVER.v6), Outcome::Refused);
    let usage = world.enforcer().usage(3);
    assert!(usage.packets_in >= 3 && usage.packets_out >= 2 && usage.bytes_in >= 40 * usage.packets_in, "{usage:?}");
    assert!(usage.first_boot_ns <= usage.last_boot_ns && usage.last_boot_ns < end, "{usage:?}");

    // 3. At the end nothing passes, in either direction, and no process did anything.
    client.set_nonblocking(true).expect("a socket");
    server.set_nonblocking(true).expect("a socket");
    until("the cut in both directions", || {
        let _ = (client.write(b"x"), server.write(b"y"));
        world.fate(Hook::CutIngress, Fate::Expired) > 0 && world.fate(Hook::CutEgress, Fate::Expired) > 0
    });
    let last = world.enforcer().usage(3).last_boot_ns;
    assert!(last < end, "a packet passed after the end");
    println!("last packet {} us before the end", (end - last) / 1000);
    assert_eq!(world.probe(GRANTED.v4, SERVER.v4), Outcome::Refused);
    assert!(world.fate(Hook::Lock, Fate::Expired) > 0);

    // 4. A renewal revives even the old connection.
    world.put(GRANTED.v4, TCP, u64::MAX, 3);
    until("the old connection", || {
        let _ = client.write(b"z");
        matches!(server.read(&mut [0; 4096]), Ok(n) if n > 0)
    });
    world.enforcer().reset_usage(3).expect("a slot");
    assert!(world.enforcer().usage(3).packets_in < 100);
}

#[test]
fn each_layer_alone_passes_and_counts_everything_while_the_host_observes() {
    for gone in [&[][..], &["lock"], &["cut-ingress", "cut-egress"]] {
        let mut world = World::new();
        let tcp = Service::tcp_echo(&world.net.server, any());
        let udp = Service::udp_echo(&world.net.server, any());
        gone.iter().for_each(|layer| world.pins.detach(layer));
        let probes = |world: &World| {
            let to = |from: IpAddr| SocketAddr::new(SERVER.like(from), PORT);
            let each = STRANGER.both().into_iter().flat_map(|from| {
                [probe::tcp(&world.net.client, from, to(from)), probe::udp(&world.net.client, from, to(from))]
            });
            each.collect::<Vec<_>>()
        };
        assert!(!probes(&world).contains(&Outcome::Answered), "without {gone:?}: it enforces");
        assert_eq!((tcp.served(), udp.served(), world.enforcer().observed()), (0, 0, vec![]), "without {gone:?}");
        world.enforcer().apply(&Edit::Observe(1)).expect("to observe");
        assert_eq!(probes(&world), [Outcome::Answered; 4], "without {gone:?}");
        until("every probe at its service", || (tcp.served(), udp.served()) == (2, 2));
        let mut seen = world.enforcer().observed();
        seen.sort_by_key(|o| (o.source, o.protocol));
        let who: Vec<_> = seen.iter().map(|o| (o.source, o.protocol, o.port)).collect();
        let [v4, v6] = STRANGER.both();
        assert_eq!(who, [(v4, TCP, PORT), (v4, UDP, PORT), (v6, TCP, PORT), (v6, UDP, PORT)], "without {gone:?}");
        for o in &seen {
            // Each connection and each datagram asks the lock once; the cut sees every packet.
            assert_eq!(o.lookups, u64::from(gone != ["lock"]), "without {gone:?}: {o:?}");
            let packets = if gone.len() == 2 { 0..=0 } else { if o.protocol == UDP { 1..=1 } else { 2..=20 } };
            assert!(packets.contains(&o.packets), "without {gone:?}: {o:?}");
        }
        // A packet that leaves is counted, and is no denied attempt of a source.
        assert_eq!(world.fate(Hook::CutEgress, Fate::Observed) > 0, gone.len() < 2, "without {gone:?}");
        // Its moment is the kernel's affair: no edit, no process.
        let soon = boot_ns() + 300_000_000;
        world.enforcer().apply(&Edit::Observe(soon)).expect("to enforce for a while");
        let before = world.probe(STRANGER.v4, SERVER.v4);
        assert!(before != Outcome::Answered || boot_ns() > soon, "without {gone:?}");
        until("its moment", || boot_ns() > soon);
        assert!(world.connect(STRANGER.v4, SERVER.v4).is_ok(), "without {gone:?}");
        world.enforcer().apply(&Edit::Observe(0)).expect("to enforce");
        assert!(!probes(&world).contains(&Outcome::Answered), "without {gone:?}: it enforces again");
    }
}

#[test]
fn udp_is_judged_like_tcp_and_the_host_talks_to_itself() {
    let mut world = World::new();
    let _tcp = Service::tcp_echo(&world.net.server, any());
    let _udp = Service::udp_echo(&world.net.server, any());
    for (from, to) in [(GRANTED.v4.into(), SERVER.v4.into()), (IpAddr::from(GRANTED.v6), IpAddr::from(SERVER.v6))] {
        assert_eq!(probe::udp(&world.net.client, from, SocketAddr::new(to, PORT)), Outcome::Refused);
        world.put(from, UDP, u64::MAX, 0);
        assert_eq!(probe::udp(&world.net.client, from, SocketAddr::new(to, PORT)), Outcome::Answered);
        assert_eq!(world.probe(from, to), Outcome::Refused, "UDP's grant is not TCP's");
        // The host itself, over loopback and between its own addresses.
        world.enforcer().set_local(&own_addresses()).expect("addresses");
        for own in [SERVER.like(to), SERVER_OTHER.like(to)] {
            assert_eq!(probe::tcp(&world.net.server, SERVER.like(to), SocketAddr::new(own, PORT)), Outcome::Answered);
        }
    }
    assert!(world.fate(Hook::Lock, Fate::OwnTraffic) >= 4 && world.fate(Hook::CutIngress, Fate::OwnTraffic) > 0);
}

#[test]
fn other_namespaces_are_left_alone_however_the_cut_learns_of_them() {
    for by_helper in [true, false] {
        let world = World::with(if by_helper { Enforcer::start } else { Enforcer::start_without_helper });
        let _client_side = Service::tcp_echo(&world.net.client, any());
        let _server_side = Service::tcp_echo(&world.net.server, any());
        let to_client = SocketAddr::new(STRANGER.v4.into(), PORT);
        assert_eq!(probe::tcp(&world.net.server, SERVER.v4, to_client), Outcome::Answered);
        assert!(world.fate(Hook::CutIngress, Fate::OtherNamespace) > 0, "by helper: {by_helper}");
        assert_eq!(world.probe(STRANGER.v4, SERVER.v4), Outcome::Refused);
        world.pins.detach("lock");
        // Now the cut alone, which tells its own namespace from others.
        assert_eq!(world.probe(STRANGER.v4, SERVER.v4), Outcome::Silent);
        assert!(world.fate(Hook::CutIngress, Fate::NoGrant) > 0, "by helper: {by_helper}");
    }
}

#[test]
fn everything_stays_in_force_without_the_agent_and_the_next_agent_takes_over() {
    let mut world = World::new();
    let _server = Service::tcp_echo(&world.net.server, any());
    world.put(GRANTED.v4, TCP, u64::MAX, 0);
    // What SIGKILL does: the descriptors close, the pins stay.
    world.enforcer = None;
    assert_eq!(world.probe(STRANGER.v4, SERVER.v4), Outcome::Refused);
    assert_eq!(world.probe(GRANTED.v4, SERVER.v4), Outcome::Answered);

    // The next start brings its own table: nothing of the old one lives on.
    world.start();
    assert_eq!(world.states(), [LayerState::InForce; 3]);
    assert_eq!(world.probe(GRANTED.v4, SERVER.v4), Outcome::Refused);

    // Two agents at once, and opening behind a running agent's back.
    let second = world.net.server.run(|| Enforcer::start(&world.settings, &protected()).err());
    assert!(matches!(second, Some(EnforcerError::InUse(_))), "{second:?}");
    assert!(matches!(unlock(&world.settings.pin_dir), Err(EnforcerError::InUse(_))));

    // Opening is explicit.
    world.enforcer = None;
    unlock(&world.settings.pin_dir).expect("to open");
    assert!(!world.settings.pin_dir.exists());
    assert_eq!(world.probe(STRANGER.v4, SERVER.v4), Outcome::Answered);
}

#[test]
fn swapping_programs_under_traffic_neither_opens_nor_closes() {
    let mut world = World::new();
    let _server = Service::tcp_echo(&world.net.server, any());
    let granted: Table = Table { grants: [(key(GRANTED.v4, TCP), entry(u64::MAX, 0))].into(), ..protected() };
    world.apply(&diff(&protected(), &granted));
    let (stop, tries) = (AtomicBool::new(false), AtomicU32::new(0));
    let client = world.net.client.clone();
    thread::scope(|scope| {
        let traffic = scope.spawn(|| {
            let mut outcomes = Vec::new();
            let deadline = Instant::now() + Duration::from_secs(60);
            while !stop.load(Ordering::Relaxed) && Instant::now() < deadline {
                let to = SocketAddr::new(SERVER.v4.into(), PORT);
                outcomes.push((probe::tcp(&client, STRANGER.v4, to), probe::tcp(&client, GRANTED.v4, to)));
                tries.fetch_add(1, Ordering::Relaxed);
            }
            outcomes
        });
        for _ in 0..5 {
            let before = tries.load(Ordering::Relaxed);
            until("traffic between two swaps", || tries.load(Ordering::Relaxed) > before + 20);
            drop(world.enforcer.take());
            let started = world.net.server.run(|| Enforcer::start(&world.settings, &granted));
            world.enforcer = Some(started.expect("to take over"));
        }
        stop.store(true, Ordering::Relaxed);
        let outcomes = traffic.join().expect("traffic");
        println!("{} pairs of connections over 5 swaps", outcomes.len());
        assert!(outcomes.iter().all(|o| *o == (Outcome::Refused, Outcome::Answered)), "{outcomes:?}");
    });
}

#[test]
fn a_lost_layer_is_noticed_and_attached_again() {
    let mut world = World::new();
    let _server = Service::tcp_echo(&world.net.server, any());
    for (at, name) in ["lock", "cut-ingress", "cut-egress"].into_iter().enumerate() {
        world.pins.detach(name);
        assert_eq!(world.states()[at], LayerState::Detached, "{name}");
        // The other layers hold: no answer leaves, whichever is missing.
        assert_ne!(world.probe(STRANGER.v4, SERVER.v4), Outcome::Answered, "without {name}");
        world.enforcer().heal().expect("to heal");
        std::fs::remove_file(world.settings.pin_dir.join(name)).expect("a pin");
        assert_eq!(world.states()[at], LayerState::Unpinned, "{name}");
        world.enforcer().heal().expect("to heal");
        assert_eq!(world.states(), [LayerState::InForce; 3]);
    }
    // A pinned link that the kernel detached while no agent ran is replaced at the next start.
    world.pins.detach("lock");
    world.enforcer = None;
    world.start();
    assert_eq!(world.states(), [LayerState::InForce; 3]);
    assert_eq!(world.probe(STRANGER.v4, SERVER.v4), Outcome::Refused);
}

#[test]
fn the_prefilter_drops_what_the_lock_refuses_and_ends_with_its_process() {
    for mode in [XdpMode::Tcx, XdpMode::Native, XdpMode::Generic] {
        let mut world = World::new();
        let _server = Service::tcp_echo(&world.net.server, any());
        let index = world.net.server.interface("eth0");
        world.enforcer().set_local(&own_addresses()).expect("addresses");
        world.in_server(|e| e.attach_prefilter(index, mode)).expect("to attach");
        world.in_server(|e| e.attach_prefilter(index, mode)).expect("to find it attached");
        // The lock answers the first one. The next ones the prefilter drops, for a second; a busy machine may need more tries.
        let before = world.enforcer().refused_connections();
        until("a silent drop", || world.probe(STRANGER.v4, SERVER.v4) == Outcome::Silent);
        assert!(
            world.fate(Hook::Lock, Fate::NoGrant) >= 1 && world.fate(Hook::Prefilter, Fate::NoGrant) >= 1,
            "{mode:?}"
        );
        assert!(world.enforcer().refused_connections() >= before + 2);
        // At an address where the lock has refused nobody it drops nothing.
        assert_eq!(world.probe(STRANGER.v4, SERVER_OTHER.v4), Outcome::Refused);
        world.put(STRANGER.v4, TCP, u64::MAX, 0);
        assert_eq!(world.probe(STRANGER.v4, SERVER.v4), Outcome::Answered);

        // Another one is told what is there.
        let pins = Pins::new();
        let other = Settings { pin_dir: pins.path().to_owned(), ..world.settings.clone() };
        let refused = world.net.server.run(|| {
            let mut second = Enforcer::start(&other, &Table::default()).expect("another agent");
            let refused = second.attach_prefilter(index, mode);
            second.unlock().expect("to open");
            refused
        });
        assert!(matches!(refused, Err(Unattached::Taken(_))), "{mode:?}: {refused:?}");
        world.in_server(|e| e.check_prefilter(index)).expect("to be alone again");

        // Nothing of it is pinned.
        world.enforcer = None;
        world.start();
        until("a free device", || world.in_server(|e| e.attach_prefilter(index, XdpMode::Native)).is_ok());
        world.enforcer().detach_prefilter(index);
        assert!(!prefilter::has_xdp(&world.net.server, "eth0"), "at once");
    }
}

#[test]
fn a_full_table_refuses_and_evicts_no_entry() {
    let mut world = World::new();
    let _server = Service::tcp_echo(&world.net.server, any());
    world.put(GRANTED.v4, TCP, u64::MAX, 0);
    let filler = |n: u32| Edit::Put(GrantKey::new(Address::v4(n.to_be_bytes()), 32, TCP, 9), entry(u64::MAX, 0));
    let edits: Vec<_> = (0..2 * GRANTS).map(filler).collect();
    let refused = edits.iter().find_map(|edit| Some((edit, world.enforcer().apply(edit).err()?)));
    assert!(
        matches!(refused, Some((edit, EnforcerError::TableFull(full))) if full == *edit && full == edits[GRANTS as usize - 1])
    );
    assert_eq!(world.probe(GRANTED.v4, SERVER.v4), Outcome::Answered);
}

// ---- below: what the tests share ----

const GRANTS: u32 = 64;

struct World {
    net: Net,
    pins: Pins,
    settings: Settings,
    enforcer: Option<Enforcer>,
}

impl World {
    fn new() -> Self {
        Self::with(Enforcer::start)
    }

    fn with(start: fn(&Settings, &Table) -> Result<Enforcer, EnforcerError>) -> Self {
        let pins = Pins::new();
        let settings =
            Settings { pin_dir: pins.path().to_owned(), pins: None, cgroup: None, grants: GRANTS, flows: 0, slots: 8 };
        let mut world = Self { net: Net::pair(), pins, settings, enforcer: None };
        world.enforcer = Some(world.net.server.run(|| start(&world.settings, &protected())).expect("to start"));
        world
    }

    fn start(&mut self) {
        let started = self.net.server.run(|| Enforcer::start(&self.settings, &protected()));
        self.enforcer = Some(started.expect("to start"));
    }

    fn enforcer(&mut self) -> &mut Enforcer {
        self.enforcer.as_mut().expect("a running enforcer")
    }

    fn in_server<T: Send>(&mut self, work: impl FnOnce(&mut Enforcer) -> T + Send) -> T {
        let enforcer = self.enforcer.as_mut().expect("a running enforcer");
        self.net.server.run(|| work(enforcer))
    }

    fn put(&mut self, from: impl Into<IpAddr>, protocol: u8, until: u64, slot: u32) {
        let key = key(from, protocol);
        let mut lengths = postern_core::key::Lengths::default();
        lengths.insert(postern_core::key::V4, 32);
        lengths.insert(postern_core::key::V6, 128);
        let edits = [Edit::Lengths(lengths), Edit::Put(key, entry(until, slot))];
        self.apply(&edits);
    }

    fn apply(&mut self, edits: &[Edit]) {
        edits.iter().try_for_each(|edit| self.enforcer().apply(edit)).expect("a grant");
    }

    fn probe(&self, from: impl Into<IpAddr>, to: impl Into<IpAddr>) -> Outcome {
        probe::tcp(&self.net.client, from, SocketAddr::new(to.into(), PORT))
    }

    fn connect(&self, from: impl Into<IpAddr>, to: impl Into<IpAddr>) -> io::Result<TcpStream> {
        probe::connect(&self.net.client, from, SocketAddr::new(to.into(), PORT))
    }

    fn fate(&self, hook: Hook, fate: Fate) -> u64 {
        let counters = self.enforcer.as_ref().expect("a running enforcer").counters();
        counters.into_iter().find(|c| (c.0, c.1) == (hook, fate)).expect("every counter").2
    }

    fn states(&self) -> [LayerState; 3] {
        let layers = self.enforcer.as_ref().expect("a running enforcer").layers();
        layers.iter().map(|l| l.state).collect::<Vec<_>>().try_into().expect("three layers")
    }
}

fn protected() -> Table {
    Table { protected: [(TCP, PORT), (UDP, PORT)].into(), ..Table::default() }
}

fn key(from: impl Into<IpAddr>, protocol: u8) -> GrantKey {
    match from.into() {
        IpAddr::V4(ip) => GrantKey::new(Address::v4(ip.octets()), 32, protocol, PORT),
        IpAddr::V6(ip) => GrantKey::new(Address::v6(ip.octets()), 128, protocol, PORT),
    }
}

fn entry(expires_boot_ns: u64, slot: u32) -> Entry {
    Entry { expires_boot_ns, slot, ..Entry::default() }
}

fn own_addresses() -> Vec<IpAddr> {
    [SERVER.both(), SERVER_OTHER.both()].concat()
}

fn any() -> SocketAddr {
    format!("[::]:{PORT}").parse().expect("an address")
}
