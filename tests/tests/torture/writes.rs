//! Death at every single write, sync and change of the kernel that an operation makes, under a flood of SYNs.
//!
//! First it counts which thread makes how many of which system calls during the operation; then it has posternd die at each of
//! them once, and looks at packets: nothing for the flood, everything for who was granted, before and after the next start.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use postern_tests::client::reason;
use postern_tests::clock::boot_ns;
use postern_tests::figure;
use postern_tests::flood::Flood;
use postern_tests::net::SERVER;
use postern_tests::postern::AUDIENCE;
use postern_tests::probe;
use postern_tests::request::revoke;
use postern_tests::strace::{Fault, Scope};
use postern_tests::{PATIENCE, pause, until};
use tonic::Code;

use crate::model::Model;
use crate::setting;
use crate::world::{PORTS, Rules, SOURCES, Who, Wish, World, is_alive};

/// What posternd dies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    Grant,
    Revoke,
    Expire,
    Reload,
    Stop,
}

struct Trial {
    world: World,
    flood: Flood,
    operation: Operation,
    /// A session that its grant carries through everything.
    session: TcpStream,
}

#[test]
#[ignore = "a minute long: cargo xtask torture runs it"]
fn death_at_every_write_of_a_grant() {
    Trial::new(Operation::Grant, true).run();
}

#[test]
#[ignore = "a minute long: cargo xtask torture runs it"]
fn death_at_every_write_of_a_revocation() {
    Trial::new(Operation::Revoke, false).run();
}

#[test]
#[ignore = "a minute long: cargo xtask torture runs it"]
fn death_at_every_write_of_an_expiry() {
    Trial::new(Operation::Expire, false).run();
}

#[test]
#[ignore = "a minute long: cargo xtask torture runs it"]
fn death_at_every_write_of_a_reload() {
    Trial::new(Operation::Reload, false).run();
}

#[test]
#[ignore = "a minute long: cargo xtask torture runs it"]
fn death_at_every_write_of_a_stop() {
    Trial::new(Operation::Stop, true).run();
}

#[test]
#[ignore = "a minute long: cargo xtask torture runs it"]
fn death_at_every_write_of_a_start() {
    let mut trial = Trial::new(Operation::Stop, true);
    trial.world.postern.kill();
    trial.die_starting(
        "Start",
        &["bpf", "write", "fsync", "fdatasync", "pwrite64", "ftruncate", "rename", "unlink"],
        |_| {},
    );
}

/// Another program over what a predecessor of another layout has pinned, each time: the one that runs is replaced and stopped.
#[test]
#[ignore = "a minute long: cargo xtask torture runs it"]
fn death_at_every_write_of_an_upgrade() {
    let trial = Trial::new(Operation::Stop, true);
    // `symlink` and `rename` write the record of what is pinned.
    trial.die_starting("Upgrade", &["bpf", "write", "fdatasync", "rename", "symlink", "unlink"], |world| {
        if !world.postern.is_running() {
            world.postern.launch();
        }
        world.postern.upgrade();
        assert!(world.postern.stop().success());
        age_layout(world);
    });
}

impl Trial {
    fn new(operation: Operation, xdp: bool) -> Self {
        let world = World::new(xdp);
        let flood = Flood::start(&world.net, &PORTS);
        grant(&world, Who::Alice, 22, 0, 3600);
        let to = SocketAddr::new(SERVER.like(SOURCES[0]), 22);
        let session = probe::connect(&world.net.client, SOURCES[0], to).expect("the granted session");
        session.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Self { world, flood, operation, session }
    }

    fn run(mut self) {
        let tracer = self.prepare(|world| world.postern.trace(Scope::Process, &[]));
        self.act();
        // What comes after the answer belongs to it too.
        pause(Duration::from_millis(50));
        let counts = tracer.counts();
        self.revive();
        assert!(!counts.is_empty(), "{:?} makes no system calls?", self.operation);
        let (mut kills, mut tries, mut hit) = (0, 0, BTreeSet::new());
        for ((thread, call), count) in counts {
            let call = postern_tests::strace::EFFECTS.into_iter().find(|known| *known == call).expect("a known call");
            for nth in 1..=count {
                // What is there from the start, and once; the others' names are shared.
                let own = ["engine", "journal"].into_iter().find(|own| *own == thread);
                let scope = own.map_or(Scope::Process, Scope::Thread);
                let fault = Fault::kill(call, nth);
                let tracer = self.prepare(|world| world.postern.trace(scope, &[fault]));
                let crashed = self.act() || self.world.postern.has_crashed(Duration::from_millis(100));
                drop(tracer);
                let what = format!("{:?}, {thread}, {fault:?}, hit: {crashed}", self.operation);
                (tries, kills) = (tries + 1, kills + u64::from(crashed));
                if crashed {
                    hit.insert(call);
                }
                self.check(&format!("{what}, then"));
                self.revive();
                self.check(&format!("{what}, after the next start"));
            }
        }
        // How work is shared between threads, and who has to be woken, is not the same each time.
        assert!(kills * 2 > tries && hit.contains("fdatasync"), "{kills} of {tries} died: at {hit:?}");
        assert!(
            self.operation == Operation::Stop || hit.contains("bpf"),
            "none died on the way to the kernel: {hit:?}"
        );
        let what = format!("{:?}", self.operation);
        self.end(&what, kills);
    }

