//! Files that only root may write.
//!
//! Owns the check of owner and mode, and the choice of the process that opens the file. It never interprets the contents.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;

/// The largest configuration or trust file that posternd reads, in bytes. Real files are far smaller.
const MOST_BYTES: u64 = 4 << 20;

type Open = dyn Fn(&Path) -> io::Result<File> + Send + Sync;

/// Opens root's files for this process: directly, or through the helper where this process has no right to open them.
#[derive(Clone)]
pub struct Opener(Arc<Open>);

impl Opener {
    /// An opener that calls `open`.
    pub fn new(open: impl Fn(&Path) -> io::Result<File> + Send + Sync + 'static) -> Self {
        Self(Arc::new(open))
    }

    /// Opens the file at `path` for reading.
    ///
    /// # Errors
    /// As `open(2)`.
    pub fn open(&self, path: &Path) -> io::Result<File> {
        (self.0)(path)
    }
}

impl Default for Opener {
    /// This process opens the files itself.
    fn default() -> Self {
        Self::new(open)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Opener")
    }
}

/// Opens a file for reading without waiting: to open a FIFO would otherwise wait for a writer.
///
/// # Errors
/// As `open(2)`.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// The bytes of a file that only root can have written.
///
/// # Errors
/// A sentence without the file's name: the file cannot be read, is not a plain file, does not belong to root, or others can write to
/// it. Owner and mode are those of the opened file, so swapping the path has no effect.
pub fn read_owned(path: &Path) -> Result<Vec<u8>, String> {
    match contents(open(path))? {
        (_, Some(wrong)) => Err(wrong),
        (bytes, None) => Ok(bytes),
    }
}

/// The text of a plain file of any owner. The caller must not trust it, or must verify what it says.
///
/// # Errors
/// The file cannot be read, is not a plain file, or is not UTF-8.
pub fn read_plain(path: &Path) -> io::Result<String> {
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("is not a plain file"));
    }
    io::read_to_string(file.take(MOST_BYTES))
}

/// A file as posternd found it.
#[derive(Debug, Default)]
pub struct Contents {
    /// The bytes, also where others than root could have written them; `None` where the file cannot be read.
    pub bytes: Option<Vec<u8>>,
    /// What is wrong with the file, in the words of [`read_owned`].
    pub wrong: Option<String>,
}

impl Contents {
    /// Reads a file that this process or another one has opened.
    #[must_use]
    pub fn of(opened: io::Result<File>) -> Self {
        match contents(opened) {
            Ok((bytes, wrong)) => Self { bytes: Some(bytes), wrong },
            Err(wrong) => Self { bytes: None, wrong: Some(wrong) },
        }
    }

    /// The bytes, where only root can have written them.
    ///
    /// # Errors
    /// As [`read_owned`].
    pub fn owned(&self) -> Result<&[u8], String> {
        self.wrong.clone().map_or_else(|| Ok(self.bytes.as_deref().unwrap_or_default()), Err)
    }
}

fn contents(opened: io::Result<File>) -> Result<(Vec<u8>, Option<String>), String> {
    let file = opened.map_err(|e| format!("cannot be read: {e}"))?;
    let meta = file.metadata().map_err(|e| format!("cannot be examined: {e}"))?;
    if !meta.is_file() {
        return Err("is not a plain file".into());
    }
    if meta.len() > MOST_BYTES {
        return Err(format!("has {} bytes; at most {MOST_BYTES} are read", meta.len()));
    }
    let mut wrong = None;
    if meta.uid() != 0 {
        wrong = Some(format!("belongs to user {} and must belong to root (chown root)", meta.uid()));
    } else if meta.mode() & 0o022 != 0 {
        wrong = Some(format!("can be written by others (mode {:o}; chmod go-w)", meta.mode() & 0o7777));
    }
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes).map_err(|e| format!("cannot be read: {e}"))?;
    Ok((bytes, wrong))
}
