//! The chain of hashes through all segments.
//!
//! Owns the check that each line follows from the line before, and the fold of the journal at a start. It never changes a file.

use std::collections::HashMap;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use postern_core::ledger::{Event, Ledger, Record};
use ring::digest::{Context, Digest, SHA256, digest};

use super::head::{self, Head};
use super::{GENESIS, JournalError, schema, segments};

/// The fault of the oldest line when no record says that the lines before it were removed.
pub(super) const UNPROVED: &str = "follows from lines that are missing, and no record says that retention removed them";

/// Lowercase hex SHA-256 of a line without its newline.
pub(super) fn hash(line: &[u8]) -> String {
    hex(digest(&SHA256, line))
}

/// The same for the rest of a reader.
pub(super) fn hash_of(reader: &mut impl io::Read) -> io::Result<String> {
    let (mut context, mut part) = (Context::new(&SHA256), vec![0; 1 << 16]);
    loop {
        match reader.read(&mut part)? {
            0 => return Ok(hex(context.finish())),
            length => context.update(&part[..length]),
        }
    }
}

fn hex(digest: Digest) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
    digest.as_ref().iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

pub(super) struct Chain {
    pub head: Head,
    /// The first line with a newer schema, and that schema.
    pub newer: Option<(u64, u32)>,
}

impl Chain {
    pub fn after(head: Head) -> Self {
        Self { head, newer: None }
    }

    /// Continues to the line `text`, even if it is wrong. Returns its record, or `None` if its schema is newer than ours.
    pub fn take(&mut self, text: &[u8]) -> Result<Option<Record>, String> {
        let number = self.head.seq + 1;
        let before = std::mem::replace(&mut self.head, Head { seq: number, hash: hash(text) });
        let mark = schema::mark(text)?;
        if mark.prev != before.hash {
            return Err("does not continue the one before it".into());
        }
        if mark.seq != number {
            return Err(format!("carries the number {}", mark.seq));
        }
        let record = schema::record(text, mark.schema)?;
        if record.is_none() {
            self.newer.get_or_insert((number, mark.schema));
        }
        Ok(record)
    }
}

/// The beginning of a fold.
pub(super) struct Origin {
    /// The ledger after the lines before.
    pub ledger: Ledger,
    /// The last of these lines.
    pub head: Head,
    /// The segment with the next line.
    pub segment: u64,
    /// How many bytes of that segment the lines before have, and where the last of them begins.
    pub offset: u64,
    pub last: u64,
    /// Whether something outside the journal proves the last of these lines.
    pub proved: bool,
}

impl Origin {
    /// The oldest kept line.
    pub fn oldest(dir: &Path, segments: &[u64]) -> io::Result<Self> {
        let (ledger, segment) = (Ledger::default(), segments.first().copied().unwrap_or(1));
        let hash = if segment <= 1 { GENESIS.to_owned() } else { claimed(&segments::path(dir, segment))? };
        Ok(Self {
            ledger,
            head: Head { seq: segment.saturating_sub(1), hash },
            segment,
            offset: 0,
            last: 0,
            proved: segment <= 1,
        })
    }
}

/// The hash of the line before, from the first line of a segment; empty if there is none.
pub(super) fn claimed(path: &Path) -> io::Result<String> {
    let mut line = Vec::new();
    segments::next_line(&mut BufReader::new(segments::read(path)?), &mut line)?;
    let mark = schema::mark(line.strip_suffix(b"\n").unwrap_or(&line));
    Ok(mark.map(|mark| mark.prev).unwrap_or_default())
}

pub(super) struct Folded {
    pub ledger: Ledger,
    pub head: Head,
    /// The newest segment.
    pub segment: u64,
    /// Its length, and where its last line begins.
    pub len: u64,
    pub last: u64,
    /// Bytes of a torn last line after `len`.
    pub torn: u64,
    pub lines: u64,
}

/// Folds all lines from `origin` on, up to the first fault. Checks the chain, and that all lines up to `known` are there.
pub(super) fn fold(dir: &Path, segments: &[u64], origin: Origin, known: Option<&Head>) -> Result<Folded, JournalError> {
    walk(dir, segments, origin, known, u64::MAX)
}

/// As [`fold`], but only up to the line `known`.
pub(super) fn fold_to(
    dir: &Path,
    segments: &[u64],
    origin: Origin,
    known: Option<&Head>,
) -> Result<Folded, JournalError> {
    walk(dir, segments, origin, known, known.map_or(u64::MAX, |known| known.seq))
}

