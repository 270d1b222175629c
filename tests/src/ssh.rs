//! A real sshd and a real ssh between two namespaces.
//!
//! Owns the server's keys and configuration and both processes. It never replaces a part of OpenSSH.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::keys::Key;
use crate::netns::Netns;
use crate::until::{PATIENCE, find};

/// A running sshd; it ends when dropped.
#[derive(Debug)]
pub struct Sshd {
    process: Child,
    user: Key,
    directory: TempDir,
}

impl Sshd {
    /// Starts sshd on port 22 of every address in `namespace`.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn start(namespace: &Netns) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (host, user) = (Key::new(directory.path(), "host"), Key::new(directory.path(), "user"));
        let file = |name: &str| directory.path().join(name).display().to_string();
        fs::write(file("authorized_keys"), format!("{}\n", user.public())).expect("the authorized keys");
        let config = format!(
            "Port 22\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PermitRootLogin prohibit-password\nClientAliveInterval 0\nTCPKeepAlive no\n",
            host.path().display(),
            file("authorized_keys"),
        );
        fs::write(file("sshd_config"), config).expect("the configuration");
        // Where sshd's unprivileged half lives; systemd makes it on a host.
        fs::create_dir_all("/run/sshd").expect("/run/sshd");
        let log = fs::File::create(file("log")).expect("the log");
        let mut command = namespace.command("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(file("sshd_config")).stdin(Stdio::null());
        let process = command.stdout(Stdio::null()).stderr(log).spawn().expect("sshd (cargo xtask setup installs it)");
        let this = Self { process, user, directory };
        find(|| {
            let log = this.log();
            if log.contains("listening on ::") { Ok(()) } else { Err(format!("sshd does not listen:\n{log}")) }
        });
        this
    }

    /// The key that may log in as root.
    #[must_use]
    pub const fn user(&self) -> &Key {
        &self.user
    }

    /// What sshd logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Logs in from one of `namespace`'s addresses and has the server say `tick` every 50 ms.
    ///
    /// # Panics
    /// Where ssh cannot be started.
    #[must_use]
    pub fn session(&self, namespace: &Netns, from: IpAddr, to: IpAddr) -> Session {
        self.started(namespace, (from, to), &[], &["while echo tick; do sleep 0.05; done"])
    }

    /// Logs in from one of `namespace`'s addresses and forwards what `ssh -L` takes, until it is dropped.
    ///
    /// # Panics
    /// Where ssh cannot be started.
    #[must_use]
    pub fn forward(&self, namespace: &Netns, (from, to): (IpAddr, IpAddr), forwards: &[&str]) -> Session {
        let forwards = forwards.iter().flat_map(|forward| ["-L", forward]);
        let options: Vec<_> = ["-N", "-o", "ExitOnForwardFailure=yes"].into_iter().chain(forwards).collect();
        self.started(namespace, (from, to), &options, &[])
    }

    fn started(&self, namespace: &Netns, (from, to): (IpAddr, IpAddr), options: &[&str], run: &[&str]) -> Session {
        let mut command = namespace.command("ssh");
        let quiet = ["BatchMode=yes", "IdentitiesOnly=yes", "ConnectTimeout=10", "LogLevel=ERROR"];
        let unknown = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"];
        command.args(["-F", "none", "-T"]).args(quiet.iter().chain(&unknown).flat_map(|option| ["-o", option]));
        command.args(options).arg("-i").arg(self.user.path());
        command.args(["-b", &from.to_string(), &format!("root@{to}")]).args(run);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let log = self.directory.path().join(format!("ssh-{from}"));
        command.stderr(fs::File::create(&log).expect("the log"));
        let mut process = command.spawn().expect("ssh");
        let lines = lines(process.stdout.take().expect("a pipe"));
        Session { process, lines, log }
    }
}

fn lines(output: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- sshd's log\n{}---", self.log());
        }
    }
}

/// A logged-in ssh; it is killed when dropped.
#[derive(Debug)]
pub struct Session {
    process: Child,
    lines: Receiver<String>,
    log: PathBuf,
}

impl Session {
    /// Waits for the server's next line: false when none comes within `patience` or the session is over.
    #[must_use]
    pub fn ticks(&self, patience: Duration) -> bool {
        self.lines.recv_timeout(patience).is_ok()
    }

    /// Reads lines until the server has said nothing for `quiet`.
    ///
    /// # Panics
    /// Where the server does not stop talking.
    pub fn until_silent(&self, quiet: Duration) {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(quiet) {
                Ok(_) => assert!(Instant::now() < end, "the session goes on"),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// How ssh ended, if it has.
    ///
    /// # Panics
    /// Where the process cannot be asked.
    #[must_use]
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().expect("its state")
    }

    /// Waits until ssh has ended by itself.
    ///
    /// # Panics
    /// Where it goes on.
    #[must_use]
    pub fn wait(&mut self) -> ExitStatus {
        find(|| self.ended().ok_or_else(|| format!("ssh does not end:\n{}", self.errors())))
    }

    /// What ssh complained about.
    #[must_use]
    pub fn errors(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
