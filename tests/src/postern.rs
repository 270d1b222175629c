//! A real posternd in a test's namespace: configured, started, killed, restarted, and shown when a test fails.
//!
//! Never replaces any part of it. Owns its directories, its process and its pins, and removes all three.

use crate::client::Client;
use crate::keys::Key;
use crate::netns::Netns;
pub use crate::options::{ADMIN, ALICE, AUDIENCE, Options, ROLES, USER, port};
use crate::pins::{self, Pins};
use crate::request::{self, Access};
use crate::strace::{self, Fault, Scope, Tracer};
use crate::until::{PATIENCE, find, patience, within};
use crate::{journal, sys};
use postern_proto::v1::Grant;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A posternd and its files. Dropping it kills the process and opens what it closed.
#[derive(Debug)]
pub struct Postern {
    // Dropped in this order: the process is gone before its pins and files are.
    process: Option<Child>,
    pins: Pins,
    namespace: Netns,
    watchdog: Option<Duration>,
    notify: Option<PathBuf>,
    run_systemd: Option<PathBuf>,
    wrapper: Vec<String>,
    program: PathBuf,
    state: PathBuf,
    /// Alice's key.
    pub alice: Key,
    /// The administrator's key.
    pub admin: Key,
    directory: TempDir,
}

impl Postern {
    /// Writes configuration, trust file and keys, starts posternd in `namespace`, and waits until it answers.
    ///
    /// # Panics
    /// Where it does not start; the message holds what it logged.
    #[must_use]
    pub fn start(namespace: &Netns, options: Options) -> Self {
        let mut this = Self::prepare(namespace, options, Pins::new());
        this.launch();
        this
    }

    /// As [`Postern::start`], with its pins in this directory, which may be there already.
    ///
    /// # Panics
    /// As [`Postern::start`].
    #[must_use]
    pub fn start_pinned(namespace: &Netns, options: Options, pins: PathBuf) -> Self {
        let mut this = Self::prepare(namespace, options, Pins::at(pins));
        this.launch();
        this
    }

    /// Configuration, trust file and keys, and no posternd yet.
    ///
    /// # Panics
    /// Where the disk refuses.
    #[must_use]
    pub fn prepared(namespace: &Netns, options: Options) -> Self {
        Self::prepare(namespace, options, Pins::new())
    }

    fn prepare(namespace: &Netns, options: Options, pins: Pins) -> Self {
        let directory = pins::directory();
        let (alice, admin) = (Key::new(directory.path(), "alice"), Key::new(directory.path(), "admin"));
        let (namespace, watchdog) = (namespace.clone(), options.watchdog);
        let (run_systemd, notify) = (options.run_systemd.clone(), options.notify.clone());
        let wrapper = options.wrapper.clone();
        let state = options.state.clone().unwrap_or_else(|| directory.path().join("state"));
        let (process, program) = (None, program());
        let this = Self {
            process,
            pins,
            namespace,
            watchdog,
            notify,
            run_systemd,
            wrapper,
            program,
            state,
            alice,
            admin,
            directory,
        };
        let trust = format!(
            "{ALICE} namespaces=\"request@postern.v1,revoke@postern.v1,read@postern.v1\" {}\n\
             {ADMIN} namespaces=\"revoke@postern.v1,read@postern.v1,admin@postern.v1\" {}\n",
            this.alice.public(),
            this.admin.public()
        );
        fs::write(this.file("allowed_signers"), trust).expect("the trust file");
        this.configure(&options);
        this
    }

    /// Writes another configuration; posternd reads it at its next start or on [`Postern::reload`].
    ///
    /// # Panics
    /// Where the disk refuses.
    pub fn configure(&self, options: &Options) {
        let Options {
            xdp,
            rules,
            tcp,
            plaintext,
            clock,
            limits,
            extra,
            user,
            watchdog: _,
            notify: _,
            run_systemd: _,
            state: _,
            wrapper: _,
        } = options;
        let text = format!(
            "names = [\"{AUDIENCE}\"]\nstate_dir = {:?}\ntrust_file = {:?}\npin_dir = {:?}\nuser = {user:?}\nxdp = {xdp}\n{extra}\n\
             [limits]\n{limits}\n[clock]\nunsynchronised = {clock:?}\n[api]\nunix = {:?}\ntcp = {tcp:?}\nplaintext = {plaintext:?}\n{rules}",
            self.state,
            self.file("allowed_signers"),
            self.pins.path(),
            self.socket()
        );
        fs::write(self.config(), text).expect("the configuration");
    }

    /// Starts posternd again after [`Postern::kill`] or [`Postern::stop`], and waits until it answers.
    ///
    /// # Panics
    /// Where it does not.
    pub fn launch(&mut self) {
        let wrapper = self.wrapper.clone();
        self.spawn(&wrapper);
        self.wait_until_ready();
    }

