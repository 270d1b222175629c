//! A person's machine: the real `postern` with a home directory of its own, in a test's namespace.
//!
//! Owns that home, and how a run ended. It never replaces any part of the client.

use crate::net::SERVER;
use crate::netns::Netns;
use crate::postern::{self, Postern};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A laptop with `postern` on it.
#[derive(Debug)]
pub struct Laptop {
    namespace: Netns,
    home: TempDir,
    key: PathBuf,
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

impl Laptop {
    /// In `namespace`, with Alice's key; `vm1.test` is the server in both families.
    ///
    /// # Panics
    /// Where the disk refuses.
    #[must_use]
    pub fn new(namespace: &Netns, postern: &Postern) -> Self {
        let home = tempfile::tempdir().expect("a directory");
        let hosts =
            ["127.0.0.1 localhost".to_owned()].into_iter().chain(SERVER.both().map(|a| format!("{a} vm1.test")));
        fs::write(home.path().join("hosts"), hosts.collect::<Vec<_>>().join("\n")).expect("the hosts file");
        Self { namespace: namespace.clone(), home, key: postern.alice.path().to_owned() }
    }

    /// Its home directory, empty at first but for its hosts file.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The command with a home of its own.
    fn command(&self, arguments: &[&str]) -> Command {
        let program = postern::program().with_file_name("postern");
        assert!(program.exists(), "{} is missing: cargo build makes it", program.display());
        let mut command = self.namespace.command("unshare");
        command.args(["--mount", "sh", "-euc", "mount --bind \"$HOSTS\" /etc/hosts; exec \"$0\" \"$@\""]).arg(program);
        command.args(arguments).env("HOSTS", self.home.path().join("hosts")).env("HOME", self.home.path());
        command.env_remove("XDG_CONFIG_HOME").env_remove("SSH_AUTH_SOCK").stdin(Stdio::null());
        command
    }

    /// Runs `postern` with these arguments and no terminal.
    ///
    /// # Panics
    /// Where it does not start.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Run {
        let output = self.command(arguments).output().expect("to run postern");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// With the key, JSON, and a pin at first use.
    #[must_use]
    pub fn postern(&self, arguments: &[&str]) -> Run {
        let key = self.key.display().to_string();
        self.run(&[arguments, &["--json", "--accept-new", "--key", &key]].concat())
    }
}
