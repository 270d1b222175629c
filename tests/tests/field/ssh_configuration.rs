//! What ssh -G prints is understood as ssh means it, and ssh never calls the client again and again.

use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use postern_tests::keys::Key;
use postern_tests::laptop::{Laptop, Run, beside_a_host, client};
use postern_tests::net::Net;
use postern_tests::postern::{Options, Postern};
use postern_tests::ssh::Sshd;
use tempfile::TempDir;

/// A host with an SSH host key of its own, and a laptop.
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
        let (net, postern, laptop) = beside_a_host(keys.path(), Options::default());
        fs::create_dir_all(laptop.home().join(".ssh")).expect("the directory");
        Self { net, postern, host_key, laptop, keys }
    }

    /// Writes a file into the laptop's home.
    fn writes(&self, name: &str, text: &str) -> PathBuf {
        let path = self.laptop.home().join(name);
        fs::write(&path, text).expect("a file");
        path
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.writes(name, text);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("the mode");
        path
    }

    /// Runs it without any flag about trust.
    fn asks(&self) -> Run {
        let key = self.laptop.key().display().to_string();
        self.laptop.run(&["list", "vm1.test", "--json", "--key", &key])
    }

    fn other(&self) -> String {
        let directory = self.keys.path().join("other");
        fs::create_dir_all(&directory).expect("the directory");
        let known = Key::found(&directory.join("other"));
        if known.path().exists() { known.public() } else { Key::new(&directory, "other").public() }
    }

    #[track_caller]
    fn refuses(&self, code: i32, says: &str) {
        let run = self.asks();
        assert_eq!(run.code, Some(code), "{}{}", run.out, run.err);
        assert!(run.error()["message"].as_str().is_some_and(|message| message.contains(says)), "{}", run.err);
    }

    #[track_caller]
    fn accepts(&self) {
        let run = self.asks();
        assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
    }

    fn grants(&self) -> usize {
        self.postern.client().grants().expect("the grants").len()
    }
}

/// Puts a `ssh` before the real one that prints what a ssh older than 8.4 prints. Such a ssh is to be had for no system that
/// these tests run on. It differs in one thing: it prints files as they are configured, so `~` stays `~`. The script runs the
/// real ssh and puts `~` back; everything else is what the real ssh says.
fn make_ssh_old(scene: &mut Scene) {
    let home = scene.laptop.home().display().to_string();
    scene.script("ssh", &format!("#!/bin/sh\nPATH=\"$REAL_PATH\" ssh \"$@\" | sed 's| {home}/| ~/|g'\n"));
    let real = std::env::var("PATH").expect("a PATH");
    scene.laptop.set("REAL_PATH", &real);
    scene.laptop.set("PATH", format!("{home}:{real}"));
}

#[test]
fn an_old_ssh_hides_no_revoked_and_no_changed_key() {
    let mut scene = Scene::new();
    make_ssh_old(&mut scene);
    let (own, other) = (scene.host_key.public(), scene.other());
    scene.writes(".ssh/known_hosts", &format!("vm1.test {own}\n"));
    scene.accepts();
    scene.writes(".ssh/known_hosts", &format!("vm1.test {other}\n"));
    scene.refuses(4, "REMOTE HOST IDENTIFICATION HAS CHANGED");
    scene.writes(".ssh/known_hosts2", &format!("@revoked * {own}\n"));
    scene.writes(".ssh/known_hosts", &format!("vm1.test {own}\n"));
    scene.refuses(4, "REVOKED HOST KEY DETECTED");
    scene.writes(".ssh/known_hosts2", "");
    for setting in [
        "UserKnownHostsFile ~/mine ~/.ssh/known_hosts",
        "GlobalKnownHostsFile ~/mine",
        "UserKnownHostsFile ~root/mine ~/.ssh/known_hosts",
    ] {
        scene.writes(".ssh/config", &format!("Host *\n  {setting}\n"));
        scene.writes("mine", "");
        scene.accepts();
        scene.writes("mine", &format!("@revoked vm1.test {own}\n"));
        scene.refuses(4, "REVOKED HOST KEY DETECTED");
    }
    scene.writes(".ssh/config", "Host *\n  RevokedHostKeys ~/revoked\n");
    scene.writes("revoked", &format!("{other}\n"));
    scene.accepts();
    scene.writes("revoked", &format!("{own}\n"));
    scene.refuses(4, "REVOKED HOST KEY DETECTED");
}

