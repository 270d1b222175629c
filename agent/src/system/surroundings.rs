//! Surroundings in which a promise may not hold: containers, and a mount namespace of posternd's own.
//!
//! Finds out how long the pins last, and which network namespace the lock (socket-lookup hook) closes. Changes nothing.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// The mounts of the process that posternd sees as number 1.
const FIRST: &str = "/proc/1/mountinfo";
const OWN: &str = "/proc/self/mountinfo";
/// The number of the host's first namespace of process ids (`PROC_PID_INIT_INO` in Linux, since 3.8).
const FIRST_PIDS: &str = "pid:[4026531836]";
/// A setting that exists only in the host's first network namespace (`net/core/sysctl_net_core.c`).
const FIRST_NETWORK: &str = "/proc/sys/net/core/netdev_max_backlog";
const CHUNK: usize = 64 * 1024;

/// One line of a list of mounts (`/proc/PID/mountinfo`).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    id: u32,
    parent: u32,
    /// MAJOR:MINOR, which identifies the file system.
    device: String,
    place: PathBuf,
    /// Another mount propagates to this one (tag `master:`), so the file system is mounted there too.
    is_copy: bool,
    kind: String,
}

/// How process 1 and posternd see the file systems, opened while posternd has the rights for that.
pub struct Surroundings {
    pin_dir: PathBuf,
    /// The mounts of process 1, or why they cannot be read.
    first: io::Result<File>,
    is_first: bool,
    /// posternd runs in a container with the host's network.
    on_the_hosts_network: bool,
    /// The network namespace that the lock closes, if it is not the host's first.
    network: Option<String>,
}

impl Surroundings {
    /// Reads the surroundings. Must be called before posternd gives up its rights.
    #[must_use]
    pub fn open(pin_dir: &Path) -> Self {
        let first_network = Path::new(FIRST_NETWORK).exists();
        // Without /proc nothing is known, and much else does not work.
        let name = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).map(|name| name.display().to_string());
        let contained = name("pid").is_ok_and(|name| name != FIRST_PIDS);
        Self {
            pin_dir: pin_dir.to_owned(),
            first: File::open(FIRST),
            is_first: std::process::id() == 1,
            on_the_hosts_network: contained && first_network,
            network: name("net").ok().filter(|_| !first_network),
        }
    }

    /// The name of the network namespace that the lock closes (`net:[NUMBER]`); `None` for the host's first.
    #[must_use]
    pub fn network(&self) -> Option<&str> {
        self.network.as_deref()
    }

    /// Why the pins may end with posternd, in words. `None` if they outlive it, or if nothing can be pinned, which is reported elsewhere.
    #[must_use]
    pub fn pins_not_lasting(&self) -> Option<String> {
        let own = mounts(&fs::read_to_string(OWN).unwrap_or_default());
        let here = resolve(&own, &self.pin_dir).filter(|mount| mount.kind == "bpf")?;
        let why = self.why_not(here)?;
        Some(format!(
            "the pins in {} may end with posternd: {why}. After the death of posternd its programs would leave the kernel, the \
             protected ports would be open to everybody, and no session would end with its grant",
            self.pin_dir.display()
        ))
    }

    fn why_not(&self, here: &Mount) -> Option<String> {
        let place = here.place.display();
        if self.on_the_hosts_network && !here.is_copy {
            return Some(format!(
                "posternd runs in a container on the host's network, and the bpf file system at {place} may end with the container: \
                 hand on the host's (-v /sys/fs/bpf:/sys/fs/bpf:rslave)"
            ));
        }
        if self.is_first && !here.is_copy {
            return Some(format!(
                "posternd is process 1 of its container, with which the bpf file system at {place} ends: hand on the host's \
                 (-v /sys/fs/bpf:/sys/fs/bpf:rslave)"
            ));
        }
        match self.first.as_ref().map_err(ToString::to_string).and_then(|file| read(file).map_err(|e| e.to_string())) {
            Ok(text) if mounts(&text).iter().any(|other| other.kind == "bpf" && other.device == here.device) => None,
            Ok(_) => Some(format!(
                "the bpf file system at {place} is mounted in posternd's own mount namespace and not in that of process 1: start \
                 posternd in that of process 1, or where /sys/fs/bpf is the host's"
            )),
            Err(_) if here.is_copy => None,
            Err(error) => Some(format!(
                "whether process 1 has mounted the bpf file system at {place} is not known ({FIRST}: {error}): let posternd see \
                 process 1 (/proc without hidepid, ProtectProc=default)"
            )),
        }
    }
}

/// Reads a generated file to its end, in chunks.
fn read(file: &File) -> io::Result<String> {
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; CHUNK]);
    loop {
        match file.read_at(&mut chunk, bytes.len() as u64)? {
            0 => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            length => bytes.extend_from_slice(&chunk[..length]),
        }
    }
}

fn mounts(text: &str) -> Vec<Mount> {
    text.lines().filter_map(mount).collect()
}

/// `ID PARENT MAJOR:MINOR ROOT PLACE OPTIONS [TAG…] - KIND SOURCE OPTIONS`
fn mount(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let mut words = front.split(' ');
    let (id, parent) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let device = words.next()?.to_owned();
    let place = unescape(words.nth(1)?);
    let is_copy = words.skip(1).any(|tag| tag.starts_with("master:"));
    let kind = back.split(' ').next()?.to_owned();
    Some(Mount { id, parent, device, place: place.into(), is_copy, kind })
}

