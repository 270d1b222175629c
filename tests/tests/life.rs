//! The life of a grant: closed before, open during, closed after, to the packet, in both families, over TCP and UDP.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_proto::v1::{Grant, GrantState};
use postern_tests::client::reason;
use postern_tests::clock::{Arrivals, boot_ns};
use postern_tests::net::{GRANTED, NEIGHBOUR, Net, SERVER, STRANGER};
use postern_tests::netns::Netns;
use postern_tests::postern::{AUDIENCE, Options, Postern, port};
use postern_tests::probe::{self, Outcome};
use postern_tests::request::Access;
use postern_tests::service::Service;
use postern_tests::ssh::Sshd;
use postern_tests::{PATIENCE, until};

/// Silence of a sender that sends every millisecond.
const SILENCE: Duration = Duration::from_millis(400);

fn any(port: u16) -> SocketAddr {
    SocketAddr::new("::".parse().expect("an address"), port)
}

fn is_open(from: &Netns, source: IpAddr, to: SocketAddr, udp: bool) -> bool {
    let outcome = if udp { probe::udp(from, source, to) } else { probe::tcp(from, source, to) };
    outcome == Outcome::Answered
}

/// Both families.
fn pairs(host: postern_tests::net::Host) -> [(IpAddr, IpAddr); 2] {
    let [v4, v6] = host.both();
    [(v4, SERVER.like(v4)), (v6, SERVER.like(v6))]
}

/// The moment at which the kernel ends a grant, from the journal.
fn end_of(postern: &Postern, grant: &Grant) -> u64 {
    let journal = postern.journal();
    let records = journal.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let granted = records.map(|r| r["grant"].clone()).find(|g| g["id"] == grant.id.as_str());
    granted.and_then(|g| g["expires_boot"].as_u64()).expect("the grant's record")
}

/// When the last datagram of each stream arrived, on the boot clock. All are read at once: a full socket drops what is new.
fn last_arrivals(streams: &[Arrivals; 2]) -> [u64; 2] {
    let last = |stream: &Arrivals| std::iter::from_fn(|| stream.next(SILENCE)).last().unwrap_or_default();
    std::thread::scope(|scope| {
        let readers = [0, 1].map(|n| scope.spawn(move || last(&streams[n])));
        readers.map(|reader| reader.join().expect("a reader"))
    })
}

fn state_of(postern: &Postern, id: &str) -> GrantState {
    let grants = postern.client().grants().expect("the grants");
    grants.iter().find(|grant| grant.id == id).expect("the grant").state()
}

#[test]
fn a_grant_opens_its_port_to_its_source_and_nothing_else() {
    for options in [Options::default(), Options::without_xdp()] {
        let net = Net::pair();
        let postern = Postern::start(&net.server, options);
        let tcp = [Service::tcp_echo(&net.server, any(22)), Service::tcp_echo(&net.server, any(3389))];
        let udp = [Service::udp_echo(&net.server, any(22)), Service::udp_echo(&net.server, any(3389))];
        let open = |source: IpAddr, port: u16| {
            let to = SocketAddr::new(SERVER.like(source), port);
            [false, true].map(|udp| is_open(&net.client, source, to, udp))
        };
        for source in GRANTED.both() {
            assert_eq!(open(source, 22), [false; 2], "before: {source}");
        }
        assert!(tcp.iter().chain(&udp).all(|service| service.served() == 0), "a packet reached a closed socket");
        let grant = postern.grant(&["22/any"], &GRANTED.both(), 600).expect("a grant");
        for source in GRANTED.both() {
            assert_eq!(open(source, 22), [true; 2], "during: {source}");
            assert_eq!(open(source, 3389), [false; 2], "the neighbour port: {source}");
        }
        for source in NEIGHBOUR.both().into_iter().chain(STRANGER.both()) {
            assert_eq!(open(source, 22), [false; 2], "another address: {source}");
        }
        let seen = postern.client().grants().expect("the grants").remove(0).usage.expect("its use");
        assert!(seen.packets_in >= 8 && seen.packets_out >= 6 && seen.bytes_in > 0 && seen.bytes_out > 0, "{seen:?}");
        assert!(seen.first_use.is_some() && seen.last_use.is_some());
        postern.revoke(&grant.id).expect("to revoke");
        let served: u64 = tcp.iter().chain(&udp).map(Service::served).sum();
        for source in GRANTED.both() {
            assert_eq!(open(source, 22), [false; 2], "after: {source}");
        }
        assert_eq!(tcp.iter().chain(&udp).map(Service::served).sum::<u64>(), served);
        assert_eq!(reason(&postern.revoke(&grant.id).expect_err("it has ended")), "GRANT_ENDED");
    }
}

