//! The journal's directory and the files in it.
//!
//! Owns their names, the list of segments, and the move of an old single-file journal into the directory. It never reads a
//! line.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::head;
use crate::system::guarded;

/// Opens a file in the journal's directory. The agent's user owns that directory and the one above.
pub(super) fn open(path: &Path, how: OFlags) -> io::Result<File> {
    guarded::open(path, 2, how)
}

/// Opens a file for reading; else as [`open`].
pub(super) fn read(path: &Path) -> io::Result<File> {
    open(path, guarded::READ)
}

/// The longest line of a journal: a message has at most 64 KiB. A sparse file of zeros needs no room on the disk, but as one
/// line it would fill the memory.
const LONGEST: u64 = 1 << 20;

/// Appends the next line to `line`, with its end, and returns its length; 0 at the end of the file. A line without its end is
/// the last one of its file, or longer than any line of a journal.
pub(super) fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    Ok(reader.take(LONGEST).read_until(b'\n', line)? as u64)
}

/// Whether the result of [`next_line`] is too long for a line.
pub(super) fn is_overlong(line: &[u8]) -> bool {
    line.len() as u64 >= LONGEST && !line.ends_with(b"\n")
}

/// The journal's directory in the state directory.
pub(super) const DIR: &str = "journal";
/// The single file of schema 1, in the state directory.
pub(super) const SINGLE: &str = "journal.jsonl";
/// The head of that file.
pub(super) const SINGLE_HEAD: &str = "journal.head";
/// The directory while files are being moved into it.
const MOVING: &str = "journal.moving";

/// The file whose first line has the number `first`.
pub(super) fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:020}.jsonl"))
}

/// The numbers of the segments' first lines, the oldest first.
pub(super) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let name = entry?.file_name();
        let digits = name.to_str().and_then(|name| name.strip_suffix(".jsonl")).filter(|digits| digits.len() == 20);
        found.extend(digits.and_then(|digits| digits.parse::<u64>().ok()));
    }
    found.sort_unstable();
    Ok(found)
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    guarded::sync_dir(dir)
}

/// Makes sure that the journal's directory exists. A single file of schema 1 becomes its first segment. After an interruption
/// the next call continues. Returns the directory.
pub(super) fn prepare(state: &Path) -> io::Result<PathBuf> {
    let (dir, moving) = (state.join(DIR), state.join(MOVING));
    if dir.is_dir() {
        return Ok(dir);
    }
    DirBuilder::new().recursive(true).mode(0o700).create(&moving)?;
    for (from, to) in [(SINGLE, path(&moving, 1)), (SINGLE_HEAD, moving.join(head::FILE))] {
        match fs::rename(state.join(from), to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync_dir(&moving)?;
    // The directory gets its name only after both files are in it.
    fs::rename(&moving, &dir)?;
    sync_dir(state)?;
    Ok(dir)
}
