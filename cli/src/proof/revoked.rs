//! Looks up keys in `RevokedHostKeys` of the user's `ssh_config`. ssh-keygen, which comes with ssh, reads binary lists.

use std::{fs, path::Path, process::Stdio};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use postern_core::ssh::{certificate::plain_of, wire::type_of};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::shown::Shown;
use crate::failure::{Failure, Kind, Result};

/// The first bytes of a binary list (PROTOCOL.krl).
const MAGIC: &[u8] = b"SSHKRL\n\0";

/// Whether `files` revoke each of `keys`. An unreadable file is an error, because ssh then refuses every host.
pub async fn listed(keys: &[Shown], files: &[std::path::PathBuf]) -> Result<Vec<bool>> {
    let mut listed = vec![false; keys.len()];
    for file in files {
        let content = fs::read(file).map_err(|error| unreadable(file, &error.to_string()))?;
        for (shown, revoked) in keys.iter().zip(&mut listed) {
            *revoked |= match content.starts_with(MAGIC) {
                true => asks_keygen(file, shown).await?,
                false => is_listed(&String::from_utf8_lossy(&content), shown).map_err(|why| unreadable(file, &why))?,
            };
        }
    }
    Ok(listed)
}

/// Looks in a list of public keys. As in ssh, a malformed line is an error, because it may be the one that revokes.
fn is_listed(list: &str, shown: &Shown) -> std::result::Result<bool, String> {
    let plain = shown.key.to_bytes().map_err(|error| error.to_string())?;
    let authority = shown.certificate.as_ref().map(|certificate| certificate.authority.as_slice());
    let mut listed = false;
    for (at, line) in list.split('\n').enumerate() {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = key_of(line).ok_or_else(|| format!("line {} is no public key", at + 1))?;
        listed |= key == plain || Some(key.as_slice()) == authority;
    }
    Ok(listed)
}

fn key_of(line: &str) -> Option<Vec<u8>> {
    let mut words = line.split_ascii_whitespace();
    let (kind, encoded) = (words.next()?, words.next()?);
    let blob = BASE64_STANDARD.decode(encoded).ok().filter(|blob| type_of(blob) == Some(kind))?;
    Some(plain_of(&blob))
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
