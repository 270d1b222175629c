//! A person's machine: the real `postern` with a home directory of its own, in a test's namespace.
//!
//! Owns that home, and how a run ended. It never replaces any part of the client.

use crate::keys::Key;
use crate::net::{Net, SERVER};
use crate::netns::Netns;
use crate::postern::{self, Options, Postern};
use crate::sys;
use crate::terminal::Terminal;
use crate::until;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

/// A laptop with `postern` on it.
#[derive(Debug)]
pub struct Laptop {
    namespace: Netns,
    home: TempDir,
    key: PathBuf,
    read_only: bool,
    environment: Vec<(String, OsString)>,
}

/// How a run ended.
#[derive(Debug)]
pub struct Run {
    /// The exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Run {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// Where it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("no JSON: {}{}", self.out, self.err))
    }

    /// The error that was told.
    ///
    /// # Panics
    /// Where none was.
    #[must_use]
    pub fn error(&self) -> Value {
        let errors = self.err.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        errors
            .map(|line| line["error"].clone())
            .find(Value::is_object)
            .unwrap_or_else(|| panic!("no error: {}", self.err))
    }
}

/// A `postern` that runs; it is killed when dropped.
#[derive(Debug)]
pub struct Running(Option<Child>);

impl Running {
    /// Whether it still runs.
    ///
    /// # Panics
    /// Where it cannot be asked.
    #[must_use]
    pub fn runs(&mut self) -> bool {
        self.0.as_mut().is_some_and(|child| child.try_wait().expect("its state").is_none())
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// Where it is gone.
    pub fn signal(&self, signal: i32) {
        let child = self.0.as_ref().expect("a process");
        until("postern handles the signal", || handles(child.id(), signal));
        sys::signal(child.id(), signal).expect("to signal postern");
    }

    /// How it ended, once it has.
    ///
    /// # Panics
    /// Where it cannot be waited for.
    #[must_use]
    pub fn wait(mut self) -> Run {
        Run::of(self.0.take().expect("a process").wait_with_output().expect("its end"))
    }
}

/// A host that proves itself by the keys in `keys`, and a laptop that knows nothing yet.
///
/// # Panics
/// Where one of them does not start.
#[must_use]
pub fn beside_a_host(keys: &Path, options: Options) -> (Net, Postern, Laptop) {
    let net = Net::pair();
    let extra = format!("ssh_host_keys = {keys:?}");
    let postern = Postern::start(&net.server, Options { extra, ..options });
    let laptop = Laptop::new(&net.client, &postern);
    (net, postern, laptop)
}

/// Whether the process has a handler for the signal (`SigCgt` in proc(5)). Before that a signal ends the process, or is lost where
/// the tests were started with the signal ignored.
fn handles(process: u32, signal: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
    u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask >> (signal - 1) & 1 == 1)
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Laptop {
    /// In `namespace`, with Alice's key; `vm1.test` is the server in both families.
    ///
    /// # Panics
    /// Where the disk refuses.
    #[must_use]
    pub fn new(namespace: &Netns, postern: &Postern) -> Self {
        Self::of(namespace, &postern.alice)
    }

    /// As [`Laptop::new`], with the key of another person.
    ///
    /// # Panics
    /// Where the disk refuses.
    #[must_use]
    pub fn of(namespace: &Netns, key: &Key) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let hosts =
            ["127.0.0.1 localhost".to_owned()].into_iter().chain(SERVER.both().map(|a| format!("{a} vm1.test")));
        fs::write(home.path().join("hosts"), hosts.collect::<Vec<_>>().join("\n")).expect("the hosts file");
        fs::write(home.path().join("passwd"), passwd(home.path())).expect("the list of users");
        Self {
            namespace: namespace.clone(),
            home,
            key: key.path().to_owned(),
            read_only: false,
            environment: Vec::new(),
        }
    }

    /// Its home directory, empty at first but for its hosts file.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Carries it into another network.
    pub fn move_to(&mut self, namespace: &Netns) {
        self.namespace = namespace.clone();
    }

