//! Floods in full swing while people come: HTTP/2 frames, TLS handshakes that are begun and left, signatures to be checked.
//!
//! Owns the attackers, which print how much they tried. The tests assert that people get in meanwhile.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use postern_proto::v1::access_service_client::AccessServiceClient;
use postern_proto::v1::{RequestAccessRequest, SignedMessage};
use postern_tests::client::reason;
use postern_tests::figure;
use postern_tests::net::{GRANTED, STRANGER};
use postern_tests::postern::AUDIENCE;
use postern_tests::request::Access;
use rustls::pki_types::ServerName;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

use crate::http2::{self, Wire};
use crate::person::{self, LONG_PATIENCE, Person};
use crate::{TLS, WINDOW, World, resident_bytes};

/// Requests at once on each connection of the flood: as many as the host allows.
pub const STREAMS: usize = 16;
/// Connections of that flood.
pub const CONNECTIONS: usize = 6;
/// The longest payload that posternd parses (`MOST_PAYLOAD` in `agent/src/engine/verifier.rs`).
pub const MOST_PAYLOAD: usize = 32 * 1024;
/// Threads for such work that the agent may have (`agent/src/run.rs`).
const MOST_THREADS: usize = 16;
/// Memory that the agent may hold, whatever comes.
const MOST_BYTES: u64 = 128 << 20;

/// Ends the attackers, also when the work beside them panics.
pub struct Ends<'a>(pub &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Does `work` while each attacker does its round again and again; how much they did, as they count it.
fn beside<T>(attackers: &[&(dyn Fn() -> u64 + Sync)], work: impl FnOnce() -> T) -> (Vec<u64>, T) {
    let stop = AtomicBool::new(false);
    let done: Vec<_> = attackers.iter().map(|_| AtomicU64::new(0)).collect();
    let outcome = std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        for (attack, done) in attackers.iter().zip(&done) {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    done.fetch_add(attack(), Ordering::Relaxed);
                }
            });
        }
        work()
    });
    (done.into_iter().map(AtomicU64::into_inner).collect(), outcome)
}

/// People come for a while, and each gets in.
fn people_get_in(world: &World) {
    let (start, mut waits) = (Instant::now(), Vec::new());
    while start.elapsed() < WINDOW {
        let person = Person::at(&world.net.client, GRANTED.v4.into(), TLS, &world.postern);
        waits.push(person.gets_a_grant_after());
        world.postern.client().who_am_i().expect("an answer on the Unix socket");
    }
    println!("people waited {waits:?}");
    assert!(waits.iter().all(|waited| *waited < LONG_PATIENCE), "{waits:?}");
}

#[test]
fn requests_are_served_during_http2_floods() {
    let world = World::new();
    // Requests that are taken back at once, until the host closes.
    let resets = || {
        let mut wire = Wire::open(world.local());
        let sent = (0..5000).take_while(|n| wire.send(&[http2::request(2 * n + 1), http2::reset(2 * n + 1)].concat()));
        sent.count() as u64
    };
    // Headers that never end, until the host closes.
    let filler = http2::continuation(1, &[0x00, 1, b'x', 0x7f, 0x81, 0x7e].repeat(100));
    let headers = || {
        let mut wire = Wire::open(world.local());
        wire.send(&http2::headers_without_end(1));
        (0..5000).take_while(|_| wire.send(&filler)).count() as u64
    };
    // Pings and settings from somebody who takes all the answers, so that nothing holds him up.
    let (pings, settings) = (http2::ping().repeat(100), http2::settings().repeat(100));
    let noise = || {
        let mut wire = Wire::open(world.local());
        let taken = (0..100).take_while(|_| wire.send(&pings) && wire.send(&settings) && wire.take_answers());
        200 * taken.count() as u64
    };
    let (done, ()) = beside(&[&resets, &headers, &noise], || people_get_in(&world));
    let resident = resident_bytes(world.postern.pid());
    println!("{done:?}, {resident} bytes resident, {:?}", world.lost());
    assert!(done.iter().all(|n| *n > 100) && resident < MOST_BYTES);
    assert!(world.has_lost("connection-broken"), "{:?}", world.lost());
    for (name, count) in ["requests reset at once", "CONTINUATION frames", "PING and SETTINGS frames"].iter().zip(done)
    {
        figure::print(&format!("{name} borne"), count);
    }
}

#[test]
fn handshakes_begun_and_left() {
    let world = World::new();
    let sources: Vec<_> = (1..=100).map(|n| Ipv4Addr::new(10, 1, 7, n)).collect();
    let lines: String = sources.iter().map(|a| format!("addr add {a}/16 dev eth0\n")).collect();
    world.net.client.ip(&lines);
    let config = Arc::new(person::trusting(&world.postern));
    let next = AtomicU64::new(0);
    let leave = || {
        let round = next.fetch_add(1, Ordering::Relaxed) as usize;
        // Half from one source, half from a hundred.
        let source = if round.is_multiple_of(2) { STRANGER.v4 } else { sources[round / 2 % sources.len()] };
        let name = ServerName::try_from("posternd").expect("a name");
        let mut tls = rustls::ClientConnection::new(Arc::clone(&config), name).expect("a client");
        let mut stream = world.from(source);
        let _ = tls.write_tls(&mut stream);
        // One in four does not even wait for the host's costly answer.
        if round % 4 == 3 {
            return 1;
        }
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time-out");
        u64::from(stream.read(&mut [0; 1]).is_ok())
    };
    let (done, ()) = beside(&[&leave, &leave], || people_get_in(&world));
    let resident = resident_bytes(world.postern.pid());
    println!("{done:?}, {resident} bytes resident, {:?}", world.lost());
    let all: u64 = done.into_iter().sum();
    assert!(all > 100 && resident < MOST_BYTES);
    assert!(world.has_lost("handshake-failed"), "{:?}", world.lost());
    figure::print("TLS handshakes begun and left", all);
}

