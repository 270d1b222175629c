//! A cgroup of a test's own below the mount of cgroup v2, so that what is attached to it meets no other test.
//!
//! Owns directories there with a name of [`crate::names`], and removes those that dead test processes left. Never attaches anything to the
//! root.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::{names, pins, until};

/// Only one test at a time moves the process.
static MOVING: Mutex<()> = Mutex::new(());

/// A cgroup, removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// An empty one.
    ///
    /// # Panics
    /// Where cgroup v2 is not mounted, or takes no directory.
    #[must_use]
    pub fn new() -> Self {
        let this = Self::planned();
        this.make();
        this
    }

    /// The path of one that does not exist yet.
    ///
    /// # Panics
    /// As [`Cgroup::new`].
    #[must_use]
    pub fn planned() -> Self {
        let mount = mount();
        pins::sweep_with(&mount, |path| fs::remove_dir(path));
        Self { path: mount.join(names::unique("cgroup")) }
    }

    /// Makes the directory of a planned or removed one.
    ///
    /// # Panics
    /// Where the kernel refuses.
    pub fn make(&self) {
        fs::create_dir(&self.path).expect("a cgroup");
    }

    /// Removes the directory, once no process is in it: what other tests began while this process was inside may take a moment.
    /// Sockets made in it live on in a cgroup that has no name any more.
    ///
    /// # Panics
    /// Where the kernel refuses.
    pub fn remove(&self) {
        until("the cgroup can be removed", || fs::remove_dir(&self.path).is_ok());
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The line of posternd's configuration that names it.
    #[must_use]
    pub fn line(&self) -> String {
        format!("cgroup = {:?}\n", self.path)
    }

    /// Runs `work` with this process inside: sockets that it makes belong to this cgroup from then on.
    ///
    /// # Panics
    /// Where the kernel refuses.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> T {
        let _alone = MOVING.lock().unwrap_or_else(PoisonError::into_inner);
        let home = own().expect("the process's own cgroup");
        enter(&self.path).expect("to enter the cgroup");
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        enter(&home).expect("to leave the cgroup");
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The directory, opened.
    ///
    /// # Panics
    /// Where it is not there.
    #[must_use]
    pub fn open(&self) -> Opened {
        Opened(File::open(&self.path).expect("the cgroup"))
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _never_made = fs::remove_dir(&self.path);
    }
}

/// A cgroup's directory, held open.
#[derive(Debug)]
pub struct Opened(File);

impl AsFd for Opened {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").expect("the mounts");
    let found = mounts.lines().find_map(|line| {
        let mut words = line.split(' ');
        let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(place))
    });
    found.expect("a mount of cgroup v2 (mount -t cgroup2 none DIRECTORY)")
}

fn own() -> io::Result<PathBuf> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/")).ok_or(io::ErrorKind::NotFound)?;
    Ok(mount().join(path))
}

fn enter(cgroup: &Path) -> io::Result<()> {
    fs::write(cgroup.join("cgroup.procs"), std::process::id().to_string())
}