#[test]
fn at_its_end_a_session_is_cut_in_both_directions_and_both_sides_know() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::without_xdp());
    let _tcp = Service::tcp_chatter(&net.server, any(22));
    let _udp = Service::udp_chatter(&net.server, any(3389));
    let grant = postern.grant(&["22/tcp", "3389/udp"], &GRANTED.both(), 2).expect("a grant");
    let wire = net.client_wire();
    let connect =
        |(from, to): (IpAddr, IpAddr)| probe::connect(&net.client, from, SocketAddr::new(to, 22)).expect("to connect");
    let mut streams = pairs(GRANTED).map(connect);
    let streamed = pairs(GRANTED).map(|(from, to)| {
        let arrivals = Arrivals::new(&net.client, SocketAddr::new(from, 0), SocketAddr::new(to, 3389));
        arrivals.send(b"begin");
        assert!(arrivals.next(PATIENCE).is_some(), "the stream begins");
        arrivals
    });
    for stream in &mut streams {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        let mut ticks = [0; 4096];
        let error = loop {
            match stream.read(&mut ticks) {
                Ok(0) => panic!("the server closed in good order"),
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "the client knows at once");
    }
    let end = end_of(&postern, &grant);
    assert!(boot_ns() >= end, "it was not cut before its end");
    for last in last_arrivals(&streamed) {
        assert!(last > 0 && last < end + 5_000_000, "a datagram came {} ns after the end", last.saturating_sub(end));
    }
    // From here on nothing may leave for the client but the resets of what was destroyed.
    let _before = wire.arrived();
    let later = wire.collect(SILENCE, PATIENCE);
    let leaked: Vec<_> = later.iter().filter(|frame| from_protected(frame)).collect();
    assert!(leaked.is_empty(), "{} frames left after the end, the first: {:02x?}", leaked.len(), leaked[0]);
    assert_eq!(state_of(&postern, &grant.id), GrantState::Expired);
}

/// Whether a plain TCP or UDP frame comes from port 22 or 3389.
fn from_protected(frame: &[u8]) -> bool {
    let transport = match frame.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => return false,
    };
    let port = frame.get(transport..transport + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    port.is_some_and(|port| port == 22 || port == 3389)
}

#[test]
fn expiry_needs_no_agent() {
    let net = Net::pair();
    let mut postern = Postern::start(&net.server, Options::default());
    let sshd = Sshd::start(&net.server);
    let _udp = Service::udp_chatter(&net.server, any(3389));
    let [(v4, server4), (v6, server6)] = pairs(GRANTED);
    let grant = postern.grant(&["22/tcp", "3389/udp"], &GRANTED.both(), 4).expect("a grant");
    let end = end_of(&postern, &grant);
    postern.kill();
    let mut sessions = [sshd.session(&net.client, v4, server4), sshd.session(&net.client, v6, server6)];
    let streams = pairs(GRANTED).map(|(from, to)| {
        let arrivals = Arrivals::new(&net.client, SocketAddr::new(from, 0), SocketAddr::new(to, 3389));
        arrivals.send(b"begin");
        arrivals
    });
    for session in &sessions {
        assert!(session.ticks(PATIENCE), "ssh works while the agent is dead: {}", session.errors());
    }
    for last in last_arrivals(&streams) {
        let error = i128::from(last) - i128::from(end);
        println!("the last datagram came {} µs after the end", error / 1000);
        assert!(last > 0 && error < 5_000_000, "late by {error} ns");
        assert!(error > -500_000_000, "the stream stopped {} ns before the end", -error);
    }
    for session in &mut sessions {
        session.until_silent(SILENCE);
        assert_eq!(session.ended(), None, "without the agent the session falls silent, and ssh gets no reset");
    }
    for (from, to) in pairs(GRANTED) {
        assert!(!is_open(&net.client, from, SocketAddr::new(to, 22), false), "closed to new connections");
    }
    // The next agent finds the grant over and ends what hangs.
    postern.launch();
    for session in &mut sessions {
        assert_eq!(session.wait().code(), Some(255), "{}", session.errors());
    }
    assert_eq!(state_of(&postern, &grant.id), GrantState::Expired);
}

#[test]
fn a_real_ssh_session_ends_at_once_when_its_grant_is_revoked() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::default());
    let sshd = Sshd::start(&net.server);
    let grant = postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    let mut sessions = pairs(GRANTED).map(|(from, to)| sshd.session(&net.client, from, to));
    assert!(sessions.iter().all(|session| session.ticks(PATIENCE)), "{}", sessions[0].errors());
    postern.revoke(&grant.id).expect("to revoke");
    for session in &mut sessions {
        assert_eq!(session.wait().code(), Some(255), "{}", session.errors());
    }
}

