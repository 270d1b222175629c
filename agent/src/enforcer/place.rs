//! Where programs are attached and pinned: the network namespace, the cgroup, the directory in bpffs.
//!
//! Owns finding these and taking the directory for one agent alone. It attaches nothing.

use std::{
    fs::{self, File, OpenOptions, Permissions, TryLockError},
    io,
    os::{
        fd::{AsFd, AsRawFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use postern_core::key::LAYOUT_VERSION;

use super::{
    error::EnforcerError,
    sys::{self, Place},
};

/// Where bpffs belongs, and where it is mounted if nobody did.
const BPFFS: &str = "/sys/fs/bpf";
/// A symbolic link in the pin directory whose target is the layout's version.
const LAYOUT: &str = "layout";

const ADVICE_PINS: &str = "give `pin_dir` a directory on a writable bpf file system that belongs to root \
                           (`mount -t bpf bpf /sys/fs/bpf` makes one)";
const ADVICE_CGROUP: &str = "mount cgroup v2, or name it in `cgroup`";

/// Something that a program can be attached to.
pub struct Target {
    /// How a link there shows itself.
    pub place: Place,
    /// Held open, because the kernel wants a descriptor.
    fd: OwnedFd,
}

impl Target {
    /// The number that `BPF_LINK_CREATE` wants.
    pub fn number(&self) -> u32 {
        self.fd.as_raw_fd() as u32
    }

    /// The same target for the cgroup's attach type `attach_type`.
    pub fn with_attach_type(&self, attach_type: u32) -> io::Result<Self> {
        let place = match self.place {
            Place::Cgroup(id, _) => Place::Cgroup(id, attach_type),
            other => other,
        };
        Ok(Self { place, fd: self.fd.as_fd().try_clone_to_owned()? })
    }
}

/// The calling thread's network namespace.
pub fn network_namespace() -> Result<Target, EnforcerError> {
    let open = || -> io::Result<Target> {
        let file = File::open("/proc/thread-self/ns/net")?;
        Ok(Target { place: Place::Namespace(file.metadata()?.ino()), fd: file.into() })
    };
    open().map_err(|e| EnforcerError::kernel("open the network namespace", &e, "mount /proc"))
}

/// The cgroup whose sockets are judged: `path`, or the root of cgroup v2 wherever it is mounted, or a private mount of it.
pub fn cgroup(path: Option<&Path>) -> Result<Target, EnforcerError> {
    let found = match path {
        Some(path) => Some(path.to_owned()),
        None => mounted_cgroup2(&fs::read_to_string("/proc/mounts").unwrap_or_default()),
    };
    let open = || -> io::Result<Target> {
        let fd = match &found {
            Some(path) => OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)?.into(),
            None => sys::private_cgroup2()?,
        };
        // Elsewhere an inode's number could be that of a cgroup by chance (/proc's is the root cgroup's).
        if !sys::is_cgroup2(fd.as_fd())? {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "it is not a directory of cgroup v2"));
        }
        // A cgroup's id is its directory's inode number on 64-bit kernels (kernfs).
        let id = File::from(fd.try_clone()?).metadata()?.ino();
        Ok(Target { place: Place::Cgroup(id, sys::ATTACH_INGRESS), fd })
    };
    let name = found.as_deref().map_or("root".to_owned(), |p| p.display().to_string());
    open().map_err(|e| EnforcerError::kernel(format!("open the cgroup {name}"), &e, ADVICE_CGROUP))
}

/// The first mount of cgroup v2 in /proc/mounts. It may lie beside v1, for example under `unified`.
fn mounted_cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place.replace("\\040", " ")))
    })
}

/// The directory of pins, held by this process alone.
pub struct PinDir {
    path: PathBuf,
    /// Its lock ends with the process, however it ends.
    _lock: File,
}

impl PinDir {
    /// Makes the directory if need be, checks whose it is, and takes it.
    pub fn open(path: &Path) -> Result<Self, EnforcerError> {
        let failed = |e: io::Error| EnforcerError::kernel(format!("use {}", path.display()), &e, ADVICE_PINS);
        ensure_bpffs(path).map_err(failed)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let pins = Self::take(path)?;
        pins.check_owner().map_err(failed)?;
        pins.write_layout().map_err(failed)?;
        Ok(pins)
    }

