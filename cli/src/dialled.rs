//! The addresses at which the client reached each host, by the host's proved key.
//!
//! Owns the file `dialled.toml` beside `known_hosts.toml`. The file is only for convenience: no command fails because of it, and an
//! unreadable file counts as empty. [`crate::my_ip`] decides what follows from an address.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    net::IpAddr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    known_hosts::{KnownHosts, private},
    state::{self, Folder},
};

const NAME: &str = "dialled.toml";

const HEADER: &str =
    "# The addresses at which `postern` reached each host, by the host's key. `postern forget ADDRESS` removes one.\n";

/// The most addresses of a key, the newest. The client dials at most 16 addresses of a name: enough for four moves of such a host.
pub const MOST_ADDRESSES: usize = 64;

/// How many keys the file keeps, the newest. One user has fewer hosts. Both bounds keep the file below 1 MiB.
pub const MOST_KEYS: usize = 256;

/// How long the client waits for the lock, which a command holds for one write. A stopped command must not block others.
const LOCK_LIMIT: Duration = Duration::from_secs(2);

/// The file, which need not exist.
#[derive(Clone, Debug)]
pub struct Dialled {
    folder: Folder,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    /// The key of the last use is at the end.
    #[serde(default)]
    host: Vec<Host>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Host {
    key: String,
    /// The address of the last use is at the end.
    addresses: Vec<IpAddr>,
}

impl Contents {
    fn add(&mut self, key: &str, addresses: &[IpAddr]) {
        let mut all = self.of(key);
        all.retain(|known| !addresses.contains(known));
        for address in addresses {
            if !all.contains(address) {
                all.push(*address);
            }
        }
        all.drain(..all.len().saturating_sub(MOST_ADDRESSES));
        self.host.retain(|host| host.key != key);
        self.host.push(Host { key: key.to_owned(), addresses: all });
        self.host.drain(..self.host.len().saturating_sub(MOST_KEYS));
    }

    fn of(&self, key: &str) -> Vec<IpAddr> {
        let own = self.host.iter().filter(|host| host.key == key);
        own.flat_map(|host| &host.addresses).map(IpAddr::to_canonical).collect()
    }
}

impl Dialled {
    /// The file beside `hosts`.
    #[must_use]
    pub fn beside(hosts: &KnownHosts) -> Self {
        Self { folder: hosts.folder().clone() }
    }

    /// The path; none if the user has no home directory.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.folder.file(NAME)
    }

    /// The known addresses of the host with `key`, also from an older version.
    ///
    /// # Errors
    /// Fails if a file is unreadable or damaged.
    pub fn of(&self, key: &str) -> io::Result<Vec<IpAddr>> {
        let mut found = Vec::new();
        for path in self.files() {
            found.extend(read(&path)?.of(key));
        }
        Ok(found)
    }

    /// Records that the client reached the host with `key` at `addresses`. Replaces a damaged file.
    ///
    /// # Errors
    /// Fails if the write fails and an address is new. For known addresses the write only changes their order.
    pub fn remember(&self, key: &str, addresses: &[IpAddr]) -> io::Result<()> {
        let known = self.of(key).unwrap_or_default();
        let written = if addresses.is_empty() { Ok(()) } else { self.add(key, addresses) };
        if addresses.iter().all(|address| known.contains(address)) { Ok(()) } else { written }
    }

    fn add(&self, key: &str, addresses: &[IpAddr]) -> io::Result<()> {
        let path = self.folder.to_write(NAME)?;
        let _lock = lock(&path)?;
        // Nobody can use a damaged file, so its replacement loses nothing.
        let mut contents = read(&path).unwrap_or_default();
        contents.add(key, addresses);
        replace(&path, &contents)
    }

    /// Forgets the host with `key`, and `address` for every host. True if one of them was known. A damaged file counts as empty.
    ///
    /// # Errors
    /// Fails if a file is unreadable, or the client cannot lock or write it.
    pub fn forget(&self, key: Option<&str>, address: Option<IpAddr>) -> io::Result<bool> {
        let mut changed = false;
        for path in self.files() {
            if read(&path).is_ok_and(|contents| contents == Contents::default()) {
                continue;
            }
            let _lock = lock(&path)?;
            changed |= forget(&path, key, address)?;
        }
        Ok(changed)
    }

    fn files(&self) -> impl Iterator<Item = PathBuf> {
        self.path().into_iter().chain(self.folder.older(NAME))
    }
}

/// [`Dialled::forget`] in one file; the caller holds its lock.
fn forget(path: &Path, key: Option<&str>, address: Option<IpAddr>) -> io::Result<bool> {
    let mut contents = match read(path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(false),
        read => read?,
    };
    let count = |contents: &Contents| contents.host.iter().map(|host| host.addresses.len()).sum::<usize>();
    let before = count(&contents);
    contents.host.retain(|host| Some(host.key.as_str()) != key);
    for host in &mut contents.host {
        host.addresses.retain(|known| Some(known.to_canonical()) != address);
    }
    contents.host.retain(|host| !host.addresses.is_empty());
    let changed = count(&contents) != before;
    if changed {
        replace(path, &contents)?;
    }
    Ok(changed)
}

fn read(path: &Path) -> io::Result<Contents> {
    let Some(text) = state::read(path)? else { return Ok(Contents::default()) };
    toml::from_str(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.message().to_owned()))
}

fn lock(path: &Path) -> io::Result<File> {
    let lock = private(&path.with_extension("toml.lock"), false)?;
    let start = Instant::now();
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_LIMIT => thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "another command holds its lock"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
}

