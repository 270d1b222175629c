//! Keeps the host's own connections off the protected ports.
//!
//! Owns `net.ipv4.ip_local_reserved_ports` (which serves IPv6 too): a connection that got a protected port as its source port
//! would be cut. It adds to what the administrator wrote there, and gives back no more than it added.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::guarded;
use crate::host::write_durably;

/// Of the network namespace of the thread that opens it.
const PATH: &str = "/proc/sys/net/ipv4/ip_local_reserved_ports";
/// In the state directory: which boot it was, and the ports that were added then.
const RECORD: &str = "reserved-ports";
/// All 65536 ports, each with a comma.
const LONGEST: usize = 8 * 65536;

/// Of the network namespace of the thread that reads it.
const COOKIES: &str = "/proc/sys/net/ipv4/tcp_syncookies";

/// What to say where the kernel does without SYN cookies: then SYNs from many forged sources fill the queue of half-open
/// connections, and keep everybody out who comes over the network. For IPv6 too.
#[must_use]
pub fn without_cookies() -> Option<String> {
    let off = fs::read_to_string(COOKIES).is_ok_and(|text| text.trim() == "0");
    off.then(|| "net.ipv4.tcp_syncookies is 0: a flood of SYNs can keep people out of the API; set it to 1".to_owned())
}

/// Of the network namespace of the thread that reads it.
const MPTCP: &str = "/proc/sys/net/mptcp/enabled";

/// What to say where the kernel has MPTCP, and the cut cannot judge a subflow by its connection
/// (`Enforcer::judges_subflows`).
#[must_use]
pub fn unjudged_subflows() -> Option<String> {
    let on = fs::read_to_string(MPTCP).is_ok_and(|text| text.trim() == "1");
    let why = "the kernel does not show which MPTCP connection a subflow belongs to: a subflow of an endpoint with a port of its own \
               outlives its grant; set net.mptcp.enabled to 0, or use Linux 5.19 or newer";
    on.then(|| why.to_owned())
}

/// The setting, held open: whoever is confined can still change it.
pub struct Reserved {
    setting: File,
    record: PathBuf,
    boot_id: Uuid,
}

impl Reserved {
    /// Opens the setting of the calling thread's network namespace.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn open(state: &Path, boot_id: Uuid) -> io::Result<Self> {
        let setting = OpenOptions::new().read(true).write(true).open(PATH)?;
        Ok(Self { setting, record: state.join(RECORD), boot_id })
    }

    /// Reserves `ports`, and remembers which of them were not.
    ///
    /// # Errors
    /// When the setting cannot be read or written. Then an outgoing connection may, rarely, get a protected port and fail.
    pub fn add(&self, ports: &[u16]) -> io::Result<()> {
        let now = self.read()?;
        let missing: BTreeSet<u16> = ports.iter().copied().filter(|port| !now.contains(port)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let ours = self.ours().union(&missing).copied().collect();
        write_durably(&self.record, 1, format!("{}\n{}\n", self.boot_id, list(&ours)).as_bytes())?;
        self.write(&now.union(&missing).copied().collect())
    }

    /// Gives back what [`Self::add`] has added since the host booted.
    ///
    /// # Errors
    /// When the setting or the record cannot be read or written.
    pub fn give_back(&self) -> io::Result<()> {
        let ours = self.ours();
        if ours.is_empty() {
            return Ok(());
        }
        self.write(&self.read()?.difference(&ours).copied().collect())?;
        self.in_state(|| fs::remove_file(&self.record))?
    }

    /// What was added in this boot; the setting does not outlive it.
    fn ours(&self) -> BTreeSet<u16> {
        let read = self.in_state(|| guarded::read_to_string(&self.record, 1));
        let text = read.and_then(|text| text).unwrap_or_default();
        let ports = text.split_once('\n').filter(|(boot, _)| boot.parse() == Ok(self.boot_id));
        ports.map_or_else(BTreeSet::new, |(_, ports)| parse(ports))
    }

    /// The record is the agent's user's, the setting is root's: `posternd unlock` uses both.
    fn in_state<T>(&self, work: impl FnOnce() -> T) -> io::Result<T> {
        guarded::as_owner(self.record.parent().unwrap_or(&self.record), work)
    }

    fn read(&self) -> io::Result<BTreeSet<u16>> {
        // One read gives all of it.
        let mut buffer = vec![0; LONGEST];
        let length = self.setting.read_at(&mut buffer, 0)?;
        Ok(parse(&String::from_utf8_lossy(&buffer[..length])))
    }

    fn write(&self, ports: &BTreeSet<u16>) -> io::Result<()> {
        self.setting.write_all_at(format!("{}\n", list(ports)).as_bytes(), 0)
    }
}

/// What the kernel writes: `80,5000-5002`.
fn parse(text: &str) -> BTreeSet<u16> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?)
    };
    text.trim().split(',').filter_map(range).flatten().collect()
}

/// What the kernel reads, with ranges as it writes them.
fn list(ports: &BTreeSet<u16>) -> String {
    let ports: Vec<u16> = ports.iter().copied().collect();
    let ranges = ports.chunk_by(|a, b| a.checked_add(1) == Some(*b)).map(|run| match run {
        [one] => one.to_string(),
        run => format!("{}-{}", run[0], run[run.len() - 1]),
    });
    ranges.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_the_kernels() {
        assert_eq!(parse("80,5000-5002\n"), [80, 5000, 5001, 5002].into());
        assert_eq!(parse("\n"), [].into());
        assert_eq!(list(&[80, 5000, 5001, 5002, 65534, 65535].into()), "80,5000-5002,65534-65535");
        assert_eq!(list(&[].into()), "");
    }

    #[test]
    fn only_what_was_added_in_this_boot_is_given_back() {
        let directory = tempfile::tempdir().unwrap();
        // A plain file in the place of the setting, which tests/tests/boot.rs uses.
        let path = directory.path().join("setting");
        let open = |boot_id| {
            let setting = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
            Reserved { setting, record: directory.path().join(RECORD), boot_id }
        };
        let text = || fs::read_to_string(&path).unwrap().lines().next().unwrap().to_owned();
        fs::write(&path, "22\n").unwrap();
        let reserved = open(Uuid::from_u128(1));
        reserved.add(&[22, 3389]).unwrap();
        reserved.add(&[3389, 5985]).unwrap();
        assert_eq!(text(), "22,3389,5985");
        open(Uuid::from_u128(2)).give_back().unwrap();
        assert_eq!(text(), "22,3389,5985", "another boot added nothing");
        reserved.give_back().unwrap();
        assert_eq!(text(), "22");
        reserved.give_back().unwrap();
    }
}
