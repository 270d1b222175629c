//! Files that only root can have written.
//!
//! Owns that check. It never looks at what is in them.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// The most bytes of a configuration or trust file: a slip of the hand, not a limit anybody should meet.
const MOST_BYTES: u64 = 4 << 20;

/// Opens a file for reading, and waits for nobody: the open of a FIFO would wait for somebody to write to it.
///
/// # Errors
/// As `open(2)`.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// The bytes of a file that nobody but root could have written.
///
/// # Errors
/// A sentence without the file's name: it cannot be read, is not a plain file, belongs to somebody else or can be written
/// by others. Owner and mode are those of the opened file, so that a swapped path gains nothing.
pub fn read_owned(path: &Path) -> Result<Vec<u8>, String> {
    check_and_read(open(path))
}

/// The text of a plain file, whoever's it is: what it says counts for nothing, or is checked by what it says.
///
/// # Errors
/// It cannot be read, is not a plain file, or is no UTF-8 text.
pub fn read_plain(path: &Path) -> io::Result<String> {
    let file = open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("is not a plain file"));
    }
    io::read_to_string(file.take(MOST_BYTES))
}

/// As [`read_owned`], of a file that somebody else has opened.
///
/// # Errors
/// As [`read_owned`].
pub fn check_and_read(opened: io::Result<File>) -> Result<Vec<u8>, String> {
    match examine(opened) {
        (_, Some(wrong)) => Err(wrong),
        (bytes, None) => Ok(bytes.unwrap_or_default()),
    }
}

/// The bytes of a file, also of one that others than root could have written, and what is wrong with the file, as [`read_owned`] says it.
#[must_use]
pub fn examine(opened: io::Result<File>) -> (Option<Vec<u8>>, Option<String>) {
    match contents(opened) {
        Ok((bytes, wrong)) => (Some(bytes), wrong),
        Err(wrong) => (None, Some(wrong)),
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
