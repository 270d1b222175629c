//! A busy engine is alive; a stuck one is restarted.

use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use postern_tests::halt::{self, Halted};
use postern_tests::net::{GRANTED, Net};
use postern_tests::postern::{AUDIENCE, Options, Postern};
use postern_tests::request::Access;
use postern_tests::strace::{Effect, Fault, Scope};
use postern_tests::until;

/// What the watchdog is told to expect: a ping in each of these.
const PERIOD: Duration = Duration::from_secs(2);
/// People who ask at once.
const CROWD: usize = 24;

struct Host {
    postern: Postern,
    socket: UnixDatagram,
    _directory: tempfile::TempDir,
    _net: Net,
}

impl Host {
    fn new() -> Self {
        let net = Net::pair();
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        std::fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .expect("a mode");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("a mode");
        let options = Options { watchdog: Some(PERIOD), notify: Some(path), ..Options::without_xdp() };
        let postern = Postern::start(&net.server, options);
        Self { postern, socket, _directory: directory, _net: net }
    }

    /// Whether a ping comes within two periods.
    fn pings(&self) -> bool {
        self.socket.set_read_timeout(Some(PERIOD * 2)).expect("a time-out");
        let mut buffer = [0; 256];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            if buffer[..length].starts_with(b"WATCHDOG=1") {
                return true;
            }
        }
        false
    }

    /// Forgets the pings that came already.
    fn forget(&self) {
        self.socket.set_nonblocking(true).expect("not to block");
        while self.socket.recv(&mut [0; 256]).is_ok() {}
        self.socket.set_nonblocking(false).expect("to block");
    }
}

#[test]
fn a_disk_that_hangs_with_a_crowd_behind_it_does_not_stop_the_pings() {
    let host = Host::new();
    let slow = Fault { call: "fdatasync", nth: None, effect: Effect::Delay(600_000) };
    let hang = host.postern.trace(Scope::Thread("journal"), &[slow]);
    let asked: Vec<_> = (0..8)
        .map(|_| {
            let message = Access::new(AUDIENCE, &["22/tcp"], &[GRANTED.v4.into()], 60).seal(&host.postern.alice);
            let client = host.postern.client();
            std::thread::spawn(move || client.request(message))
        })
        .collect();
    let told = || host.postern.client().details().expect("its state").join("\n");
    until("the disk hangs", || told().contains("the disk is slow"));
    host.forget();
    for _ in 0..4 {
        assert!(host.pings(), "no ping while the disk hangs");
    }
    drop(hang);
    asked.into_iter().for_each(|one| drop(one.join()));
}

#[test]
fn a_crowd_of_slow_questions_does_not_stop_the_pings() {
    let host = Host::new();
    // Each question about the state takes some dozen calls of bpf(2), so all of them together take longer than the watchdog waits.
    let slow = Fault { call: "bpf", nth: None, effect: Effect::Delay(10) };
    let slowed = host.postern.trace(Scope::Thread("engine"), &[slow]);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..CROWD {
            let client = host.postern.client();
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    drop(client.status());
                }
            });
        }
        host.postern.client().status().expect("an answer, so the crowd is there");
        host.forget();
        let pings = (0..4).filter(|_| host.pings()).count();
        over.store(true, Ordering::Relaxed);
        drop(slowed);
        assert_eq!(pings, 4, "no ping while many ask");
    });
}

#[test]
fn a_stuck_engine_is_not_reported_alive() {
    let host = Host::new();
    assert!(host.pings());
    let engine = halt::names(host.postern.pid()).into_iter().find(|(_, name)| name == "engine").expect("its thread").0;
    let halted = Halted::threads([engine]);
    host.forget();
    // One ping may have been on its way.
    let late = host.pings();
    assert!(!(late && host.pings()), "a stuck engine was reported alive");
    drop(halted);
    assert!(host.pings(), "and it goes on when it does");
}