    /// Has starts die at each of these system calls, or at one in so many, and each time looks at what is open, dead and after the
    /// next start. `before` comes before each start that is to die; posternd is not running then.
    fn die_starting(mut self, what: &str, calls: &[&'static str], before: impl Fn(&mut World)) {
        let one_in = setting("POSTERN_TORTURE_START_ONE_IN", 4) as u32;
        let (mut kills, mut made) = (0, 0);
        for call in calls {
            // Until a start gets through: then there are no more of these calls.
            for nth in (1 + made % one_in..).step_by(one_in as usize) {
                before(&mut self.world);
                self.check(&format!("{what}, before death at {call} {nth}"));
                let fault = Fault::kill(call, nth);
                let Some(status) = self.world.postern.launch_with(&[fault]) else {
                    self.world.postern.kill();
                    break;
                };
                // Of the two processes either may be the one that makes that call; without its helper the agent ends itself.
                assert!(self.world.postern.is_crash(status), "{fault:?}: {status}");
                (kills, made) = (kills + 1, made + 1);
                self.check(&format!("{what}, {fault:?}, dead"));
            }
            self.world.postern.launch();
            self.check(&format!("{what}, the start after death at {call}"));
            self.world.postern.kill();
        }
        assert!(kills >= 12, "only {kills}: does strace inject anything?");
        self.end(what, kills);
    }

    /// What has to be there for the operation; then the tracer; the operation itself is [`Trial::act`].
    fn prepare<T>(&self, trace: impl FnOnce(&World) -> T) -> T {
        let world = &self.world;
        match self.operation {
            Operation::Grant | Operation::Stop => {}
            Operation::Revoke => grant(world, Who::Alice, 3389, 1, 600),
            Operation::Expire => grant(world, Who::Alice, 3389, 1, 1),
            Operation::Reload => {
                world.write(Rules::default());
                assert!(world.reload());
                grant(world, Who::Carol, 3389, 1, 600);
            }
        }
        trace(world)
    }

    /// The operation. It may end with posternd's death; true where that is known already.
    fn act(&mut self) -> bool {
        let world = &mut self.world;
        match self.operation {
            Operation::Grant => {
                let (_, message) = world.request(&Wish::new(&[3389], &SOURCES[1..2], 600));
                lost_or_done(world.postern.connect().and_then(|client| client.request(message)));
            }
            Operation::Revoke => {
                let live = Model::of(&world.postern.on_disk());
                let other = live.live(boot_ns()).find(|(_, given)| given.pairs[0].1 == 3389).expect("the grant").0;
                let message = revoke(&world.postern.admin, AUDIENCE, other);
                lost_or_done(world.postern.connect().and_then(|client| client.revoke(message)));
            }
            Operation::Expire => {
                let noted =
                    |world: &World| Model::of(&world.postern.on_disk()).live(0).all(|(_, g)| g.pairs[0].1 == 22);
                until("the end is on record", || noted(world) || !is_alive(world.postern.pid()));
            }
            Operation::Reload => {
                world.write(Rules { without_carol: true, ..Rules::default() });
                world.reload();
            }
            Operation::Stop => return world.postern.stop().signal() == Some(9),
        }
        false
    }

    /// Starts posternd again if it is dead, and ends what the trials left live, so that each begins alike.
    fn revive(&mut self) {
        if !self.world.postern.is_running() {
            self.world.postern.launch();
        }
        let live: Vec<String> = Model::of(&self.world.postern.on_disk())
            .live(boot_ns())
            .filter(|(_, given)| given.pairs[0].1 == 3389)
            .map(|(id, _)| id.clone())
            .collect();
        for id in live {
            let ended = self.world.postern.client().revoke(revoke(&self.world.postern.admin, AUDIENCE, &id));
            // On a slow machine its time may be up before the revocation arrives.
            let is_over = |status: &_| reason(status) == "GRANT_ENDED";
            assert!(ended.as_ref().err().is_none_or(is_over), "to end what the trial left: {ended:?}");
        }
    }

    /// The granted session lives and the granted source gets in; nobody else does.
    fn check(&mut self, when: &str) {
        self.session.write_all(b"alive?").unwrap_or_else(|error| panic!("{when}: the session: {error}"));
        let mut answer = [0; 6];
        self.session.read_exact(&mut answer).unwrap_or_else(|error| panic!("{when}: the session: {error}"));
        let to = SocketAddr::new(SERVER.like(SOURCES[0]), 22);
        assert!(probe::tcp_answers(&self.world.net.client, SOURCES[0], to), "{when}: the granted source is shut out");
        assert_eq!(self.flood.counted().leaked, 0, "{when}: SYN-ACKs to a source without a grant");
    }

    fn end(self, what: &str, kills: u64) {
        let counted = self.flood.held();
        println!("{what}: {kills} kills, {counted:?}");
        figure::print("kills survived", kills);
        figure::print("flood SYNs held off", counted.sent);
        figure::print("packets leaked", counted.leaked);
    }
}

fn grant(world: &World, who: Who, port: u16, source: usize, seconds: u64) {
    let (_, message) = world.request(&Wish { who, ..Wish::new(&[port], &SOURCES[source..=source], seconds) });
    world.postern.client().request(message).expect("a grant");
}

/// Has what is pinned be that of a posternd with another layout, which knew the same programs.
fn age_layout(world: &World) {
    let record = world.postern.pin_dir().join("layout");
    let text = fs::read_link(&record).expect("the record").into_os_string().into_string().expect("text");
    let (_, tags) = text.split_once(':').expect("a version");
    fs::remove_file(&record).expect("to remove the record");
    symlink(format!("1:{tags}"), &record).expect("a record");
}

fn lost_or_done<T>(result: Result<T, tonic::Status>) {
    if let Err(status) = result {
        let lost = [Code::Unavailable, Code::Unknown, Code::Cancelled, Code::Internal].contains(&status.code());
        assert!(lost, "{status:?}");
    }
}
