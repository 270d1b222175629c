//! Files that only root may write.
//!
//! Owns the check of owner and mode, and the choice of the process that opens the file. Never interprets the content.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;

/// The largest configuration or trust file that posternd reads, in bytes.
const MOST_BYTES: u64 = 4 << 20;

type Open = dyn Fn(&Path) -> io::Result<File> + Send + Sync;

/// Opens root's files: directly, or through the helper if this process has no right to open them.
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
    /// Fails as `open(2)` does.
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

/// Opens a file for reading without waiting: opening a FIFO would wait for a writer.
///
/// # Errors
/// Fails as `open(2)` does.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// The bytes of a file that only root can have written. The check is on the opened file, so swapping the path has no effect.
///
/// # Errors
/// In words, without the file's name: the file cannot be read or is not plain, or others than root own it or can write to it.
pub fn read_owned(path: &Path) -> Result<Vec<u8>, String> {
    match contents(open(path))? {
        (_, Some(wrong)) => Err(wrong),
        (bytes, None) => Ok(bytes),
    }
}

/// The text of a plain file of any owner, which the caller must verify.
///
/// # Errors
/// Fails if the file cannot be read or is not a plain file, or if the text is not UTF-8.
pub fn read_plain(path: &Path) -> io::Result<String> {
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("is not a plain file"));
    }
    io::read_to_string(file.take(MOST_BYTES))
}

/// The content of a file, and what is wrong with the file.
#[derive(Debug, Default)]
pub struct Contents {
    /// The bytes, even if others than root could have written them; `None` if the file cannot be read.
    pub bytes: Option<Vec<u8>>,
    /// What is wrong with the file, in the words of [`read_owned`].
    pub wrong: Option<String>,
}

impl Contents {
    /// Reads an opened file.
    #[must_use]
    pub fn of(opened: io::Result<File>) -> Self {
        match contents(opened) {
            Ok((bytes, wrong)) => Self { bytes: Some(bytes), wrong },
            Err(wrong) => Self { bytes: None, wrong: Some(wrong) },
        }
    }

    /// The bytes, if only root can have written them.
    ///
    /// # Errors
    /// Fails as [`read_owned`] does.
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
