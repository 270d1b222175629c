//! A relay between client and host never has its own address signed as "my-ip".
//!
//! The relay copies bytes: TLS and the proof by the SSH host key hold end to end, and the name leads to the relay, as a forged DNS
//! answer would do. The host sees the relay's address.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use postern_tests::keys::Key;
use postern_tests::laptop::{Laptop, Run};
use postern_tests::net::{GRANTED, Net, SERVER, join};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::relay::Relay;
use postern_tests::request::prefix;
use postern_tests::service::Service;
use postern_tests::terminal::Terminal;
use serde_json::Value;
use tempfile::TempDir;

/// Where the laptop reaches the relay, IPv4 first.
const RELAY: [&str; 2] = ["10.3.0.66", "fd03::66"];
/// Where the host sees the relay.
const RELAY_SEEN: [&str; 2] = ["10.2.0.66", "fd02::66"];
const REQUEST: [&str; 6] = ["request", "vm1.test", "--port", "ssh", "--for", "10m"];
const QUESTION: &str = "(yes/no)";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A host that the laptop knows from ssh, and a machine with a network of its own to each of the two.
struct Scene {
    laptop: Laptop,
    postern: Postern,
    relays: Vec<Relay>,
    relay: Netns,
    net: Net,
    keys: TempDir,
    host_key: Key,
    _service: Service,
}

impl Scene {
    fn new() -> Self {
        let net = Net::pair();
        let keys = tempfile::tempdir().expect("a directory");
        let host_key = Key::new(keys.path(), "ssh_host_ed25519_key");
        let extra = format!("ssh_host_keys = {:?}", keys.path());
        let postern = Postern::start(&net.server, Options { extra, ..Options::default() });
        let _service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
        let laptop = Laptop::new(&net.client, &postern);
        let relay = Netns::new();
        join(&relay, "host", [2, 0, 0, 0, 8, 1], &net.server, "relay", [2, 0, 0, 0, 8, 2]);
        join(&relay, "laptop", [2, 0, 0, 0, 8, 3], &net.client, "relay", [2, 0, 0, 0, 8, 4]);
        net.server.ip("addr add 10.2.0.1/24 dev relay\naddr add fd02::1/64 dev relay nodad");
        net.client.ip("addr add 10.3.0.2/24 dev relay\naddr add fd03::2/64 dev relay nodad");
        relay.ip(&format!(
            "addr add {}/24 dev host\naddr add {}/64 dev host nodad\naddr add {}/24 dev laptop\naddr add {}/64 dev laptop nodad\n\
             route add 10.1.0.0/16 via 10.2.0.1\nroute add fd00:1::/64 via fd02::1",
            RELAY_SEEN[0], RELAY_SEEN[1], RELAY[0], RELAY[1]
        ));
        let copies = |number: usize| {
            let host = SocketAddr::new(SERVER.both()[number], 7322);
            Relay::start(&relay, SocketAddr::new(ip(RELAY[number]), 7322), host)
        };
        let relays = vec![copies(0), copies(1)];
        let this = Self { laptop, postern, relays, relay, net, keys, host_key, _service };
        this.knows(&[&this.host_key]);
        this
    }

    /// Writes the laptop's `known_hosts`.
    fn knows(&self, keys: &[&Key]) {
        let directory = self.laptop.home().join(".ssh");
        fs::create_dir_all(&directory).expect("the directory");
        let lines: String = keys.iter().map(|key| format!("vm1.test {}\n", key.public())).collect();
        fs::write(directory.join("known_hosts"), lines).expect("known_hosts");
    }

