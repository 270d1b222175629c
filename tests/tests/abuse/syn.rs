//! SYNs to the API: one source is held to its rate, everybody else gets in, and nothing but the API is touched.
//!
//! Counts SYN-ACKs on the wire. Never finishes a flood's handshake.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use postern_tests::frame::{self, Ipv4, Ipv6, Tcp, flag, protocol};
use postern_tests::laptop::Laptop;
use postern_tests::net::{CLIENT_MAC, GRANTED, Net, SERVER, SERVER_MAC, SERVER_OTHER, STRANGER};
use postern_tests::postern::{Options, Postern};
use postern_tests::service::Service;
use postern_tests::wire::Wire;
use postern_tests::{figure, probe};
use postern_tests::{pause, until};

use crate::person::Person;

const API: u16 = 7322;
/// A port that is neither protected nor the API's.
const OTHER: u16 = 8080;
/// Where floods come from: networks behind the client, whose kernel takes the answers and says nothing.
const FLOODER: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 9, 0, 20)), IpAddr::V6(Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 0x20))];
/// What `syn_rate` is unless the configuration says otherwise.
const PER_SECOND: u64 = 20;
const BURST: u64 = 40;
/// SYNs where all shall be answered: fewer than a listener's backlog in both families together.
const SHOT: u16 = 300;
/// How long a flood goes on while people come.
const WINDOW: Duration = Duration::from_secs(3);

fn network() -> Net {
    let net = Net::pair();
    net.server.ip(&format!("route add 10.9.0.0/16 via {}\nroute add fd00:9::/64 via {}", STRANGER.v4, STRANGER.v6));
    net
}

/// Options with a line in `[api]`, which is where the rules follow.
fn with(line: &str) -> Options {
    let own = Options::default();
    Options { rules: format!("{line}\n{}", own.rules), ..own }
}

fn segment(source: IpAddr, destination: IpAddr, tcp: &Tcp) -> Vec<u8> {
    let segment = tcp.segment(source, destination);
    let (kind, packet) = match (source, destination) {
        (IpAddr::V4(from), IpAddr::V4(to)) => (frame::IPV4, Ipv4::new(from, to).packet(&segment)),
        (IpAddr::V6(from), IpAddr::V6(to)) => (frame::IPV6, Ipv6::new(from, to).packet(protocol::TCP, &segment)),
        _ => unreachable!("one family"),
    };
    frame::ethernet(SERVER_MAC, CLIENT_MAC, kind, &packet)
}

/// One end of the wire, and which SYNs have been answered from it: (who asked, from which port, whom).
struct Attacker {
    wire: Wire,
    answered: BTreeSet<(IpAddr, u16, SocketAddr)>,
}

impl Attacker {
    fn new(net: &Net) -> Self {
        Self { wire: net.client_wire(), answered: BTreeSet::new() }
    }

    fn syn(&self, source: IpAddr, from: u16, to: SocketAddr) {
        self.wire.send(&segment(source, to.ip(), &Tcp::syn(from, to.port())));
    }

    fn look(&mut self) {
        let seen: Vec<_> = self.wire.arrived().iter().filter_map(|frame| frame::read(frame)).collect();
        let answers = seen.into_iter().filter(frame::Seen::is_syn_ack);
        self.answered
            .extend(answers.map(|s| (s.destination, s.destination_port, SocketAddr::new(s.source, s.source_port))));
    }

    /// How many of this source's SYNs to there were answered, retransmissions aside.
    fn answered(&self, source: IpAddr, to: SocketAddr) -> u64 {
        self.answered.iter().filter(|(who, _, whom)| *who == source && *whom == to).count() as u64
    }

    /// A shot of SYNs from both flooders at `to`, until all are answered.
    fn shoot_until_answered(&mut self, to: [SocketAddr; 2], from: u16) {
        for number in 0..SHOT {
            FLOODER.into_iter().zip(to).for_each(|(source, to)| self.syn(source, from + number, to));
        }
        for (source, to) in FLOODER.into_iter().zip(to) {
            postern_tests::find(|| {
                self.look();
                let answered = self.answered(source, to);
                if answered >= SHOT.into() { Ok(()) } else { Err(format!("{to}: {answered} of {SHOT} answered")) }
            });
        }
        // So that the listener's queue is free again.
        for number in 0..SHOT {
            for (source, to) in FLOODER.into_iter().zip(to) {
                let reset = Tcp { flags: flag::RST, sequence: 0x1001, ..Tcp::syn(from + number, to.port()) };
                self.wire.send(&segment(source, to.ip(), &reset));
            }
        }
    }
}

fn at(port: u16) -> [SocketAddr; 2] {
    SERVER.both().map(|server| SocketAddr::new(server, port))
}

/// How many SYNs were dropped for coming too fast, by the cut or the prefilter.
fn dropped(postern: &Postern) -> u64 {
    let counters = postern.client().status().expect("the status").counters;
    counters.iter().filter(|c| c.reason == "syn-rate").map(|c| c.count).sum()
}