    /// Starts posternd and waits for nothing: for where its socket lies elsewhere.
    ///
    /// # Panics
    /// Where it runs already.
    pub fn launch_unseen(&mut self) {
        self.spawn(&[]);
    }

    /// As [`Postern::launch`], with faults at its system calls from the first one on. `None` when it answers, which leaves
    /// the faults where they are; else how it ended.
    ///
    /// # Panics
    /// Where it neither ends nor answers.
    pub fn launch_with(&mut self, faults: &[Fault]) -> Option<ExitStatus> {
        self.spawn(&strace::wrapper(faults, &self.file("strace")));
        let ended = find(|| match (self.answers(), self.ended()) {
            (true, _) => Ok(None),
            (false, Some(status)) => Ok(Some(status)),
            (false, None) => Err(format!("posternd neither ends nor answers:\n{}", self.log())),
        });
        if ended.is_some() {
            self.process = None;
        }
        ended
    }

    /// Starts the process, behind a `wrapper`'s words if there are any.
    fn spawn(&mut self, wrapper: &[String]) {
        assert!(self.process.is_none(), "posternd runs already");
        let log = File::options().create(true).append(true).open(self.file("log")).expect("the log");
        let own = [self.program.clone().into_os_string()];
        let words: Vec<OsString> = wrapper.iter().map(OsString::from).chain(own).collect();
        let mut command = match &self.run_systemd {
            None => self.namespace.command(&words[0]),
            Some(folder) => {
                let mut command = self.namespace.command("unshare");
                let seen = "mount --bind \"$0\" /run/systemd && exec \"$@\"";
                command.args(["--mount", "--propagation", "slave", "sh", "-c", seen]).arg(folder).arg(&words[0]);
                command
            }
        };
        command.args(&words[1..]);
        if let Some(notify) = &self.notify {
            command.env("NOTIFY_SOCKET", notify);
        }
        if let Some(watchdog) = self.watchdog {
            command.env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        }
        let child = command
            .args(["run", "--config"])
            .arg(self.config())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()));
        self.process = Some(child);
    }

    fn answers(&self) -> bool {
        self.try_client().is_some_and(|client| client.who_am_i().is_ok())
    }

    /// How the process ended, if it did.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(|child| child.try_wait().expect("its state"))
    }

    /// Whether posternd was killed (SIGKILL), or has ended itself because its helper was.
    #[must_use]
    pub fn is_crash(&self, status: ExitStatus) -> bool {
        let lost_helper = || self.log().lines().last().is_some_and(|line| line.contains("the helper has ended"));
        status.signal() == Some(libc::SIGKILL) || status.signal() == Some(libc::SIGABRT) && lost_helper()
    }

    /// Whether posternd has crashed, now or within `patience`.
    ///
    /// # Panics
    /// Where it ended otherwise.
    pub fn has_crashed(&mut self, patience: Duration) -> bool {
        let mut ended = None;
        let _ = within(patience, || {
            ended = self.ended();
            ended.is_some()
        });
        let Some(status) = ended else { return false };
        assert!(self.is_crash(status), "posternd ended by itself ({status}):\n{}", self.log());
        self.process = None;
        true
    }

    /// Whether a posternd is there, as far as the test has been told.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Puts faults at the system calls of the running posternd; dropping what this returns takes them away.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn trace(&self, scope: Scope<'_>, faults: &[Fault]) -> Tracer {
        Tracer::attach(self.pid(), scope, faults, &self.file("strace"))
    }

    /// Has every later start run a fresh copy of the program, as an upgrade that changes nothing would.
    ///
    /// # Panics
    /// Where the disk refuses.
    pub fn upgrade(&mut self) {
        let (fresh, place) = (self.file("posternd.new"), self.file("posternd"));
        fs::copy(program(), &fresh).expect("a copy");
        fs::rename(fresh, &place).expect("to put it in place");
        self.program = place;
    }

    /// What the journal says, line by line, also while a crash has left it with half a line at its end.
    ///
    /// # Panics
    /// As [`journal::lines`].
    #[must_use]
    pub fn on_disk(&self) -> Vec<serde_json::Value> {
        journal::lines(&self.state)
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> &std::path::Path {
        &self.state
    }

    fn wait_until_ready(&mut self) {
        find(|| {
            if self.answers() {
                return Ok(());
            }
            let ended = self.ended();
            assert!(ended.is_none(), "posternd ended ({}):\n{}", ended.expect("its end"), self.log());
            Err(format!("posternd does not answer:\n{}", self.log()))
        });
    }

    /// Kills posternd with SIGKILL and waits until it is gone. What it put into the kernel stays.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn kill(&mut self) {
        let mut child = self.process.take().expect("posternd runs");
        child.kill().expect("to kill posternd");
        child.wait().expect("its end");
    }

    /// Asks posternd to stop with SIGTERM and waits for its end.
    ///
    /// # Panics
    /// Where it does not run, or does not end.
    pub fn stop(&mut self) -> ExitStatus {
        let mut child = self.process.take().expect("posternd runs");
        sys::signal(child.id(), libc::SIGTERM).expect("to signal posternd");
        let mut ended = None;
        let _ = within(patience(PATIENCE), || {
            ended = child.try_wait().expect("its state");
            ended.is_some()
        });
        ended.unwrap_or_else(|| {
            let _ = child.kill();
            panic!("posternd does not stop after {:?}:\n{}", patience(PATIENCE), self.log());
        })
    }

    /// Tells posternd to read its configuration again (SIGHUP). When it has, only its answers tell.
    ///
    /// # Panics
    /// Where it does not run.
    pub fn reload(&self) {
        sys::signal(self.pid(), libc::SIGHUP).expect("to signal posternd");
    }

    /// Its process id.
    ///
    /// # Panics
    /// Where it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("posternd runs").id()
    }

    /// A connection to its Unix socket, as root.
    ///
    /// # Panics
    /// Where it does not answer.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::unix(&self.socket()).expect("posternd's socket")
    }

    /// As [`Postern::client`], for when posternd may die at any moment.
    ///
    /// # Errors
    /// `Unavailable` where it does not answer.
    pub fn connect(&self) -> Result<Client, tonic::Status> {
        Client::unix(&self.socket()).map_err(|error| tonic::Status::unavailable(error.to_string()))
    }

    fn try_client(&self) -> Option<Client> {
        self.socket().exists().then(|| Client::unix(&self.socket()).ok()).flatten()
    }

    /// Asks for access in Alice's name.
    ///
    /// # Errors
    /// The refusal.
    pub fn grant(&self, ports: &[&str], sources: &[IpAddr], seconds: u64) -> Result<Grant, tonic::Status> {
        self.client().request(Access::new(AUDIENCE, ports, sources, seconds).seal(&self.alice))
    }

    /// Ends a grant in Alice's name.
    ///
    /// # Errors
    /// The refusal.
    pub fn revoke(&self, grant: &str) -> Result<Grant, tonic::Status> {
        self.client().revoke(request::revoke(&self.alice, AUDIENCE, grant))
    }

    /// The names of what posternd has pinned to keep ports closed: `lock`, `cut-ingress`, `cut-egress`, `layout`. What
    /// marks the host's own connections (`connect…`, `map-…`) closes nothing and is left out.
    #[must_use]
    pub fn pinned(&self) -> Vec<String> {
        let closes = |name: &String| !name.starts_with("connect") && !name.starts_with("map-");
        self.pins.names().into_iter().filter(closes).collect()
    }

    /// The directory of its pins.
    #[must_use]
    pub fn pin_dir(&self) -> &std::path::Path {
        self.pins.path()
    }

    /// Detaches every layer whose pin's name starts with `layer`, as `bpftool link detach` would. A posternd that runs
    /// sees it and brings the layer back; while it is dead the layer stays lost.
    ///
    /// # Panics
    /// Where there is no such layer, or it is detached already.
    pub fn detach(&self, layer: &str) {
        let names: Vec<_> = self.pinned().into_iter().filter(|name| name.starts_with(layer)).collect();
        assert!(!names.is_empty(), "nothing pinned as {layer}: {:?}", self.pinned());
        names.iter().for_each(|name| self.pins.detach(name));
    }

    /// A file beside the configuration.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.file("postern.toml")
    }

    /// The Unix socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.file("posternd.sock")
    }

    /// The journal's segments, the oldest first.
    ///
    /// # Panics
    /// Where there is no journal.
    #[must_use]
    pub fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.file("state/journal")).expect("the journal");
        let paths = entries.map(|entry| entry.expect("its name").path());
        let mut found: Vec<_> = paths.filter(|path| path.extension().is_some_and(|end| end == "jsonl")).collect();
        found.sort();
        found
    }

    /// All lines of the journal.
    ///
    /// # Panics
    /// Where there is no journal.
    #[must_use]
    pub fn journal(&self) -> String {
        self.segments().iter().map(|path| fs::read_to_string(path).expect("a segment")).collect()
    }

    /// Everything that posternd has logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }
}

impl Drop for Postern {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- posternd's log\n{}---", self.log());
        }
    }
}

/// The posternd to test: `$POSTERND`, or the one that the workspace's build put beside the tests.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("POSTERND") {
        return path.into();
    }
    // Cargo puts tests a folder deeper than programs.
    let own = std::env::current_exe().expect("this program");
    let mut places = own.ancestors().skip(1).take(2).map(|folder| folder.join("posternd"));
    let path = places.find(|path| path.exists());
    path.expect("posternd beside the tests: `cargo build --package postern-agent` makes it")
}
