//! What can be wrong with a file: unreadable, half written, another user's, a link, a FIFO, a directory, empty, missing.
//!
//! Owns the ways to spoil one and to mend it again. It never touches a file that no test made.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A fault of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoilt {
    /// Its second half is missing, in the middle of a line.
    HalfWritten,
    /// It belongs to a user that is not root.
    SomebodyElses,
    /// Anybody may write to it.
    WritableByAll,
    /// A symbolic link to a file that is not there.
    DanglingLink,
    /// A FIFO: opening it for reading waits for a writer.
    Fifo,
    /// A directory.
    Directory,
    /// Its bytes are no text.
    NoText,
    /// It has no bytes.
    Empty,
    /// It is not there.
    Missing,
}

impl Spoilt {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::HalfWritten,
        Self::SomebodyElses,
        Self::WritableByAll,
        Self::DanglingLink,
        Self::Fifo,
        Self::Directory,
        Self::NoText,
        Self::Empty,
        Self::Missing,
    ];

    /// Does it to the file at `path`; what it was before is returned, for [`Mended::mend`].
    ///
    /// # Panics
    /// Where there is no such file, or the disk refuses.
    #[must_use]
    pub fn put(self, path: &Path) -> Mended {
        let good = fs::read(path).expect("the file to spoil");
        let mode = mode_of(path);
        let write = |bytes: &[u8]| fs::write(path, bytes).expect("to write it");
        let away = || fs::remove_file(path).expect("to remove it");
        match self {
            Self::HalfWritten => write(&good[..good.len() / 2]),
            Self::SomebodyElses => chown(path, Some(12345), None).expect("to give it away"),
            Self::WritableByAll => chmod(path, 0o666),
            Self::DanglingLink => {
                away();
                symlink("/nonexistent/postern", path).expect("a link");
            }
            Self::Fifo => {
                away();
                fifo(path);
            }
            Self::Directory => {
                away();
                fs::create_dir(path).expect("a directory");
            }
            Self::NoText => write(b"\xff\xfe\x00\xff\n"),
            Self::Empty => write(b""),
            Self::Missing => away(),
        }
        Mended { path: path.to_owned(), good, mode }
    }
}

/// A file as it was.
#[derive(Debug)]
pub struct Mended {
    path: PathBuf,
    good: Vec<u8>,
    mode: u32,
}

impl Mended {
    /// Puts the file back, as root's, by renaming another one over it.
    ///
    /// # Panics
    /// Where the disk refuses.
    pub fn mend(&self) {
        if self.path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            fs::remove_dir_all(&self.path).expect("to remove the directory");
        }
        let fresh = self.path.with_extension("mended");
        fs::write(&fresh, &self.good).expect("to write it");
        chmod(&fresh, self.mode);
        fs::rename(&fresh, &self.path).expect("to put it in place");
    }
}

/// Makes a FIFO.
///
/// # Panics
/// Where that fails.
pub fn fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success(), "{}", path.display());
}

/// Changes the mode of a file.
///
/// # Panics
/// Where that fails.
pub fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("to change its mode");
}

/// The mode of a file, without its type; of a link, the link's own.
///
/// # Panics
/// Where there is none.
#[must_use]
pub fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("a file").permissions().mode() & 0o7777
}
