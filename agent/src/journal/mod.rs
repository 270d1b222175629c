//! The audit log, which is also the database.
//!
//! Owns a directory of segments with JSON lines. Each line has the hash of the line before. The journal only appends. Lines for which
//! [`Journal::append`] returned `Ok` survive a crash of the machine. It decides nothing.

mod append_failure;
mod aside;
mod chain;
mod export;
mod head;
mod retention;
pub mod scan;
mod schema;
mod segment_index;
mod segments;
pub mod snapshot;
pub mod writer;

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

pub use append_failure::AppendFailure;
pub use aside::{SetAside, set_aside};
pub use export::export;
use head::{Head, HeadFile};
use postern_core::ledger::{Ledger, Record};
pub use retention::Settings;

use crate::system::guarded;

/// The hash of the line before the first line.
const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Why a journal cannot be used. The text names the file and the line, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A file cannot be opened, read or repaired.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The error.
        source: io::Error,
    },
    /// A line was changed or damaged.
    #[error(
        "{}: line {line} {reason}; the journal was changed or damaged", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The number of the line, counted from 1 in the first segment.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// An older posternd with a single file ran after a newer one with segments.
    #[error(
        "{}: lies beside the directory that replaced this file, so an older posternd ran after a newer one. Nothing is open. Keep \
         it and {} as evidence, move both away and start again: grants of that older posternd are lost, and messages that it \
         accepted in the last 15 minutes could be shown again",
        path.display(), segments::SINGLE_HEAD
    )]
    Two {
        /// The file.
        path: PathBuf,
    },
    /// A newer posternd wrote the journal.
    #[error(
        "{}: line {line} was written by a newer posternd (schema {schema}; this one knows {known}). Nothing is open. Install that \
         version again: this one would overlook what it does not know",
        path.display()
    )]
    Newer {
        /// The directory.
        path: PathBuf,
        /// The first line with a newer schema.
        line: u64,
        /// Its schema.
        schema: u32,
        /// The newest schema that this version knows.
        known: u32,
    },
}

/// The open journal.
pub struct Journal {
    dir: PathBuf,
    settings: Settings,
    /// `None` if the journal could not be opened for writing. The next append after the disk recovers opens it.
    files: Option<Files>,
    head: Head,
    reader: scan::Scanner,
    /// How many segments were begun since the journal was opened.
    rotations: u64,
    /// Whether a disk error left the contents unknown, until a repair.
    broken: bool,
}

struct Files {
    newest: Newest,
    head_file: HeadFile,
}

struct Newest {
    file: File,
    first: u64,
    len: u64,
    /// Where its last line begins; equal to `len` if it has none.
    last: u64,
}

/// The result of opening a journal.
pub struct Opened {
    /// The journal, for appending.
    pub journal: Journal,
    /// The fold of all its records.
    pub ledger: Ledger,
    /// Bytes of a torn last line that were cut off.
    pub torn: u64,
    /// How many lines were read.
    pub lines: u64,
    /// Whether the oldest lines were removed.
    pub pruned: bool,
    /// One sentence for each snapshot that could not be used.
    pub passed_over: Vec<String>,
    /// A damaged journal that was set aside, if no line of this journal records it.
    pub set_aside: Option<SetAside>,
    /// Whether the journal could not be read yet.
    pub unread: bool,
}

impl Opened {
    /// Whether posternd lost the list of closed ports. Then it treats all ports as closed, and retains no session.
    #[must_use]
    pub fn forgot_protected(&self) -> bool {
        self.unread || self.set_aside.is_some() || (self.pruned && self.ledger.protected().is_empty())
    }
}