    /// From now on the client finds its home directory on a disk that takes no writes.
    pub fn make_home_read_only(&mut self) {
        self.read_only = true;
    }

    /// Has `vm1.test` resolve to these addresses from now on.
    ///
    /// # Panics
    /// Where the disk refuses.
    pub fn resolve(&self, addresses: &[IpAddr]) {
        let lines: Vec<_> = addresses.iter().map(|address| format!("{address} vm1.test")).collect();
        fs::write(self.home.path().join("hosts"), lines.join("\n") + "\n").expect("the hosts file");
    }

    /// Sets a variable of the environment that its programs get from now on.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.push((name.to_owned(), value.into()));
    }

    /// The file with its person's private key.
    #[must_use]
    pub fn key(&self) -> &Path {
        &self.key
    }

    /// Runs `postern` with these arguments at the end of a shell script, which changes what surrounds the program: variables, mounts,
    /// the user. `$HOME` is this home at its beginning, `"$0"` the program and `"$@"` the arguments.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn run_after(&self, script: &str, arguments: &[&str]) -> Run {
        Run::of(self.scripted(script, client(), arguments).output().expect("to run postern"))
    }

    /// The command with a home of its own.
    fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(client(), arguments)
    }

    /// Any program with that home.
    fn command_of(&self, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        self.scripted(":", program, arguments)
    }

    fn scripted(&self, script: &str, program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
        let mut command = self.namespace.command("unshare");
        let own = "for file in hosts passwd; do mount --bind \"$HOME/$file\" /etc/$file; done";
        let locked = "mount --bind \"$HOME\" \"$HOME\"; mount -o remount,bind,ro \"$HOME\"";
        let own = format!("{own}; {}; {script}; exec \"$0\" \"$@\"", if self.read_only { locked } else { ":" });
        command.args(["--mount", "sh", "-euc", &own]).arg(program);
        command.args(arguments).env("HOME", self.home.path());
        for other in ["XDG_CONFIG_HOME", "XDG_STATE_HOME", "SSH_AUTH_SOCK"] {
            command.env_remove(other);
        }
        command.stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs another program of the person's, such as `ssh`, with the same home and the same names.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn program(&self, program: &str, arguments: &[&str]) -> Run {
        Run::of(self.command_of(program, arguments).output().expect("to run a program"))
    }

    /// Runs `postern` with these arguments and no terminal.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Run {
        Run::of(self.command(arguments).output().expect("to run postern"))
    }

    /// Starts what [`Laptop::postern`] would run, and goes on meanwhile.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start(&self, arguments: &[&str]) -> Running {
        let key = self.key.display().to_string();
        let mut command = self.command(&[arguments, &["--json", "--accept-new", "--key", &key]].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("to run postern");
        Running(Some(child))
    }

    /// Runs `postern` with these arguments at `terminal`: questions appear there, and what is typed there answers them.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start_at(&self, terminal: &Terminal, arguments: &[&str]) -> Running {
        let mut command = self.command(arguments);
        command.stdin(terminal.end()).stderr(terminal.end()).stdout(Stdio::piped());
        Running(Some(command.spawn().expect("to run postern")))
    }

    /// With the key, JSON, and a pin at first use.
    #[must_use]
    pub fn postern(&self, arguments: &[&str]) -> Run {
        let key = self.key.display().to_string();
        self.run(&[arguments, &["--json", "--accept-new", "--key", &key]].concat())
    }
}

/// The `postern` to test, which lies beside posternd.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn client() -> PathBuf {
    let program = postern::program().with_file_name("postern");
    assert!(program.exists(), "{} is missing: cargo build makes it", program.display());
    program
}

/// The list of users with root's home elsewhere: ssh finds its files by it, and not by `HOME`.
fn passwd(home: &Path) -> String {
    let users = fs::read_to_string("/etc/passwd").expect("the list of users");
    let others = users.lines().filter(|line| !line.starts_with("root:")).map(|line| format!("{line}\n"));
    format!("root:x:0:0:root:{}:/bin/sh\n{}", home.display(), others.collect::<String>())
}
