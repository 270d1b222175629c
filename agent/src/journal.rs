//! The audit log, which is also the database.
//!
//! Owns one append-only file of JSON lines, each with the hash of the line before it, and its durability: what
//! [`Journal::append`] returned `Ok` for survives a crash of the machine. It never decides and never forgets.

mod head;
pub mod scan;

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use head::{Head, HeadFile};
use postern_core::ledger::{Ledger, Record};
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

/// Name of the journal in the state directory.
const FILE: &str = "journal.jsonl";
/// What the first line names as its predecessor.
const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Why a journal cannot be used. The text names the file and the line, and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be opened, read or repaired.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not what was written.
    #[error(
        "{}: line {line} {reason}; the journal was changed or damaged. Nothing is open. Keep this file and {} beside it as \
         evidence, move both aside and start again: live grants are lost, and messages accepted in the last 15 minutes could \
         be shown again",
        path.display(),
        head::FILE
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: u64,
        /// In what way.
        reason: String,
    },
}

/// One line: the record and the hash of the line before.
#[derive(Serialize, Deserialize)]
struct Line {
    #[serde(flatten)]
    record: Record,
    prev: String,
}

/// The open journal.
pub struct Journal {
    path: PathBuf,
    file: File,
    len: u64,
    head: Head,
    head_file: HeadFile,
    /// The head again, for who reads beside the writer.
    published: Arc<RwLock<Head>>,
    /// Set when the disk failed in a way after which its contents are unknown: then nothing is accepted any more.
    broken: bool,
}

/// What opening a journal found.
pub struct Opened {
    /// To append to.
    pub journal: Journal,
    /// The fold of all its records.
    pub ledger: Ledger,
    /// Bytes of a torn last line that were cut off; 0 usually.
    pub torn: u64,
}

impl Journal {
    /// Opens the journal in `dir`, or begins one; checks the chain from the first line to the last, and that it reaches as far
    /// as it did; cuts off a last line that a crash tore (it was never acted upon).
    ///
    /// # Errors
    /// [`JournalError`]: the disk fails, or a line is damaged or missing. Then the files are left as they are.
    pub fn open(dir: &Path) -> Result<Opened, JournalError> {
        let path = dir.join(FILE);
        let io = |source| JournalError::Io { path: path.clone(), source };
        let options = OpenOptions::new().read(true).append(true).create(true).mode(0o600).clone();
        let file = options.open(&path).map_err(io)?;
        let head_io = |source| JournalError::Io { path: dir.join(head::FILE), source };
        let head_file = HeadFile::open(dir).map_err(head_io)?;
        let known = match head_file.read() {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(JournalError::Damaged { path: dir.join(head::FILE), line: 1, reason: error.to_string() });
            }
            other => other.map_err(head_io)?,
        };
        let read = read_chain(&file, &path, known.as_ref())?;
        if read.torn > 0 {
            file.set_len(read.len).map_err(io)?;
        }
        file.sync_all().map_err(io)?;
        File::open(dir).and_then(|d| d.sync_all()).map_err(io)?;
        // Only now, when what it names is durable. Synced this once, so that a crash never leaves a part of it.
        head_file.write(&read.head).and_then(|()| head_file.sync()).map_err(head_io)?;
        let published = Arc::new(RwLock::new(read.head.clone()));
        let journal = Self { path, file, len: read.len, head: read.head, head_file, published, broken: false };
        Ok(Opened { journal, ledger: read.ledger, torn: read.torn })
    }

    /// Writes `records`, in one write and one sync. Either all are durable or none is there.
    ///
    /// # Errors
    /// The disk's. After a failed sync the state of the disk is unknown, so every later call fails too, until a restart has
    /// read the file again.
    pub fn append(&mut self, records: &[Record]) -> io::Result<()> {
        if self.broken {
            return Err(io::Error::other("the journal failed before; restart posternd once the disk is well"));
        }
        let mut head = self.head.clone();
        let mut bytes = Vec::new();
        for record in records {
            let start = bytes.len();
            serde_json::to_writer(&mut bytes, &Line { record: record.clone(), prev: head.hash })?;
            head = Head { seq: record.seq, hash: hash(&bytes[start..]) };
            bytes.push(b'\n');
        }
        if let Err(error) = self.file.write_all(&bytes) {
            // A part may be there; without it the file is as before.
            self.broken = self.file.set_len(self.len).and_then(|()| self.file.sync_data()).is_err();
            return Err(error);
        }
        if let Err(error) = self.file.sync_data() {
            self.broken = true;
            let _ = self.file.set_len(self.len);
            return Err(error);
        }
        self.len += bytes.len() as u64;
        self.head = head;
        self.published.write().unwrap_or_else(PoisonError::into_inner).clone_from(&self.head);
        // The lines are durable and count, whatever becomes of this: a head that lags is caught up with by the next one.
        if let Err(error) = self.head_file.write(&self.head) {
            tracing::warn!(%error, "{} was not written", head::FILE);
        }
        Ok(())
    }

    /// Hex SHA-256 of the last line.
    #[must_use]
    pub fn head(&self) -> &str {
        &self.head.hash
    }

    /// For reading it beside the writer, from any thread.
    #[must_use]
    pub fn reader(&self) -> scan::Scanner {
        scan::Scanner { path: self.path.clone(), head: Arc::clone(&self.published) }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

struct Chain {
    ledger: Ledger,
    head: Head,
    len: u64,
    torn: u64,
}

/// Reads and checks every line, and that all that `known` names are there.
fn read_chain(file: &File, path: &Path, known: Option<&Head>) -> Result<Chain, JournalError> {
    let io = |source| JournalError::Io { path: path.to_owned(), source };
    let damaged = |line, reason| JournalError::Damaged { path: path.to_owned(), line, reason };
    let mut reader = BufReader::new(file);
    reader.rewind().map_err(io)?;
    let mut chain =
        Chain { ledger: Ledger::default(), head: Head { seq: 0, hash: GENESIS.to_owned() }, len: 0, torn: 0 };
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        let read = reader.read_until(b'\n', &mut line).map_err(io)? as u64;
        if read == 0 {
            break;
        }
        let Some(text) = line.strip_suffix(b"\n") else {
            chain.torn = read;
            break;
        };
        let record = check_line(text, number, &chain.head.hash).map_err(|reason| damaged(number, reason))?;
        chain.ledger.apply(&record);
        chain.head = Head { seq: number, hash: hash(text) };
        if known.is_some_and(|known| known.seq == number && known.hash != chain.head.hash) {
            return Err(damaged(number, format!("is not the one that {} names", head::FILE)));
        }
        chain.len += read;
    }
    check_end(&chain, known).map_err(|reason| damaged(chain.head.seq + 1, reason))?;
    Ok(chain)
}

