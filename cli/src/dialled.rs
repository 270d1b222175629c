//! The addresses at which this person reached each host before, by the host's proved key.
//!
//! Owns the file `dialled.toml` beside `known_hosts.toml`: reading, adding, forgetting. The file is a convenience: a command never
//! fails because of it, and a file that cannot be read knows nothing. What follows from an address is decided by [`crate::my_ip`].

use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::known_hosts::{KnownHosts, private};

const HEADER: &str =
    "# The addresses at which `postern` reached each host, by the host's key. `postern forget ADDRESS` removes one.\n";

/// How many addresses are kept for one key, the newest. The client dials 16 addresses of a name at most, so this is four moves of
/// a host with that many.
pub const MOST_ADDRESSES: usize = 64;

/// How many keys are kept, the newest. More hosts than one person uses; both bounds together keep the file below 1 MiB.
pub const MOST_KEYS: usize = 256;

/// A longer file was not written by this program. 256 keys with 64 IPv6 addresses each take about 0.7 MiB.
const MOST_BYTES: u64 = 1024 * 1024;

/// How long another command may hold the lock. It holds the lock for one write; a command that was stopped must not stop this one.
const LOCK_LIMIT: Duration = Duration::from_secs(2);

/// The file. It need not exist.
#[derive(Clone, Debug)]
pub struct Dialled {
    path: PathBuf,
}

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Contents {
    /// The key that was used last stands last.
    #[serde(default)]
    host: Vec<Host>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Host {
    /// The fingerprint of the host's key.
    key: String,
    /// The address that was used last stands last.
    addresses: Vec<IpAddr>,
}

impl Contents {
    /// Keeps `addresses` as the newest ones of `key`, and drops the oldest where there are too many.
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
    /// The file that belongs to `hosts`.
    #[must_use]
    pub fn beside(hosts: &KnownHosts) -> Self {
        Self { path: hosts.path().with_file_name("dialled.toml") }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The addresses that are known for the host with `key`.
    ///
    /// # Errors
    /// When the file cannot be read or is damaged. No address is known then.
    pub fn of(&self, key: &str) -> io::Result<Vec<IpAddr>> {
        self.read().map(|contents| contents.of(key))
    }

    /// Remembers that the host with `key` was reached at `addresses`. A damaged file is replaced.
    ///
    /// # Errors
    /// When the file cannot be written and one of the addresses is new. Known ones only become the newest, which may fail.
    pub fn remember(&self, key: &str, addresses: &[IpAddr]) -> io::Result<()> {
        let known = self.of(key).unwrap_or_default();
        let written = if addresses.is_empty() { Ok(()) } else { self.add(key, addresses) };
        if addresses.iter().all(|address| known.contains(address)) { Ok(()) } else { written }
    }

    fn add(&self, key: &str, addresses: &[IpAddr]) -> io::Result<()> {
        let _lock = self.lock()?;
        // What cannot be read is known to nobody, so nothing is lost with it.
        let mut contents = self.read().unwrap_or_default();
        contents.add(key, addresses);
        self.replace(&contents)
    }

    /// Forgets the host with `key`, and `address` for every host; true if one of them was known. A damaged file knows nothing.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn forget(&self, key: Option<&str>, address: Option<IpAddr>) -> io::Result<bool> {
        if !self.path.try_exists()? {
            return Ok(false);
        }
        let _lock = self.lock()?;
        let mut contents = match self.read() {
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
            self.replace(&contents)?;
        }
        Ok(changed)
    }

    fn read(&self) -> io::Result<Contents> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::default()),
            Err(error) => return Err(error),
        };
        let mut text = String::new();
        file.take(MOST_BYTES + 1).read_to_string(&mut text)?;
        if text.len() as u64 > MOST_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {MOST_BYTES} bytes")));
        }
        toml::from_str(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.message().to_owned()))
    }

    /// Makes the directory where it is missing, and waits for other commands.
    fn lock(&self) -> io::Result<File> {
        if let Some(directory) = self.path.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        }
        let lock = private(&self.path.with_extension("toml.lock"), false)?;
        let start = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) if start.elapsed() < LOCK_LIMIT => {
                    thread::sleep(Duration::from_millis(10))
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "another command holds its lock"));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Writes a new file and puts it in the place of the old one, so that a reader never sees half of it.
    fn replace(&self, contents: &Contents) -> io::Result<()> {
        let body = toml::to_string(contents).map_err(io::Error::other)?;
        let new = self.path.with_extension("toml.new");
        let mut file = private(&new, true)?;
        file.write_all(HEADER.as_bytes())?;
        file.write_all(body.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use std::{net::Ipv4Addr, os::unix::fs::PermissionsExt as _};

    use super::*;

    fn dialled(directory: &tempfile::TempDir) -> Dialled {
        Dialled::beside(&KnownHosts::at(directory.path().join("postern/known_hosts.toml")))
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
        assert!(!dialled.path().parent().unwrap().exists(), "nothing is made for nothing");
        dialled.remember("one", &[address(1), "2001:db8::1".parse().unwrap()]).unwrap();
        dialled.remember("two", &[address(1)]).unwrap();
        assert_eq!(dialled.of("one").unwrap().len(), 2);
        assert_eq!(dialled.of("two").unwrap(), [address(1)]);
        assert!(dialled.of("three").unwrap().is_empty());
        assert_eq!(fs::metadata(dialled.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(dialled.path().parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
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
        let _lock = dialled.lock().unwrap();
        dialled.replace(&contents).unwrap();
        assert_eq!(dialled.read().unwrap(), contents);
    }

    #[test]
    fn a_damaged_file_knows_nothing_and_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let dialled = dialled(&directory);
        dialled.remember("one", &[address(1)]).unwrap();
        let whole = fs::read(dialled.path()).unwrap();
        for length in HEADER.len() + 1..whole.len() {
            fs::write(dialled.path(), &whole[..length]).unwrap();
            assert_ne!(dialled.of("one").unwrap_or_default(), [address(2)]);
            let known = dialled.of("one").unwrap_or_default();
            // Only the final newline may be missing from a file that still says what was written.
            assert!(known.is_empty() || length + 1 >= whole.len(), "{length}: {known:?}");
        }
        for damaged in [&b"\xff"[..], b"[[host]]\nkey = 1\n", b"[[host]]\nkey = \"one\"\naddresses = [\"10.0.0\"]\n"] {
            fs::write(dialled.path(), damaged).unwrap();
            assert!(dialled.of("one").is_err());
            assert!(!dialled.forget(None, Some(address(1))).unwrap());
            dialled.remember("one", &[address(7)]).unwrap();
            assert_eq!(dialled.of("one").unwrap(), [address(7)]);
        }
        fs::write(dialled.path(), vec![b'#'; 2 << 20]).unwrap();
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
        let nowhere = Dialled::beside(&KnownHosts::at("/proc/nowhere/known_hosts.toml"));
        assert!(nowhere.remember("one", &[address(1)]).is_err());
        let directory = tempfile::tempdir().unwrap();
        let dialled = dialled(&directory);
        dialled.remember("one", &[address(2)]).unwrap();
        let _held = dialled.lock().unwrap();
        assert!(dialled.remember("one", &[address(1)]).is_err(), "somebody else holds the lock for ever");
        dialled.remember("one", &[address(2)]).unwrap();
    }
}
