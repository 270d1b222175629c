//! What the tests share: a home directory of their own, real OpenSSH tools, and the binary run in it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod peer;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use postern_proto::v1::SignedMessage;
use serde_json::Value;

/// A person's machine: `HOME` and configuration in a temporary directory, no agent unless one is started.
pub struct Home {
    directory: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A home with an ed25519 key, `key`.
    pub fn with_a_key() -> Self {
        let home = Self::new();
        home.keygen("key", &["-t", "ed25519"]);
        home
    }

    /// The binary under test, which is to sign with `key`.
    pub fn with_key(&self, arguments: &[&str]) -> Command {
        let mut command = self.postern(arguments);
        command.arg("--key").arg(self.path("key"));
        command
    }

    /// What the binary under test did, signing with `key`.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.with_key(arguments).output().unwrap()
    }

    /// `program` with this home and nobody else's agent.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env("HOME", self.directory.path())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env_remove("SSH_AUTH_SOCK")
            .env_remove("DISPLAY")
            .stdin(Stdio::null());
        command
    }

    /// The binary under test.
    pub fn postern(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_postern"));
        command.args(arguments);
        command
    }

    /// A new key pair by real ssh-keygen.
    pub fn keygen(&self, name: &str, arguments: &[&str]) -> PathBuf {
        let path = self.path(name);
        let mut command = self.command("ssh-keygen");
        command.args(["-q", "-C", name, "-f"]).arg(&path).args(arguments);
        if !arguments.contains(&"-N") {
            command.args(["-N", ""]);
        }
        succeed(&mut command);
        path
    }

    /// Asks real ssh-keygen whether it accepts a signature, under the principal "alice".
    pub fn verifies(&self, allowed_signers: &str, namespace: &str, message: &[u8], sshsig: &str) -> bool {
        let (allowed, signature) = (self.path("allowed_signers"), self.path("signature"));
        std::fs::write(&allowed, allowed_signers).unwrap();
        std::fs::write(&signature, sshsig).unwrap();
        let mut command = self.command("ssh-keygen");
        command.args(["-Y", "verify", "-I", "alice", "-n", namespace, "-f"]).arg(&allowed).arg("-s").arg(&signature);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(message).unwrap();
        child.wait().unwrap().success()
    }
}

/// A real ssh-agent, ended with the test.
pub struct Agent {
    child: Child,
    pub socket: PathBuf,
}

impl Agent {
    pub fn start(home: &Home) -> Self {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let socket = home.path(&format!("agent{}.sock", STARTED.fetch_add(1, Ordering::Relaxed)));
        let mut command = home.command("ssh-agent");
        // The agent lives as long as its command, and cat as long as this process holds the other end of the pipe, so
        // that none is left behind by a test that was killed.
        command.arg("-a").arg(&socket).arg("cat").stdin(Stdio::piped()).stdout(Stdio::null());
        let child = command.spawn().expect("ssh-agent");
        let agent = Self { child, socket };
        wait_for("the agent's socket", || agent.socket.exists());
        agent
    }

    pub fn add(&self, home: &Home, key: &Path) {
        succeed(home.command("ssh-add").arg("-q").arg(key).env("SSH_AUTH_SOCK", &self.socket));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a condition, at most ten seconds.
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
    output
}

/// A signed message as `postern sign` printed it: payload and armored signature.
pub struct Signed {
    pub payload: Vec<u8>,
    pub payload_type: String,
    pub sshsig: String,
}

impl Signed {
    pub fn from_output(output: &Output, field: &str) -> Self {
        let json: Value = serde_json::from_slice(&output.stdout).expect("JSON on standard output");
        let message = &json[field];
        let payload = BASE64_STANDARD.decode(message["payload"].as_str().expect("a payload")).expect("base64");
        let text = |value: &Value| value.as_str().expect("a string").to_owned();
        Self { payload, payload_type: text(&message["payloadType"]), sshsig: text(&message["signatures"][0]["sshsig"]) }
    }
}

/// What a message says that was sent to the double.
pub fn payload(message: &SignedMessage) -> Value {
    serde_json::from_slice(&message.payload).expect("a JSON payload")
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