#[test]
fn overlapping_grants_end_each_at_its_own_time() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::default());
    let _tcp = Service::tcp_chatter(&net.server, any(22));
    let ask = |source: [&str; 2], seconds: u64| {
        let access =
            Access { source: source.map(str::to_owned).to_vec(), ..Access::new(AUDIENCE, &["22/tcp"], &[], seconds) };
        postern.client().request(access.seal(&postern.alice)).expect("a grant")
    };
    let [v4, v6] = GRANTED.both().map(postern_tests::request::prefix);
    let short = ask([&v4, &v6], 2);
    let long = ask(["10.1.0.0/16", "fd00:1::/64"], 6);
    let mut streams =
        pairs(GRANTED).map(|(from, to)| probe::connect(&net.client, from, SocketAddr::new(to, 22)).expect("open"));
    until("the short one ends", || state_of(&postern, &short.id) == GrantState::Expired);
    for (from, to) in pairs(GRANTED).into_iter().chain(pairs(NEIGHBOUR)) {
        assert!(is_open(&net.client, from, SocketAddr::new(to, 22), false), "the long one holds for {from}");
    }
    for stream in &mut streams {
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        assert!(stream.read(&mut [0; 64]).expect("the session lives on the long one") > 0);
    }
    assert_eq!(state_of(&postern, &long.id), GrantState::Active);
    until("the long one ends", || state_of(&postern, &long.id) == GrantState::Expired);
    for (from, to) in pairs(GRANTED).into_iter().chain(pairs(NEIGHBOUR)) {
        assert!(!is_open(&net.client, from, SocketAddr::new(to, 22), false), "closed for {from}");
    }
}

#[test]
fn live_grants_and_closed_ports_survive_the_agent() {
    let net = Net::pair();
    let mut postern = Postern::start(&net.server, Options::default());
    let _tcp = Service::tcp_echo(&net.server, any(22));
    let grant = postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    let check = |when: &str| {
        for (from, to) in pairs(GRANTED) {
            assert!(is_open(&net.client, from, SocketAddr::new(to, 22), false), "{when}: {from}");
        }
        for (from, to) in pairs(NEIGHBOUR) {
            assert!(!is_open(&net.client, from, SocketAddr::new(to, 22), false), "{when}: {from}");
        }
    };
    check("running");
    postern.kill();
    check("killed");
    postern.launch();
    check("started again");
    assert!(postern.stop().success());
    check("stopped");
    postern.launch();
    check("started once more");
    let used = postern.client().grants().expect("the grants").remove(0).usage.expect("its use");
    assert!(used.packets_in > 0, "use is counted on across an orderly stop");
    postern.revoke(&grant.id).expect("to revoke");
    assert!(!is_open(&net.client, GRANTED.both()[0], SocketAddr::new(SERVER.both()[0], 22), false));
}

#[test]
fn a_reload_ends_what_it_no_longer_allows_and_a_bad_file_changes_nothing() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::default());
    let _services = [Service::tcp_echo(&net.server, any(22)), Service::tcp_echo(&net.server, any(3389))];
    let grant = postern.grant(&["22/tcp", "3389/tcp"], &GRANTED.both(), 600).expect("a grant");
    let [(from, to), _] = pairs(GRANTED);
    let open = |port: u16| is_open(&net.client, from, SocketAddr::new(to, port), false);
    std::fs::write(postern.config(), "[[port]]\nnumber = 0\n").expect("a bad file");
    postern.reload();
    until("the failure is told", || !postern.client().details().expect("the status").is_empty());
    assert!(open(22) && open(3389));
    let rules = [port(3389, "any"), postern_tests::postern::ROLES.to_owned()].concat();
    postern.configure(&Options { rules, ..Options::default() });
    postern.reload();
    until("the grant ends", || state_of(&postern, &grant.id) == GrantState::Revoked);
    assert!(open(22), "a port that is no longer ours is left alone");
    assert!(!open(3389), "the grant is gone");
    assert!(postern.client().details().expect("the status").is_empty());
}

#[test]
fn a_start_ends_what_the_files_no_longer_allow() {
    let net = Net::pair();
    let mut postern = Postern::start(&net.server, Options::without_xdp());
    let _tcp = Service::tcp_echo(&net.server, any(22));
    let grant = postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    let open = |(from, to)| is_open(&net.client, from, SocketAddr::new(to, 22), false);
    postern.kill();
    let trust = std::fs::read_to_string(postern.file("allowed_signers")).expect("the trust file");
    let others: String = trust.split_inclusive('\n').filter(|line| !line.starts_with("alice")).collect();
    std::fs::write(postern.file("allowed_signers"), others).expect("the trust file");
    assert!(pairs(GRANTED).into_iter().all(open), "posternd has not reloaded yet");
    postern.launch();
    assert!(!pairs(GRANTED).into_iter().any(open), "its signer is trusted no longer");
    assert_eq!(state_of(&postern, &grant.id), GrantState::Revoked);
}
