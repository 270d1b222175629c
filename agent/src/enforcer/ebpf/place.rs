//! The places to which programs are attached: the network namespace and the cgroup.
//!
//! Owns finding these places. It attaches nothing.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
        unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use super::sys::{self, Place};
use crate::enforcer::EnforcerError;

const ADVICE_CGROUP: &str = "mount cgroup v2, or name it in `cgroup`";

pub struct Target {
    /// The place in the form that the kernel reports for a link there.
    pub place: Place,
    /// The kernel takes a descriptor for the place, so it stays open.
    fd: OwnedFd,
}

impl Target {
    pub fn number(&self) -> u32 {
        self.fd.as_raw_fd() as u32
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

pub fn network_namespace() -> Result<Target, EnforcerError> {
    let open = || -> io::Result<Target> {
        let file = File::open("/proc/thread-self/ns/net")?;
        Ok(Target { place: Place::Namespace(file.metadata()?.ino(), sys::ATTACH_LOOKUP), fd: file.into() })
    };
    open().map_err(|e| EnforcerError::kernel("open the network namespace", &e, "mount /proc"))
}

/// The cgroup whose sockets the cut judges: `path`, or the mounted root of cgroup v2, or a private mount of that root.
pub fn cgroup(path: Option<&Path>, attach_type: u32) -> Result<Target, EnforcerError> {
    let found = match path {
        Some(path) => Some(path.to_owned()),
        None => mounted_root(&fs::read_to_string("/proc/mounts").unwrap_or_default()),
    };
    let open = || -> io::Result<Target> {
        let fd = match &found {
            // O_PATH needs no right to read. A confined posternd has none outside of /sys.
            Some(path) => {
                OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_PATH).open(path)?.into()
            }
            None => sys::private_cgroup2()?,
        };
        // On another file system an inode may have the number of a cgroup by chance: /proc has the number of the root cgroup.
        if !sys::is_cgroup2(fd.as_fd())? {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it is not a directory of cgroup v2"));
        }
        // A cgroup's id is its directory's inode number on 64-bit kernels (kernfs).
        let id = File::from(fd.try_clone()?).metadata()?.ino();
        Ok(Target { place: Place::Cgroup(id, attach_type), fd })
    };
    let name = found.as_deref().map_or("root".to_owned(), |p| p.display().to_string());
    open().map_err(|e| EnforcerError::kernel(format!("open the cgroup {name}"), &e, ADVICE_CGROUP))
}

const ROOT: u64 = 1;

/// The sockets that a cut at this cgroup does not judge, in words. `None` for the root of cgroup v2.
pub fn part(id: u64) -> Option<String> {
    (id != ROOT).then(|| {
        format!(
            "the cut judges the sockets of cgroup {id} and below, which is not the root of cgroup v2 (number {ROOT}): sessions of \
             other processes are not cut at the end of their grant, and outlive it while posternd is dead; only the lock refuses \
             new ones. Run posternd where the root of cgroup v2 is mounted, and leave `cgroup` out of the \
             configuration"
        )
    })
}

/// A mount of the root of cgroup v2; containers also mount parts. Without one, as in a cgroup namespace, the first mount.
fn mounted_root(mounts: &str) -> Option<PathBuf> {
    let is_root = |path: &PathBuf| fs::metadata(path).is_ok_and(|found| found.ino() == ROOT);
    let found = mounted_cgroup2(mounts);
    found.iter().find(|path| is_root(path)).or(found.first()).cloned()
}

/// The mounts of cgroup v2 in /proc/mounts. A host may mount v2 beside v1, for example under `unified`.
fn mounted_cgroup2(mounts: &str) -> Vec<PathBuf> {
    let of_line = |line: &str| {
        let mut words = line.split(' ');
        let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place.replace("\\040", " ")))
    };
    mounts.lines().filter_map(of_line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_beside_v1() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mounted_cgroup2(mounts), [PathBuf::from("/sys/fs/cgroup/unified")]);
        assert!(mounted_cgroup2("proc /proc proc rw 0 0\n").is_empty());
    }

    #[test]
    fn only_cgroup2_is_taken_for_a_cgroup() {
        let directory = tempfile::tempdir().unwrap();
        // /proc's inode number is that of the root cgroup.
        for path in [Path::new("/proc"), Path::new("/sys"), directory.path()] {
            let error = cgroup(Some(path), sys::ATTACH_INGRESS).err().unwrap().to_string();
            assert!(error.contains("not a directory of cgroup v2"), "{}: {error}", path.display());
        }
        assert!(cgroup(Some(Path::new("/proc/self/status")), sys::ATTACH_INGRESS).is_err());
        // Without a path this finds cgroup v2, mounted or not. The path of the mount leads to the same cgroup.
        assert!(cgroup(None, sys::ATTACH_INGRESS).is_ok());
        if let Some(mounted) = mounted_root(&fs::read_to_string("/proc/mounts").unwrap()) {
            let Place::Cgroup(id, _) = cgroup(Some(&mounted), sys::ATTACH_INGRESS).unwrap().place else {
                panic!("another place")
            };
            assert_eq!(id, fs::metadata(&mounted).unwrap().ino());
        }
    }
}
