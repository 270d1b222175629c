//! Keys that the person's `ssh_config` revokes for all hosts (`RevokedHostKeys`).
//!
//! Owns asking. A binary revocation list is read by ssh-keygen, which comes with the ssh that named it.

use std::{fs, path::Path, process::Stdio};

use ssh_key::PublicKey;
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::shown::Shown;
use crate::failure::{Failure, Kind, Result};

/// How a binary list begins (PROTOCOL.krl).
const MAGIC: &[u8] = b"SSHKRL\n\0";

/// Which of `keys` one of `files` revokes, in their order.
///
/// # Errors
/// A file cannot be read: then ssh refuses every host.
pub async fn listed(keys: &[Shown], files: &[std::path::PathBuf]) -> Result<Vec<bool>> {
    let mut listed = vec![false; keys.len()];
    for file in files {
        let content = fs::read(file).map_err(|error| unreadable(file, &error.to_string()))?;
        for (shown, revoked) in keys.iter().zip(&mut listed) {
            *revoked |= match content.starts_with(MAGIC) {
                true => asks_keygen(file, shown).await?,
                false => is_listed(&String::from_utf8_lossy(&content), shown),
            };
        }
    }
    Ok(listed)
}

/// In a list of public keys, one in each line.
fn is_listed(list: &str, shown: &Shown) -> bool {
    let listed = list.lines().filter_map(|line| line.trim().parse::<PublicKey>().ok());
    let authority = shown.certificate.as_ref().map(|certificate| certificate.authority.as_slice());
    let (plain, authority) = (shown.key.to_bytes().ok(), authority.map(<[u8]>::to_vec));
    listed
        .filter_map(|key| key.to_bytes().ok())
        .any(|key| plain.as_ref() == Some(&key) || authority.as_ref() == Some(&key))
}

async fn asks_keygen(file: &Path, shown: &Shown) -> Result<bool> {
    let failed = |error: std::io::Error| unreadable(file, &format!("ssh-keygen: {error}"));
    let plain = shown.key.to_openssh().map_err(|error| unreadable(file, &error.to_string()))?;
    for line in [Some(plain), shown.certificate.as_ref().map(|certificate| certificate.line())].into_iter().flatten() {
        let mut command = Command::new("ssh-keygen");
        command.arg("-Qf").arg(file).arg("/dev/stdin").kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(line.as_bytes()).await.map_err(failed)?;
        }
        let output = child.wait_with_output().await.map_err(failed)?;
        let said = String::from_utf8_lossy(&output.stdout);
        match output.status.success() {
            true => {}
            false if said.contains("REVOKED") => return Ok(true),
            false => return Err(unreadable(file, String::from_utf8_lossy(&output.stderr).trim())),
        }
    }
    Ok(false)
}

fn unreadable(file: &Path, why: &str) -> Failure {
    let message = format!("cannot read {} (RevokedHostKeys of your ssh_config): {why}", file.display());
    Failure::new(Kind::Local, message).next("correct the file or the setting; until then no host is trusted, as in ssh")
}