    fn with_key<'a>(arguments: &[&'a str], key: &'a str) -> Vec<&'a str> {
        [arguments, &["--key", key]].concat()
    }

    fn key(&self) -> String {
        self.postern.alice.path().display().to_string()
    }

    /// Runs it without a terminal and without any flag about trust.
    fn asks(&self, arguments: &[&str]) -> Run {
        self.laptop.run(&Self::with_key(&[arguments, &["--json"]].concat(), &self.key()))
    }

    /// Runs it at a terminal whose person types `answers`, one to each question.
    fn answers(&self, arguments: &[&str], answers: &[&str]) -> (Run, String) {
        let mut terminal = Terminal::new();
        let running = self.laptop.start_at(&terminal, &Self::with_key(arguments, &self.key()));
        for (number, answer) in answers.iter().enumerate() {
            postern_tests::until("a question", || terminal.screen().matches(QUESTION).count() > number);
            terminal.type_in(&format!("{answer}\n"));
        }
        let run = running.wait();
        let screen = terminal.last_screen();
        assert_eq!(screen.matches(QUESTION).count(), answers.len(), "the questions: {screen}");
        (run, screen)
    }

    fn is_open_for_the_relay(&self) -> bool {
        [0, 1].into_iter().any(|number| {
            let ssh = SocketAddr::new(SERVER.both()[number], 22);
            probe::tcp(&self.relay, ip(RELAY_SEEN[number]), ssh) == Outcome::Answered
        })
    }

    fn grants(&self) -> usize {
        self.postern.client().grants().expect("the grants").len()
    }

    /// Nothing was signed for the relay, and the command says what to add.
    fn assert_refused(&self, run: &Run, seen: &str) {
        assert_eq!(run.code, Some(4), "{}{}", run.out, run.err);
        let next = run.error()["next"].to_string();
        assert!(next.contains(&format!("--from {seen}")), "{next}");
        assert!(run.out.is_empty(), "nothing was signed: {}", run.out);
        assert_eq!(self.grants(), 0);
        assert!(!self.is_open_for_the_relay());
    }
}

/// The sources of the grant in a run's JSON, sorted.
fn sources(run: &Run) -> Vec<String> {
    assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
    let grant = run.json()["grant"].clone();
    let sources = grant["source"].as_array().expect("sources").iter().filter_map(Value::as_str);
    let mut sources: Vec<_> = sources.map(str::to_owned).collect();
    sources.sort_unstable();
    sources
}

#[test]
fn without_a_terminal_nothing_is_signed_for_a_relay_and_nothing_is_remembered() {
    let scene = Scene::new();
    for number in [0, 1] {
        scene.laptop.resolve(&[ip(RELAY[number])]);
        for _ in 0..2 {
            scene.assert_refused(&scene.asks(&REQUEST), RELAY_SEEN[number]);
            let flags = [&REQUEST[..], &["--accept-new"]].concat();
            scene.assert_refused(&scene.asks(&flags), RELAY_SEEN[number]);
            let flags = [&REQUEST[..], &["--from", "my-ip,10.9.9.9"]].concat();
            scene.assert_refused(&scene.asks(&flags), RELAY_SEEN[number]);
            let signed = scene.asks(&["sign", "vm1.test", "--port", "ssh", "--for", "10m"]);
            scene.assert_refused(&signed, RELAY_SEEN[number]);
        }
        assert!(scene.relays[number].served() > 0, "the relay was in the way");
    }
    // Both ways at once are no better.
    scene.laptop.resolve(&RELAY.map(ip));
    scene.assert_refused(&scene.asks(&REQUEST), RELAY_SEEN[0]);
}

