//! Starts and runs on disks that are full, read-only, unreadable or so slow that they seem dead: what is open goes on and ends
//! on time, nothing new opens but by root on the host, the layers are healed, and with the disk all of it gets on record.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use postern_proto::v1::{BreakGlassRequest, Grant, GrantState, ListAuditRequest};
use postern_tests::client::{Client, reason};
use postern_tests::clock::boot_ns;
use postern_tests::disk::SmallDisk;
use postern_tests::flood::Flood;
use postern_tests::net::{GRANTED, NEIGHBOUR, Net, SERVER, STRANGER};
use postern_tests::postern::{AUDIENCE, Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::request::{self, Access};
use postern_tests::service::Service;
use postern_tests::strace::{Effect, Fault, Scope};
use postern_tests::{PATIENCE, until};
use serde_json::Value;
use tonic::Status;

const SSH: u16 = 22;
const RDP: u16 = 3389;
/// A short grant, in seconds: where the machine is not too busy it is open still after a restart.
const SHORT: u64 = 6;

/// A host whose state is on a disk of its own, flooded by strangers.
struct Host {
    // Dropped in this order: who has files open on it is gone before the disk is.
    postern: Postern,
    disk: SmallDisk,
    flood: Flood,
    _services: [Service; 2],
    net: Net,
}

impl Host {
    fn new(disk: SmallDisk) -> Self {
        let net = Net::pair();
        let services = [SSH, RDP].map(|port| Service::tcp_echo(&net.server, (SERVER.v4, port).into()));
        let options = Options { state: Some(disk.path().to_owned()), ..Options::without_xdp() };
        let postern = Postern::start(&net.server, options);
        let flood = Flood::start(&net, &[SSH, RDP]);
        Self { postern, disk, flood, _services: services, net }
    }

    fn grant(&self, port: u16, source: IpAddr, seconds: u64) -> Result<Grant, Status> {
        self.postern.grant(&[&format!("{port}/tcp")], &[source], seconds)
    }

    /// One attempt; silence and refusal are the same.
    fn is_open(&self, port: u16, from: IpAddr) -> bool {
        probe::tcp(&self.net.client, from, at(port)) == Outcome::Answered
    }

    /// These pairs are open, and nobody else gets an answer: not the flood, not a stranger, not a pair that was not granted.
    fn check(&self, open: &[(u16, IpAddr)], when: &str) {
        for pair in open {
            assert!(probe::tcp_answers(&self.net.client, pair.1, at(pair.0)), "{pair:?}, {when}");
        }
        for from in [GRANTED.v4, NEIGHBOUR.v4, STRANGER.v4].map(IpAddr::from) {
            for port in [SSH, RDP].into_iter().filter(|port| !open.contains(&(*port, from))) {
                assert!(!self.is_open(port, from), "{port} from {from}, {when}");
            }
        }
        assert_eq!(self.flood.counted().leaked, 0, "{when}");
    }

    fn degraded(&self) -> String {
        self.postern.client().details().expect("its state").join("\n")
    }

    /// A grant is refused for want of a record, with this reason.
    fn refuses(&self, why: &str) {
        let refused = self.grant(RDP, STRANGER.v4.into(), 600).expect_err("no record, no grant");
        assert_eq!(reason(&refused), "JOURNAL_FAILED", "{refused:?}");
        assert!(refused.message().contains(why), "{refused:?}");
        assert!(self.degraded().contains(why), "{}", self.degraded());
    }

    /// Journal lines of a kind.
    fn lines(&self, event: &str) -> Vec<Value> {
        self.postern.on_disk().into_iter().filter(|line| line["event"] == event).collect()
    }

    /// The chain holds, and nothing is wrong any more.
    fn is_whole(&self) -> bool {
        let client = self.postern.client();
        let audit = client.wait(client.host().list_audit(ListAuditRequest { page_size: 1, ..Default::default() }));
        let audit = audit.expect("the audit").into_inner();
        assert!(audit.chain_verified, "{}", audit.damage);
        self.degraded().is_empty()
    }

    fn break_glass(&self, source: IpAddr) -> Result<Grant, Status> {
        let client = self.postern.client();
        break_glass(&client, source)
    }
}

fn break_glass(client: &Client, source: IpAddr) -> Result<Grant, Status> {
    let wish = BreakGlassRequest {
        ports: vec![format!("{RDP}/tcp")],
        source: vec![request::prefix(source)],
        duration: Some(Duration::from_secs(600).into()),
        reason: "the disk is broken".to_owned(),
    };
    let granted = client.wait(client.host().break_glass(wish))?;
    Ok(granted.into_inner().grant.expect("the grant"))
}

fn at(port: u16) -> SocketAddr {
    (SERVER.v4, port).into()
}

/// The boot clock's moment at which a grant ends, as its record says.
fn end_of(host: &Host, grant: &Grant) -> u64 {
    let made = host.lines("granted").into_iter().find(|line| line["grant"]["id"] == grant.id.as_str());
    made.expect("its record")["grant"]["expires_boot"].as_u64().expect("its end")
}

/// What a start on such a disk does, and what becomes of it when the disk works again.
fn starts_without_a_record(break_it: fn(&mut Host), mend: fn(&SmallDisk), why: &str) {
    let mut host = Host::new(SmallDisk::ext4());
    let (granted, neighbour) = (GRANTED.v4.into(), NEIGHBOUR.v4.into());
    host.grant(SSH, granted, 3600).expect("a grant");
    let short = host.grant(RDP, granted, SHORT).expect("a short grant");
    let end = end_of(&host, &short);
    break_it(&mut host);
    host.postern.launch();
    let is_open = host.is_open(RDP, granted);
    assert!(is_open || boot_ns() >= end, "what is open stays open");
    println!("the short grant was seen open after the start: {is_open}");
    host.refuses(why);
    until("its end", || boot_ns() >= end);
    host.check(&[(SSH, granted)], "a short grant has ended");

    // Root gets in, and the log has the record.
    let glass = host.break_glass(neighbour).expect("root may");
    assert_eq!(glass.state(), GrantState::Active);
    host.check(&[(SSH, granted), (RDP, neighbour)], "root opened a port");
    assert!(host.postern.log().contains("RECORD") && host.postern.log().contains(&glass.id), "the second record");
    assert_eq!(host.lines("break-glass").len(), 0, "the disk takes nothing");
    host.refuses(why);

    mend(&host.disk);
    until("a record again, without anybody's doing", || host.is_whole());
    host.check(&[(SSH, granted), (RDP, neighbour)], "the disk works again");
    assert_eq!(host.lines("break-glass").len(), 1, "and tells what was done without it");
    assert_eq!(host.lines("started").len(), 2);
    let gap = &host.lines("unrecorded")[0];
    assert!(gap["refused"].as_u64() >= Some(2) && gap["reason"].as_str().is_some_and(|r| r.contains(why)), "{gap}");
    assert!(gap["since"].as_str() < gap["time"].as_str(), "{gap}");
    let ended = host.lines("ended").into_iter().find(|line| line["grant"] == short.id.as_str()).expect("its end");
    assert!(ended["ending"]["at"].as_str() < gap["time"].as_str(), "when it ended, not when that was written: {ended}");
    host.grant(SSH, neighbour, 600).expect("a grant as ever");
    let open = [(SSH, granted), (RDP, neighbour), (SSH, neighbour)];
    host.postern.kill();
    host.postern.launch();
    assert!(host.is_whole(), "{}", host.degraded());
    host.check(&open, "after one more start");
    println!("{:?}", host.flood.held());
}

#[test]
fn a_start_on_a_full_disk_goes_on_with_what_is_open_and_recovers_by_itself() {
    let fill = |host: &mut Host| {
        host.disk.fill();
        // The journal has room in its last block.
        until("no room", || host.grant(RDP, NEIGHBOUR.v4.into(), 1).is_err());
        host.postern.kill();
        until("the end of what there was room for", || !host.is_open(RDP, NEIGHBOUR.v4.into()));
    };
    starts_without_a_record(fill, SmallDisk::free, "the disk is full");
}

#[test]
fn a_start_on_a_read_only_disk_goes_on_with_what_is_open_and_recovers_by_itself() {
    let lock = |host: &mut Host| {
        host.postern.kill();
        host.disk.set_read_only(true);
    };
    starts_without_a_record(lock, |disk| disk.set_read_only(false), "the disk is read-only");
}

#[test]
fn a_file_system_that_turns_read_only_refuses_new_grants_and_recovers_when_it_is_mounted_anew() {
    let mut host = Host::new(SmallDisk::ext4());
    let granted = GRANTED.v4.into();
    host.grant(SSH, granted, 3600).expect("a grant");
    host.disk.abort();
    let open = [(SSH, granted)];
    for start in ["running", "started anew"] {
        for _ in 0..3 {
            let refused = host.grant(RDP, granted, 600).expect_err("no record, no grant");
            assert_eq!(reason(&refused), "JOURNAL_FAILED", "{refused:?}");
        }
        assert!(host.degraded().contains("the journal could not be written"), "{}", host.degraded());
        host.check(&open, start);
        host.postern.kill();
        host.postern.launch();
    }
    host.postern.stop();
    host.disk.mount_again();
    host.postern.launch();
    assert!(host.is_whole(), "{}", host.degraded());
    host.check(&open, "mounted anew");
    host.grant(RDP, granted, 600).expect("a grant as ever");
}

#[test]
fn a_segment_that_cannot_be_read_closes_everything_until_it_can_be() {
    let mut host = Host::new(SmallDisk::new(2048));
    let (granted, neighbour) = (GRANTED.v4.into(), NEIGHBOUR.v4.into());
    host.grant(SSH, granted, 3600).expect("a grant");
    host.postern.kill();
    let newest = host.postern.state().join("journal/00000000000000000001.jsonl");
    let kept = newest.with_extension("kept");
    std::fs::rename(&newest, &kept).expect("to take it away");
    std::fs::create_dir(&newest).expect("what no read gets anything from");
    host.postern.launch();
    host.check(&[], "nobody knows what was granted");
    assert!(host.degraded().contains("the journal could not be written"), "{}", host.degraded());
    let refused = host.grant(SSH, granted, 600).expect_err("no record, no grant");
    assert_eq!(reason(&refused), "JOURNAL_FAILED", "{refused:?}");
    host.break_glass(neighbour).expect("root may");
    host.check(&[(RDP, neighbour)], "root opened a port");
    std::fs::remove_dir(&newest).expect("the directory");
    std::fs::rename(&kept, &newest).expect("to put it back");
    until("a record again", || host.is_whole());
    host.check(&[(SSH, granted), (RDP, neighbour)], "it can be read again");
    assert_eq!((host.lines("break-glass").len(), host.lines("set-aside").len()), (1, 0));
    host.postern.kill();
    host.postern.launch();
    host.check(&[(SSH, granted), (RDP, neighbour)], "after one more start");
}

#[test]
fn a_first_start_on_a_full_disk_says_so_leaves_the_ports_closed_and_serves_root() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, at(SSH));
    let disk = SmallDisk::new(256);
    disk.fill();
    let options = Options { state: Some(disk.path().to_owned()), ..Options::without_xdp() };
    let mut postern = Postern::prepared(&net.server, options);
    assert!(probe::tcp_answers(&net.client, GRANTED.v4, at(SSH)), "nothing is closed yet");
    for _ in 0..2 {
        postern.launch();
        assert_ne!(probe::tcp(&net.client, GRANTED.v4, at(SSH)), Outcome::Answered, "closed");
        let why = postern.client().details().expect("root is answered").join("\n");
        assert!(why.contains("No space left on device") && why.contains("Free space"), "{why}");
        break_glass(&postern.client(), GRANTED.v4.into()).expect("root may");
        postern.kill();
    }
    disk.free();
    postern.launch();
    postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
    assert!(probe::tcp_answers(&net.client, GRANTED.v4, at(SSH)));
}

