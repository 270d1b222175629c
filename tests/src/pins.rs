//! Directories on bpffs and for files, for one posternd each, and the removal of what dead test processes left.
//!
//! Owns only directories with a name of [`crate::names`]. Never touches another one's pins or files.

use crate::{bpf, names, sys};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const BPFFS: &str = "/sys/fs/bpf";

/// A directory for pins; everything in it is unpinned when this is dropped.
///
/// A pinned link outlives every process. Those on a network namespace lose their effect with it, but those on the root
/// cgroup stay, and a cgroup takes 64 of them.
#[derive(Debug)]
pub struct Pins {
    path: PathBuf,
}

impl Default for Pins {
    fn default() -> Self {
        Self::new()
    }
}

impl Pins {
    /// A new name; posternd makes the directory.
    ///
    /// # Panics
    /// Where bpffs is neither mounted nor can be: it takes root.
    #[must_use]
    pub fn new() -> Self {
        mount();
        sweep(Path::new(BPFFS));
        sweep(&std::env::temp_dir());
        Self { path: Path::new(BPFFS).join(names::unique("pins")) }
    }

    /// A directory that the test chose.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names of what is pinned now.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Detaches the link pinned under this name, at once and even if a process holds it, as `bpftool link detach` does.
    ///
    /// # Panics
    /// Where there is no such link.
    pub fn detach(&self, name: &str) {
        bpf::detach_link(&self.path.join(name)).unwrap_or_else(|error| panic!("the pin {name}: {error}"));
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let _never_made = fs::remove_dir_all(&self.path);
    }
}

fn mount() {
    // Two mounts over each other would hide the first one's pins.
    let lock = File::create(std::env::temp_dir().join("postern-tests.lock")).expect("a lock file");
    lock.lock().expect("the lock");
    let mounts = fs::read_to_string("/proc/mounts").expect("the mounts");
    if !mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPFFS)) {
        sys::mount_bpffs(BPFFS).expect("to mount bpffs");
    }
}

/// A directory for files that is removed when dropped, or swept away by a later test. Everybody may go through it, as through
/// `/var/lib`.
pub(crate) fn directory() -> TempDir {
    let passable = fs::Permissions::from_mode(0o711);
    tempfile::Builder::new().prefix(&names::prefix()).permissions(passable).tempdir().expect("a directory")
}

/// Removes what test processes have left in `place` that died without a chance to.
fn sweep(place: &Path) {
    sweep_with(place, |path| fs::remove_dir_all(path));
}

/// As [`sweep`], for a place that wants another way of removing.
pub(crate) fn sweep_with(place: &Path, remove: impl Fn(&Path) -> std::io::Result<()>) {
    for entry in fs::read_dir(place).expect("a directory").flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(names::owner);
        if owner.is_some_and(|owner| !Path::new(&format!("/proc/{owner}")).exists()) {
            // Another test process may be sweeping too.
            let _ = remove(&entry.path());
        }
    }
}