/// Whether the lines that were read are all that there were.
fn check_end(chain: &Chain, known: Option<&Head>) -> Result<(), String> {
    match known {
        // The head is durable before the first line is written.
        None if chain.head.seq > 0 => Err(format!("would be the next, but {} is missing", head::FILE)),
        Some(known) if chain.head.seq < known.seq => {
            let state = if chain.torn > 0 { "is incomplete" } else { "is missing" };
            Err(format!("{state}, though {} names line {} as the last", head::FILE, known.seq))
        }
        Some(known) if known.seq == 0 && known.hash != GENESIS => Err(format!("does not follow from {}", head::FILE)),
        None | Some(_) => Ok(()),
    }
}

fn check_line(text: &[u8], number: u64, head: &str) -> Result<Record, String> {
    let line: Line = serde_json::from_slice(text).map_err(|e| format!("cannot be read ({e})"))?;
    if line.prev != head {
        return Err("does not continue the one before it".into());
    }
    if line.record.seq != number {
        return Err(format!("carries the number {}", line.record.seq));
    }
    Ok(line.record)
}

fn hash(line: &[u8]) -> String {
    digest(&SHA256, line).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use postern_core::ledger::Event;
    use postern_core::time::BootNanos;
    use uuid::Uuid;

    fn record(seq: u64) -> Record {
        let event = Event::Unverified { counts: [("KEY_UNKNOWN".to_owned(), seq)].into() };
        Record { seq, time: Timestamp::UNIX_EPOCH, boot: BootNanos(seq), boot_id: Uuid::nil(), message: None, event }
    }

    fn filled(lines: u64) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::open(dir.path()).unwrap().journal;
        journal.append(&(1..=lines).map(record).collect::<Vec<_>>()).unwrap();
        dir
    }

    #[test]
    fn what_was_appended_is_read_again() {
        let dir = filled(3);
        let mut opened = Journal::open(dir.path()).unwrap();
        assert_eq!((opened.ledger.last_seq(), opened.torn), (3, 0));
        opened.journal.append(&[record(4)]).unwrap();
        let head = opened.journal.head().to_owned();
        let again = Journal::open(dir.path()).unwrap();
        assert_eq!((again.ledger.last_seq(), again.journal.head()), (4, &head[..]));
    }

    #[test]
    fn a_torn_last_line_is_cut_off_wherever_it_was_torn() {
        let dir = filled(1);
        let path = dir.path().join(FILE);
        let first = std::fs::read(&path).unwrap().len();
        let head = std::fs::read(dir.path().join(head::FILE)).unwrap();
        Journal::open(dir.path()).unwrap().journal.append(&[record(2)]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in first + 1..whole.len() {
            // The crash came before the sync, so before the head was written.
            std::fs::write(&path, &whole[..cut]).unwrap();
            std::fs::write(dir.path().join(head::FILE), &head).unwrap();
            let opened = Journal::open(dir.path()).unwrap();
            assert_eq!((opened.ledger.last_seq(), opened.torn), (1, (cut - first) as u64));
            assert_eq!(std::fs::read(&path).unwrap(), &whole[..first]);
        }
    }

    /// How opening fails, and where: the name of the file and the line.
    fn damage(dir: &tempfile::TempDir) -> Option<(String, u64)> {
        match Journal::open(dir.path()) {
            Err(JournalError::Damaged { path, line, .. }) => {
                Some((path.file_name().unwrap().to_str().unwrap().to_owned(), line))
            }
            Err(other) => panic!("{other}"),
            Ok(_) => None,
        }
    }

    #[test]
    fn any_changed_byte_is_found_in_its_line_or_the_next() {
        let dir = filled(3);
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            let line = 1 + whole[..at].iter().filter(|b| **b == b'\n').count() as u64;
            let (file, found) = damage(&dir).unwrap_or_else(|| panic!("byte {at} of line {line}"));
            assert!(file == FILE && (found == line || found == line + 1), "byte {at} of line {line}: {found}");
            assert_eq!(std::fs::read(&path).unwrap(), changed, "the evidence is left as it is");
        }
    }

    #[test]
    fn lines_cut_off_the_end_are_missed_at_every_boundary() {
        const LINES: u64 = 20;
        let dir = filled(LINES);
        let path = dir.path().join(FILE);
        let whole = std::fs::read(&path).unwrap();
        let ends = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1);
        let boundaries: Vec<usize> = [0].into_iter().chain(ends).collect();
        for (left, cut) in boundaries[..boundaries.len() - 1].iter().enumerate() {
            for torn in [0, 1] {
                std::fs::write(&path, &whole[..cut + torn]).unwrap();
                assert_eq!(damage(&dir), Some((FILE.to_owned(), left as u64 + 1)), "{left} lines and {torn} bytes");
                assert_eq!(std::fs::read(&path).unwrap(), &whole[..cut + torn], "the evidence is left as it is");
            }
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(damage(&dir), Some((FILE.to_owned(), 1)), "the whole journal is gone");
        std::fs::write(&path, &whole).unwrap();
        assert_eq!(damage(&dir), None, "nothing was written in between");
    }

    #[test]
    fn a_head_that_lags_behind_is_caught_up_with() {
        let dir = filled(1);
        let old = std::fs::read(dir.path().join(head::FILE)).unwrap();
        Journal::open(dir.path()).unwrap().journal.append(&[record(2), record(3)]).unwrap();
        std::fs::write(dir.path().join(head::FILE), &old).unwrap();
        assert_eq!(Journal::open(dir.path()).unwrap().ledger.last_seq(), 3);
        let caught_up = HeadFile::open(dir.path()).unwrap().read().unwrap();
        assert_eq!(caught_up.map(|head| head.seq), Some(3));
    }

    #[test]
    fn any_other_head_is_found() {
        let dir = filled(2);
        let path = dir.path().join(head::FILE);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            std::fs::write(&path, &changed).unwrap();
            // Digits of the number that name an earlier line name one with another hash.
            assert!(damage(&dir).is_some(), "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(damage(&dir).is_some(), "{at} bytes");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(damage(&dir).is_some(), "gone");
    }

    #[test]
    fn a_full_disk_leaves_the_journal_as_it_was() {
        let dir = filled(1);
        let mut journal = Journal::open(dir.path()).unwrap().journal;
        journal.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        assert!(journal.append(&[record(2)]).is_err());
        assert_eq!(Journal::open(dir.path()).unwrap().ledger.last_seq(), 1);
    }
}
