//! Plaintext on loopback and forwarded Unix sockets are anybody's who listens there first, so a host proves itself there as over TLS.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use postern_tests::keys::Key;
use postern_tests::laptop::{Laptop, Run};
use postern_tests::liar::{Liar, Lie, knows};
use postern_tests::net::{GRANTED, Net, SERVER};
use postern_tests::postern::{Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::relay::Relay;
use postern_tests::service::Service;
use postern_tests::ssh::Sshd;
use postern_tests::until;
use tempfile::TempDir;

/// Where `ssh -L` would listen on the laptop, and where posternd does on its host.
const PLAINTEXT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7323);
const LOOPBACK: &str = "http://127.0.0.1:7323";

struct Scene {
    net: Net,
    postern: Postern,
    keys: TempDir,
    squatter: Key,
    service: Option<Service>,
}

impl Scene {
    fn new() -> Self {
        let keys = tempfile::tempdir().expect("a directory");
        let _own = Key::new(keys.path(), "ssh_host_ed25519_key");
        let squatter = Key::new(keys.path(), "squatter");
        let net = Net::pair();
        let extra = format!("ssh_host_keys = {:?}", keys.path());
        let plaintext = vec![PLAINTEXT.to_string()];
        let postern = Postern::start(&net.server, Options { plaintext, extra, ..Options::without_xdp() });
        let service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
        Self { net, postern, keys, squatter, service: Some(service) }
    }

    /// Somebody on the laptop listens where nobody else does, and passes things on over the network.
    fn squatter(&self, lie: Lie) -> Liar {
        Liar::start(&self.net.client, (PLAINTEXT, false), (SERVER.v4, 7322).into(), (&self.squatter, lie), None)
    }

    fn fingerprint(&self) -> String {
        self.postern.client().who_am_i().expect("an answer").tls_fingerprint
    }

    fn public(&self) -> String {
        fs::read_to_string(self.keys.path().join("ssh_host_ed25519_key.pub")).expect("the key").trim().to_owned()
    }

    fn run(&self, laptop: &Laptop, arguments: &[&str]) -> Run {
        let key = self.postern.alice.path().display().to_string();
        laptop.run(&[arguments, &["--json", "--key", &key]].concat())
    }

    fn ask(&self, laptop: &Laptop, host: &str, more: &[&str]) -> Run {
        let source = GRANTED.v4.to_string();
        let request = ["request", host, "--port", "ssh", "--for", "10m", "--from", &source];
        self.run(laptop, &[&request[..], more].concat())
    }

    fn is_open(&self) -> bool {
        probe::tcp(&self.net.client, GRANTED.v4, (SERVER.v4, 22).into()) == Outcome::Answered
    }
}

fn assert_refused(run: &Run, says: &str) {
    assert_eq!(run.code, Some(4), "{}{}", run.out, run.err);
    assert!(run.error()["message"].as_str().is_some_and(|message| message.contains(says)), "{says}: {}", run.err);
}

#[test]
fn a_squatter_on_the_loopback_port_gets_nothing_signed() {
    let scene = Scene::new();
    let laptop = Laptop::new(&scene.net.client, &scene.postern);
    let liar = scene.squatter(Lie::Id);
    let asked = scene.ask(&laptop, LOOPBACK, &[]);
    assert!(!scene.is_open(), "the squatter opened the host: {}{}", asked.out, asked.err);
    assert_refused(&asked, "not known yet");
    assert_refused(&scene.run(&laptop, &["list", LOOPBACK]), "not known yet");
    // The person knows which host belongs there.
    let fingerprint = scene.fingerprint();
    assert_refused(&scene.ask(&laptop, LOOPBACK, &["--fingerprint", &fingerprint]), "not SHA256:");
    assert_eq!(liar.passed(), [], "nothing signed was sent");
    // A person who trusts the squatter unseen signs for the squatter, and for nobody else.
    let asked = scene.ask(&laptop, LOOPBACK, &["--accept-new"]);
    assert_eq!(asked.error()["reason"], "AUDIENCE_KEY_MISSING", "{}", asked.err);
    assert!(!scene.is_open());
}

