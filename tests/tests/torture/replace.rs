//! posternd is killed, stopped, upgraded and reloaded without a pause during a flood of SYNs and while sources without a grant try to connect.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use postern_tests::PATIENCE;
use postern_tests::figure;
use postern_tests::flood::Flood;
use postern_tests::net::{SERVER, STRANGER};
use postern_tests::netns::Netns;
use postern_tests::probe::{self, Outcome};

use crate::setting;
use crate::world::{PORTS, Rules, SOURCES, Wish, World};

/// How posternd is replaced, in turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// SIGKILL, and started again.
    Killed,
    /// SIGTERM, and started again.
    Stopped,
    /// Its program is replaced while it runs; then it is killed or stopped, and the new program finds what it pinned.
    Upgraded,
    /// SIGHUP, with another trust file each time.
    Reloaded,
}

const KINDS: [Kind; 4] = [Kind::Killed, Kind::Stopped, Kind::Upgraded, Kind::Reloaded];

impl Kind {
    const fn figure(self) -> &'static str {
        match self {
            Self::Killed => "restarts after SIGKILL under flood",
            Self::Stopped => "restarts after SIGTERM under flood",
            Self::Upgraded => "upgrades under flood",
            Self::Reloaded => "reloads under flood",
        }
    }

    /// Does it to posternd, the `round`th time, and returns when it answers again.
    fn replace(self, world: &mut World, round: u64) {
        let before = (world.postern.pid(), program(world));
        match self {
            Self::Killed => world.postern.kill(),
            Self::Stopped => assert!(world.postern.stop().success()),
            Self::Upgraded => {
                world.postern.upgrade();
                assert_eq!(program(world), before.1, "the old program runs until it ends");
                if round.is_multiple_of(2) {
                    world.postern.kill();
                } else {
                    assert!(world.postern.stop().success());
                }
            }
            Self::Reloaded => {
                world.write(Rules { without_carol: round.is_multiple_of(2), ..Rules::default() });
                assert!(world.reload(), "posternd died of a reload");
            }
        }
        if self != Self::Reloaded {
            world.postern.launch();
        }
        assert_eq!(world.postern.pid() == before.0, self == Self::Reloaded);
        assert_eq!(program(world) != before.1, self == Self::Upgraded, "{self:?}: which program runs");
    }
}

/// The file that posternd runs from.
fn program(world: &World) -> (u64, u64) {
    let file = fs::metadata(format!("/proc/{}/exe", world.postern.pid())).expect("posternd's program");
    (file.dev(), file.ino())
}

#[test]
#[ignore = "a minute long: cargo xtask torture runs it"]
fn replacing_posternd_under_a_flood_lets_nothing_in_and_keeps_granted_sources_in() {
    let least = setting("POSTERN_TORTURE_REPLACEMENTS", 200);
    let end = Instant::now() + Duration::from_secs(setting("POSTERN_TORTURE_SECONDS", 0));
    let mut world = World::new(true);
    let flood = Flood::start(&world.net, &PORTS);
    let (_, message) = world.request(&Wish::new(&PORTS, &SOURCES, 3 * 3600));
    world.postern.client().request(message).expect("a grant");
    let mut session = Session::open(&world);
    let strangers = Strangers::start(&world.net.client);
    let mut replaced = [0u64; KINDS.len()];
    for (nth, kind) in (0..).zip(KINDS.into_iter().cycle()) {
        if nth >= least && Instant::now() >= end {
            break;
        }
        let at = KINDS.iter().position(|known| *known == kind).expect("a kind");
        kind.replace(&mut world, replaced[at]);
        replaced[at] += 1;
        let when = format!("replacement {nth}, {kind:?}");
        session.echo(&when);
        for source in SOURCES {
            for port in PORTS {
                let to = SocketAddr::new(SERVER.like(source), port);
                let answered = probe::tcp_answers(&world.net.client, source, to);
                assert!(answered, "{when}: {source} is shut out of {port}");
            }
        }
        // SYNs sent after the replacement have been judged before the next one.
        flood.wait_for_more();
        assert_eq!(flood.counted().leaked, 0, "{when}: SYN-ACKs to a source without a grant");
    }
    let (counted, denied) = (flood.held(), strangers.end());
    println!("{replaced:?} of {KINDS:?}, {counted:?}, {denied} denied");
    assert!(replaced.iter().all(|count| *count >= least / KINDS.len() as u64) && denied > 0);
    KINDS.iter().zip(replaced).for_each(|(kind, count)| figure::print(kind.figure(), count));
    figure::print("replacements under flood", replaced.iter().sum());
    figure::print("flood SYNs held off", counted.sent);
    figure::print("packets leaked", counted.leaked);
}

/// A granted session that outlives every replacement.
struct Session(TcpStream);

impl Session {
    fn open(world: &World) -> Self {
        let to = SocketAddr::new(SERVER.like(SOURCES[0]), PORTS[0]);
        let stream = probe::connect(&world.net.client, SOURCES[0], to).expect("the granted session");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Self(stream)
    }

    fn echo(&mut self, when: &str) {
        let mut answer = [0; 6];
        let echoed = self.0.write_all(b"alive?").and_then(|()| self.0.read_exact(&mut answer));
        assert!(echoed.is_ok() && &answer == b"alive?", "{when}: the session: {echoed:?}");
    }
}

/// Whole connections that somebody without a grant tries without a pause, beside the flood's lone SYNs.
struct Strangers {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Strangers {
    fn start(client: &Netns) -> Self {
        let (stop, client) = (Arc::<AtomicBool>::default(), client.clone());
        let inner = Arc::clone(&stop);
        let pairs = STRANGER.both().into_iter().flat_map(|source| PORTS.map(|port| (source, port)));
        let thread = thread::spawn(move || {
            let mut tries = 0;
            for (source, port) in pairs.collect::<Vec<_>>().into_iter().cycle() {
                if inner.load(Ordering::Relaxed) {
                    break;
                }
                let to = SocketAddr::new(SERVER.like(source), port);
                assert_ne!(probe::tcp(&client, source, to), Outcome::Answered, "{source} reaches {port}");
                tries += 1;
            }
            tries
        });
        Self { stop, thread: Some(thread) }
    }

    /// How often they tried, none of them with success.
    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("a thread").join().expect("a stranger got in")
    }
}

impl Drop for Strangers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _already_reported = thread.join();
        }
    }
}
