//! The certificate beside an SSH host key (`HostCertificate` of sshd).
//!
//! Owns reading the file again when it changes, because certificates are renewed every few days. Never judges a certificate: clients do.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use postern_core::ssh::wire::type_of;
use postern_core::ssh::{Accept, Certificate};

use crate::system::files;

/// The suffix that ssh-keygen adds to the name of the key's file.
const SUFFIX: &[u8] = b"-cert.pub";

/// A certificate file, which may be missing.
#[derive(Debug)]
pub(super) struct CertificateFile {
    path: PathBuf,
    /// The public key that the certificate must be about, in SSH's encoding.
    key: Vec<u8>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    version: Option<Version>,
    line: String,
}

/// Inode, length, and the time of the last change in seconds and nanoseconds.
pub(super) type Version = (u64, u64, i64, i64);

pub(super) fn version(metadata: &Metadata) -> Version {
    (metadata.ino(), metadata.len(), metadata.ctime(), metadata.ctime_nsec())
}

impl CertificateFile {
    /// `KEY-cert.pub` for the private key file `KEY` with this public half.
    pub(super) fn beside(private: &Path, key: Vec<u8>) -> Self {
        let mut path = private.as_os_str().to_owned();
        path.push(OsStr::from_bytes(SUFFIX));
        let this = Self { path: path.into(), key, seen: Mutex::default() };
        this.refresh();
        this
    }

    /// Whether this file belongs to the private key file `private` with the public half `key`.
    pub(super) fn is_beside(&self, private: &Path, key: &[u8]) -> bool {
        self.key == key && self.path.as_os_str().as_bytes().strip_suffix(SUFFIX) == Some(private.as_os_str().as_bytes())
    }

    /// Type and base64 as last read, without a look at the disk. Empty if there is no certificate of this key.
    pub(super) fn last(&self) -> String {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).line.clone()
    }

    /// Reads the file again if it has changed. The disk may be slow, so no lock is held meanwhile.
    pub(super) fn refresh(&self) {
        let now = std::fs::metadata(&self.path).ok().as_ref().map(version);
        if self.seen.lock().unwrap_or_else(PoisonError::into_inner).version == now {
            return;
        }
        let line = self.read().unwrap_or_else(|error| {
            let absent = error.kind() == io::ErrorKind::NotFound;
            if !absent {
                tracing::warn!(file = %self.path.display(), %error, "clients do not get this host certificate");
            }
            String::new()
        });
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen { version: now, line };
    }

    fn read(&self) -> io::Result<String> {
        let text = files::read_plain(&self.path)?;
        let mut words = text.split_ascii_whitespace();
        let (kind, encoded) = words.next().zip(words.next()).ok_or(io::ErrorKind::InvalidData)?;
        let blob = STANDARD.decode(encoded).map_err(io::Error::other)?;
        let certificate = Certificate::parse(&blob, Accept::All).map_err(io::Error::other)?;
        match certificate.of_host && certificate.key.blob() == self.key && type_of(&blob) == Some(kind) {
            true => Ok(format!("{kind} {encoded}")),
            false => Err(io::Error::other("it is not a host certificate of the key beside it")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::process::Command;

    use super::*;

    fn keygen(dir: &Path, arguments: &[&str]) {
        let output = Command::new("ssh-keygen").current_dir(dir).arg("-q").args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn the_file_is_read_again_when_it_changes_and_shown_only_if_it_is_about_this_key() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for kind in ["ed25519", "ecdsa"] {
            for name in ["ca", "other", "key"] {
                let _ = fs::remove_file(dir.join(name));
                keygen(dir, &["-N", "", "-t", kind, "-f", name]);
            }
            let file = dir.join("key-cert.pub");
            let _ = fs::remove_file(&file);
            let public = fs::read_to_string(dir.join("key.pub")).unwrap();
            let public = STANDARD.decode(public.split(' ').nth(1).unwrap()).unwrap();
            let certificate = CertificateFile::beside(&dir.join("key"), public);
            let line = || {
                certificate.refresh();
                certificate.last()
            };
            assert_eq!(line(), "", "there is none yet");
            for principal in ["vm1", "vm2"] {
                keygen(dir, &["-s", "ca", "-I", "id", "-h", "-n", principal, "key.pub"]);
                let text = fs::read_to_string(&file).unwrap();
                assert!(text.starts_with(&line()) && !line().is_empty(), "{principal}");
                assert_eq!(line().split(' ').count(), 2);
            }
            keygen(dir, &["-s", "ca", "-I", "id", "-n", "alice", "key.pub"]);
            assert_eq!(line(), "", "it is a person's");
            keygen(dir, &["-s", "ca", "-I", "id", "-h", "-n", "vm1", "other.pub"]);
            fs::rename(dir.join("other-cert.pub"), &file).unwrap();
            assert_eq!(line(), "", "it is about another key");
            fs::write(&file, "garbage").unwrap();
            assert_eq!(line(), "");
            keygen(dir, &["-s", "ca", "-I", "id", "-h", "-n", "vm1", "key.pub"]);
            assert_ne!(line(), "");
            fs::remove_file(&file).unwrap();
            assert_eq!(line(), "", "it is gone");
        }
    }
}
