//! A journal that cannot be written.
//!
//! Owns the reading and reopening of such a journal, and its repair after a failed sync. Only lines count that were reported as durable.

use std::fmt;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::PoisonError;

use jiff::Timestamp;
use postern_core::ledger::Ledger;

use super::head::{Head, HeadFile};
use super::{Files, GENESIS, Journal, JournalError, Opened, Settings, aside, chain, segment_index, segments, snapshot};
use crate::system::guarded;

/// The largest block of a file system. A failed sync leaves only the block with the end of the file in doubt.
const BLOCK: u64 = 1 << 16;

/// Why the journal has no records of a batch. Nothing of the batch counts.
#[derive(thiserror::Error)]
pub enum AppendFailure {
    /// The error of the disk.
    #[error("{}", plainly(.0))]
    Disk(#[from] io::Error),
    /// The journal cannot be opened.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// The journal could be opened only now, and has records that posternd did not know when it decided the batch.
    #[error("The disk has just recovered. Retry the request.")]
    Found(Box<Opened>),
}

impl fmt::Debug for AppendFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppendFailure({self})")
    }
}

/// The error, after its reason in plain words.
fn plainly(error: &io::Error) -> String {
    let plain = match error.kind() {
        io::ErrorKind::StorageFull => "the disk is full",
        io::ErrorKind::QuotaExceeded => "the disk's quota is used up",
        io::ErrorKind::ReadOnlyFilesystem => "the disk is read-only",
        _ => return error.to_string(),
    };
    format!("{plain}: {error}")
}

impl Journal {
    /// Reads the durable lines of a journal that cannot be written. The first append after the disk recovers opens the journal.
    ///
    /// # Errors
    /// Fails with [`JournalError`] if a file cannot be read, or if a line is damaged, missing or of a newer schema.
    pub fn look(state: &Path, settings: Settings) -> Result<Opened, JournalError> {
        let dir = state.join(segments::DIR);
        let fail = |source| JournalError::Io { path: dir.clone(), source };
        let known = HeadFile::look(&dir).and_then(|file| file.read()).map_err(fail)?;
        let firsts = segments::list(&dir).map_err(fail)?;
        let (origin, passed_over) = snapshot::newest(&dir).map_err(fail)?;
        let mut origin = origin.map_or_else(|| chain::Origin::oldest(&dir, &firsts), Ok).map_err(fail)?;
        origin.ledger.set_room(settings.room);
        let folded = chain::fold_to(&dir, &firsts, origin, known.as_ref())?;
        let pruned = firsts.first().is_some_and(|first| *first > 1);
        let chain::Folded { ledger, head, lines, .. } = folded;
        let journal = Self::new(dir, settings, None, head);
        Ok(Opened { journal, ledger, torn: 0, lines, pruned, passed_over, set_aside: None, unread: false })
    }

    /// A journal that cannot be read yet, with an empty ledger.
    #[must_use]
    pub fn unread(state: &Path, settings: Settings) -> Opened {
        let journal = Self::new(state.join(segments::DIR), settings, None, Head { seq: 0, hash: GENESIS.to_owned() });
        let mut ledger = Ledger::default();
        ledger.set_room(settings.room);
        Opened {
            journal,
            ledger,
            torn: 0,
            lines: 0,
            pruned: false,
            passed_over: Vec::new(),
            set_aside: None,
            unread: true,
        }
    }

    /// Opens the journal after an earlier failure. A damaged journal is set aside.
    pub(super) fn reopen(&mut self) -> Result<(), AppendFailure> {
        let state = self.dir.parent().unwrap_or(&self.dir).to_owned();
        if self.dir.is_dir() {
            // Before reading all lines: if this write fails, reading is useless.
            HeadFile::open(&self.dir)?;
        }
        let mut opened = match Self::open(&state, self.settings) {
            Err(damaged @ JournalError::Damaged { .. }) => {
                let set_aside = aside::set_aside(&state, damaged, Timestamp::now())?;
                Opened { set_aside: Some(set_aside), ..Self::open(&state, self.settings)? }
            }
            opened => opened?,
        };
        // Readers of the old journal continue with this one.
        opened.journal.reader = self.reader.clone();
        *self.reader.index.lock().unwrap_or_else(PoisonError::into_inner) = segment_index::SegmentIndex::default();
        self.reader.head.write().unwrap_or_else(PoisonError::into_inner).clone_from(&opened.journal.head);
        if opened.journal.head != self.head || opened.torn > 0 || opened.set_aside.is_some() {
            return Err(AppendFailure::Found(Box::new(opened)));
        }
        *self = opened.journal;
        Ok(())
    }

    /// After a failed sync the contents of the written block on the disk are unknown, including older lines in it. This cuts off the lines
    /// that do not count, writes the block again, syncs it, and checks the last line.
    pub(super) fn repair(&mut self) -> io::Result<()> {
        let Some(Files { newest, .. }) = &self.files else { return Ok(()) };
        newest.file.set_len(newest.len)?;
        let from = newest.len - newest.len % BLOCK;
        let mut block = vec![0; usize::try_from(newest.len - from).unwrap_or_default()];
        newest.file.read_exact_at(&mut block, from)?;
        // The segment's own handle always appends.
        let plain = segments::open(&segments::path(&self.dir, newest.first), guarded::REWRITE)?;
        plain.write_all_at(&block, from)?;
        plain.sync_all()?;
        if newest.last < newest.len {
            let mut line = vec![0; usize::try_from(newest.len - newest.last).unwrap_or_default()];
            newest.file.read_exact_at(&mut line, newest.last)?;
            if chain::hash(line.strip_suffix(b"\n").unwrap_or(&line)) != self.head.hash {
                return Err(io::Error::other(format!(
                    "line {} is not what was written; restart posternd, which sets the journal aside",
                    self.head.seq
                )));
            }
        }
        self.broken = false;
        Ok(())
    }
}