#[test]
fn a_disk_that_hangs_delays_no_healing_no_end_no_look_and_not_root() {
    let mut host = Host::new(SmallDisk::new(2048));
    let (granted, neighbour) = (GRANTED.v4.into(), NEIGHBOUR.v4.into());
    host.grant(SSH, granted, 3600).expect("a grant");
    let short = host.grant(RDP, granted, SHORT).expect("a short grant");
    let end = end_of(&host, &short);
    let mut session = probe::connect(&host.net.client, granted, at(RDP)).expect("a session");
    session.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    // Longer than all that follows; it is over with the tracer.
    let slow = Fault { call: "fdatasync", nth: None, effect: Effect::Delay(600_000) };
    let tracer = host.postern.trace(Scope::Process, &[slow]);
    let ask = |port: &str| {
        let (client, message) =
            (host.postern.client(), Access::new(AUDIENCE, &[port], &[neighbour], 600).seal(&host.postern.alice));
        std::thread::spawn(move || client.request(message))
    };
    let asked = ask("22/tcp");
    until("the wait for the disk", || host.degraded().contains("the disk is slow"));
    assert!(!asked.is_finished(), "answered before it is durable");

    // A torn-off layer is back, and who looks is answered, while the record waits.
    for layer in ["lock", "cut-ingress"] {
        host.postern.detach(layer);
        let torn = Instant::now();
        until("the healing", || {
            host.postern.client().status().expect("a status").layers.iter().all(|layer| layer.attached)
        });
        println!("{layer}: healed after {} ms", torn.elapsed().as_millis());
        host.postern.client().who_am_i().expect("who it is");
        assert!(!host.is_open(SSH, STRANGER.v4.into()) && host.flood.counted().leaked == 0, "{layer}");
    }
    assert_eq!(host.lines("layer").len(), 0, "not on record yet");

    // The end is the kernel's, and the session is told of it.
    let told = session.read(&mut [0]).expect_err("a reset");
    assert_eq!(told.kind(), std::io::ErrorKind::ConnectionReset, "{told}");
    assert!(boot_ns() >= end, "not before its time");
    host.check(&[(SSH, granted)], "a short grant has ended");

    // Root gets in; others are told instead of waiting for ever.
    let glass = host.break_glass(neighbour).expect("root may");
    host.check(&[(SSH, granted), (RDP, neighbour)], "root opened a port");
    let refused = ask("3389/tcp").join().expect("an answer").expect_err("no record, no grant");
    assert_eq!(reason(&refused), "JOURNAL_FAILED", "{refused:?}");
    assert!(!asked.is_finished(), "nothing is durable yet");

    drop(tracer);
    asked.join().expect("an answer").expect("the grant, now that it is durable");
    until("the record of all that", || host.is_whole() && host.lines("break-glass").len() == 1);
    let layers = host.lines("layer");
    assert!(layers.len() >= 4, "{layers:?}");
    assert!(host.lines("unrecorded").iter().all(|line| line["refused"].as_u64() == Some(1)));
    assert!(host.lines("ended").iter().any(|line| line["grant"] == short.id.as_str()));
    let open = [(SSH, granted), (SSH, neighbour), (RDP, neighbour)];
    host.check(&open, "the disk works again");
    host.postern.kill();
    host.postern.launch();
    assert!(host.is_whole(), "{}", host.degraded());
    host.check(&open, "after one more start");
    assert!(host.lines("break-glass").iter().any(|line| line["grant"]["id"] == glass.id.as_str()));
    println!("{:?}", host.flood.held());
}