#[test]
fn files_are_found_as_ssh_finds_them() {
    let scene = Scene::new();
    let own = scene.host_key.public();
    let home = scene.laptop.home().display().to_string();
    scene.writes(".ssh/known_hosts", &format!("vm1.test {own}\n"));
    let strange = scene.laptop.home().join(std::ffi::OsString::from_vec(b"g\xe9heim".to_vec()));
    for (setting, file) in [
        ("GlobalKnownHostsFile ~/mine".to_owned(), Path::new("mine")),
        ("UserKnownHostsFile ~/.ssh/known_hosts \"~/a b\"".to_owned(), Path::new("a b")),
        ("UserKnownHostsFile \"~/a  b\" ~/.ssh/known_hosts".to_owned(), Path::new("a  b")),
        ("UserKnownHostsFile ~/.ssh/known_hosts ~/of-%h-%u".to_owned(), Path::new("of-vm1.test-root")),
        ("UserKnownHostsFile ~/.ssh/known_hosts ${HOME}/mine".to_owned(), Path::new("mine")),
        ("UserKnownHostsFile ~/.ssh/known_hosts ~/half%%h".to_owned(), Path::new("half%h")),
        (format!("UserKnownHostsFile ~/.ssh/known_hosts {home}/ge"), Path::new("ge")),
        ("RevokedHostKeys ~/list".to_owned(), Path::new("list")),
    ] {
        scene.writes(".ssh/config", &format!("Host *\n  {setting}\n"));
        let revoked = if setting.starts_with("Revoked") { format!("{own}\n") } else { format!("@revoked * {own}\n") };
        let path = scene.laptop.home().join(file);
        fs::write(&path, revoked).expect("a file");
        scene.refuses(4, "REVOKED HOST KEY DETECTED");
        fs::remove_file(&path).expect("to remove it");
        fs::write(&path, "").expect("a file");
        scene.accepts();
    }
    // A name that is no UTF-8.
    let config =
        [b"Host *\n  UserKnownHostsFile ~/.ssh/known_hosts ", strange.as_os_str().as_encoded_bytes(), b"\n"].concat();
    fs::write(scene.laptop.home().join(".ssh/config"), config).expect("the configuration");
    scene.accepts();
    fs::write(&strange, format!("@revoked * {own}\n")).expect("a file");
    scene.refuses(4, "REVOKED HOST KEY DETECTED");
}

#[test]
fn an_unknown_option_is_an_error() {
    let mut scene = Scene::new();
    let own = scene.host_key.public();
    scene.writes(".ssh/known_hosts", &format!("vm1.test {own}\n"));
    scene.writes(".ssh/config", "Host *\n  GlobalKnownHostsFile ~/loop\n");
    // Neither absent nor readable, also for root.
    let file = scene.laptop.home().join("loop");
    symlink(&file, &file).expect("a link to itself");
    scene.refuses(7, "cannot read");
    scene.writes(".ssh/config", "Host *\n  GlobalKnownHostsFile ~nobody-of-this-name/x\n");
    assert_eq!(scene.asks().code, Some(7), "an unknown user");
    // Two readings of one line, and files for both.
    scene.writes(".ssh/config", "Host *\n  UserKnownHostsFile ~/.ssh/known_hosts \"~/a b\"\n");
    scene.writes("a b", "");
    scene.accepts();
    scene.writes("a", "");
    assert_eq!(scene.asks().code, Some(7), "\"a b\" or \"a\" and \"b\"");
    scene.writes(".ssh/config", "");
    scene.accepts();
    // What a command knows is not known here, and it may revoke every key.
    scene.writes(".ssh/config", "Host *\n  KnownHostsCommand /bin/false\n");
    scene.refuses(4, "KnownHostsCommand");
    scene.writes(".ssh/config", "Host *\n  KnownHostsCommand none\n");
    scene.accepts();
    // A ssh whose output lacks what this is about.
    let real = std::env::var("PATH").expect("a PATH");
    scene.laptop.set("REAL_PATH", &real);
    scene.laptop.set("PATH", format!("{}:{real}", scene.laptop.home().display()));
    for keyword in ["userknownhostsfile", "globalknownhostsfile", "hostname", "port"] {
        scene.script("ssh", &format!("#!/bin/sh\nPATH=\"$REAL_PATH\" ssh \"$@\" | grep -v '^{keyword} '\n"));
        assert_eq!(scene.asks().code, Some(7), "without {keyword}");
    }
}

