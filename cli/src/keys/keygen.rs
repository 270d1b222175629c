//! Runs `ssh-keygen -Y sign` for keys that the client cannot use itself: types other than Ed25519 outside an agent, and key files in other
//! formats than OpenSSH's. ssh-keygen asks for passphrases and touches on the terminal.

use std::{
    io::{self, Write as _},
    path::Path,
    process::{Command, Stdio},
};

use crate::failure::{Failure, Kind, Result};

/// The armored signature over `message`. Blocks. If ssh-keygen fails, it has already printed the reason.
pub fn sign(key: &Path, namespace: &str, message: &[u8]) -> Result<String> {
    let run = || -> io::Result<std::process::Output> {
        let mut child = Command::new("ssh-keygen")
            .args(["-Y", "sign", "-n", namespace, "-f"])
            .arg(key)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // ssh-keygen may exit before it reads everything. The exit status shows whether it signed.
            let _ = stdin.write_all(message);
        }
        child.wait_with_output()
    };
    let output = run().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let message = format!("{} needs ssh-keygen to sign, and it is not installed", key.display());
            Failure::new(Kind::Key, message).next("install OpenSSH's client tools, or add the key to an agent")
        }
        _ => Failure::new(Kind::Key, format!("cannot run ssh-keygen: {error}")),
    })?;
    let armored = String::from_utf8(output.stdout).unwrap_or_default();
    if !output.status.success() || !armored.starts_with("-----BEGIN SSH SIGNATURE-----") {
        return Err(Failure::new(Kind::Key, format!("ssh-keygen could not sign with {}", key.display()))
            .next("its own message above says why"));
    }
    Ok(armored)
}