/// It passes on `WhoAmI` with the client's nonce, so the statement is the right host's and about this call.
#[test]
fn a_squatter_that_passes_everything_on_over_the_network_is_refused() {
    let scene = Scene::new();
    let laptop = Laptop::new(&scene.net.client, &scene.postern);
    let liar = scene.squatter(Lie::Everything);
    let fingerprint = scene.fingerprint();
    for more in [&["--fingerprint", &*fingerprint][..], &["--accept-new"]] {
        assert_refused(&scene.ask(&laptop, LOOPBACK, more), "over the network");
    }
    assert_eq!(liar.passed(), [], "nothing signed was sent");
    assert!(!scene.is_open());
}

#[test]
fn a_squatter_after_the_host_was_known_there_is_refused_and_so_is_an_old_host() {
    let scene = Scene::new();
    let laptop = Laptop::new(&scene.net.client, &scene.postern);
    let forward = Relay::start(&scene.net.server, "10.1.0.1:7324".parse().expect("an address"), PLAINTEXT);
    let local = Relay::start(&scene.net.client, PLAINTEXT, "10.1.0.1:7324".parse().expect("an address"));
    let list = scene.run(&laptop, &["list", LOOPBACK, "--accept-new"]);
    assert_eq!(list.code, Some(0), "as through ssh -L: {}{}", list.out, list.err);
    assert_eq!(scene.run(&laptop, &["list", LOOPBACK]).code, Some(0), "it is known now");
    assert!(forward.served() >= 2 && local.served() >= 2);
    drop((forward, local));
    for lie in [Lie::Id, Lie::Old] {
        let liar = scene.squatter(lie);
        let says = if lie == Lie::Id { "HAS CHANGED" } else { "older posternd" };
        assert_refused(&scene.run(&laptop, &["list", LOOPBACK]), says);
        assert_refused(&scene.ask(&laptop, LOOPBACK, &["--accept-new"]), says);
        assert_eq!(liar.passed(), []);
    }
}

/// `ssh -L` to the host's own loopback port. A key that is known for 127.0.0.1 is some machine's behind some port, so it proves and
/// does not disprove; HostKeyAlias says which machine is meant.
#[test]
fn a_forwarded_port_is_proved_by_the_ssh_host_key() {
    let scene = Scene::new();
    let laptop = Laptop::new(&scene.net.client, &scene.postern);
    let _forward = Relay::start(&scene.net.server, "10.1.0.1:7324".parse().expect("an address"), PLAINTEXT);
    let _local = Relay::start(&scene.net.client, PLAINTEXT, "10.1.0.1:7324".parse().expect("an address"));
    let other = Key::new(scene.keys.path(), "other").public();
    knows(laptop.home(), &[format!("127.0.0.1 {}", scene.public())]);
    assert_eq!(scene.run(&laptop, &["list", LOOPBACK]).code, Some(0));
    knows(laptop.home(), &[format!("127.0.0.1 {other}")]);
    assert_refused(&scene.run(&laptop, &["list", LOOPBACK]), "does not prove");
    assert_refused(&scene.run(&laptop, &["list", LOOPBACK, "--accept-new"]), "does not prove");
    knows(laptop.home(), &[format!("[127.0.0.1]:2222 {}", scene.public())]);
    assert_refused(&scene.run(&laptop, &["list", LOOPBACK]), "not known yet");
    knows(laptop.home(), &[format!("@revoked * {}", scene.public())]);
    assert_refused(&scene.run(&laptop, &["list", LOOPBACK, "--accept-new"]), "REVOKED HOST KEY");
    fs::write(laptop.home().join(".ssh/config"), "Host 127.0.0.1\n  HostKeyAlias vm1\n").expect("ssh_config");
    knows(laptop.home(), &[format!("vm1 {other}")]);
    assert_refused(&scene.run(&laptop, &["list", LOOPBACK]), "REMOTE HOST IDENTIFICATION HAS CHANGED");
    knows(laptop.home(), &[format!("vm1 {}", scene.public())]);
    let asked = scene.ask(&laptop, LOOPBACK, &[]);
    assert_eq!(asked.code, Some(0), "{}{}", asked.out, asked.err);
    assert!(scene.is_open());
}

