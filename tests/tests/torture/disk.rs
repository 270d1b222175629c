//! Disks that are full, read-only, slow or broken: nothing new opens without a record, what runs ends on time, nothing answered is lost.

use std::time::{Duration, Instant};

use postern_proto::v1::ListAuditRequest;
use postern_tests::client::reason;
use postern_tests::clock::boot_ns;
use postern_tests::disk::SmallDisk;
use postern_tests::flood::Flood;
use postern_tests::strace::{Effect, Fault, Scope, Tracer};
use postern_tests::{figure, journal};

use crate::model::Model;
use crate::world::{PORTS, SOURCES, Seen, Wish, World};

/// A host on a small disk of its own, flooded; what was answered with success is in `model`.
struct Host {
    world: World,
    flood: Flood,
    model: Model,
    disk: SmallDisk,
    refused: u64,
}

/// Where the state is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// On the small disk.
    Small,
    /// On an ordinary one, where strace can tell files by their names.
    Ordinary,
}

impl Host {
    fn new(state: State) -> Self {
        let disk = SmallDisk::new(2048);
        let world = World::with_state(false, (state == State::Small).then(|| disk.path().to_owned()));
        let flood = Flood::start(&world.net, &PORTS);
        let mut host = Self { world, flood, model: Model::default(), disk, refused: 0 };
        host.ask(22, 0, 3600).expect("the grant that lives through everything");
        host
    }

    /// Asks for a port; what is granted must be on record by then.
    fn ask(&mut self, port: u16, source: usize, seconds: u64) -> Result<u64, tonic::Status> {
        let (id, message) = self.world.request(&Wish::new(&[port], &SOURCES[source..=source], seconds));
        self.world.postern.client().request(message)?;
        let given = Model::of(&self.world.postern.on_disk()).0.remove(&id).expect("granted, so on record");
        let end = given.expires;
        self.model.0.insert(id, given);
        Ok(end)
    }

    /// New grants are refused, and open nothing.
    fn refuses(&mut self, when: &str) {
        let refused = self.ask(3389, 2, 600).expect_err(when);
        assert_eq!(reason(&refused), "JOURNAL_FAILED", "{when}: {refused:?}");
        self.refused += 1;
        self.check(when);
    }

    fn check(&self, when: &str) {
        let seen = self.world.look();
        let missed = |seen: &Seen| {
            seen.open.iter().any(|(pair, open)| !open && self.model.expects(*pair, seen.from, seen.to) == Some(true))
        };
        // A busy machine may be slow once.
        let seen = if missed(&seen) { self.world.look() } else { seen };
        self.model.check(&seen, when);
        assert_eq!(self.flood.counted().leaked, 0, "{when}");
    }

    /// Watches a grant end in the kernel, whatever posternd can do about it.
    fn ends_on_time(&self, end: u64, when: &str) {
        assert!(boot_ns() < end, "{when}: too late to see it end");
        while boot_ns() < end {
            self.check(when);
        }
        self.check(when);
    }

    /// The chain holds, and holds everything that was answered with success and nothing live beyond that.
    fn verify(&self, when: &str) {
        let client = self.world.postern.client();
        let audit = client.wait(client.host().list_audit(ListAuditRequest { page_size: 1, ..Default::default() }));
        let audit = audit.expect("the audit").into_inner();
        assert!(audit.chain_verified, "{when}: {}", audit.damage);
        let (record, now) = (Model::of(&self.world.postern.on_disk()), boot_ns());
        for id in self.model.0.keys() {
            assert!(record.0.contains_key(id), "{when}: {id} was granted and is not on record");
        }
        for (id, _) in record.live(now) {
            assert!(self.model.0.contains_key(id), "{when}: {id} was refused and is live");
        }
        self.check(when);
    }

    /// Faults at what has to do with the files of the state directory.
    fn break_files(&self, faults: &[Fault]) -> Tracer {
        let files = journal::files(&self.world.postern.file("state"));
        self.world.postern.trace(Scope::Files(&files), faults)
    }

    fn end(self, faults: u64) {
        let counted = self.flood.held();
        figure::print("disk faults survived", faults);
        figure::print("grants refused for want of a record", self.refused);
        figure::print("flood SYNs held off", counted.sent);
        figure::print("packets leaked", counted.leaked);
    }
}

