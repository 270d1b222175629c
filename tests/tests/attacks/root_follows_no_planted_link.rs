//! A command of root follows nothing that the agent's user can plant.
//!
//! The state directory belongs to the agent's user. Each case stands for an agent that was taken over: it plants a link, a FIFO or a
//! directory where root's commands look for a file, and a victim of root's must stay as it is.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
use postern_tests::postern::{Options, Postern, program};
use postern_tests::probe;
use postern_tests::service::Service;
use postern_tests::until::until;
use rustix::process::{Pid, Signal, kill_process};

/// What no command may print.
const SECRET: &str = "root:$6$secret-of-root";

/// A host whose agent has served, written everything that it keeps, and stopped.
struct Host {
    net: Net,
    postern: Postern,
    pristine: PathBuf,
}

/// A file of root's, as it was.
struct Victim {
    path: PathBuf,
    before: (String, u32, u32, u32, (i64, i64)),
}

impl Victim {
    fn new(path: PathBuf) -> Self {
        fs::write(&path, format!("{SECRET}\n")).expect("the victim");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("a mode");
        let before = Self::look(&path);
        Self { path, before }
    }

    fn look(path: &Path) -> (String, u32, u32, u32, (i64, i64)) {
        let meta = fs::metadata(path).expect("the victim");
        let text = fs::read_to_string(path).expect("the victim");
        (text, meta.uid(), meta.gid(), meta.mode(), (meta.mtime(), meta.mtime_nsec()))
    }

    fn is_as_before(&self) -> bool {
        Self::look(&self.path) == self.before
    }

    #[track_caller]
    fn is_unharmed(&self, after: &str) {
        assert_eq!(Self::look(&self.path), self.before, "{after}");
    }
}

impl Host {
    fn new() -> Self {
        let net = Net::pair();
        let mut postern = Postern::start(&net.server, Options::without_xdp());
        postern.grant(&["22/tcp"], &GRANTED.both(), 60).expect("a grant");
        postern.stop();
        let pristine = postern.file("pristine");
        copy(postern.state(), &pristine);
        Self { net, postern, pristine }
    }

    /// The state directory as the agent left it.
    fn restore(&self) {
        fs::remove_dir_all(self.postern.state()).expect("to remove the state directory");
        copy(&self.pristine, self.postern.state());
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.net.server.command(program());
        command.args(words).arg("--config").arg(self.postern.config());
        command
    }

    /// How a command of root's ends, which it does.
    #[track_caller]
    fn root(&self, words: &[&str]) -> Output {
        let mut command = self.command(words);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        ended(child.expect("posternd"), &words.join(" "))
    }