/// Envelopes in the name of somebody who is trusted, whose signatures have to be checked to be found wrong, against envelopes
/// that are refused for a byte too many.
#[test]
fn signatures_are_checked_beside_the_answers_to_others() {
    let world = World::new();
    let message = Access::new(AUDIENCE, &["22/tcp"], &[STRANGER.v4.into()], 60).seal(&world.postern.alice);
    let person = Person::at(&world.net.client, GRANTED.v4.into(), TLS, &world.postern);
    person.address();
    let before = threads(&world);
    let (mut waits, mut refusals) = ([const { Vec::new() }; 2], [const { BTreeMap::new() }; 2]);
    // In turns, since the machine has other work too.
    for turn in 0..4 {
        let costly = turn % 2;
        let (waited, refused) = asked_beside(&world, &message, [MOST_PAYLOAD + 1, MOST_PAYLOAD][costly], &person);
        waits[costly].extend(waited);
        refused.into_iter().for_each(|(reason, n)| *refusals[costly].entry(reason).or_insert(0) += n);
    }
    let most = threads(&world);
    let [cheap, costly] = waits.map(|mut waits| {
        waits.sort_unstable();
        (waits[waits.len() / 2], waits[waits.len() - 1], waits.len())
    });
    println!(
        "WhoAmI (median, longest, how many): {cheap:?} beside {:?}, {costly:?} beside {:?}",
        refusals[0], refusals[1]
    );
    println!("{before} threads before, {most} behind");
    assert!(refusals[0].keys().all(|r| r == "MESSAGE_TOO_LARGE") && refusals[0]["MESSAGE_TOO_LARGE"] > 100);
    assert!(refusals[1].keys().all(|r| ["SIGNATURE_INVALID", "OVERLOADED"].contains(&r.as_str())));
    assert!(refusals[1]["SIGNATURE_INVALID"] > 100);
    assert!(cheap.1 < LONG_PATIENCE && costly.1 < LONG_PATIENCE, "WhoAmI waited for signatures");
    assert!(costly.0 < 5 * cheap.0 + Duration::from_millis(50), "WhoAmI waits for signatures");
    // They are none of those that answer, and stay a while after their last signature, so none has been missed.
    assert!((1..=MOST_THREADS).contains(&(most - before)), "signatures are checked on {} threads", most - before);
    figure::print("signatures checked in vain", refusals[1]["SIGNATURE_INVALID"]);
}

/// How long `WhoAmI` takes for `person` while envelopes like `message` pour in, and why those were refused.
fn asked_beside(
    world: &World,
    message: &SignedMessage,
    bytes: usize,
    person: &Person<'_>,
) -> (Vec<Duration>, BTreeMap<String, u64>) {
    let (stop, number) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let ends = Ends(&stop);
        let floods: Vec<_> =
            (0..CONNECTIONS).map(|_| scope.spawn(|| pour(world.local(), message, bytes, &number, &stop))).collect();
        let (start, mut waits) = (Instant::now(), Vec::new());
        while start.elapsed() < WINDOW / 3 || waits.len() < 20 {
            let asked = Instant::now();
            person.address();
            waits.push(asked.elapsed());
        }
        drop(ends);
        let mut refused = BTreeMap::new();
        for flood in floods {
            for (reason, count) in flood.join().expect("a flood to its end") {
                *refused.entry(reason).or_insert(0) += count;
            }
        }
        (waits, refused)
    })
}

/// Sends envelopes on one connection until told to stop, each with another payload of so many bytes; counts refusals by reason.
pub fn pour(
    stream: TcpStream,
    message: &SignedMessage,
    bytes: usize,
    number: &AtomicU64,
    stop: &AtomicBool,
) -> BTreeMap<String, u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (channel, mut running, mut refused) = (plain(stream).await, JoinSet::new(), BTreeMap::new());
        loop {
            while running.len() < STREAMS && !stop.load(Ordering::Relaxed) {
                let mut client = AccessServiceClient::new(channel.clone());
                let payload = format!("{:0bytes$}", number.fetch_add(1, Ordering::Relaxed)).into_bytes();
                let message = Some(SignedMessage { payload, ..message.clone() });
                running.spawn(async move { client.request_access(RequestAccessRequest { message }).await });
            }
            let Some(answer) = running.join_next().await else { return refused };
            let status = answer.expect("an answer").expect_err("a refusal");
            *refused.entry(reason(&status)).or_insert(0) += 1;
        }
    })
}

async fn plain(stream: TcpStream) -> Channel {
    stream.set_nonblocking(true).expect("a socket for tokio");
    let mut stream = Some(tokio::net::TcpStream::from_std(stream).expect("a socket for tokio"));
    let connect = tower::service_fn(move |_: tonic::codegen::http::Uri| {
        let stream = stream.take();
        async move { stream.map(TokioIo::new).ok_or(std::io::Error::from(std::io::ErrorKind::NotConnected)) }
    });
    Endpoint::from_static("http://posternd").connect_with_connector(connect).await.expect("a connection")
}

fn threads(world: &World) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", world.postern.pid())).expect("its threads").count()
}