    /// Takes a directory that exists.
    pub fn take(path: &Path) -> Result<Self, EnforcerError> {
        let failed = |e: io::Error| EnforcerError::kernel(format!("use {}", path.display()), &e, ADVICE_PINS);
        let lock = File::open(path).map_err(failed)?;
        // A child that a dead agent was just starting holds the lock until its exec closes it.
        let deadline = Instant::now() + Duration::from_millis(500);
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { path: path.to_owned(), _lock: lock }),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                Err(TryLockError::WouldBlock) => return Err(EnforcerError::InUse(path.display().to_string())),
                Err(TryLockError::Error(e)) => return Err(failed(e)),
            }
        }
    }

    /// Whoever can write here can open the host, so the directory is root's alone.
    fn check_owner(&self) -> io::Result<()> {
        let metadata = fs::symlink_metadata(&self.path)?;
        if !metadata.is_dir() || metadata.uid() != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a directory of root's"));
        }
        if metadata.mode() & 0o777 != 0o700 {
            fs::set_permissions(&self.path, Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    fn write_layout(&self) -> io::Result<()> {
        let (link, version) = (self.path.join(LAYOUT), LAYOUT_VERSION.to_string());
        match fs::read_link(&link) {
            Ok(found) if found == Path::new(&version) => return Ok(()),
            Ok(_) => fs::remove_file(&link)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        symlink(version, link)
    }

    /// The link pinned as `name`.
    pub fn pinned(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        match sys::open_pinned(&self.path.join(name)) {
            Ok(fd) => Ok(Some(fd)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Pins `link` as `name`, in the place of any other, without a moment in which neither is pinned.
    pub fn pin(&self, name: &str, link: impl AsFd) -> io::Result<()> {
        let fresh = self.path.join(format!("{name}-new"));
        absent_is_fine(fs::remove_file(&fresh))?;
        sys::pin(link.as_fd(), &fresh)?;
        fs::rename(&fresh, self.path.join(name))
    }

    /// Takes the pin away and detaches its link at once, whoever else holds it.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        if let Ok(Some(link)) = self.pinned(name) {
            // One whose device or namespace is gone is detached already; the pin's removal is what counts.
            let _ = sys::detach_link(link.as_fd());
        }
        absent_is_fine(fs::remove_file(self.path.join(name)))
    }

    /// The names of all pins.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| entry.map(|e| e.file_name()));
        let names = names.collect::<io::Result<Vec<_>>>()?;
        Ok(names.into_iter().filter_map(|n| n.into_string().ok()).filter(|n| n != LAYOUT).collect())
    }

    /// Takes everything away, and the directory.
    pub fn clear(self) -> io::Result<()> {
        for name in self.names()? {
            self.remove(&name)?;
        }
        absent_is_fine(fs::remove_file(self.path.join(LAYOUT)))?;
        absent_is_fine(fs::remove_dir(&self.path))
    }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Mounts bpffs at its usual place if `path` belongs there and nobody did, and refuses any other file system: a pin
/// elsewhere is not possible, and a directory that looks right is a host that stays open.
fn ensure_bpffs(path: &Path) -> io::Result<()> {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    if sys::is_bpffs(existing)? {
        return Ok(());
    }
    let bpffs = Path::new(BPFFS);
    if path.starts_with(bpffs) && bpffs.is_dir() && !sys::is_bpffs(bpffs)? {
        return sys::mount_bpffs(bpffs);
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "it does not lie on a bpf file system"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_beside_v1() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mounted_cgroup2(mounts), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(mounted_cgroup2("proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn only_cgroup2_is_taken_for_a_cgroup() {
        let directory = tempfile::tempdir().unwrap();
        // /proc's inode number is that of the root cgroup.
        for path in [Path::new("/proc"), Path::new("/sys"), directory.path()] {
            let error = cgroup(Some(path)).err().unwrap().to_string();
            assert!(error.contains("not a directory of cgroup v2"), "{}: {error}", path.display());
        }
        assert!(cgroup(Some(Path::new("/proc/self/status"))).is_err());
        // What is found without being named is the real thing, mounted or not, and so is it when it is named.
        assert!(cgroup(None).is_ok());
        if let Some(mounted) = mounted_cgroup2(&fs::read_to_string("/proc/mounts").unwrap()) {
            let Place::Cgroup(id, _) = cgroup(Some(&mounted)).unwrap().place else { panic!("another place") };
            assert_eq!(id, fs::metadata(&mounted).unwrap().ino());
        }
    }

    #[test]
    fn pins_outside_bpffs_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = PinDir::open(&directory.path().join("pins")).err().unwrap().to_string();
        assert!(error.contains("bpf file system"), "{error}");
    }
}
