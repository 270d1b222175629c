//! The trusted hosts in `known_hosts.toml`: one TLS fingerprint and host id for each address. Also reads the file of older versions.
//! [`crate::trust`] decides about trust, also if a file is unreadable.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::{
    failure::{Failure, Kind, Result},
    state::{self, Folder},
    tls::Fingerprint,
};

const HEADER: &str = "# Hosts that `postern` trusts. `postern forget HOST` removes one.\n";

/// One trusted host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownHost {
    /// As typed, with the port.
    pub address: String,
    /// The host's last stated id, for display.
    pub host_id: String,
    /// `SHA256:…` of its TLS certificate.
    #[serde(with = "as_text")]
    pub fingerprint: Fingerprint,
    /// The time of the first trust, by this machine's clock.
    pub added: jiff::Timestamp,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default)]
    host: Vec<KnownHost>,
}

const NAME: &str = "known_hosts.toml";

/// The content of the files about an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// The host is trusted.
    Known(KnownHost),
    /// The files do not have the address.
    Nothing,
    /// A file exists and is unreadable, so its content is unknown; with the reason.
    Unreadable(String),
}

impl Recalled {
    /// The host, if it is known.
    #[must_use]
    pub const fn known(&self) -> Option<&KnownHost> {
        match self {
            Self::Known(host) => Some(host),
            Self::Nothing | Self::Unreadable(_) => None,
        }
    }
}

/// The file, which need not exist.
#[derive(Clone, Debug)]
pub struct KnownHosts {
    folder: Folder,
}

impl KnownHosts {
    /// The file of the user of this process.
    #[must_use]
    pub fn of_user() -> Self {
        Self { folder: Folder::of_user() }
    }

    /// The file `known_hosts.toml` in this folder.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        Self { folder: Folder::at(folder) }
    }

    /// The folder of the client's files.
    #[must_use]
    pub const fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The path; none if the user has no home directory.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.folder.file(NAME)
    }

    /// The record of `address`.
    ///
    /// # Errors
    /// Fails if a file is damaged; then no host is trusted.
    pub fn find(&self, address: &str) -> Result<Recalled> {
        match self.all()? {
            Ok(hosts) => {
                let found = hosts.into_iter().find(|host| host.address == address);
                Ok(found.map_or(Recalled::Nothing, Recalled::Known))
            }
            Err(why) => Ok(Recalled::Unreadable(why)),
        }
    }

    /// The records with this host id. Several hosts may claim one id. Empty if a file is unreadable.
    ///
    /// # Errors
    /// Fails if a file is damaged.
    pub fn with_id(&self, host_id: &str) -> Result<Vec<KnownHost>> {
        let mut hosts = self.all()?.unwrap_or_default();
        hosts.retain(|host| host.host_id == host_id);
        Ok(hosts)
    }

    /// Trusts `host` in place of an older record of its address.
    ///
    /// # Errors
    /// Fails if the file is unreadable or damaged, or the client cannot write it.
    pub fn put(&self, host: KnownHost) -> Result<()> {
        let path = self.folder.to_write(NAME).map_err(|error| failed("write", self.path().as_deref(), &error))?;
        change(&path, |hosts| {
            hosts.retain(|other| other.address != host.address);
            hosts.push(host);
            true
        })
        .map(drop)
    }

    /// Forgets `address`, also in the file of an older version. True if it was known.
    ///
    /// # Errors
    /// Fails if a file is unreadable or damaged, or the client cannot write it.
    pub fn forget(&self, address: &str) -> Result<bool> {
        let mut known = false;
        for path in self.files() {
            if parsed(&path)?.map_err(|why| Failure::new(Kind::Local, why))?.iter().any(|host| host.address == address)
            {
                known |= change(&path, |hosts| {
                    let before = hosts.len();
                    hosts.retain(|host| host.address != address);
                    hosts.len() != before
                })?;
            }
        }
        Ok(known)
    }

    fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.path().into_iter().chain(self.folder.older(NAME))
    }

    /// All hosts. The newer file wins over the older one for the same address. The inner error is the reason why a file is unreadable.
    fn all(&self) -> Result<std::result::Result<Vec<KnownHost>, String>> {
        let mut all: Vec<KnownHost> = Vec::new();
        for path in self.files() {
            let hosts = match parsed(&path)? {
                Ok(hosts) => hosts,
                Err(why) => return Ok(Err(why)),
            };
            for host in hosts {
                if !all.iter().any(|other| other.address == host.address) {
                    all.push(host);
                }
            }
        }
        Ok(Ok(all))
    }
}

fn parsed(path: &Path) -> Result<std::result::Result<Vec<KnownHost>, String>> {
    let text = match state::read(path) {
        Ok(text) => text.unwrap_or_default(),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(failed("read", Some(path), &error)),
        Err(error) => return Ok(Err(format!("cannot read {}: {error}", path.display()))),
    };
    let contents = toml::from_str::<Contents>(&text).map_err(|error| {
        Failure::new(Kind::Local, format!("{}: {error}", path.display()))
            .next("correct the file; until then no host in it is trusted")
    })?;
    Ok(Ok(contents.host))
}