#[test]
fn a_person_who_says_no_signs_nothing_and_one_who_says_yes_is_not_asked_again() {
    let scene = Scene::new();
    for number in [0, 1] {
        scene.laptop.resolve(&[ip(RELAY[number])]);
        for _ in 0..2 {
            let before = scene.grants();
            let (run, screen) = scene.answers(&REQUEST, &["no"]);
            assert_eq!(run.code, Some(4), "{screen}");
            for shown in [RELAY[number], RELAY_SEEN[number], &SERVER.both()[number].to_string()] {
                assert!(screen.contains(shown), "{shown}: {screen}");
            }
            assert_eq!(scene.grants(), before, "{screen}");
        }
        let (run, screen) = scene.answers(&[&REQUEST[..], &["--json"]].concat(), &["yes"]);
        assert_eq!(run.code, Some(0), "{screen}");
        assert_eq!(run.json()["grant"]["source"][0], prefix(ip(RELAY_SEEN[number])));
        // A person vouched for this way; from here on it is known for this key, and this key alone.
        assert_eq!(sources(&scene.asks(&REQUEST)), [prefix(ip(RELAY_SEEN[number]))]);
        let forgotten = scene.laptop.run(&["forget", RELAY[number], "--json"]);
        assert_eq!(forgotten.json()["forgotten"], true, "{}", forgotten.err);
        assert_eq!(scene.asks(&REQUEST).code, Some(4), "the yes was taken back");
    }
}

#[test]
fn two_keys_under_one_name_share_no_address() {
    let mut scene = Scene::new();
    scene.laptop.resolve(&[ip(RELAY[0])]);
    let (run, screen) = scene.answers(&REQUEST, &["yes"]);
    assert_eq!(run.code, Some(0), "{screen}");
    let old = Key::new(scene.laptop.home(), "old");
    for suffix in ["", ".pub"] {
        let name = format!("ssh_host_ed25519_key{suffix}");
        fs::copy(scene.keys.path().join(name), scene.laptop.home().join(format!("old{suffix}"))).expect("a copy");
        fs::remove_file(scene.keys.path().join(format!("ssh_host_ed25519_key{suffix}"))).expect("to remove it");
    }
    let new = Key::new(scene.keys.path(), "ssh_host_ed25519_key");
    scene.knows(&[&old, &new]);
    scene.postern.stop();
    scene.postern.launch();
    let before = scene.grants();
    let run = scene.asks(&REQUEST);
    assert_eq!(run.code, Some(4), "{}{}", run.out, run.err);
    assert_eq!(scene.grants(), before);
}

#[test]
fn a_relay_beside_the_real_address_is_left_out_or_asked_about() {
    let scene = Scene::new();
    for number in [0, 1] {
        for real_first in [true, false] {
            let mut addresses = [SERVER.both()[number], ip(RELAY[number])];
            if !real_first {
                addresses.reverse();
            }
            scene.laptop.resolve(&addresses);
            let run = scene.asks(&REQUEST);
            let found = sources(&run);
            assert!(!found.is_empty() && !found.contains(&prefix(ip(RELAY_SEEN[number]))), "{found:?}");
            assert!(run.err.contains(&format!("--from {}", RELAY_SEEN[number])), "it is named: {}", run.err);
            let (run, screen) = scene.answers(&[&REQUEST[..], &["--json"]].concat(), &["no"]);
            assert_eq!(run.code, Some(0), "{screen}");
            assert_eq!(sources(&run), found);
            assert!(!scene.is_open_for_the_relay());
        }
    }
}

#[test]
fn an_own_address_needs_no_question_also_after_roaming() {
    let mut scene = Scene::new();
    scene.laptop.resolve(&SERVER.both());
    let own = sources(&scene.asks(&REQUEST));
    assert_eq!(own.len(), 2);
    let home = scene.net.behind_a_nat();
    scene.laptop.move_to(&home);
    let mut wanted = GRANTED.both().map(prefix);
    wanted.sort_unstable();
    assert_ne!(own, wanted);
    assert_eq!(sources(&scene.asks(&REQUEST)), wanted, "the same host at the same addresses, seen from elsewhere");
    // The relay is as new from there as from anywhere.
    scene.laptop.resolve(&[ip(RELAY[0])]);
    home.ip("route add 10.3.0.0/24 via 192.168.77.1");
    scene.relay.ip("route add 192.168.77.0/24 via 10.3.0.2");
    let run = scene.asks(&REQUEST);
    assert_eq!(run.code, Some(4), "{}{}", run.out, run.err);
    assert!(!scene.is_open_for_the_relay());
}

