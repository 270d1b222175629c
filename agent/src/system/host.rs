//! The host's identity: its state directory, its id, its names.
//!
//! Owns the lock against a second agent, the host id, and the fingerprints of the SSH host keys. Never reads a private key: `proof` does.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use base64::{Engine as _, engine::general_purpose::STANDARD, engine::general_purpose::STANDARD_NO_PAD};
use postern_core::message::Identity;
use ring::digest::{SHA256, digest};
use rustix::fs::{FlockOperation, flock};
use uuid::Uuid;

use crate::system::{files, guarded};

/// Why the host's identity could not be established.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The state directory or a file in it cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// The path.
        path: String,
        /// The cause.
        source: io::Error,
    },
    /// Another agent runs.
    #[error("{0} is locked: another posternd runs on this state directory")]
    Running(String),
}

/// The lock on the state directory. The lock ends with this value or with the process.
#[derive(Debug)]
pub struct StateLock(#[allow(dead_code, reason = "held, never read")] File);

/// Makes the state directory (0700) if it is missing, and locks the directory.
///
/// # Errors
/// Fails with [`HostError::Running`] if another posternd holds the lock, and with [`HostError::Io`] if the lock cannot be made.
pub fn lock(state: &Path) -> Result<StateLock, HostError> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source: io::Error| HostError::Io { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(failed(state))?;
    let path = state.join("lock");
    let file = guarded::as_owner(state, || guarded::open(&path, 1, guarded::WRITE)).map_err(failed(state))?;
    let file = match file {
        // A lock needs only an existing file: the disk may be read-only, or the file root's from before a change of user.
        Err(error) if [io::ErrorKind::ReadOnlyFilesystem, io::ErrorKind::PermissionDenied].contains(&error.kind()) => {
            guarded::open(&path, 1, guarded::READ).map_err(|_| error)
        }
        other => other,
    };
    let file = file.map_err(failed(&path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(StateLock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(HostError::Running(path.display().to_string())),
        Err(errno) => Err(failed(&path)(errno.into())),
    }
}

/// This host's identity. The id is made at the first start, and again if the machine's own id has changed: then the state directory was
/// copied with an image.
///
/// # Errors
/// Fails with [`HostError::Io`] if a new id cannot be written.
pub fn identity(state: &Path, names: Vec<String>, ssh_dir: &Path) -> Result<Identity, HostError> {
    let path = state.join("host-id");
    let failed = |source| HostError::Io { path: path.display().to_string(), source };
    let machine = machine_mark();
    let known = guarded::read_to_string(&path, 1).ok().and_then(|text| parse_host_id(&text, &machine));
    let host_id = match known {
        Some(host_id) => host_id,
        None => {
            let host_id = Uuid::new_v4();
            write_durably(&path, 1, format!("{host_id}\n{machine}\n").as_bytes()).map_err(failed)?;
            host_id
        }
    };
    Ok(Identity { host_id, names, host_keys: ssh_host_keys(ssh_dir), tls_key: None })
}

/// An identity for this process only, for a state directory that cannot be used.
#[must_use]
pub fn passing(names: Vec<String>, ssh_dir: &Path) -> Identity {
    Identity { host_id: Uuid::new_v4(), names, host_keys: ssh_host_keys(ssh_dir), tls_key: None }
}

fn parse_host_id(text: &str, machine: &str) -> Option<Uuid> {
    let (id, mark) = text.trim_end().split_once('\n')?;
    (mark == machine).then(|| id.parse().ok())?
}

/// A digest of the machine's id, which programs must not expose (machine-id(5)).
fn machine_mark() -> String {
    let id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    STANDARD_NO_PAD.encode(digest(&SHA256, format!("postern host-id {}", id.trim()).as_bytes()))
}

/// `SHA256:…` of the public halves of the SSH host keys.
fn ssh_host_keys(dir: &Path) -> Vec<String> {
    let mut found: Vec<_> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            name.starts_with("ssh_host_") && name.ends_with("_key.pub")
        })
        .filter_map(|entry| fingerprint(&files::read_plain(&entry.path()).ok()?))
        .collect();
    found.sort();
    found
}

fn fingerprint(public_key: &str) -> Option<String> {
    let blob = STANDARD.decode(public_key.split_whitespace().nth(1)?).ok()?;
    Some(format!("SHA256:{}", STANDARD_NO_PAD.encode(digest(&SHA256, &blob))))
}

/// Writes a file (0600) atomically and durably. The last `levels` names of its path are the agent's user's, as for [`guarded::open`].
///
/// # Errors
/// Fails if the disk refuses the file, or as [`guarded::open`] does.
pub fn write_durably(path: &Path, levels: usize, bytes: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    // A crash during a write leaves this file. Any other file of this name is removed without being opened.
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = guarded::open(&fresh, levels, guarded::NEW)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    path.parent().map_or(Ok(()), guarded::sync_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_stays_unless_the_machine_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let id = |dir: &Path| identity(dir, vec![], dir).unwrap().host_id;
        let first = id(dir.path());
        assert_eq!(id(dir.path()), first);
        let path = dir.path().join("host-id");
        fs::write(&path, format!("{first}\nanother machine\n")).unwrap();
        let second = id(dir.path());
        assert_ne!(second, first);
        fs::write(&path, "torn").unwrap();
        assert_ne!(id(dir.path()), second);
    }

    #[test]
    fn a_second_agent_is_kept_away() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(matches!(lock(dir.path()), Err(HostError::Running(_))));
        drop(held);
        assert!(lock(dir.path()).is_ok());
    }

    #[test]
    fn fingerprints_are_those_of_ssh_keygen() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("ssh_host_ed25519_key");
        let made =
            std::process::Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).status();
        assert!(made.unwrap().success());
        let said = std::process::Command::new("ssh-keygen").arg("-lf").arg(&key).output().unwrap().stdout;
        let keys = ssh_host_keys(dir.path());
        assert_eq!(keys.len(), 1);
        assert!(String::from_utf8(said).unwrap().contains(&keys[0]));
    }
}
