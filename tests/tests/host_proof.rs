//! The host proves itself by its SSH host key: the real `postern` with an OpenSSH `known_hosts` against a real posternd.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use postern_tests::keys::Key;
use postern_tests::laptop::{Laptop, Run};
use postern_tests::net::{Net, SERVER};
use postern_tests::postern::{Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use tempfile::TempDir;

/// Where the pin would be.
const PINS: &str = ".config/postern/known_hosts.toml";

/// A host with an SSH host key of its own, and a laptop that knows nothing yet.
struct Scene {
    net: Net,
    postern: Postern,
    host_key: Key,
    laptop: Laptop,
    keys: TempDir,
}

impl Scene {
    fn new() -> Self {
        let keys = tempfile::tempdir().expect("a directory");
        let host_key = Key::new(keys.path(), "ssh_host_ed25519_key");
        Self::with(keys, host_key)
    }

    fn with(keys: TempDir, host_key: Key) -> Self {
        let net = Net::pair();
        let extra = format!("ssh_host_keys = {:?}", keys.path());
        let postern = Postern::start(&net.server, Options { extra, ..Options::default() });
        let laptop = Laptop::new(&net.client, &postern);
        Self { net, postern, host_key, laptop, keys }
    }

    /// Writes the laptop's `known_hosts`, with hashed names where that is asked for.
    fn knows(&self, lines: &[String], hashed: bool) {
        let directory = self.laptop.home().join(".ssh");
        fs::create_dir_all(&directory).expect("the directory");
        let file = directory.join("known_hosts");
        fs::write(&file, lines.join("\n") + "\n").expect("known_hosts");
        if hashed {
            let output = Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&file).output().expect("ssh-keygen");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let text = fs::read_to_string(&file).expect("known_hosts");
            assert!(!text.contains("vm1.test"), "{text}");
        }
    }

    /// Runs it without any flag about trust.
    fn asks(&self, arguments: &[&str]) -> Run {
        let key = self.postern.alice.path().display().to_string();
        self.laptop.run(&[arguments, &["--json", "--key", &key]].concat())
    }

    fn is_pinned(&self) -> bool {
        self.laptop.home().join(PINS).exists()
    }

    fn other_key(&self, name: &str) -> String {
        Key::new(self.keys.path(), name).public()
    }
}

fn assert_refused(run: &Run, says: &str) {
    assert_eq!(run.code, Some(4), "{}{}", run.out, run.err);
    assert_eq!(run.error()["kind"], "host-identity", "{}", run.err);
    assert!(run.error()["message"].as_str().is_some_and(|message| message.contains(says)), "{}", run.err);
}

#[test]
fn a_host_in_known_hosts_needs_no_flag_and_no_pin() {
    let scene = Scene::new();
    let _service = Service::tcp_echo(&scene.net.server, "[::]:22".parse().expect("an address"));
    for hashed in [false, true] {
        scene.knows(&[format!("vm1.test {}", scene.host_key.public())], hashed);
        let status = scene.asks(&["status", "vm1.test"]);
        assert_eq!(status.code, Some(0), "hashed: {hashed}: {}{}", status.out, status.err);
    }
    let asked = scene.asks(&["request", "vm1.test", "--port", "ssh", "--for", "10m"]);
    assert_eq!(asked.code, Some(0), "{}{}", asked.out, asked.err);
    let source = asked.json()["grant"]["source"][0].as_str().and_then(|s| s.split('/').next()?.parse().ok());
    let source = source.expect("a source");
    let ssh = SocketAddr::new(SERVER.like(source), 22);
    assert_eq!(probe::tcp(&scene.net.client, source, ssh), Outcome::Answered);
    assert!(!scene.is_pinned(), "trust came from known_hosts alone");
    let address = SERVER.v4.to_string();
    assert_eq!(scene.asks(&["status", &address]).code, Some(4), "the address was never typed to ssh");
    scene.knows(&[format!("vm1.test,{address} {}", scene.host_key.public())], false);
    assert_eq!(scene.asks(&["status", &address]).code, Some(0));
}

#[test]
fn another_key_or_a_revoked_one_is_refused_in_the_words_of_ssh() {
    let scene = Scene::new();
    let (own, other) = (scene.host_key.public(), scene.other_key("other"));
    scene.knows(&[format!("vm1.test {other}")], true);
    assert_refused(&scene.asks(&["status", "vm1.test"]), "REMOTE HOST IDENTIFICATION HAS CHANGED");
    assert_refused(&scene.laptop.postern(&["status", "vm1.test"]), "REMOTE HOST IDENTIFICATION HAS CHANGED");
    scene.knows(&[format!("vm1.test {own}"), format!("@revoked * {own}")], false);
    let asked = scene.laptop.postern(&["request", "vm1.test", "--port", "ssh", "--for", "10m"]);
    assert_refused(&asked, "REVOKED HOST KEY DETECTED");
    assert!(!scene.is_pinned());
    let grants = scene.postern.client().grants().expect("the grants");
    assert!(grants.is_empty(), "nothing was asked for: {grants:?}");
}

#[test]
fn a_host_that_ssh_does_not_know_is_pinned_as_before() {
    let scene = Scene::new();
    for lines in [vec![], vec![format!("elsewhere.test {}", scene.host_key.public())]] {
        scene.knows(&lines, false);
        assert_refused(&scene.asks(&["status", "vm1.test"]), "not known yet");
    }
    assert_eq!(scene.laptop.postern(&["status", "vm1.test"]).code, Some(0), "--accept-new");
    assert!(scene.is_pinned());
    assert_eq!(scene.asks(&["status", "vm1.test"]).code, Some(0), "it is pinned now");
    // A later contradiction with ssh counts, whatever was pinned.
    scene.knows(&[format!("vm1.test {}", scene.other_key("other"))], false);
    assert_refused(&scene.asks(&["status", "vm1.test"]), "REMOTE HOST IDENTIFICATION HAS CHANGED");
}

#[test]
fn a_known_host_without_a_proof_is_not_accepted_unseen() {
    let keys = tempfile::tempdir().expect("a directory");
    let elsewhere = keys.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a directory");
    let unused: &Path = &elsewhere;
    let scene = Scene::with(keys, Key::new(unused, "ssh_host_ed25519_key"));
    assert_eq!(scene.postern.client().who_am_i().expect("an answer").proof, "", "there is no key in its directory");
    scene.knows(&[format!("vm1.test {}", scene.host_key.public())], false);
    assert_refused(&scene.laptop.postern(&["status", "vm1.test"]), "does not prove");
    let fingerprint = scene.postern.client().who_am_i().expect("an answer").tls_fingerprint;
    let named = scene.asks(&["status", "vm1.test", "--fingerprint", &fingerprint]);
    assert_eq!(named.code, Some(0), "{}{}", named.out, named.err);
}