/// The socket at the client's end belongs to a process of root's, as one of root's `ssh -L` would, but it is not posternd's.
#[test]
fn a_forwarded_unix_socket_needs_the_proof_and_the_hosts_own_does_not() {
    let scene = Scene::new();
    let laptop = Laptop::new(&scene.net.client, &scene.postern);
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().join("forwarded.sock");
    forward(&place, &scene.postern.socket());
    let forwarded = format!("unix://{}", place.display());
    assert_refused(&scene.run(&laptop, &["list", &forwarded]), "not known yet");
    assert_refused(&scene.ask(&laptop, &forwarded, &[]), "not known yet");
    let fingerprint = scene.fingerprint();
    let asked = scene.ask(&laptop, &forwarded, &["--fingerprint", &fingerprint]);
    assert_eq!(asked.code, Some(0), "{}{}", asked.out, asked.err);
    assert!(scene.is_open());
    assert_eq!(scene.run(&laptop, &["give-back", &forwarded]).code, Some(0), "it is known now");
    assert!(!scene.is_open());
    // The host's own socket, by the kernel's word.
    let own = format!("unix://{}", scene.postern.socket().display());
    let stranger = Laptop::new(&scene.net.client, &scene.postern);
    let asked = scene.ask(&stranger, &own, &[]);
    assert_eq!(asked.code, Some(0), "{}{}", asked.out, asked.err);
    assert!(scene.is_open());
}

/// The real `ssh -L` of root's: the kernel says that root listens, and the name of the process says that it is not posternd.
#[test]
fn what_ssh_forwards_needs_the_proof() {
    let mut scene = Scene::new();
    drop(scene.service.take());
    let sshd = Sshd::start(&scene.net.server);
    scene.postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().join("forwarded.sock");
    let socket = scene.postern.socket().display().to_string();
    let forwards = [format!("{}:{socket}", place.display()), format!("127.0.0.1:7323:{socket}")];
    let ends = (GRANTED.v4.into(), SERVER.v4.into());
    let mut ssh = sshd.forward(&scene.net.client, ends, &[&forwards[0], &forwards[1]]);
    let laptop = Laptop::new(&scene.net.client, &scene.postern);
    let unix = format!("unix://{}", place.display());
    until("ssh listens", || {
        assert!(ssh.ended().is_none(), "{}", ssh.errors());
        scene.run(&laptop, &["list", &unix]).code == Some(4)
    });
    let fingerprint = scene.fingerprint();
    for host in [&*unix, LOOPBACK] {
        assert_refused(&scene.run(&laptop, &["list", host]), "not known yet");
        let list = scene.run(&laptop, &["list", host, "--fingerprint", &fingerprint]);
        assert_eq!(list.code, Some(0), "{}{}", list.out, list.err);
    }
}

/// A forwarded socket that leads to a host which passes on to another one over the network.
#[test]
fn a_unix_socket_that_leads_over_the_network_is_refused() {
    let scene = Scene::new();
    let liar = scene.squatter(Lie::Everything);
    let laptop = Laptop::new(&scene.net.client, &scene.postern);
    let directory = tempfile::tempdir().expect("a directory");
    let place = directory.path().join("forwarded.sock");
    let listener = UnixListener::bind(&place).expect("a socket");
    let client = scene.net.client.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let onward = client.run(|| std::net::TcpStream::connect(PLAINTEXT)).expect("the liar");
            let (from, to) = (stream.try_clone().expect("a copy"), onward.try_clone().expect("a copy"));
            thread::spawn(move || io::copy(&mut &from, &mut &to));
            thread::spawn(move || io::copy(&mut &onward, &mut &stream));
        }
    });
    let host = format!("unix://{}", place.display());
    let fingerprint = scene.fingerprint();
    assert_refused(&scene.ask(&laptop, &host, &["--fingerprint", &fingerprint]), "over the network");
    assert_eq!(liar.passed(), []);
}

/// Copies what comes to `place` to the socket `to`, as `ssh -L` between two machines does.
fn forward(place: &Path, to: &Path) {
    let listener = UnixListener::bind(place).expect("a socket");
    let to = to.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let Ok(onward) = UnixStream::connect(&to) else { return };
            let (from, back) = (stream.try_clone().expect("a copy"), onward.try_clone().expect("a copy"));
            thread::spawn(move || io::copy(&mut &from, &mut &back));
            thread::spawn(move || io::copy(&mut &onward, &mut &stream));
        }
    });
}
