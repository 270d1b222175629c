//! The API under abuse: during each flood the next person still gets in, and posternd uses little of a processor.
//!
//! A real posternd, real sockets from a namespace of their own, and HTTP/2 frames by hand where no client would send them.

mod floods;
mod http2;
mod person;
mod standstill;
mod syn;

use http2::Wire;
use person::Person;
use postern_proto::v1::{RequestAccessRequest, SignedMessage, WatchGrantsRequest};
use postern_tests::client::reason;
use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
use postern_tests::postern::{AUDIENCE, Options, Postern, USER};
use postern_tests::{halt, probe, request, until};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// The API with TLS, as the client reaches it.
const TLS: SocketAddr = SocketAddr::new(IpAddr::V4(SERVER.v4), 7322);
/// The API without TLS, inside the server's namespace.
const PLAINTEXT: &str = "127.0.0.1:7323";
/// How long an attack is held while people ask.
const WINDOW: Duration = Duration::from_secs(3);
/// What the agent may use of one core meanwhile, its answers to people included.
const MOST_CPU: f64 = 0.2;

struct World {
    net: Net,
    postern: Postern,
    /// When the agent was ready, and the processor time it had used by then.
    ready: (Instant, Duration),
}

impl World {
    fn new() -> Self {
        // This process holds the attackers' ends.
        limit_files(Command::new("prlimit"), std::process::id(), 8192);
        let net = Net::pair();
        let options = Options { plaintext: vec![PLAINTEXT.to_owned()], ..Options::without_xdp() };
        let postern = Postern::start(&net.server, options);
        let ready = (Instant::now(), cpu(postern.pid()));
        Self { net, postern, ready }
    }

    fn from(&self, address: impl Into<IpAddr>) -> TcpStream {
        let address = address.into();
        postern_tests::find(|| probe::connect(&self.net.client, address, TLS).map_err(|error| error.to_string()))
    }

    fn local(&self) -> TcpStream {
        self.net.server.run(|| TcpStream::connect(PLAINTEXT)).expect("the plaintext listener")
    }

    /// Somebody at `address` asks for a grant over TLS, on a new connection, and gets it in time.
    fn ask(&self, address: impl Into<IpAddr>) {
        Person::at(&self.net.client, address.into(), TLS, &self.postern).gets_a_grant();
    }

    /// Holds an attack for [`WINDOW`] while people ask. The agent's work is counted from before the attack began.
    fn hold(&self, attackers: &[TcpStream], people: &[Ipv4Addr]) {
        let start = Instant::now();
        while start.elapsed() < WINDOW {
            people.iter().for_each(|&address| self.ask(address));
            self.postern.client().who_am_i().expect("an answer on the Unix socket");
            postern_tests::pause(Duration::from_millis(300));
        }
        let (ready, used) = self.ready;
        let share = (cpu(self.postern.pid()) - used).as_secs_f64() / ready.elapsed().as_secs_f64();
        println!("{} attackers: {share:.3} of a core; {:?}", attackers.len(), self.lost());
        assert!(share < MOST_CPU, "the agent used {share:.2} of a core");
    }

    /// How many connections the agent ended, by reason.
    fn lost(&self) -> Vec<(String, u64)> {
        let status = self.postern.client().status().expect("the status");
        let api = status.counters.into_iter().filter(|c| c.hook == "api");
        api.map(|c| (c.reason, c.count)).collect()
    }

    fn has_lost(&self, reason: &str) -> bool {
        self.lost().iter().any(|(r, count)| r == reason && *count > 0)
    }
}

#[test]
fn two_thousand_idle_connections_from_one_source() {
    let world = World::new();
    let idle: Vec<_> = (0..2000).map(|_| world.from(STRANGER.v4)).collect();
    // Also those who share the attacker's address.
    world.hold(&idle, &[GRANTED.v4, STRANGER.v4]);
    assert!(world.has_lost("connection-evicted-source"));
}