impl Journal {
    /// Opens the journal in the state directory `state`, or begins one. Checks the chain from the newest snapshot or the oldest line on,
    /// and that no line at the end is missing. Cuts off a last line that a crash tore: posternd never acted on it.
    ///
    /// # Errors
    /// [`JournalError`]: the disk fails, or a line is damaged or missing. The files stay as they are.
    pub fn open(state: &Path, settings: Settings) -> Result<Opened, JournalError> {
        let fail = |path: &Path| {
            let path = path.to_owned();
            move |source| JournalError::Io { path, source }
        };
        let dir = segments::prepare(state).map_err(fail(&state.join(segments::DIR)))?;
        if state.join(segments::SINGLE).exists() {
            return Err(JournalError::Two { path: state.join(segments::SINGLE) });
        }
        let head_path = dir.join(head::FILE);
        let head_file = HeadFile::open(&dir).map_err(fail(&head_path))?;
        let known = match head_file.read() {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(JournalError::Damaged { path: head_path, line: 1, reason: error.to_string() });
            }
            other => other.map_err(fail(&head_path))?,
        };
        let firsts = segments::list(&dir).map_err(fail(&dir))?;
        let (origin, passed_over) = snapshot::newest(&dir).map_err(fail(&dir))?;
        let mut origin = origin.map_or_else(|| chain::Origin::oldest(&dir, &firsts), Ok).map_err(fail(&dir))?;
        origin.ledger.set_room(settings.room);
        let folded = chain::fold(&dir, &firsts, origin, known.as_ref())?;
        let path = segments::path(&dir, folded.segment);
        let newest = Newest::open(&path, &folded).map_err(fail(&path))?;
        segments::sync_dir(&dir).map_err(fail(&dir))?;
        // Only now the line in it is durable. The sync makes sure that a crash never leaves a part of the file.
        head_file.write(&folded.head).and_then(|()| head_file.sync()).map_err(fail(&head_path))?;
        let files = Some(Files { newest, head_file });
        let journal = Self::new(dir, settings, files, folded.head.clone());
        let set_aside = if journal.head.seq > 0 { None } else { aside::unrecorded(state).map_err(fail(state))? };
        let (pruned, chain::Folded { ledger, torn, lines, .. }) =
            (firsts.first().is_some_and(|first| *first > 1), folded);
        Ok(Opened { journal, ledger, torn, lines, pruned, set_aside, passed_over, unread: false })
    }

    fn new(dir: PathBuf, settings: Settings, files: Option<Files>, head: Head) -> Self {
        let (known, index) = (Arc::new(RwLock::new(head.clone())), Arc::default());
        let reader = scan::Scanner { dir: dir.clone(), head: known, index };
        Self { dir, settings, files, head, reader, rotations: 0, broken: false }
    }

    /// Writes `records` with one write and one sync. Either all are durable, or none is in the journal. Returns their lines with newlines.
    ///
    /// # Errors
    /// [`AppendFailure`]. The next call repairs the journal and tries again.
    pub fn append(&mut self, records: &[Record]) -> Result<Vec<u8>, AppendFailure> {
        if self.files.is_none() {
            self.reopen()?;
        }
        if self.broken {
            self.repair()?;
        }
        let mut head = self.head.clone();
        let (mut bytes, mut start) = (Vec::new(), 0);
        for record in records {
            if record.seq != head.seq + 1 {
                return Err(AppendFailure::Disk(io::Error::other(format!(
                    "line {} does not follow {}",
                    record.seq, head.seq
                ))));
            }
            start = bytes.len();
            schema::write(record, &head.hash, &mut bytes).map_err(io::Error::from)?;
            head = Head { seq: record.seq, hash: chain::hash(&bytes[start..]) };
            bytes.push(b'\n');
        }
        let Some(Files { newest, .. }) = &self.files else {
            return Err(AppendFailure::Disk(io::ErrorKind::NotConnected.into()));
        };
        if !bytes.is_empty() && newest.len >= self.settings.segment_bytes {
            self.rotate()?;
        }
        let Some(Files { newest, head_file }) = &mut self.files else { return Ok(bytes) };
        let before = newest.len;
        newest.write(&bytes, &mut self.broken)?;
        if !bytes.is_empty() {
            newest.last = before + start as u64;
        }
        self.head = head;
        self.reader.head.write().unwrap_or_else(PoisonError::into_inner).clone_from(&self.head);
        // The lines are durable and count even if this fails. The next append writes a newer head.
        if let Err(error) = head_file.write(&self.head) {
            tracing::warn!(%error, "{} was not written", head::FILE);
        }
        Ok(bytes)
    }

    /// Begins a new segment. If the append then fails, the empty segment does no harm.
    fn rotate(&mut self) -> io::Result<()> {
        let first = self.head.seq + 1;
        let file = append_to(&segments::path(&self.dir, first))?;
        segments::sync_dir(&self.dir)?;
        if let Some(files) = &mut self.files {
            files.newest = Newest { file, first, len: 0, last: 0 };
        }
        self.rotations += 1;
        Ok(())
    }

    /// How many segments were begun since the journal was opened.
    #[must_use]
    pub fn rotations(&self) -> u64 {
        self.rotations
    }

    /// A snapshot of `ledger`, which must be the fold of all lines. `None` while the newest segment has no line.
    #[must_use]
    pub fn snapshot(&self, ledger: Ledger) -> Option<snapshot::Snapshot> {
        let Newest { first: segment, len: end, last: start, .. } = self.files.as_ref()?.newest;
        let Head { seq, hash } = self.head.clone();
        let place = snapshot::Place { seq, hash, segment, start, end };
        (start < end).then(|| snapshot::Snapshot::new(&self.dir, place, ledger))
    }

    /// Hex SHA-256 of the last line.
    #[must_use]
    pub fn head(&self) -> &str {
        &self.head.hash
    }

    /// A reader beside the writer, for any thread.
    #[must_use]
    pub fn reader(&self) -> scan::Scanner {
        self.reader.clone()
    }
}

impl Newest {
    /// Opens the newest segment, or begins the first one, and cuts off a torn line.
    fn open(path: &Path, folded: &chain::Folded) -> io::Result<Self> {
        let file = append_to(path)?;
        if folded.torn > 0 {
            file.set_len(folded.len)?;
        }
        file.sync_all()?;
        Ok(Self { file, first: folded.segment, len: folded.len, last: folded.last })
    }

    /// Makes `bytes` durable, or leaves the segment as it was. Sets `broken` if neither is certain.
    fn write(&mut self, bytes: &[u8], broken: &mut bool) -> io::Result<()> {
        let Self { file, len, .. } = self;
        if let Err(error) = file.write_all(bytes) {
            // Cut off the part of the bytes that may be in the file.
            *broken = file.set_len(*len).and_then(|()| file.sync_data()).is_err();
            return Err(error);
        }
        if let Err(error) = file.sync_data() {
            *broken = true;
            let _ = file.set_len(*len);
            return Err(error);
        }
        *len += bytes.len() as u64;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    segments::open(path, guarded::APPEND)
}

#[cfg(test)]
mod tests;
