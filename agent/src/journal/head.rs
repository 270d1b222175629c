//! The last durable line of the journal: `head`, a small file beside the segments.
//!
//! Owns that file. It never names a missing line, but after a crash of the machine it may name an older line (decision 0014).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::segments;
use crate::system::guarded;

/// The file's name in the journal's directory.
pub(super) const FILE: &str = "head";
/// A number, a space, a hash and a newline. The length never changes, so a write replaces the file in place, within one sector.
const LENGTH: usize = 20 + 1 + 64 + 1;

/// The last line that is known to be durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The line's number; 0 if there is no line.
    pub seq: u64,
    pub hash: String,
}

pub(super) struct HeadFile(File);

impl HeadFile {
    /// Opens the file in `dir`, or makes an empty one.
    pub fn open(dir: &Path) -> io::Result<Self> {
        segments::open(&dir.join(FILE), guarded::WRITE).map(Self)
    }

    /// Opens the file in `dir` for reading.
    pub fn look(dir: &Path) -> io::Result<Self> {
        segments::read(&dir.join(FILE)).map(Self)
    }

    /// The contents; `None` before the first write. The error is `InvalidData` if the file was changed or damaged.
    pub fn read(&self) -> io::Result<Option<Head>> {
        let len = self.0.metadata()?.len();
        if len == 0 {
            return Ok(None);
        }
        let mut text = [0; LENGTH];
        if len != LENGTH as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("has {len} bytes instead of {LENGTH}")));
        }
        self.0.read_exact_at(&mut text, 0)?;
        parse(&text).map(Some).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "is not a number and a hash"))
    }

    /// Replaces the contents without a sync: after a crash the file may name an older line.
    pub fn write(&self, head: &Head) -> io::Result<()> {
        let text = format!("{:020} {}\n", head.seq, head.hash);
        debug_assert_eq!(text.len(), LENGTH);
        self.0.write_all_at(text.as_bytes(), 0)
    }

    pub fn sync(&self) -> io::Result<()> {
        self.0.sync_all()
    }
}

fn parse(text: &[u8; LENGTH]) -> Option<Head> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('\n')?;
    let (seq, hash) = text.split_once(' ')?;
    let is_hash = hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let is_number = seq.len() == 20 && seq.bytes().all(|b| b.is_ascii_digit());
    (is_hash && is_number).then_some(Head { seq: seq.parse().ok()?, hash: hash.to_owned() })
}