#[test]
fn two_thousand_idle_connections_from_a_hundred_sources() {
    let world = World::new();
    let sources: Vec<_> = (1..=100).map(|n| Ipv4Addr::new(10, 1, 7, n)).collect();
    let lines: String = sources.iter().map(|a| format!("addr add {a}/16 dev eth0\n")).collect();
    world.net.client.ip(&lines);
    let idle: Vec<_> = (0..2000).map(|n| world.from(sources[n % sources.len()])).collect();
    world.hold(&idle, &[GRANTED.v4, sources[0]]);
    assert!(world.has_lost("connection-evicted-opening") || world.has_lost("connection-evicted-total"));
}

#[test]
fn handshakes_that_never_end() {
    let world = World::new();
    let slow: Vec<_> = (0..500)
        .map(|n| {
            let mut stream = world.from(STRANGER.v4);
            // The beginning of a ClientHello, cut at another byte each time.
            let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
            let _ = stream.write_all(&hello[..1 + n % hello.len()]);
            stream
        })
        .collect();
    world.hold(&slow, &[GRANTED.v4, STRANGER.v4]);
}

#[test]
fn prefaces_that_never_end_and_connections_that_never_ask() {
    let world = World::new();
    let half: Vec<_> = (0..500)
        .map(|n| {
            let mut stream = world.local();
            let opening = [http2::PREFACE, &http2::settings()].concat();
            let _ = stream.write_all(&opening[..1 + n % opening.len()]);
            stream
        })
        .collect();
    world.hold(&half, &[GRANTED.v4]);
}

#[test]
fn no_file_descriptors_left() {
    let world = World::new();
    let pid = world.postern.pid();
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count();
    // As its user, who may do that to its own processes; root would need CAP_SYS_RESOURCE.
    let mut as_user = Command::new("setpriv");
    as_user.args(["--reuid", USER, "--regid", "nogroup", "--clear-groups", "prlimit"]);
    limit_files(as_user, pid, open + 6);
    let idle: Vec<_> = (0..400).map(|_| world.from(STRANGER.v4)).collect();
    world.hold(&idle, &[GRANTED.v4]);
    assert!(world.has_lost("connection-evicted-files"), "{:?}", world.lost());
}

#[test]
fn not_one_file_descriptor_left() {
    let world = World::new();
    let pid = world.postern.pid();
    let engine = halt::names(pid).into_iter().find(|(_, name)| name == "engine").expect("its thread").0;
    // The soft limit alone, so that its user can raise it again.
    let limit = |files: usize| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", "nogroup", "--clear-groups", "prlimit"]);
        let done = command.args([format!("--pid={pid}"), format!("--nofile={files}:")]).status();
        assert!(done.expect("setpriv and prlimit of util-linux").success());
    };
    // All numbers below are taken.
    limit(3);
    // The engine looks after its layers twice a second. Each look asks the helper, whose answers carry descriptors.
    let before = halt::sleeps(pid, engine);
    until("the engine's thread has looked a few times", || halt::sleeps(pid, engine) > before + 40);
    limit(400);
    world.ask(GRANTED.v4);
    // A look for which there was no descriptor is a condition until the next one.
    let told = || world.postern.client().details().expect("its state").join("; ");
    until("all is well again", || told().is_empty());
    let lines = postern_tests::journal::lines(world.postern.state());
    assert!(lines.iter().all(|line| line["event"] != "layer"), "no layer was lost: {lines:?}");
}

#[test]
fn requests_that_are_taken_back_at_once() {
    let world = World::new();
    for _ in 0..20 {
        let mut wire = Wire::open(world.local());
        for stream in 0..5000 {
            if !wire.send(&[http2::request(2 * stream + 1), http2::reset(2 * stream + 1)].concat()) {
                break;
            }
        }
        assert!(wire.is_closed_by_peer(), "5,000 resets were borne");
    }
    world.ask(GRANTED.v4);
}

#[test]
fn headers_without_end() {
    let world = World::new();
    for _ in 0..5 {
        let mut wire = Wire::open(world.local());
        wire.send(&http2::headers_without_end(1));
        let filler = http2::continuation(1, &[0x00, 1, b'x', 0x7f, 0x81, 0x7e].repeat(100));
        while wire.sent() < 8 << 20 && wire.send(&filler) {}
        assert!(wire.is_closed_by_peer(), "8 MiB of headers were borne");
    }
    world.ask(GRANTED.v4);
    let resident = resident_bytes(world.postern.pid());
    assert!(resident < 128 << 20, "{resident} bytes resident");
}