    /// Starts posternd and stops it again once it serves, unless it has ended before.
    fn serves_or_ends(&self, what: &str) {
        let log = fs::File::options().append(true).create(true).open(self.postern.file("log")).expect("the log");
        let mut child =
            self.command(&["run"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("posternd");
        until(what, || {
            let serves = self.postern.connect().is_ok_and(|client| client.who_am_i().is_ok());
            serves || child.try_wait().expect("its state").is_some()
        });
        signal(child.id(), Signal::TERM);
        ended(child, what);
    }

    fn is_open(&self) -> bool {
        let from = STRANGER.both()[0];
        probe::tcp_answers(&self.net.client, from, SocketAddr::new(SERVER.like(from), 22))
    }
}

/// Waits for a process, and kills it where it does not end.
#[track_caller]
fn ended(mut child: Child, what: &str) -> Output {
    let id = child.id();
    let guard = Kill(id);
    until(&format!("{what} ends"), || child.try_wait().expect("its state").is_some());
    std::mem::forget(guard);
    child.wait_with_output().expect("what it printed")
}

fn signal(process: u32, signal: Signal) {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process");
    let _ = kill_process(process, signal);
}

/// Kills a process that a failed wait leaves behind.
struct Kill(u32);

impl Drop for Kill {
    fn drop(&mut self) {
        signal(self.0, Signal::KILL);
    }
}

#[track_caller]
fn prints_nothing_secret(output: &Output, what: &str) {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(!String::from_utf8_lossy(&said).contains(SECRET), "{what} printed root's file");
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp");
    assert!(done.success(), "cp -a {} {}", from.display(), to.display());
}

/// Every name in the state directory that a command of root's may open, also those that are not there in between.
fn names(state: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![state.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the state directory").map(|entry| entry.expect("a name")) {
            if entry.file_type().expect("its kind").is_dir() {
                folders.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    let absent = [
        "host-id.new",
        "reserved-ports.new",
        "tls/key-and-certificate.pem.new",
        "journal.moving",
        "journal.jsonl",
        "journal.head",
        "journal.damaged-20261121T000000Z",
        "journal/00000000000000000099.jsonl",
        "journal/00000000000000000002.snapshot",
        "journal/00000000000000000002.new",
    ];
    found.extend(absent.iter().map(|name| state.join(name)));
    found.sort();
    found.dedup();
    found.into_iter().map(|path| path.strip_prefix(state).expect("below it").to_owned()).collect()
}

/// Puts something else in the place of `path`.
fn plant(kind: &str, path: &Path, victim: &Victim) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_dir_all(path);
    match kind {
        "symbolic link" => symlink(&victim.path, path).expect("a link"),
        // Where fs.protected_hardlinks is 0 the agent's user can do this too.
        "hard link" => fs::hard_link(&victim.path, path).expect("a link"),
        "fifo" => assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success()),
        "terminal" => symlink("/dev/tty", path).expect("a link"),
        other => unreachable!("{other}"),
    }
}

#[test]
fn a_link_or_a_fifo_in_the_place_of_each_file_harms_nothing_and_delays_nothing() {
    let host = Host::new();
    let mut harm = Vec::new();
    for kind in ["symbolic link", "hard link", "fifo", "terminal"] {
        for name in names(&host.pristine) {
            host.restore();
            let victim = Victim::new(host.postern.file("victim"));
            plant(kind, &host.postern.state().join(&name), &victim);
            for words in [&["check-config"][..], &["audit", "export"], &["unlock"]] {
                let what = format!("{} with a {kind} in the place of {}", words.join(" "), name.display());
                let output = host.root(words);
                prints_nothing_secret(&output, &what);
                if !victim.is_as_before() {
                    harm.push(format!("{what}: root's file was changed"));
                }
                if words == ["unlock"] && !output.status.success() {
                    let said = String::from_utf8_lossy(&output.stderr).into_owned();
                    harm.push(format!("{what}: root is locked out: {said}"));
                }
            }
            fs::remove_file(&victim.path).expect("to remove the victim");
        }
    }
    assert!(harm.is_empty(), "{}", harm.join("\n"));
}

#[test]
fn a_start_follows_no_link_and_hands_no_file_of_roots_over() {
    let host = Host::new();
    let victim = Victim::new(host.postern.file("victim"));
    for kind in ["symbolic link", "hard link", "fifo"] {
        for name in
            ["lock", "host-id", "reserved-ports", "tls", "tls/key-and-certificate.pem", "journal", "journal/head"]
        {
            let what = format!("a start with a {kind} in the place of {name}");
            host.restore();
            plant(kind, &host.postern.state().join(name), &victim);
            host.serves_or_ends(&what);
            victim.is_unharmed(&what);
        }
    }
    assert!(!host.postern.log().contains(SECRET), "the log has root's file");
}

#[test]
fn a_directory_that_is_exchanged_meanwhile_leads_root_nowhere() {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    let host = Host::new();
    let state = host.postern.state().to_owned();
    let elsewhere = host.postern.file("roots");
    fs::create_dir(&elsewhere).expect("a directory of root's");
    let victim = Victim::new(elsewhere.join("shadow"));
    let journal = Victim::new(elsewhere.join("00000000000000000001.jsonl"));
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).expect("a mode");
    let owner = fs::metadata(&state).expect("the state directory");
    let (over, still) = (AtomicBool::new(false), Mutex::new(()));
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let _still = still.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = renameat_with(CWD, state.join("journal"), CWD, state.join("evil"), RenameFlags::EXCHANGE);
            }
        });
        let stop = Stop(&over);
        for _ in 0..40 {
            {
                let _still = still.lock().unwrap_or_else(PoisonError::into_inner);
                host.restore();
                symlink(&elsewhere, state.join("evil")).expect("a link");
                lchown(state.join("evil"), Some(owner.uid()), Some(owner.gid())).expect("an owner");
            }
            for words in [&["audit", "export"][..], &["unlock"]] {
                prints_nothing_secret(&host.root(words), "a race");
            }
        }
        drop(stop);
    });
    victim.is_unharmed("a race");
    journal.is_unharmed("a race");
    let names = fs::read_dir(&elsewhere).expect("root's directory").count();
    assert_eq!(names, 2, "root made files there");
}

/// Ends the other thread, also where a check fails.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_hostile_state_directory_does_not_lock_root_out() {
    let host = Host::new();
    let _service = Service::tcp_echo(&host.net.server, "[::]:22".parse().expect("an address"));
    assert!(!host.is_open(), "closed while posternd is stopped");
    let victim = Victim::new(host.postern.file("victim"));
    let state = host.postern.state();
    plant("symbolic link", &state.join("journal"), &victim);
    plant("fifo", &state.join("lock"), &victim);
    plant("fifo", &state.join("reserved-ports"), &victim);
    let output = host.root(&["unlock"]);
    assert!(output.status.success() && host.is_open(), "{output:?}");
    // The record that the journal cannot take is on standard error.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let record = said.lines().find_map(|line| line.strip_prefix("RECORD")?.split_once("): ").map(|(_, json)| json));
    let record: serde_json::Value = serde_json::from_str(record.expect("a record")).expect("JSON");
    assert_eq!(record["event"], "unlocked", "{said}");
    victim.is_unharmed("unlock");
}

