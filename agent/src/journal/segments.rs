//! The journal's directory and the files in it.
//!
//! Owns their names, the list of segments, and the move of an old single-file journal into the directory. It never parses a line.

use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::head;
use crate::system::guarded;

/// Opens a file in the journal's directory. posternd's user owns that directory and the one above.
pub(super) fn open(path: &Path, how: OFlags) -> io::Result<File> {
    guarded::open(path, 2, how)
}

pub(super) fn read(path: &Path) -> io::Result<File> {
    open(path, guarded::READ)
}

/// The longest line; a message has at most 64 KiB. A sparse file of zeros needs no disk space, but as one line it would fill the memory.
const LONGEST: u64 = 1 << 20;

/// Appends the next line with its newline to `line`; returns 0 at the end of the file. A torn or overlong line has no newline.
pub(super) fn next_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    Ok(reader.take(LONGEST).read_until(b'\n', line)? as u64)
}

pub(super) fn is_overlong(line: &[u8]) -> bool {
    line.len() as u64 >= LONGEST && !line.ends_with(b"\n")
}

/// The journal's directory in the state directory.
pub(super) const DIR: &str = "journal";
/// The single file of schema 1 in the state directory, and its head.
pub(super) const SINGLE: &str = "journal.jsonl";
pub(super) const SINGLE_HEAD: &str = "journal.head";
/// The directory while the old files are moved into it.
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

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    guarded::sync_dir(dir)
}

/// Makes the journal's directory. A single file of schema 1 becomes its first segment. After an interruption the next call continues.
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