/// Logs in with the real ssh; its configuration is what the test wrote.
fn logs_in(scene: &Scene, sshd: &Sshd, arguments: &[&str]) -> Run {
    let key = sshd.user().path().display().to_string();
    let quiet =
        ["-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null", "-oConnectTimeout=10"];
    scene.laptop.program("ssh", &[&quiet[..], &["-i", &key], arguments, &["root@vm1.test", "echo it works"]].concat())
}

/// The command that a person has in `ssh_config`.
fn request(scene: &Scene) -> String {
    let (program, key) = (client().display().to_string(), scene.laptop.key().display().to_string());
    format!("{program} request %h --port ssh --for 10m --accept-new --key {key}")
}

#[test]
fn match_exec_asks_once_for_each_login() {
    let scene = Scene::new();
    let sshd = Sshd::start(&scene.net.server);
    let command = request(&scene);
    let wrapper = scene.script("wrapper", &format!("#!/bin/sh\n{} >/dev/null\n", command.replace("%h", "\"$1\"")));
    let wrapper = wrapper.display();
    let mut before = 0;
    for exec in [
        command.clone(),
        format!("{wrapper} %h"),
        format!("sh -c '{wrapper} %h'"),
        // What sudo does without -E: the environment is gone.
        format!("env -i PATH=$PATH HOME=$HOME {wrapper} %h"),
        format!("setsid -w {wrapper} %h"),
    ] {
        scene.writes(".ssh/config", &format!("Match host vm1.test exec \"{exec}\"\n  Compression no\n"));
        let run = logs_in(&scene, &sshd, &[]);
        assert_eq!((run.code, run.out.lines().last()), (Some(0), Some("it works")), "{exec}: {}{}", run.out, run.err);
        assert_eq!(scene.grants() - before, 1, "{exec}: {}", run.err);
        before = scene.grants();
    }
}

#[test]
fn a_command_by_hand_is_not_held_back() {
    let mut scene = Scene::new();
    let command = request(&scene);
    scene.writes(".ssh/config", &format!("Match host vm1.test exec \"{command}\"\n  Compression no\n"));
    let key = scene.laptop.key().display().to_string();
    let asks = |scene: &Scene| {
        scene.laptop.run(&[
            "request",
            "vm1.test",
            "--port",
            "ssh",
            "--for",
            "10m",
            "--json",
            "--accept-new",
            "--key",
            &key,
        ])
    };
    let run = asks(&scene);
    assert_eq!((run.code, scene.grants()), (Some(0), 1), "{}{}", run.out, run.err);
    // A shell that was begun from within `Match exec` keeps the variable after the client that set it is gone.
    scene.laptop.set("POSTERN_WITHIN_SSH", "999999999");
    let run = asks(&scene);
    assert_eq!((run.code, scene.grants()), (Some(0), 2), "{}{}", run.out, run.err);
}

#[test]
fn ssh_asked_for_its_configuration_runs_no_other_command() {
    let scene = Scene::new();
    let own = scene.host_key.public();
    scene.writes(".ssh/known_hosts", &format!("vm1.test {own}\n"));
    let mark = scene.laptop.home().join("ran");
    let touch = format!("/usr/bin/touch {}", mark.display());
    scene.writes(".ssh/config", &format!("Host vm1.test\n  ProxyCommand {touch}\n  LocalCommand {touch}\n  RemoteCommand {touch}\n  PermitLocalCommand yes\n"));
    scene.accepts();
    assert!(!mark.exists());
}

#[test]
fn a_proxy_command_that_asks_first_asks_once() {
    let scene = Scene::new();
    let sshd = Sshd::start(&scene.net.server);
    let command = request(&scene);
    // bash connects by itself, so no other program is needed. ssh hangs up on the script at the end, and the script takes along what
    // it has begun.
    let proxy = scene.script(
        "proxy",
        &format!(
            "#!/bin/bash\n{} >/dev/null || exit 1\nexec 2>/dev/null 3<>\"/dev/tcp/$1/$2\"\ncat <&3 &\n\
             trap \"kill $!\" EXIT HUP\ncat >&3\n",
            command.replace("%h", "\"$1\"")
        ),
    );
    scene.writes(".ssh/config", &format!("Host vm1.test\n  ProxyCommand {} %h %p\n", proxy.display()));
    let run = logs_in(&scene, &sshd, &[]);
    assert_eq!((run.code, run.out.lines().last()), (Some(0), Some("it works")), "{}{}", run.out, run.err);
    assert_eq!(scene.grants(), 1);
}