/// Linux writes spaces, tabs, line ends and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (escaped, plain)| text.replace(escaped, plain))
}

/// The mount of `path`, found from the root as the kernel does: a mount hides everything below its place.
fn resolve<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let known = |id| mounts.iter().any(|mount| mount.id == id);
    let mut at = mounts.iter().find(|mount| mount.place == Path::new("/") && !known(mount.parent))?;
    // Each step goes to a child. The loop also ends for a circle in the list.
    for _ in mounts {
        let below = mounts.iter().filter(|m| m.parent == at.id && m.id != at.id && path.starts_with(&m.place));
        match below.min_by_key(|mount| mount.place.as_os_str().len()) {
            Some(next) => at = next,
            None => break,
        }
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "27 1 0:2 / / rw - rootfs rootfs rw\n23 27 0:22 / /sys rw,relatime shared:7 - sysfs sysfs rw\n\
                        42 23 0:39 / /sys/fs/bpf rw shared:9 - bpf bpf rw,mode=700\n";

    fn device(text: &str, path: &str) -> Option<(String, String)> {
        let mounts = mounts(text);
        resolve(&mounts, Path::new(path)).map(|mount| (mount.device.clone(), mount.kind.clone()))
    }

    fn found(device: &str, kind: &str) -> Option<(String, String)> {
        Some((device.to_owned(), kind.to_owned()))
    }

    #[test]
    fn a_path_lies_where_the_kernel_would_find_it() {
        assert_eq!(device(HOST, "/sys/fs/bpf/postern"), found("0:39", "bpf"));
        assert_eq!(device(HOST, "/sys/fs/bpfx"), found("0:22", "sysfs"));
        assert_eq!(device(HOST, "/var"), found("0:2", "rootfs"));
        // One mount over another, and one over the parent of both.
        let over = format!("{HOST}50 42 0:50 / /sys/fs/bpf rw - bpf bpf rw\n");
        assert_eq!(device(&over, "/sys/fs/bpf/postern"), found("0:50", "bpf"));
        let hidden = format!("{over}51 23 0:51 / /sys rw - tmpfs tmpfs rw\n");
        assert_eq!(device(&hidden, "/sys/fs/bpf/postern"), found("0:51", "tmpfs"));
        // The order of the lines does not matter.
        let backwards: String = HOST.lines().rev().map(|line| format!("{line}\n")).collect();
        assert_eq!(device(&backwards, "/sys/fs/bpf/postern"), found("0:39", "bpf"));
        assert_eq!(device("", "/"), None);
        assert_eq!(device("nonsense\n1 2 3\n", "/"), None);
        assert!(device("1 2 0:1 / / rw - a b c\n2 1 0:2 / / rw - a b c\n", "/x").is_none(), "a circle has no root");
    }

    #[test]
    fn a_line_says_all_that_counts() {
        let line = r"42 23 0:39 / /a\040b rw,relatime shared:9 master:3 - bpf bpf rw";
        let want = Mount {
            id: 42,
            parent: 23,
            device: "0:39".into(),
            place: "/a b".into(),
            is_copy: true,
            kind: "bpf".into(),
        };
        assert_eq!(mount(line), Some(want));
        assert!(!mount(&HOST.lines().next().unwrap().replace("rw -", "rw propagate_from:2 -")).unwrap().is_copy);
    }

    fn surroundings(first: io::Result<&str>) -> Surroundings {
        let first = first.map(|text| {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(text.as_bytes(), 0).unwrap();
            file
        });
        let pin_dir = "/sys/fs/bpf/postern".into();
        Surroundings { pin_dir, first, is_first: false, on_the_hosts_network: false, network: None }
    }

    #[test]
    fn pins_last_where_process_1_has_their_file_system_too() {
        let one = |line: &str| mount(line).unwrap();
        let own = one("42 23 0:39 / /sys/fs/bpf rw - bpf bpf rw");
        let copy = one("42 23 0:39 / /sys/fs/bpf rw master:9 - bpf bpf rw");
        let host = || surroundings(Ok(HOST));
        assert_eq!(host().why_not(&own), None);
        assert!(host().why_not(&one("42 23 0:40 / /sys/fs/bpf rw - bpf bpf rw")).unwrap().contains("process 1"));
        let blind = || surroundings(Err(io::ErrorKind::NotFound.into()));
        assert!(blind().why_not(&own).unwrap().contains("is not known"));
        assert_eq!(blind().why_not(&copy), None);
        for container in
            [Surroundings { is_first: true, ..host() }, Surroundings { on_the_hosts_network: true, ..host() }]
        {
            assert!(container.why_not(&own).unwrap().contains("container"));
            assert_eq!(container.why_not(&copy), None);
        }
    }

    #[test]
    fn a_list_longer_than_one_read_is_read_whole() {
        let long = HOST.repeat(2 * CHUNK / HOST.len());
        let file = surroundings(Ok(&long)).first.unwrap();
        assert_eq!(read(&file).unwrap(), long);
    }
}
