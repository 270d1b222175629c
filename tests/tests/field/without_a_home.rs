//! The client works without a home that can be written.

use postern_tests::keys::Key;
use postern_tests::laptop::{Laptop, Run, beside_a_host};
use postern_tests::net::Net;
use postern_tests::postern::{Options, Postern};
use postern_tests::terminal::Terminal;
use std::fs;
use tempfile::TempDir;

/// What is asked for, without any word about trust.
const REQUEST: [&str; 6] = ["request", "vm1.test", "--port", "22", "--for", "10m"];
/// Where trust is on record.
const PINS: &str = ".local/state/postern/known_hosts.toml";
/// Where older clients had it.
const OLDER: &str = ".config/postern/known_hosts.toml";
/// A user that no list names.
const NOBODY_KNOWS: u32 = 4_004_242;

/// A host with an SSH host key, and a laptop that knows nothing yet.
struct Scene {
    _net: Net,
    postern: Postern,
    host_key: Key,
    laptop: Laptop,
    _keys: TempDir,
}

impl Scene {
    fn new() -> Self {
        let keys = tempfile::tempdir().expect("a directory");
        let host_key = Key::new(keys.path(), "ssh_host_ed25519_key");
        let (net, postern, laptop) = beside_a_host(keys.path(), Options::without_xdp());
        Self { _net: net, postern, host_key, laptop, _keys: keys }
    }

    /// As [`Scene::new`], with a laptop whose ssh knows the host.
    fn known_to_ssh() -> Self {
        let scene = Self::new();
        let folder = scene.laptop.home().join(".ssh");
        fs::create_dir(&folder).expect("the folder");
        fs::write(folder.join("known_hosts"), format!("vm1.test {}\n", scene.host_key.public())).expect("known_hosts");
        scene
    }

    fn key(&self) -> String {
        self.postern.alice.path().display().to_string()
    }

    /// Runs it after this script.
    fn asks(&self, script: &str, more: &[&str]) -> Run {
        self.laptop.run_after(script, &[&REQUEST[..], more, &["--json", "--key", &self.key()]].concat())
    }

    fn fingerprint(&self) -> String {
        self.postern.client().who_am_i().expect("an answer").tls_fingerprint
    }

    fn has(&self, file: &str) -> bool {
        self.laptop.home().join(file).exists()
    }
}

fn assert_code(run: &Run, code: i32, what: &str) {
    assert_eq!(run.code, Some(code), "{what}: {}{}", run.out, run.err);
}

/// How often it says that nothing is remembered.
fn complaints(run: &Run) -> usize {
    run.err.lines().filter(|line| line.contains("cannot remember")).count()
}

#[test]
fn a_host_that_ssh_knows_needs_no_home() {
    let scene = Scene::known_to_ssh();
    let full = "mkdir -p \"$HOME/.local/state\"; mount -t tmpfs -o size=4k,nr_inodes=1 none \"$HOME/.local/state\"";
    let full_later = "mkdir -p \"$HOME/.local/state/postern\"; mount -t tmpfs -o size=4k,nr_inodes=2 none \"$HOME/.local/state/postern\"";
    let read_only = "mount --bind \"$HOME\" \"$HOME\"; mount -o remount,bind,ro \"$HOME\"";
    for (script, remembers) in [
        ("unset HOME", true),
        ("HOME=", true),
        ("HOME=relative", true),
        ("unset HOME; export XDG_STATE_HOME=relative", true),
        ("HOME=/nonexistent", false),
        ("HOME=/proc", false),
        ("HOME=/dev/null", false),
        ("export XDG_STATE_HOME=/proc/nowhere", false),
        (full, false),
        (full_later, false),
        (read_only, false),
    ] {
        let asked = scene.asks(script, &[]);
        assert_code(&asked, 0, script);
        assert_eq!(complaints(&asked), usize::from(!remembers), "{script}: {}", asked.err);
        let memory = scene.laptop.home().join(".local/state/postern/dialled.toml");
        assert_eq!(fs::remove_file(memory).is_ok(), remembers, "{script}: the list of users names the home");
    }
}

/// A host that is not known is asked about or refused, whatever cannot be stored. Nothing accepts everything.
#[test]
fn without_a_memory_nothing_is_trusted_unseen() {
    let scene = Scene::new();
    let fingerprint = scene.fingerprint();
    let read_only = "mount --bind \"$HOME\" \"$HOME\"; mount -o remount,bind,ro \"$HOME\"";
    for script in [read_only, "HOME=/proc", "HOME=/dev/null"] {
        for (more, code) in [
            (&[][..], 4),
            (&["--accept-new"], 4),
            (&["--accept-new"], 4),
            (&["--fingerprint", &fingerprint], 0),
            (&["--fingerprint", "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"], 4),
            (&[], 4),
        ] {
            let asked = scene.asks(script, more);
            assert_code(&asked, code, &format!("{script} {more:?}"));
            assert_eq!(complaints(&asked), usize::from(code == 0), "{script} {more:?}: {}", asked.err);
        }
    }
    assert!(!scene.has(PINS));
}

#[test]
fn a_person_at_a_terminal_is_asked_each_time() {
    let mut scene = Scene::new();
    scene.laptop.make_home_read_only();
    let key = scene.key();
    for answer in ["yes", "yes", "no"] {
        let mut terminal = Terminal::new();
        let asking = scene.laptop.start_at(&terminal, &[&REQUEST[..], &["--key", &key]].concat());
        terminal.wait_for("(yes/no)");
        terminal.type_in(&format!("{answer}\n"));
        let asked = asking.wait();
        assert_eq!(asked.code, Some(if answer == "yes" { 0 } else { 4 }), "{answer}: {}", terminal.last_screen());
    }
}