#[test]
fn pings_and_settings_without_end() {
    let world = World::new();
    let mut floods: Vec<_> = (0..4).map(|_| Wire::open(world.local())).collect();
    for (n, wire) in floods.iter_mut().enumerate() {
        let frame = if n % 2 == 0 { http2::ping() } else { http2::settings() };
        // Nobody reads the answers, so the agent must stop taking more.
        while wire.sent() < 4 << 20 && wire.send(&frame.repeat(100)) {}
    }
    world.ask(GRANTED.v4);
    let resident = resident_bytes(world.postern.pid());
    assert!(resident < 128 << 20, "{resident} bytes resident");
}

#[test]
fn messages_beyond_64_kib_and_garbage_have_a_reason() {
    let world = World::new();
    let client = world.postern.client();
    let sealed = |bytes: usize| SignedMessage { payload: vec![b'x'; bytes], ..Default::default() };
    for bytes in [64 << 10, 3 << 20] {
        let status = client.request(sealed(bytes)).expect_err("a refusal");
        assert_eq!(reason(&status), "MESSAGE_TOO_LARGE", "{bytes} bytes: {status:?}");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
    }
    let status = client.request(sealed(1)).expect_err("a refusal");
    assert_eq!((reason(&status).as_str(), status.code()), ("UNSIGNED", tonic::Code::Unauthenticated));
    let none = RequestAccessRequest { message: None };
    let status = client.wait(client.access().request_access(none)).expect_err("a refusal");
    assert_eq!(reason(&status), "ENVELOPE_MALFORMED");
    assert!(world.lost().iter().any(|(reason, count)| reason == "MESSAGE_TOO_LARGE" && *count >= 2));
    assert_eq!(client.grants().expect("the grants"), []);
}

#[test]
fn a_watcher_that_does_not_read_delays_no_other_client() {
    let world = World::new();
    let sleeper = world.postern.client();
    let deaf = sleeper.wait(sleeper.access().watch_grants(WatchGrantsRequest::default())).expect("a watch");
    let watcher = world.postern.client();
    let mut seen =
        watcher.wait(watcher.access().watch_grants(WatchGrantsRequest::default())).expect("a watch").into_inner();
    for _ in 0..30 {
        let grant = world.postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
        let change = watcher.wait(seen.message()).expect("a change").and_then(|c| c.grant).expect("a grant");
        assert_eq!(change.id, grant.id);
    }
    drop(deaf);
}

#[test]
fn reading_takes_a_signature_but_for_root_on_the_unix_socket() {
    let world = World::new();
    let person = Person::at(&world.net.client, GRANTED.v4.into(), TLS, &world.postern);
    let status = person.list(None).expect_err("a refusal");
    assert_eq!((reason(&status).as_str(), status.code()), ("UNSIGNED", tonic::Code::Unauthenticated));
    let read = request::read(&world.postern.alice, AUDIENCE);
    assert_eq!(person.list(Some(read)).expect("a list"), []);
    assert_eq!(person.address(), GRANTED.v4.to_string());
}

#[test]
fn a_client_without_tls_1_3_gets_nothing() {
    let world = World::new();
    let mut plain = world.from(GRANTED.v4);
    let _ = plain.write_all(&[http2::PREFACE, &http2::settings()].concat());
    plain.set_read_timeout(Some(Duration::from_secs(20))).expect("a time-out");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    // A TLS alert at most; never an HTTP/2 frame.
    assert!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
}

fn limit_files(mut prlimit: Command, process: u32, most: usize) {
    let arguments = [format!("--pid={process}"), format!("--nofile={most}:{most}")];
    let done = prlimit.args(arguments).status().expect("setpriv and prlimit of util-linux");
    assert!(done.success());
}

/// The processor time that a process has used.
fn cpu(process: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("its statistics");
    let fields = stat.rsplit(')').next().expect("fields behind the name");
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|n| n.parse::<u64>().expect("ticks")).sum();
    // USER_HZ is 100 on every Linux of ours.
    Duration::from_millis(ticks * 10)
}

fn resident_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("its status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("kibibytes") * 1024
}