/// Reads, changes and replaces the file under a lock, so that concurrent commands lose nothing. `edit` returns whether it changed anything.
fn change(path: &Path, edit: impl FnOnce(&mut Vec<KnownHost>) -> bool) -> Result<bool> {
    let lock = || -> io::Result<File> {
        let lock = private(&path.with_extension("toml.lock"), false)?;
        lock.lock()?;
        Ok(lock)
    };
    let _lock = lock().map_err(|error| failed("lock", Some(path), &error))?;
    let mut hosts = parsed(path)?.map_err(|why| Failure::new(Kind::Local, why))?;
    let changed = edit(&mut hosts);
    if changed {
        replace(path, &Contents { host: hosts })?;
    }
    Ok(changed)
}

fn replace(path: &Path, contents: &Contents) -> Result<()> {
    let body = toml::to_string(contents).map_err(|error| Failure::new(Kind::Local, error))?;
    let new = path.with_extension("toml.new");
    let write = || -> io::Result<()> {
        let mut file = private(&new, true)?;
        file.write_all(HEADER.as_bytes())?;
        file.write_all(body.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    write().map_err(|error| failed("write", Some(path), &error))
}

fn failed(what: &str, path: Option<&Path>, error: &io::Error) -> Failure {
    let place = path.map_or_else(|| NAME.to_owned(), |path| path.display().to_string());
    Failure::new(Kind::Local, format!("cannot {what} {place}: {error}"))
}

/// Opens a file that only its owner may read. A `fresh` file replaces an existing one; any other is created if missing. Follows no link and
/// waits for no FIFO: under sudo the directory may belong to another user.
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

    use crate::tls::{Fingerprint, fingerprint};

    pub fn serialize<S: Serializer>(value: &Fingerprint, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Fingerprint, D::Error> {
        fingerprint(&String::deserialize(deserializer)?).map_err(D::Error::custom)
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
        let known = KnownHosts::at(&directory.path().join("postern"));
        assert_eq!(known.find("vm1:7322").unwrap(), Recalled::Nothing);
        known.put(host("vm1:7322", b"one")).unwrap();
        known.put(host("[2001:db8::1]:7322", b"two")).unwrap();
        known.put(host("vm1:7322", b"three")).unwrap();
        assert_eq!(known.find("vm1:7322").unwrap(), Recalled::Known(host("vm1:7322", b"three")));
        assert_eq!(known.find("[2001:db8::1]:7322").unwrap(), Recalled::Known(host("[2001:db8::1]:7322", b"two")));
        let mode = fs::metadata(known.path().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(known.forget("vm1:7322").unwrap());
        assert!(!known.forget("vm1:7322").unwrap());
        assert_eq!(known.find("vm1:7322").unwrap(), Recalled::Nothing);
    }

    #[test]
    fn a_damaged_file_trusts_nobody_and_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownHosts::at(directory.path());
        let damaged = "[[host]]\naddress = \"vm1:7322\"\nfingerprint = \"SHA256:x\"\n";
        fs::write(known.path().unwrap(), damaged).unwrap();
        assert_eq!(known.find("vm1:7322").unwrap_err().kind, Kind::Local);
        assert_eq!(known.put(host("vm2:7322", b"")).unwrap_err().kind, Kind::Local);
        assert_eq!(fs::read_to_string(known.path().unwrap()).unwrap(), damaged);
    }

    #[test]
    fn what_an_older_version_left_counts_until_it_is_forgotten_or_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (now, before) = (directory.path().join("state"), directory.path().join("config/postern"));
        let older = KnownHosts::at(&before);
        older.put(host("vm1:7322", b"one")).unwrap();
        older.put(host("vm2:7322", b"two")).unwrap();
        let known = KnownHosts { folder: Folder::with_older(&now, &before) };
        assert_eq!(known.find("vm1:7322").unwrap(), Recalled::Known(host("vm1:7322", b"one")));
        known.put(host("vm1:7322", b"three")).unwrap();
        assert_eq!(known.find("vm1:7322").unwrap(), Recalled::Known(host("vm1:7322", b"three")));
        assert_eq!(known.find("vm2:7322").unwrap(), Recalled::Known(host("vm2:7322", b"two")));
        assert!(known.forget("vm1:7322").unwrap() && !known.forget("vm1:7322").unwrap());
        assert_eq!(known.find("vm1:7322").unwrap(), Recalled::Nothing, "the old record does not come back");
        assert_eq!(known.find("vm2:7322").unwrap(), Recalled::Known(host("vm2:7322", b"two")));
    }

    #[test]
    fn a_file_that_cannot_be_read_is_not_an_empty_one() {
        let directory = tempfile::tempdir().unwrap();
        let known = KnownHosts::at(directory.path());
        fs::create_dir(known.path().unwrap()).unwrap();
        assert!(matches!(known.find("vm1:7322").unwrap(), Recalled::Unreadable(_)));
        assert!(known.put(host("vm1:7322", b"one")).is_err());
    }
}
