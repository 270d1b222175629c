//! SSH host keys that are made or changed after the start are proved without a restart.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::slice;

use postern_tests::keys::Key;
use postern_tests::laptop::{Laptop, Run};
use postern_tests::net::{Net, SERVER};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern};
use postern_tests::until::until;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The port of a test's sshd: no port that posternd protects.
const SSHD: u16 = 2200;
/// What ssh and the client both say of a host with another key.
const CHANGED: &str = "REMOTE HOST IDENTIFICATION HAS CHANGED";
/// The default key file.
const ED25519: &str = "ssh_host_ed25519_key";

/// A host whose SSH host keys are in a directory of the test's own, and a laptop.
pub(super) struct Scene {
    pub(super) net: Net,
    pub(super) postern: Postern,
    pub(super) laptop: Laptop,
    pub(super) keys: PathBuf,
    _directory: TempDir,
}

impl Scene {
    /// posternd runs, and there is no host key yet.
    pub(super) fn new() -> Self {
        Self::prepared("keys", |keys| fs::create_dir(keys).expect("a directory"), Options::without_xdp())
    }

    /// posternd is started after `before` has worked on the path of the directory of the keys, which is `at`.
    pub(super) fn prepared(at: &str, before: impl FnOnce(&Path), options: Options) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let keys = directory.path().join(at);
        before(&keys);
        let net = Net::pair();
        let extra = format!("ssh_host_keys = {keys:?}\n{}", options.extra);
        let postern = Postern::start(&net.server, Options { extra, ..options });
        let laptop = Laptop::new(&net.client, &postern);
        Self { net, postern, laptop, keys, _directory: directory }
    }

    /// Puts a new host key in place by renaming, as careful programs do. The older one is gone.
    pub(super) fn new_key(&self, name: &str, arguments: &[&str]) -> Key {
        let staging = self.keys.with_extension("staging");
        let _ = fs::create_dir(&staging);
        let _ = fs::remove_file(staging.join(name));
        let _ = Key::of_type(&staging, name, arguments);
        for file in [format!("{name}.pub"), name.to_owned()] {
            fs::rename(staging.join(&file), self.keys.join(&file)).expect("to put the key in place");
        }
        self.key(name)
    }

    fn key(&self, name: &str) -> Key {
        Key::found(&self.keys.join(name))
    }

    /// Writes the laptop's `known_hosts`.
    pub(super) fn knows(&self, lines: &[String]) {
        let directory = self.laptop.home().join(".ssh");
        fs::create_dir_all(&directory).expect("the directory");
        fs::write(directory.join("known_hosts"), lines.join("\n") + "\n").expect("known_hosts");
    }

    /// Runs the client without any flag about trust.
    pub(super) fn asks(&self, arguments: &[&str]) -> Run {
        let key = self.postern.alice.path().display().to_string();
        self.laptop.run(&[arguments, &["--json", "--key", &key]].concat())
    }

    #[track_caller]
    pub(super) fn is_trusted(&self, when: &str) {
        let status = self.asks(&["status", "vm1.test"]);
        // 8: the host is trusted, and says that something is wrong there.
        assert!([Some(0), Some(8)].contains(&status.code), "{when}: {:?}: {}{}", status.code, status.out, status.err);
    }

    #[track_caller]
    pub(super) fn is_refused(&self, when: &str, says: &str) -> Run {
        let status = self.asks(&["status", "vm1.test"]);
        assert_eq!(status.code, Some(4), "{when}: {}{}", status.out, status.err);
        assert!(status.err.contains(says), "{when}: {}", status.err);
        status
    }

    /// What posternd says is wrong with the host keys.
    pub(super) fn wrong(&self) -> String {
        let details = self.postern.client().details().expect("the status");
        details.into_iter().filter(|why| why.contains("host key")).collect::<Vec<_>>().join("\n")
    }

    fn sshd(&self, keys: &[&str]) -> Sshd {
        Sshd::start(&self.net.server, &self.keys, keys)
    }

    /// What the real ssh says of the sshd, with the laptop's `known_hosts`.
    fn ssh(&self) -> String {
        let known = self.laptop.home().join(".ssh/known_hosts");
        let mut command = self.net.client.command("ssh");
        command.args(["-F", "none", "-p", &SSHD.to_string(), "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]);
        command.args(["-o", "GlobalKnownHostsFile=none", "-o", "HostKeyAlias=vm1.test"]);
        command.args(["-o", "PreferredAuthentications=none", "-o", "ConnectTimeout=20"]);
        command.args(["-o", &format!("UserKnownHostsFile={}", known.display()), &SERVER.v4.to_string(), "true"]);
        let output = command.stdin(Stdio::null()).output().expect("ssh");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    #[track_caller]
    fn ssh_is_satisfied(&self, when: &str) {
        let said = self.ssh();
        assert!(said.contains("Permission denied"), "{when}: {said}");
    }
}

/// A real sshd that has read its host keys once, as sshd does.
struct Sshd {
    process: Child,
    folder: TempDir,
}

impl Sshd {
    fn start(namespace: &Netns, keys: &Path, names: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let lines: String = names.iter().map(|name| format!("HostKey {}\n", keys.join(name).display())).collect();
        let config = folder.path().join("sshd_config");
        fs::write(&config, format!("Port {SSHD}\n{lines}PidFile none\nUsePAM no\n")).expect("the configuration");
        fs::create_dir_all("/run/sshd").expect("/run/sshd");
        let log = fs::File::create(folder.path().join("log")).expect("the log");
        let mut command = namespace.command("/usr/sbin/sshd");
        // sshd up to 9.7 runs itself anew for each connection and reads the keys each time, but for this option. Later ones read them once.
        command.args(["-D", "-e", "-r", "-f"]).arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let this = Self { process: command.spawn().expect("sshd"), folder };
        until("sshd listens", || this.starts() == 1);
        this
    }

    /// How often it has begun to listen on IPv6.
    fn starts(&self) -> usize {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default().matches("listening on ::").count()
    }

    /// Has it read its keys anew.
    fn restart(&self) {
        let before = self.starts();
        kill_process(Pid::from_child(&self.process), Signal::HUP).expect("to signal sshd");
        until("sshd has started again", || self.starts() > before);
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn line(key: &Key) -> String {
    format!("vm1.test {}", key.public())
}

#[test]
fn keys_that_are_made_after_the_start_prove_at_once() {
    let scene =
        Scene::prepared("etc/ssh", |keys| fs::create_dir_all(keys).expect("a directory"), Options::without_xdp());
    assert_eq!(scene.postern.client().who_am_i().expect("an answer").proof, "", "there is no key yet");
    // As the first boot of a host does: all types, in the place below a prefix.
    let prefix = scene.keys.parent().and_then(Path::parent).expect("the prefix");
    let made = Command::new("ssh-keygen").args(["-q", "-A", "-f"]).arg(prefix).status();
    assert!(made.expect("ssh-keygen").success());
    for name in ["ssh_host_rsa_key", "ssh_host_ecdsa_key", ED25519] {
        scene.knows(&[line(&scene.key(name))]);
        scene.is_trusted(name);
    }
    let asked = scene.asks(&["request", "vm1.test", "--port", "ssh", "--for", "10m"]);
    assert_eq!(asked.code, Some(0), "a message for that key is accepted: {}{}", asked.out, asked.err);
    assert_eq!(scene.wrong(), "");
}

#[test]
fn a_directory_that_is_made_after_the_start_counts() {
    for user in ["nobody", "root"] {
        let options = Options { user: user.to_owned(), ..Options::without_xdp() };
        let scene = Scene::prepared("late", |_| {}, options);
        fs::create_dir(&scene.keys).expect("the directory");
        let key = scene.new_key(ED25519, &["-t", "ed25519"]);
        scene.knows(&[line(&key)]);
        scene.is_trusted(user);
    }
}

#[test]
fn a_directory_for_root_alone_is_watched_too() {
    let private = |keys: &Path| {
        fs::create_dir(keys).expect("a directory");
        fs::set_permissions(keys, fs::Permissions::from_mode(0o700)).expect("its mode");
    };
    let scene = Scene::prepared("keys", private, Options::without_xdp());
    let key = scene.new_key(ED25519, &["-t", "ed25519"]);
    scene.knows(&[line(&key)]);
    until("it proves", || scene.asks(&["status", "vm1.test"]).code == Some(0));
}

#[test]
fn during_a_rotation_the_old_key_and_the_new_one_prove() {
    for user in ["nobody", "root"] {
        let options = Options { user: user.to_owned(), ..Options::without_xdp() };
        let mut scene = Scene::prepared("keys", |keys| fs::create_dir(keys).expect("a directory"), options);
        let old = line(&scene.new_key(ED25519, &["-t", "ed25519"]));
        let sshd = scene.sshd(&[ED25519]);
        scene.knows(slice::from_ref(&old));
        scene.ssh_is_satisfied("before the rotation");
        scene.is_trusted("before the rotation");
        let new = line(&scene.new_key(ED25519, &["-t", "ed25519"]));
        scene.ssh_is_satisfied("sshd serves the old key");
        scene.is_trusted("sshd serves the old key");
        let asked = scene.asks(&["request", "vm1.test", "--port", "3389", "--for", "10m"]);
        assert_eq!(asked.code, Some(0), "a message for the old key: {}{}", asked.out, asked.err);
        sshd.restart();
        assert!(scene.ssh().contains(CHANGED), "sshd serves the new key");
        scene.knows(slice::from_ref(&new));
        scene.ssh_is_satisfied("the new key is known");
        scene.is_trusted("the new key is known");
        let asked = scene.asks(&["request", "vm1.test", "--port", "ssh", "--for", "10m"]);
        assert_eq!(asked.code, Some(0), "a message for the new key: {}{}", asked.out, asked.err);
        // A stolen key is rotated and revoked.
        scene.knows(&[new.clone(), old.replace("vm1.test", "@revoked *")]);
        scene.ssh_is_satisfied("the old key is revoked");
        scene.is_trusted("the old key is revoked");
        scene.knows(&[old.clone(), old.replace("vm1.test", "@revoked *")]);
        let _ = scene.is_refused("only the revoked key is known", "REVOKED HOST KEY");
        scene.postern.kill();
        scene.postern.launch();
        scene.knows(&[old]);
        let _ = scene.is_refused("ssh is not satisfied either", CHANGED);
        scene.knows(&[new]);
        scene.is_trusted("after another start");
    }
}

#[test]
fn a_certificate_outlives_the_file_of_its_key() {
    let scene = Scene::new();
    let authority = Key::new(scene.laptop.home(), "authority");
    scene.knows(&[format!("@cert-authority *.test {}", authority.public())]);
    let certify = || {
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-I", "vm1", "-h", "-n", "vm1.test", "-s"]).arg(authority.path());
        assert!(command.arg(scene.keys.join(ED25519).with_extension("pub")).status().expect("ssh-keygen").success());
    };
    let _ = scene.new_key(ED25519, &["-t", "ed25519"]);
    certify();
    scene.is_trusted("certified");
    let _ = scene.new_key(ED25519, &["-t", "ed25519"]);
    scene.is_trusted("sshd still serves the old key with its certificate");
    certify();
    scene.is_trusted("the new key is certified");
    fs::remove_file(scene.keys.join("ssh_host_ed25519_key-cert.pub")).expect("a certificate");
    scene.is_trusted("sshd still serves the old certificate");
}

#[test]
fn a_file_that_is_half_written_takes_nothing_away() {
    let scene = Scene::new();
    let old = line(&scene.new_key(ED25519, &["-t", "ed25519"]));
    let path = scene.keys.join(ED25519);
    scene.knows(slice::from_ref(&old));
    scene.is_trusted("whole");
    let other = Key::new(scene.laptop.home(), "other");
    let text = fs::read_to_string(other.path()).expect("a key");
    fs::write(&path, &text[..text.len() / 2]).expect("half a key");
    scene.is_trusted("half a key");
    until("the half is named", || scene.wrong().contains(ED25519));
    fs::write(&path, &text).expect("the whole key");
    until("the whole one is read", || scene.wrong().is_empty());
    for known in [old.clone(), line(&other)] {
        scene.knows(&[known]);
        scene.is_trusted("the whole key");
    }
    fs::remove_file(&path).expect("to remove it");
    scene.knows(&[old]);
    scene.is_trusted("sshd serves what it has read");
    assert_eq!(scene.wrong(), "", "a host without a key file is no fault");
}

#[test]
fn a_key_that_posternd_may_not_read_is_named_until_it_may() {
    let scene = Scene::new();
    let key = scene.new_key(ED25519, &["-t", "ed25519"]);
    let other = Key::of_type(scene.laptop.home(), "other", &["-t", "ecdsa"]);
    let path = scene.keys.join("ssh_host_ecdsa_key");
    fs::copy(other.path(), &path).expect("a copy");
    // Neither the agent's user nor root without capabilities.
    chown(&path, Some(4321), Some(4321)).expect("another owner");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
    until("it is named", || scene.wrong().contains("ssh_host_ecdsa_key"));
    scene.knows(&[line(&key)]);
    scene.is_trusted("the other key proves");
    scene.knows(&[line(&other)]);
    let refused = scene.is_refused("it does not prove", "ecdsa-sha2");
    assert!(!refused.err.contains("HAS CHANGED") && !refused.err.contains("ssh-keygen"), "no alarm: {}", refused.err);
    chown(&path, Some(0), Some(0)).expect("root's");
    scene.is_trusted("it may be read now");
    until("nothing is wrong", || scene.wrong().is_empty());
}

#[test]
fn many_rotations_leave_the_last_ones() {
    let scene = Scene::new();
    let keys: Vec<_> = (0..12)
        .map(|_| {
            let key = line(&scene.new_key(ED25519, &["-t", "ed25519"]));
            // posternd has to see it before the next one takes its place.
            scene.knows(slice::from_ref(&key));
            scene.is_trusted("new");
            key
        })
        .collect();
    for known in &keys[6..] {
        scene.knows(slice::from_ref(known));
        scene.is_trusted("one of the last");
    }
    assert!(scene.postern.client().who_am_i().expect("an answer").proofs.len() <= 8, "older clients look at eight");
}
