//! Keys and signatures by the real `ssh-keygen`.
//!
//! Never signs by itself: what a test sends is what OpenSSH made.

use postern_proto::v1::{Signature, SignedMessage};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// A key pair in a file, without a passphrase.
#[derive(Clone, Debug)]
pub struct Key {
    path: PathBuf,
}

impl Key {
    /// A new ed25519 key in `directory`.
    ///
    /// # Panics
    /// Where `ssh-keygen` fails.
    #[must_use]
    pub fn new(directory: &Path, name: &str) -> Self {
        Self::of_type(directory, name, &["-t", "ed25519"])
    }

    /// A new key of the type that these arguments of `ssh-keygen` name.
    ///
    /// # Panics
    /// Where `ssh-keygen` fails.
    #[must_use]
    pub fn of_type(directory: &Path, name: &str, arguments: &[&str]) -> Self {
        let path = directory.join(name);
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-N", "", "-C", name, "-f"]).arg(&path).args(arguments);
        succeed(command.stdin(Stdio::null()).output(), "ssh-keygen");
        Self { path }
    }

    /// The key pair whose private half lies at `path` already.
    #[must_use]
    pub fn found(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// `SHA256:…`, as `ssh-keygen -l` prints it.
    ///
    /// # Panics
    /// Where `ssh-keygen` fails.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut command = Command::new("ssh-keygen");
        let listed = succeed(command.arg("-lf").arg(self.path.with_extension("pub")).output(), "ssh-keygen -l");
        listed.split(' ').nth(1).expect("a fingerprint").to_owned()
    }

    /// The private half's file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The public half as one line, without the comment: `ssh-ed25519 AAAA…`.
    ///
    /// # Panics
    /// Where the file is gone.
    #[must_use]
    pub fn public(&self) -> String {
        let line = std::fs::read_to_string(self.path.with_extension("pub")).expect("the public half");
        line.split_whitespace().take(2).collect::<Vec<_>>().join(" ")
    }

    /// An armored SSHSIG over `payload`.
    ///
    /// # Panics
    /// Where `ssh-keygen` fails.
    #[must_use]
    pub fn sign(&self, namespace: &str, payload: &[u8]) -> String {
        let mut child = Command::new("ssh-keygen")
            .args(["-q", "-Y", "sign", "-n", namespace, "-f"])
            .arg(&self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("ssh-keygen");
        child.stdin.take().expect("a pipe").write_all(payload).expect("to feed ssh-keygen");
        succeed(child.wait_with_output(), "ssh-keygen -Y sign")
    }

    /// The envelope around `payload`.
    #[must_use]
    pub fn seal(&self, namespace: &str, payload_type: &str, payload: &str) -> SignedMessage {
        SignedMessage {
            payload: payload.as_bytes().to_vec(),
            payload_type: payload_type.to_owned(),
            signatures: vec![Signature { sshsig: self.sign(namespace, payload.as_bytes()) }],
        }
    }
}

/// What a tool printed; says what it complained about where it failed.
pub(crate) fn succeed(output: std::io::Result<Output>, tool: &str) -> String {
    let output = output.unwrap_or_else(|error| panic!("{tool}: {error} (cargo xtask setup installs it)"));
    assert!(output.status.success(), "{tool}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