/// Files of zeros take no room on the disk.
#[test]
fn a_file_without_end_takes_neither_memory_nor_time_of_roots() {
    const MEMORY: &str = "--as=2147483648";
    const LENGTH: u64 = 1 << 38;
    let host = Host::new();
    let within = |words: &[&str]| {
        let mut command = host.net.server.command("prlimit");
        command.arg(MEMORY).arg(program()).args(words).arg("--config").arg(host.postern.config());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("prlimit")
    };
    let places = ["host-id", "reserved-ports", "tls/key-and-certificate.pem", "journal/head"];
    let files = ["journal/00000000000000000001.jsonl", "journal/00000000000000000009.snapshot"];
    for what in places.into_iter().chain(files) {
        host.restore();
        let file = host.postern.state().join(what);
        let planted = fs::File::options().write(true).create(true).truncate(false).open(&file).expect("to plant it");
        planted.set_len(LENGTH).expect("a file of zeros");
        let exported = ended(within(&["audit", "export"]), what);
        assert!(exported.status.code().is_some(), "{what}: {exported:?}");
        // A start goes on without what it cannot use, and serves root.
        let child = within(&["run"]);
        let id = child.id();
        until(what, || host.postern.connect().is_ok_and(|client| client.who_am_i().is_ok()));
        signal(id, Signal::TERM);
        ended(child, what);
        planted.set_len(LENGTH).expect("a file of zeros");
        let unlocked = ended(within(&["unlock"]), what);
        assert!(unlocked.status.success(), "{what}: {unlocked:?}");
    }
}

#[test]
fn what_root_does_in_the_state_directory_is_the_owners_afterwards() {
    let host = Host::new();
    let owner = fs::metadata(host.postern.state()).expect("the state directory").uid();
    assert_ne!(owner, 0);
    assert!(host.root(&["unlock"]).status.success());
    for name in names(host.postern.state()) {
        if let Ok(found) = fs::symlink_metadata(host.postern.state().join(&name)) {
            assert_eq!(found.uid(), owner, "{}", name.display());
        }
    }
    assert!(host.postern.journal().lines().last().expect("a line").contains("\"event\":\"unlocked\""));
    let exported = host.root(&["audit", "export"]);
    assert!(exported.status.success(), "{exported:?}");
    assert_eq!(String::from_utf8_lossy(&exported.stdout), host.postern.journal());
}

#[test]
fn a_fifo_in_the_place_of_roots_own_files_delays_nothing() {
    let host = Host::new();
    let victim = Victim::new(host.postern.file("victim"));
    let trust = host.postern.file("allowed_signers");
    let kept = fs::read(&trust).expect("the trust file");
    plant("fifo", &trust, &victim);
    for words in [
        &["check-config"][..],
        &["explain", "--principal", "alice@example.com", "--port", "22/tcp", "--source", "10.1.0.10/32"],
    ] {
        assert!(!host.root(words).status.success(), "{words:?}");
    }
    plant("hard link", &trust, &victim);
    fs::remove_file(&trust).expect("to remove it");
    fs::write(&trust, kept).expect("the trust file");
    plant("fifo", &host.postern.config(), &victim);
    for words in [&["check-config"][..], &["early"], &["audit", "export"]] {
        assert!(!host.root(words).status.success(), "{words:?}");
    }
    // It goes by the last good copy, which is root's.
    assert!(host.root(&["unlock"]).status.success());
    // Somebody else's file counts for nothing, whatever it says.
    fs::remove_file(host.postern.config()).expect("to remove it");
    fs::write(host.postern.config(), "").expect("a configuration");
    chown(host.postern.config(), Some(65534), None).expect("an owner");
    assert_eq!(host.root(&["check-config"]).status.code(), Some(78));
}

#[test]
fn check_config_names_a_directory_in_which_others_may_replace_roots_files() {
    let host = Host::new();
    let warned = || {
        let output = host.root(&["check-config", "--json"]);
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        said["warnings"]
            .as_array()
            .expect("warnings")
            .iter()
            .any(|text| text.to_string().contains("others than root can replace files"))
    };
    let folder = host.postern.file("");
    let permit = |mode| fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).expect("a mode");
    assert!(!warned());
    permit(0o733);
    assert!(warned(), "everybody may write there");
    permit(0o711);
    chown(&folder, Some(65534), None).expect("an owner");
    assert!(warned(), "the file belongs to another user");
    chown(&folder, Some(0), None).expect("an owner");
}
