//! The host proves itself by its SSH host key: the real `postern` with an OpenSSH `known_hosts` against a real posternd.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use postern_tests::keys::Key;
use postern_tests::laptop::{Laptop, Run, beside_a_host};
use postern_tests::net::{Net, SERVER};
use postern_tests::postern::{Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use tempfile::TempDir;

/// Where the pin would be.
const PINS: &str = ".local/state/postern/known_hosts.toml";

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
        let (net, postern, laptop) = beside_a_host(keys.path(), Options::default());
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

    /// Certifies the host's key by the key `authority`, as who runs one does.
    fn certified(&self, authority: &Key, arguments: &[&str]) {
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-I", "vm1", "-h", "-s"]).arg(authority.path()).args(arguments);
        let output = command.arg(self.host_key.path().with_extension("pub")).output().expect("ssh-keygen");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Writes the laptop's `ssh_config`.
    fn configures(&self, text: &str) {
        let directory = self.laptop.home().join(".ssh");
        fs::create_dir_all(&directory).expect("the directory");
        fs::write(directory.join("config"), text).expect("the configuration");
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

#[test]
fn a_host_with_a_certificate_needs_no_flag_and_no_pin() {
    let scene = Scene::new();
    let authority = Key::new(scene.keys.path(), "authority");
    let trusted = [format!("@cert-authority *.test {}", authority.public())];
    scene.knows(&trusted, false);
    assert_refused(&scene.asks(&["status", "vm1.test"]), "does not prove");
    // posternd runs on: authorities give out certificates for days.
    scene.certified(&authority, &["-n", "vm1.test"]);
    let status = scene.asks(&["status", "vm1.test"]);
    assert_eq!(status.code, Some(0), "{}{}", status.out, status.err);
    let asked = scene.asks(&["request", "vm1.test", "--port", "ssh", "--for", "10m"]);
    assert_eq!(asked.code, Some(0), "{}{}", asked.out, asked.err);
    for (arguments, says) in [
        (&["-n", "vm1.test", "-V", "-2d:-1d"][..], "Certificate invalid: expired"),
        (&["-n", "vm2.test"], "Certificate invalid: name is not a listed principal"),
        (&[], "Certificate lacks principal list"),
        (&["-n", "vm1.test", "-O", "critical:x=y"], "Certificate contains unsupported critical options"),
    ] {
        scene.certified(&authority, arguments);
        assert_refused(&scene.asks(&["status", "vm1.test"]), says);
        assert_refused(&scene.laptop.postern(&["status", "vm1.test"]), says);
    }
    let other = Key::new(scene.keys.path(), "another_authority");
    scene.certified(&other, &["-n", "vm1.test"]);
    assert_refused(&scene.asks(&["status", "vm1.test"]), "does not prove");
    scene.certified(&authority, &["-n", "vm1.test"]);
    assert_eq!(scene.asks(&["status", "vm1.test"]).code, Some(0));
    scene.knows(&[trusted[0].clone(), format!("@revoked * {}", authority.public())], false);
    assert_refused(&scene.asks(&["status", "vm1.test"]), "REVOKED HOST KEY DETECTED");
    assert!(!scene.is_pinned(), "trust came from the authority alone");
}

#[test]
fn the_host_is_looked_up_as_ssh_config_says() {
    let scene = Scene::new();
    let (own, other) = (scene.host_key.public(), scene.other_key("other"));
    scene.configures("Host vm1.test\n  Port 2222\nHost web\n  HostName vm1.test\n  HostKeyAlias store\n");
    for hashed in [false, true] {
        scene.knows(&[format!("[vm1.test]:2222 {own}")], hashed);
        let status = scene.asks(&["status", "vm1.test"]);
        assert_eq!(status.code, Some(0), "hashed: {hashed}: {}{}", status.out, status.err);
    }
    scene.knows(&[format!("[vm1.test]:2222 {other}"), format!("vm1.test {own}")], false);
    assert_refused(&scene.asks(&["status", "vm1.test"]), "REMOTE HOST IDENTIFICATION HAS CHANGED");
    assert_refused(&scene.asks(&["status", "web"]), "not known yet");
    scene.knows(&[format!("store {own}")], false);
    let status = scene.asks(&["status", "web"]);
    assert_eq!(status.code, Some(0), "{}{}", status.out, status.err);
    // ssh would not connect either.
    scene.configures("Host vm1.test\n  Prot 2222\n");
    let broken = scene.asks(&["status", "vm1.test"]);
    assert_ne!(broken.code, Some(0));
    assert!(broken.error()["message"].as_str().is_some_and(|message| message.contains("ssh_config")), "{}", broken.err);
    assert!(!scene.is_pinned());
}

#[test]
fn every_host_key_proves() {
    let keys = tempfile::tempdir().expect("a directory");
    let ecdsa = Key::of_type(keys.path(), "ssh_host_ecdsa_key", &["-t", "ecdsa"]);
    let ed25519 = Key::new(keys.path(), "ssh_host_ed25519_key");
    let scene = Scene::with(keys, ed25519);
    for key in [ecdsa.public(), scene.host_key.public()] {
        scene.knows(&[format!("vm1.test {key}")], true);
        let status = scene.asks(&["status", "vm1.test"]);
        assert_eq!(status.code, Some(0), "{}{}", status.out, status.err);
    }
    assert!(!scene.is_pinned());
}