/// Floods in its own thread while `work` is done here; returns what the attacker saw, how many SYNs it sent to each of `to` and for
/// how long.
fn flooding(net: &Net, source: impl Fn(u32) -> [IpAddr; 2] + Sync, work: impl FnOnce()) -> (Attacker, u64, Duration) {
    let (stop, rounds) = (AtomicBool::new(false), AtomicU32::new(0));
    let mut attacker = Attacker::new(net);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                for _ in 0..8 {
                    let round = rounds.fetch_add(1, Ordering::Relaxed);
                    let from = 1024 + (round % 60_000) as u16;
                    for (source, to) in source(round).into_iter().zip(at(API)) {
                        attacker.syn(source, from, to);
                    }
                }
                attacker.look();
                pause(Duration::from_millis(1));
            }
        });
        until("the flood has begun", || {
            assert!(!flood.is_finished(), "the flood has ended");
            rounds.load(Ordering::Relaxed) >= 500
        });
        // Also when the work panics.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        stop.store(true, Ordering::Relaxed);
        flood.join().expect("a flood to its end");
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    attacker.look();
    (attacker, rounds.into_inner().into(), start.elapsed())
}

#[test]
fn one_source_is_held_to_its_rate_and_others_get_in_meanwhile() {
    let net = network();
    let postern = Postern::start(&net.server, Options::default());
    let laptop = Laptop::new(&net.client, &postern);
    let (attacker, sent, lasted) = flooding(
        &net,
        |_| FLOODER,
        || {
            let start = Instant::now();
            while start.elapsed() < WINDOW {
                for (address, api) in GRANTED.both().into_iter().zip(at(API)) {
                    Person::at(&net.client, address, api, &postern).gets_a_grant();
                }
            }
            let asked = laptop.postern(&["request", "vm1.test", "--port", "ssh", "--for", "10m", "--reason", "a test"]);
            assert_eq!(asked.code, Some(0), "{}{}", asked.out, asked.err);
        },
    );
    for (source, to) in FLOODER.into_iter().zip(at(API)) {
        let answered = attacker.answered(source, to);
        let most = BURST + PER_SECOND * (lasted.as_secs() + 1);
        println!("{source}: {answered} of {sent} SYNs answered in {lasted:?}, at most {most} may be");
        assert!((BURST..=most).contains(&answered) && sent > 4 * most, "{answered}");
        figure::print("SYNs to the API held off", sent - answered);
    }
    assert!(dropped(&postern) > sent, "{}", dropped(&postern));
}

#[test]
fn a_client_that_is_too_fast_gets_in_when_its_kernel_sends_the_syn_again() {
    let net = network();
    let postern = Postern::start(&net.server, with("syn_rate = { per_second = 1, burst = 1 }"));
    for (address, api) in GRANTED.both().into_iter().zip(at(API)) {
        let before = dropped(&postern);
        // Each is beyond the rate but the first. A connection is closed as soon as it is there.
        for _ in 0..3 {
            drop(probe::connect(&net.client, address, api).expect("a connection, if not at once"));
        }
        assert!(dropped(&postern) > before, "no SYN of {address} was dropped");
    }
    Person::at(&net.client, STRANGER.v4.into(), at(API)[0], &postern).gets_a_grant();
}

#[test]
fn without_limit_and_beside_the_api_every_syn_is_answered() {
    let net = network();
    let other = Service::tcp_echo(&net.server, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), OTHER));
    let postern = Postern::start(&net.server, Options::default());
    let mut attacker = Attacker::new(&net);
    attacker.shoot_until_answered(at(OTHER), 1024);
    assert_eq!((dropped(&postern), other.served()), (0, 0));
    drop(postern);

    let postern = Postern::start(&net.server, with("syn_rate = \"off\""));
    attacker.shoot_until_answered(at(API), 1024);
    assert_eq!(dropped(&postern), 0);
    drop(postern);

    // The same port, at an address where the API does not listen.
    let elsewhere = SERVER_OTHER.both().map(|server| SocketAddr::new(server, API));
    let _services = elsewhere.map(|address| Service::tcp_echo(&net.server, address));
    for tcp in [at(API).map(|a| a.to_string()).to_vec(), vec!["127.0.0.1:7322".to_owned()]] {
        let postern = Postern::start(&net.server, Options { tcp: tcp.clone(), ..Options::default() });
        attacker.answered.clear();
        attacker.shoot_until_answered(elsewhere, 2048);
        assert_eq!(dropped(&postern), 0, "{tcp:?}");
    }
}

/// What the limit cannot hold: each SYN has another source. SYN cookies do.
#[test]
fn a_flood_from_forged_sources_keeps_no_client_out() {
    let net = network();
    let postern = Postern::start(&net.server, Options::default());
    let forged = |round: u32| {
        let [_, _, high, low] = round.to_be_bytes();
        let v6 = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, u16::from(high), u16::from(low));
        // One /64 has one bucket: here the addresses of one family alone are many.
        [Ipv4Addr::new(10, 9, high, low).into(), v6.into()]
    };
    let (attacker, sent, _) = flooding(&net, forged, || {
        let start = Instant::now();
        while start.elapsed() < WINDOW {
            for (address, api) in GRANTED.both().into_iter().zip(at(API)) {
                Person::at(&net.client, address, api, &postern).gets_a_grant();
            }
        }
    });
    let is_forged = |who: &IpAddr| matches!(who, IpAddr::V4(who) if who.octets().starts_with(&[10, 9]));
    let sources = attacker.answered.iter().filter(|(who, ..)| is_forged(who)).count();
    let cookies = cookies(&net);
    println!("{sent} SYNs, {sources} answered, {cookies} with a cookie");
    assert!(sources > 1024 && cookies > 0, "more than a queue holds");
    figure::print("SYNs from forged sources borne", sent);
}

/// How many SYN cookies the server's kernel has sent.
fn cookies(net: &Net) -> u64 {
    let text = net.server.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat")).expect("statistics");
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.find(|(name, _)| *name == "SyncookiesSent").and_then(|(_, n)| n.parse().ok()).expect("SyncookiesSent")
}
