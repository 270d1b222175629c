//! A small file system of its own: real ENOSPC and a real read-only mount, for one test.
//!
//! It is mounted in a mount namespace of the calling thread and what that starts, so nothing is left behind even by SIGKILL.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::CWD;
use rustix::mount::{
    FsPickFlags, MountFlags, UnmountFlags, fsconfig_reconfigure, fsconfig_set_flag, fspick, mount, unmount,
};
use tempfile::TempDir;

use crate::{pins, sys};

/// A tmpfs, or an ext4 on a loop device, which the kernel takes away with its mount.
#[derive(Debug)]
pub struct SmallDisk {
    place: TempDir,
    /// Where the ext4's bytes are.
    image: Option<TempDir>,
}

impl SmallDisk {
    /// An empty one of that many KiB.
    ///
    /// # Panics
    /// Where the kernel refuses.
    #[must_use]
    pub fn new(kib: u32) -> Self {
        sys::unshare_mounts().expect("a mount namespace");
        let place = pins::directory();
        let options = std::ffi::CString::new(format!("size={kib}k,mode=0700")).expect("options");
        mount("tmpfs", place.path(), "tmpfs", MountFlags::empty(), &*options).expect("to mount a tmpfs");
        Self { place, image: None }
    }

    /// An empty ext4 of 8 MiB: a file system with blocks on a device, a log of its own, and pages that are written late.
    ///
    /// # Panics
    /// Where the kernel or mkfs.ext4 refuses.
    #[must_use]
    pub fn ext4() -> Self {
        sys::unshare_mounts().expect("a mount namespace");
        let (place, image) = (pins::directory(), pins::directory());
        let file = image.path().join("image");
        File::create(&file).and_then(|file| file.set_len(8 << 20)).expect("an image");
        run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&file));
        run(Command::new("mount").args(["-o", "loop"]).arg(&file).arg(place.path()));
        Self { place, image: Some(image) }
    }

    /// Has the ext4 do what it does when its device fails: it turns read-only at once, whoever has files open, and stays so until
    /// it is mounted anew.
    ///
    /// # Panics
    /// Where the kernel refuses.
    pub fn abort(&self) {
        run(Command::new("mount").args(["-o", "remount,abort"]).arg(self.path()));
    }

    /// Mounts the ext4 anew. No process may have a file open.
    ///
    /// # Panics
    /// Where a process has.
    pub fn mount_again(&self) {
        let image = self.image.as_ref().expect("an ext4").path().join("image");
        run(Command::new("umount").arg(self.path()));
        run(Command::new("mount").args(["-o", "loop"]).arg(image).arg(self.path()));
    }

    /// Its top, for this thread and what it starts.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.place.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Fills it to the last page. What a file has left of its own last page, it may still use.
    ///
    /// # Panics
    /// Where another error comes than that it is full.
    pub fn fill(&self) {
        let mut file = File::create(self.ballast()).expect("a file");
        let error = loop {
            if let Err(error) = file.write_all(&[0; 4096]) {
                break error;
            }
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "{error}");
    }

    /// Gives the room back that [`SmallDisk::fill`] took.
    ///
    /// # Panics
    /// Where it was not filled.
    pub fn free(&self) {
        std::fs::remove_file(self.ballast()).expect("to remove the ballast");
    }

    /// Makes it read-only, or writable again. No process may hold a file open for writing.
    ///
    /// # Panics
    /// Where a process does.
    pub fn set_read_only(&self, read_only: bool) {
        let context = fspick(CWD, self.path(), FsPickFlags::FSPICK_CLOEXEC).expect("to pick it");
        fsconfig_set_flag(&context, if read_only { "ro" } else { "rw" }).expect("the flag");
        fsconfig_reconfigure(&context).expect("to remount it");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Else the directory below it cannot be removed.
        let _ = unmount(self.place.path(), UnmountFlags::DETACH);
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[cfg(test)]
mod tests {
    use super::SmallDisk;
    use std::fs;
    use std::io::ErrorKind;

    #[test]
    fn it_fills_and_empties_and_refuses_writes_when_read_only() {
        let disk = SmallDisk::new(64);
        let write = || fs::write(disk.path().join("file"), "text").map_err(|error| error.kind());
        assert_eq!(write(), Ok(()));
        disk.fill();
        assert_eq!(fs::write(disk.path().join("other"), "text").map_err(|e| e.kind()), Err(ErrorKind::StorageFull));
        disk.free();
        disk.set_read_only(true);
        assert_eq!(write(), Err(ErrorKind::ReadOnlyFilesystem));
        disk.set_read_only(false);
        assert_eq!(write(), Ok(()));
    }
}