#[test]
fn a_nat_at_the_first_use_is_asked_about_once_for_each_family() {
    let mut scene = Scene::new();
    scene.laptop.resolve(&SERVER.both());
    scene.laptop.move_to(&scene.net.behind_a_nat());
    let run = scene.asks(&REQUEST);
    assert_eq!(run.code, Some(4), "{}{}", run.out, run.err);
    assert_eq!(scene.grants(), 0);
    let (run, screen) = scene.answers(&[&REQUEST[..], &["--json"]].concat(), &["yes", "yes"]);
    assert_eq!(run.code, Some(0), "{screen}");
    assert_eq!(sources(&run).len(), 2);
    assert_eq!(sources(&scene.asks(&REQUEST)).len(), 2);
}

#[test]
fn an_attempt_that_the_host_refuses_is_not_remembered() {
    let mut scene = Scene::new();
    scene.laptop.resolve(&SERVER.both());
    let long = ["request", "vm1.test", "--port", "ssh", "--for", "5h"];
    let run = scene.asks(&long);
    assert_eq!((run.code, &run.error()["reason"]), (Some(1), &"DURATION_TOO_LONG".into()));
    scene.laptop.resolve(&[ip(RELAY[0])]);
    let (run, screen) = scene.answers(&long, &["yes"]);
    assert_eq!(run.code, Some(1), "{screen}");
    scene.assert_refused(&scene.asks(&REQUEST), RELAY_SEEN[0]);
    scene.laptop.resolve(&SERVER.both());
    scene.laptop.move_to(&scene.net.behind_a_nat());
    assert_eq!(scene.asks(&REQUEST).code, Some(4));
    assert_eq!(scene.grants(), 0);
}

#[test]
fn an_address_that_the_person_wrote_is_signed_without_a_question_and_vouches_for_nothing() {
    let scene = Scene::new();
    scene.laptop.resolve(&[ip(RELAY[0])]);
    for from in [RELAY_SEEN[0].to_owned(), format!("my-ip,{}", RELAY_SEEN[0])] {
        let run = scene.asks(&[&REQUEST[..], &["--from", &from]].concat());
        assert_eq!(sources(&run), [prefix(ip(RELAY_SEEN[0]))]);
        assert_eq!(scene.asks(&REQUEST).code, Some(4), "the way is as new as before");
    }
    // What opens nothing asks nothing.
    let explained = scene.asks(&["explain", "vm1.test", "--port", "ssh", "--for", "10m"]);
    assert_eq!(explained.code, Some(0), "{}", explained.err);
    assert_eq!(scene.asks(&REQUEST).code, Some(4));
}

#[test]
fn a_memory_that_cannot_be_written_or_read_asks_again_and_fails_nothing() {
    let mut scene = Scene::new();
    scene.laptop.resolve(&[ip(RELAY[0])]);
    let memory = scene.laptop.home().join(".local/state/postern/dialled.toml");
    let (run, screen) = scene.answers(&REQUEST, &["yes"]);
    assert_eq!(run.code, Some(0), "{screen}");
    let known = fs::read(&memory).expect("the memory");
    for damaged in [&known[..known.len() / 2], b"\xff\0", b""] {
        fs::write(&memory, damaged).expect("to damage it");
        assert_eq!(scene.asks(&REQUEST).code, Some(4), "{damaged:?}");
    }
    fs::remove_file(&memory).expect("to remove it");
    scene.laptop.make_home_read_only();
    for _ in 0..2 {
        let (run, screen) = scene.answers(&REQUEST, &["yes"]);
        assert_eq!(run.code, Some(0), "{screen}");
        assert!(screen.contains("dialled.toml"), "it says what it cannot remember: {screen}");
    }
    assert!(!memory.exists());
    scene.laptop.resolve(&SERVER.both());
    assert_eq!(sources(&scene.asks(&REQUEST)).len(), 2, "an own address needs no memory");
}