#[test]
fn what_older_clients_trusted_is_trusted_until_it_is_forgotten() {
    let scene = Scene::new();
    let before = "export XDG_STATE_HOME=\"$HOME/.config\"";
    assert_code(&scene.asks(before, &["--accept-new"]), 0, "as an older client");
    assert!(scene.has(OLDER) && !scene.has(PINS));
    assert_code(&scene.asks(":", &[]), 0, "the record counts");
    let pins = fs::read_to_string(scene.laptop.home().join(OLDER)).expect("the record");
    let other = pins.replace(&scene.fingerprint(), "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU");
    fs::write(scene.laptop.home().join(OLDER), &other).expect("another record");
    for more in [&[][..], &["--accept-new"]] {
        assert_code(&scene.asks(":", more), 4, "a record of another key counts as well");
    }
    // The newer record comes first, and the older one does not come back.
    assert_code(&scene.asks(":", &["--fingerprint", &scene.fingerprint()]), 0, "the person says which");
    assert!(scene.has(PINS));
    assert_code(&scene.asks(":", &[]), 0, "the newer record");
    assert_code(&scene.laptop.run(&["forget", "vm1.test"]), 0, "forget");
    assert_code(&scene.asks(":", &[]), 4, "nothing is known any more");
    assert_code(&scene.asks(":", &["--accept-new"]), 0, "a new host");
}

/// A record that somebody else could have made is none, and is never read as "nothing is known".
#[test]
fn records_of_another_user_are_ignored() {
    let scene = Scene::new();
    assert_code(&scene.asks(":", &["--accept-new"]), 0, "a first use");
    let pins = format!("\"$HOME/{PINS}\"");
    let folder = "\"$HOME/.local/state/postern\"";
    for script in [
        format!("chown 4242 {pins}"),
        format!("chown 0 {pins}; chown 4242 {folder}"),
        format!("chown 0 {folder}; rm -rf {pins}; mkfifo {pins}"),
        format!("rm -rf {pins}; mkdir {pins}"),
        format!("rm -rf {pins}; ln -s {folder}/known_hosts.toml {pins}"),
    ] {
        for more in [&[][..], &["--accept-new"]] {
            assert_code(&scene.asks(&script, more), 4, &script);
        }
        let named = scene.asks(":", &["--fingerprint", &scene.fingerprint()]);
        assert_code(&named, 0, &script);
        assert_eq!(complaints(&named), 1, "{script}: {}", named.err);
    }
}

/// A container that runs as any number: ssh does not start there, and its files count all the same.
#[test]
fn a_user_that_no_list_names_is_served() {
    let scene = Scene::known_to_ssh();
    let uid = NOBODY_KNOWS;
    let as_nobody = format!(
        "touch \"$HOME/postern\"; mount --bind \"$0\" \"$HOME/postern\"; chmod 755 \"$HOME\"; \
         install -m 600 -o {uid} {} \"$HOME/key\"; \
         exec setpriv --reuid {uid} --regid {uid} --clear-groups \"$HOME/postern\" \"$@\"",
        scene.key()
    );
    let key = scene.laptop.home().join("key").display().to_string();
    let asks =
        |more: &[&str]| scene.laptop.run_after(&as_nobody, &[&REQUEST[..], more, &["--json", "--key", &key]].concat());
    let asked = asks(&[]);
    assert_code(&asked, 0, "known by known_hosts");
    assert_eq!(complaints(&asked), 1, "{}", asked.err);
    fs::write(scene.laptop.home().join(".ssh/known_hosts"), "").expect("known_hosts");
    assert_code(&asks(&["--accept-new"]), 4, "not known, and not remembered");
    assert_code(&asks(&["--fingerprint", &scene.fingerprint()]), 0, "named");
    let revoked = format!("@revoked vm1.test {}\n", scene.host_key.public());
    fs::write(scene.laptop.home().join(".ssh/known_hosts"), revoked).expect("known_hosts");
    assert_code(&asks(&["--fingerprint", &scene.fingerprint()]), 4, "revoked");
}

#[test]
fn the_environment_says_what_the_command_line_does_not() {
    let scene = Scene::new();
    let key = scene.key();
    let exports = |more: &str| format!("export POSTERN_KEY={key} POSTERN_JSON=1 {more}");
    let run =
        |more: &str, arguments: &[&str]| scene.laptop.run_after(&exports(more), &[&REQUEST[..], arguments].concat());
    let refused = run("", &[]);
    assert_code(&refused, 4, "nothing about trust");
    assert_eq!(refused.error()["kind"], "host-identity", "the errors are JSON");
    assert_code(&run("POSTERN_ACCEPT_NEW=0", &[]), 4, "no");
    assert_code(&run("POSTERN_ACCEPT_NEW=maybe", &[]), 2, "nonsense");
    assert_code(&run("POSTERN_FINGERPRINT=SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU", &[]), 4, "another key");
    let named = run(&format!("POSTERN_FINGERPRINT={}", scene.fingerprint()), &[]);
    assert_code(&named, 0, "the right key");
    assert_eq!(named.json()["grant"]["state"], "GRANT_STATE_ACTIVE");
    assert_code(&run("", &["--key", "/nowhere"]), 5, "the command line comes first");
    assert_code(&scene.laptop.run(&["forget", "vm1.test"]), 0, "forget");
    assert_code(&run("POSTERN_ACCEPT_NEW=yes", &[]), 0, "a first use");
}