#[test]
#[ignore = "cargo xtask torture runs it"]
fn a_full_disk_refuses_new_grants_and_ends_running_ones_on_time() {
    let mut host = Host::new(State::Small);
    let end = host.ask(3389, 1, 3).expect("a short grant");
    host.disk.fill();
    // The journal has room in its last page.
    let refused = (0..50).find_map(|_| host.ask(3389, 1, 1).err()).expect("a full disk");
    assert_eq!(reason(&refused), "JOURNAL_FAILED", "{refused:?}");
    host.refuses("full");
    assert!(!host.world.postern.client().details().expect("the status").is_empty(), "and says so");
    host.ends_on_time(end, "an end on a full disk");
    host.disk.free();
    host.ask(3389, 1, 2).expect("room again, and no restart");
    host.verify("room again");

    host.disk.fill();
    let filled = (0..50).find_map(|_| host.ask(3389, 1, 1).err());
    assert!(filled.is_some(), "a full disk");
    host.world.postern.kill();
    for _ in 0..3 {
        host.world.postern.launch();
        host.refuses("a start on a full disk");
        host.world.postern.kill();
    }
    host.disk.free();
    host.world.postern.launch();
    host.verify("a start with room again");
    host.ask(3389, 2, 60).expect("a grant as ever");
    host.verify("as ever");
    host.end(2);
}

#[test]
#[ignore = "cargo xtask torture runs it"]
fn a_disk_that_fails_refuses_new_grants_and_loses_nothing_that_was_answered() {
    let mut host = Host::new(State::Ordinary);
    for fault in [
        Fault::fail("fdatasync", "EIO"),
        Fault::fail("write", "EIO"),
        Fault::fail("write", "ENOSPC"),
        Fault::fail("write", "EROFS"),
    ] {
        let when = format!("{fault:?}");
        let end = host.ask(3389, 1, 3).expect("a short grant");
        let tracer = host.break_files(&[fault]);
        host.refuses(&when);
        host.refuses(&when);
        host.ends_on_time(end, &when);
        drop(tracer);
        host.check("the fault is gone");
        host.world.postern.kill();
        host.world.postern.launch();
        host.verify(&format!("{when}, then a restart"));
        host.ask(3389, 1, 1).expect("a grant as ever");
    }
    host.end(4);
}

#[test]
#[ignore = "cargo xtask torture runs it"]
fn a_slow_disk_delays_grants_and_no_end() {
    let mut host = Host::new(State::Ordinary);
    let end = host.ask(3389, 1, 2).expect("a short grant");
    let slow = Fault { call: "fdatasync", nth: None, effect: Effect::Delay(3000) };
    let tracer = host.world.postern.trace(Scope::Process, &[slow]);
    let start = Instant::now();
    let (_, message) = host.world.request(&Wish::new(&[3389], &SOURCES[2..], 60));
    let client = host.world.postern.client();
    let asked = std::thread::spawn(move || client.request(message));
    host.ends_on_time(end, "an end while the disk is slow");
    let granted = asked.join().expect("the request");
    drop(tracer);
    let record = Model::of(&host.world.postern.on_disk());
    match granted {
        Ok(grant) => {
            assert!(start.elapsed() >= Duration::from_secs(3), "answered before it was durable");
            host.model.0.insert(grant.id.clone(), record.0[&grant.id].clone());
        }
        Err(refused) => assert_eq!(reason(&refused), "JOURNAL_FAILED", "{refused:?}"),
    }
    postern_tests::until("the disk is well and takes a grant", || host.ask(3389, 1, 1).is_ok());
    host.verify("well again");
    host.end(1);
}

#[test]
#[ignore = "cargo xtask torture runs it"]
fn starts_on_a_read_only_disk_refuse_new_grants_and_open_nothing() {
    let mut host = Host::new(State::Small);
    host.world.postern.kill();
    host.disk.set_read_only(true);
    for _ in 0..3 {
        host.world.postern.launch();
        host.refuses("a read-only disk");
        host.world.postern.kill();
    }
    host.disk.set_read_only(false);
    host.world.postern.launch();
    host.verify("writable again");
    host.ask(3389, 1, 1).expect("a grant as ever");
    host.end(1);
}
