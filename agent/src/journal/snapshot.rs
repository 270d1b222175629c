//! The ledger at one line of the journal, so that a start need not read the lines before.
//!
//! Owns the snapshot files beside the segments. Number, hash and place bind each to its line. posternd ignores one that does not fit.

use std::fs;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use postern_core::ledger::Ledger;
use serde::{Deserialize, Serialize};

use super::chain::{self, Origin};
use super::head::Head;
use super::{schema, segments};
use crate::system::host::write_durably;

/// The suffix of their names, after the line's number.
const SUFFIX: &str = ".snapshot";
/// How many are kept: the second in case the newest is damaged.
const KEPT: usize = 2;
/// The length of the hash at the beginning, with its newline.
const SUM: u64 = 65;
/// The most bytes of a snapshot. `history_bytes` is nearly all of it, and at most 1 GiB.
const MOST: u64 = 2 << 30;
/// How many of the newest files posternd tries. Other programs may have put files there.
const LOOKED_AT: usize = 4;
/// The longest line that a snapshot may name, in bytes.
const LONGEST: u64 = 1 << 20;

/// The line at which a snapshot was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Place {
    pub seq: u64,
    pub hash: String,
    pub segment: u64,
    /// Where the line begins in the segment, and where the next line begins.
    pub start: u64,
    pub end: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    schema: u32,
    /// The version of posternd that made it: another version may compute another ledger.
    version: String,
    place: Place,
}

/// A ledger to be written.
pub struct Snapshot {
    dir: PathBuf,
    place: Place,
    ledger: Ledger,
}

impl Snapshot {
    pub(super) fn new(dir: &Path, place: Place, ledger: Ledger) -> Self {
        Self { dir: dir.to_owned(), place, ledger }
    }

    /// Writes the snapshot durably, whole or not at all, and removes older ones. Returns its length in bytes.
    ///
    /// # Errors
    /// An error of the disk. The next start only takes longer.
    pub fn write(&self) -> io::Result<u64> {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let header = Header { schema: schema::CURRENT, version, place: self.place.clone() };
        let mut body = serde_json::to_vec(&header)?;
        body.push(b'\n');
        serde_json::to_writer(&mut body, &self.ledger)?;
        body.push(b'\n');
        let mut text = format!("{}\n", chain::hash(&body)).into_bytes();
        text.append(&mut body);
        let path = self.dir.join(format!("{:020}{SUFFIX}", self.place.seq));
        let written = write_durably(&path, 2, &text);
        if written.is_err() {
            // A partial file only uses space, and the disk may be full.
            let _ = fs::remove_file(path.with_extension("new"));
        }
        written?;
        for old in list(&self.dir)?.into_iter().rev().skip(KEPT) {
            fs::remove_file(old)?;
        }
        Ok(text.len() as u64)
    }
}

/// The oldest first.
pub(super) fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir)?.collect::<io::Result<Vec<_>>>()?;
    let mut found: Vec<_> = entries.into_iter().map(|entry| entry.path()).collect();
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(SUFFIX)));
    found.sort();
    Ok(found)
}

/// The beginning of the fold after the newest fitting snapshot, and a sentence for each newer snapshot of this version that does not fit.
pub(super) fn newest(dir: &Path) -> io::Result<(Option<Origin>, Vec<String>)> {
    let mut passed_over = Vec::new();
    for path in list(dir)?.into_iter().rev().take(LOOKED_AT) {
        match read(dir, &path) {
            Ok(origin) => return Ok((Some(origin), passed_over)),
            // An upgrade makes older snapshots useless, which is no fault.
            Err(Unfit::Version) => {}
            Err(Unfit::Damaged(why)) => passed_over.push(format!("{}: {why}", path.display())),
        }
    }
    Ok((None, passed_over))
}

enum Unfit {
    /// Another version of posternd made it.
    Version,
    Damaged(String),
}

fn read(dir: &Path, path: &Path) -> Result<Origin, Unfit> {
    let unread = |error: io::Error| Unfit::Damaged(format!("cannot be read: {error}"));
    let damaged = |_: io::Error| Unfit::Damaged("is damaged".to_owned());
    let file = segments::read(path).map_err(unread)?;
    if file.metadata().map_err(unread)?.len() > MOST {
        return Err(Unfit::Damaged("is longer than any snapshot".to_owned()));
    }
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let mut sum = String::new();
    reader.by_ref().take(SUM).read_to_string(&mut sum).map_err(damaged)?;
    if sum.strip_suffix('\n') != Some(chain::hash_of(&mut reader).map_err(unread)?.as_str()) {
        return Err(Unfit::Damaged("is damaged".to_owned()));
    }
    // Read in parts: a sparse file of zeros must not take as much memory as its length.
    reader.seek(SeekFrom::Start(SUM)).map_err(unread)?;
    let mut header = Vec::new();
    segments::next_line(&mut reader, &mut header).map_err(unread)?;
    let foreign = |_: serde_json::Error| Unfit::Version;
    let header: Header = serde_json::from_slice(&header).map_err(foreign)?;
    if (header.schema, &header.version[..]) != (schema::CURRENT, env!("CARGO_PKG_VERSION")) {
        return Err(Unfit::Version);
    }
    let place = header.place;
    if !stands_at(dir, &place) {
        return Err(Unfit::Damaged(format!("does not fit this journal at line {}", place.seq)));
    }
    let ledger: Ledger = serde_json::from_reader(reader).map_err(foreign)?;
    let Place { seq, hash, segment, start: last, end } = place;
    Ok(Origin { ledger, head: Head { seq, hash }, segment, offset: end, last, proved: true })
}

fn stands_at(dir: &Path, place: &Place) -> bool {
    let length = place.end.checked_sub(place.start).filter(|length| (1..=LONGEST).contains(length));
    let Some(mut line) = length.and_then(|length| usize::try_from(length).ok()).map(|length| vec![0; length]) else {
        return false;
    };
    let file = segments::read(&segments::path(dir, place.segment));
    let read = file.and_then(|file| file.read_exact_at(&mut line, place.start));
    let text = line.strip_suffix(b"\n").filter(|text| !text.contains(&b'\n') && read.is_ok());
    text.is_some_and(|text| {
        chain::hash(text) == place.hash && schema::mark(text).is_ok_and(|mark| mark.seq == place.seq)
    })
}