/// Replaces the file by a rename, so that a reader never sees half of a file.
fn replace(path: &Path, contents: &Contents) -> io::Result<()> {
    let body = toml::to_string(contents).map_err(io::Error::other)?;
    let new = path.with_extension("toml.new");
    let mut file = private(&new, true)?;
    file.write_all(HEADER.as_bytes())?;
    file.write_all(body.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn dialled(directory: &tempfile::TempDir) -> Dialled {
        Dialled::beside(&KnownHosts::at(&directory.path().join("postern")))
    }

    fn address(number: u32) -> IpAddr {
        Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    #[test]
    fn an_address_is_known_for_its_key_alone_until_it_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let dialled = dialled(&directory);
        assert!(dialled.of("one").unwrap().is_empty());
        assert!(!dialled.forget(Some("one"), Some(address(1))).unwrap());
        assert!(!dialled.path().unwrap().parent().unwrap().exists(), "nothing is made for nothing");
        dialled.remember("one", &[address(1), "2001:db8::1".parse().unwrap()]).unwrap();
        dialled.remember("two", &[address(1)]).unwrap();
        assert_eq!(dialled.of("one").unwrap().len(), 2);
        assert_eq!(dialled.of("two").unwrap(), [address(1)]);
        assert!(dialled.of("three").unwrap().is_empty());
        assert_eq!(fs::metadata(dialled.path().unwrap()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::metadata(dialled.path().unwrap().parent().unwrap()).unwrap().permissions().mode() & 0o777,
            0o700
        );
        assert!(dialled.forget(None, Some(address(1))).unwrap());
        assert!(!dialled.forget(None, Some(address(1))).unwrap());
        assert_eq!(dialled.of("one").unwrap(), ["2001:db8::1".parse::<IpAddr>().unwrap()]);
        assert!(dialled.of("two").unwrap().is_empty());
        assert!(dialled.forget(Some("one"), None).unwrap());
        assert!(dialled.of("one").unwrap().is_empty());
    }

    #[test]
    fn the_oldest_address_and_the_oldest_key_make_room() {
        let mut contents = Contents::default();
        for number in 0..100 {
            contents.add("one", &[address(number), address(0)]);
        }
        let known = contents.of("one");
        assert_eq!(known.len(), MOST_ADDRESSES);
        assert!(known.contains(&address(0)) && known.contains(&address(99)) && !known.contains(&address(36)));
        for number in 0..u32::try_from(MOST_KEYS).unwrap() {
            contents.add(&number.to_string(), &[address(number)]);
        }
        assert_eq!(contents.host.len(), MOST_KEYS);
        assert!(contents.of("one").is_empty());
    }

    #[test]
    fn a_full_file_can_be_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let dialled = dialled(&directory);
        let long = |number: u128| IpAddr::from(u128::MAX.wrapping_sub(number).to_be_bytes());
        let addresses: Vec<_> = (0..64).map(long).collect();
        let mut contents = Contents::default();
        (0..MOST_KEYS).for_each(|number| contents.add(&format!("SHA256:{number:0>64}"), &addresses));
        let _lock = lock(&dialled.folder.to_write(NAME).unwrap()).unwrap();
        replace(&dialled.path().unwrap(), &contents).unwrap();
        assert_eq!(read(&dialled.path().unwrap()).unwrap(), contents);
    }

    #[test]
    fn a_damaged_file_knows_nothing_and_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let dialled = dialled(&directory);
        dialled.remember("one", &[address(1)]).unwrap();
        let whole = fs::read(dialled.path().unwrap()).unwrap();
        for length in HEADER.len() + 1..whole.len() {
            fs::write(dialled.path().unwrap(), &whole[..length]).unwrap();
            assert_ne!(dialled.of("one").unwrap_or_default(), [address(2)]);
            let known = dialled.of("one").unwrap_or_default();
            // A truncated file keeps its content only if just the final newline is missing.
            assert!(known.is_empty() || length + 1 >= whole.len(), "{length}: {known:?}");
        }
        for damaged in [&b"\xff"[..], b"[[host]]\nkey = 1\n", b"[[host]]\nkey = \"one\"\naddresses = [\"10.0.0\"]\n"] {
            fs::write(dialled.path().unwrap(), damaged).unwrap();
            assert!(dialled.of("one").is_err());
            assert!(!dialled.forget(None, Some(address(1))).unwrap());
            dialled.remember("one", &[address(7)]).unwrap();
            assert_eq!(dialled.of("one").unwrap(), [address(7)]);
        }
        fs::write(dialled.path().unwrap(), vec![b'#'; 2 << 20]).unwrap();
        assert!(dialled.of("one").is_err(), "too long");
    }

    #[test]
    fn commands_at_once_lose_nothing_of_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let dialled = dialled(&directory);
        thread::scope(|scope| {
            for one in 0..4 {
                let dialled = &dialled;
                scope.spawn(move || {
                    for two in 0..10 {
                        dialled.remember("one", &[address(one * 16 + two)]).unwrap();
                    }
                });
            }
        });
        assert_eq!(dialled.of("one").unwrap().len(), 40);
    }

    #[test]
    fn what_cannot_be_written_is_an_error_and_no_hang() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("postern"), "").unwrap();
        assert!(dialled(&directory).remember("one", &[address(1)]).is_err());
        let nowhere = Dialled::beside(&KnownHosts::at(Path::new("/proc/nowhere")));
        assert!(nowhere.remember("one", &[address(1)]).is_err());
        let directory = tempfile::tempdir().unwrap();
        let dialled = dialled(&directory);
        dialled.remember("one", &[address(2)]).unwrap();
        let _held = lock(&dialled.folder.to_write(NAME).unwrap()).unwrap();
        assert!(dialled.remember("one", &[address(1)]).is_err(), "somebody else holds the lock for ever");
        dialled.remember("one", &[address(2)]).unwrap();
    }
}