fn walk(dir: &Path, segments: &[u64], origin: Origin, known: Option<&Head>, end: u64) -> Result<Folded, JournalError> {
    let Origin { ledger, head, segment, offset, last, proved } = origin;
    let first = head.clone();
    let folded = Folded { ledger, head: head.clone(), segment, len: offset, last, torn: 0, lines: 0 };
    let mut fold = Fold { dir, chain: Chain::after(head), folded, known, end, removed: HashMap::new() };
    let rest: Vec<u64> = segments.iter().copied().filter(|&first| first >= segment).collect();
    for (nth, &segment) in rest.iter().enumerate() {
        fold.segment(segment, if nth == 0 { offset } else { 0 }, nth + 1 == rest.len())?;
    }
    fold.check_end()?;
    if let Some((line, schema)) = fold.chain.newer {
        return Err(JournalError::Newer { path: dir.to_owned(), line, schema, known: schema::CURRENT });
    }
    if !proved && fold.removed.get(&first.seq) != Some(&first.hash) {
        return Err(fold.damaged(segment, first.seq + 1, UNPROVED.into()));
    }
    Ok(Folded { head: fold.chain.head, ..fold.folded })
}

struct Fold<'a> {
    dir: &'a Path,
    chain: Chain,
    folded: Folded,
    known: Option<&'a Head>,
    /// The last line to read.
    end: u64,
    /// The last lines of removed segments, from the records of their removal.
    removed: HashMap<u64, String>,
}

impl Fold<'_> {
    fn path(&self) -> PathBuf {
        segments::path(self.dir, self.folded.segment)
    }

    fn damaged(&self, segment: u64, line: u64, reason: String) -> JournalError {
        JournalError::Damaged { path: segments::path(self.dir, segment), line, reason }
    }

    fn segment(&mut self, segment: u64, offset: u64, newest: bool) -> Result<(), JournalError> {
        if self.chain.head.seq >= self.end {
            return Ok(());
        }
        let next = self.chain.head.seq + 1;
        if offset == 0 && segment != next {
            let reason = format!("is missing: the next segment begins with line {segment}");
            return Err(self.damaged(self.folded.segment, next, reason));
        }
        if offset == 0 {
            (self.folded.segment, self.folded.len, self.folded.last) = (segment, 0, 0);
        }
        let path = self.path();
        let io = |source| JournalError::Io { path: path.clone(), source };
        let mut reader = BufReader::with_capacity(1 << 16, segments::read(&path).map_err(io)?);
        io::Seek::seek(&mut reader, io::SeekFrom::Start(offset)).map_err(io)?;
        let mut line = Vec::new();
        while self.chain.head.seq < self.end {
            line.clear();
            let read = segments::next_line(&mut reader, &mut line).map_err(io)?;
            if read == 0 {
                return Ok(());
            }
            match line.strip_suffix(b"\n") {
                Some(text) => self.line(text, read)?,
                None if segments::is_overlong(&line) => {
                    return Err(self.damaged(segment, self.chain.head.seq + 1, "is longer than any line".into()));
                }
                None if newest => self.folded.torn = read,
                None => return Err(self.damaged(segment, self.chain.head.seq + 1, "is incomplete".into())),
            }
        }
        Ok(())
    }

    fn line(&mut self, text: &[u8], read: u64) -> Result<(), JournalError> {
        let taken = self.chain.take(text);
        let number = self.chain.head.seq;
        let record = taken.map_err(|reason| self.damaged(self.folded.segment, number, reason))?;
        if self.known.is_some_and(|known| known.seq == number && known.hash != self.chain.head.hash) {
            let reason = format!("is not the one that {} names", head::FILE);
            return Err(self.damaged(self.folded.segment, number, reason));
        }
        if let Some(record) = record {
            if let Event::Pruned { through, hash } = &record.event {
                self.removed.insert(*through, hash.clone());
            }
            self.folded.ledger.apply(&record);
        }
        (self.folded.last, self.folded.len) = (self.folded.len, self.folded.len + read);
        self.folded.lines += 1;
        Ok(())
    }

    /// Checks that the journal has all lines up to `known`.
    fn check_end(&self) -> Result<(), JournalError> {
        let reached = &self.chain.head;
        let at_end = |reason| Err(self.damaged(self.folded.segment, reached.seq + 1, reason));
        match self.known {
            // posternd makes the head durable before it writes the first line.
            None if reached.seq > 0 => at_end(format!("would be the next, but {} is missing", head::FILE)),
            Some(known) if reached.seq < known.seq => {
                let state = if self.folded.torn > 0 { "is incomplete" } else { "is missing" };
                at_end(format!("{state}, though {} names line {} as the last", head::FILE, known.seq))
            }
            Some(known) if known.seq == 0 && known.hash != GENESIS => {
                at_end(format!("does not follow from {}", head::FILE))
            }
            None | Some(_) => Ok(()),
        }
    }
}
