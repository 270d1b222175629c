//! The hosts that this person trusts: one TLS fingerprint and host id for each address.
//!
//! Owns the file `known_hosts.toml` in `$XDG_CONFIG_HOME/postern` (`~/.config/postern`): reading, adding, forgetting.
//! It never decides whether to trust; that is [`crate::trust`].

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::{
    failure::{Failure, Kind, Result},
    tls::Fingerprint,
};

const HEADER: &str = "# Hosts that `postern` trusts. `postern forget HOST` removes one.\n";

/// One trusted host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownHost {
    /// As typed, with the port.
    pub address: String,
    /// The host's own id, as it stated last: a label for people.
    pub host_id: String,
    /// `SHA256:…` of its TLS certificate.
    #[serde(with = "as_text")]
    pub fingerprint: Fingerprint,
    /// When it was first trusted, by this machine's clock.
    pub added: jiff::Timestamp,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default)]
    host: Vec<KnownHost>,
}

/// The file. It need not exist.
#[derive(Clone, Debug)]
pub struct KnownHosts {
    path: PathBuf,
}

impl KnownHosts {
    /// The file of the person who runs this process.
    ///
    /// # Errors
    /// When neither `XDG_CONFIG_HOME` nor `HOME` says where it is.
    pub fn of_user() -> Result<Self> {
        let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let config = absolute("XDG_CONFIG_HOME").or_else(|| absolute("HOME").map(|home| home.join(".config")));
        let config = config.ok_or_else(|| {
            Failure::new(Kind::Local, "neither XDG_CONFIG_HOME nor HOME is set, so there is no place for trusted hosts")
                .next("set HOME, or XDG_CONFIG_HOME to a directory")
        })?;
        Ok(Self::at(config.join("postern/known_hosts.toml")))
    }

    /// The file at `path`.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is known about `address`.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged; then nothing is trusted.
    pub fn find(&self, address: &str) -> Result<Option<KnownHost>> {
        Ok(self.read()?.host.into_iter().find(|host| host.address == address))
    }

    /// What is known under a host id: more than one host may claim it.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn with_id(&self, host_id: &str) -> Result<Vec<KnownHost>> {
        let mut hosts = self.read()?.host;
        hosts.retain(|host| host.host_id == host_id);
        Ok(hosts)
    }

    /// Trusts `host`, instead of what was known about its address before.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn put(&self, host: KnownHost) -> Result<()> {
        self.change(|hosts| {
            hosts.retain(|other| other.address != host.address);
            hosts.push(host);
            true
        })
        .map(drop)
    }

    /// Forgets `address`; true if it was known.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn forget(&self, address: &str) -> Result<bool> {
        self.change(|hosts| {
            let before = hosts.len();
            hosts.retain(|host| host.address != address);
            hosts.len() != before
        })
    }

    fn read(&self) -> Result<Contents> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::default()),
            Err(error) => return Err(self.failed("read", &error)),
        };
        toml::from_str(&text).map_err(|error| {
            Failure::new(Kind::Local, format!("{}: {error}", self.path.display()))
                .next("correct the file; until then no host in it is trusted")
        })
    }

    /// Reads, changes and replaces the file under a lock, so that two commands at once lose nothing. `edit` returns
    /// whether it changed anything.
    fn change(&self, edit: impl FnOnce(&mut Vec<KnownHost>) -> bool) -> Result<bool> {
        let _lock = self.lock().map_err(|error| self.failed("lock", &error))?;
        let mut contents = self.read()?;
        let changed = edit(&mut contents.host);
        if changed {
            self.replace(&contents)?;
        }
        Ok(changed)
    }

    fn lock(&self) -> io::Result<File> {
        if let Some(directory) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let lock = private(&self.path.with_extension("toml.lock"), false)?;
        lock.lock()?;
        Ok(lock)
    }

    fn replace(&self, contents: &Contents) -> Result<()> {
        let body = toml::to_string(contents).map_err(|error| Failure::new(Kind::Local, error))?;
        let new = self.path.with_extension("toml.new");
        let write = || -> io::Result<()> {
            let mut file = private(&new, true)?;
            file.write_all(HEADER.as_bytes())?;
            file.write_all(body.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, &self.path)
        };
        write().map_err(|error| self.failed("write", &error))
    }

    fn failed(&self, what: &str, error: &io::Error) -> Failure {
        Failure::new(Kind::Local, format!("cannot {what} {}: {error}", self.path.display()))
    }
}

/// A file that only its owner may read. A `fresh` one replaces what has the name; another one is made if it does not exist. A link
/// in its place is not followed, and a FIFO is not waited for: under sudo the directory may be another user's than the process.
pub(crate) fn private(path: &Path, fresh: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    if fresh {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => options.create_new(true),
        };
    } else {
        options.create(true).truncate(false);
    }
    options.open(path)
}

mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use crate::tls::Fingerprint;

    pub fn serialize<S: Serializer>(value: &Fingerprint, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Fingerprint, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn host(address: &str, certificate: &[u8]) -> KnownHost {
        KnownHost {
            address: address.to_owned(),
            host_id: "0b6f9c1e-0000-4000-8000-000000000001".to_owned(),
            fingerprint: Fingerprint::of(certificate),
            added: "2026-11-21T08:00:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let victim = directory.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        for (name, fresh) in [("known_hosts.toml.new", true), ("known_hosts.toml.lock", false)] {
            let path = directory.path().join(name);
            std::os::unix::fs::symlink(&victim, &path).unwrap();
            let opened = private(&path, fresh);
            assert_eq!(opened.is_ok(), fresh, "{name}: a fresh file takes the link's place");
            assert_eq!(fs::read_to_string(&victim).unwrap(), "precious", "{name}");
        }
    }

    #[test]
    fn what_is_put_is_found_until_it_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownHosts::at(directory.path().join("postern/known_hosts.toml"));
        assert_eq!(known.find("vm1:7322").unwrap(), None);
        known.put(host("vm1:7322", b"one")).unwrap();
        known.put(host("[2001:db8::1]:7322", b"two")).unwrap();
        known.put(host("vm1:7322", b"three")).unwrap();
        assert_eq!(known.find("vm1:7322").unwrap(), Some(host("vm1:7322", b"three")));
        assert_eq!(known.find("[2001:db8::1]:7322").unwrap(), Some(host("[2001:db8::1]:7322", b"two")));
        let mode = fs::metadata(known.path()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(known.forget("vm1:7322").unwrap());
        assert!(!known.forget("vm1:7322").unwrap());
        assert_eq!(known.find("vm1:7322").unwrap(), None);
    }

    #[test]
    fn a_damaged_file_trusts_nobody_and_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownHosts::at(directory.path().join("known_hosts.toml"));
        let damaged = "[[host]]\naddress = \"vm1:7322\"\nfingerprint = \"SHA256:x\"\n";
        fs::write(known.path(), damaged).unwrap();
        assert_eq!(known.find("vm1:7322").unwrap_err().kind, Kind::Local);
        assert_eq!(known.put(host("vm2:7322", b"")).unwrap_err().kind, Kind::Local);
        assert_eq!(fs::read_to_string(known.path()).unwrap(), damaged);
    }
}
