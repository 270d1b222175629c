//! A journal that cannot be written.
//!
//! Owns what can be known of it all the same, how it is opened once the disk works again, and how what a failed sync left behind is
//! put right. Nothing of that lets a line count that was not durable when somebody was told of it.

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

/// The largest block of a file system: what a failed sync left in doubt lies in the one that the end of a file is in.
const BLOCK: u64 = 1 << 16;

/// Why records are not in the journal. Nothing of the batch counts.
#[derive(thiserror::Error)]
pub enum AppendFailure {
    /// The disk's reason.
    #[error("{}", plainly(.0))]
    Disk(#[from] io::Error),
    /// The journal cannot be opened.
    #[error("{0}")]
    Journal(#[from] JournalError),
    /// It could only now be opened, and says something else than what was known of it: the batch was decided by too little.
    #[error("the disk works again since a moment; ask again")]
    Found(Box<Opened>),
}

impl fmt::Debug for AppendFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AppendFailure({self})")
    }
}

/// First what an administrator has to look for.
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
    /// What a journal says that can be read and not be written: the lines that were durable before, and no more. It is opened by the
    /// first append that finds the disk well.
    ///
    /// # Errors
    /// As [`Journal::open`].
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

    /// A journal of which nothing is known as long as it cannot be read.
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

    /// Opens what could not be opened before. A journal that turns out to be damaged is set aside.
    pub(super) fn reopen(&mut self) -> Result<(), AppendFailure> {
        let state = self.dir.parent().unwrap_or(&self.dir).to_owned();
        if self.dir.is_dir() {
            // Before all is read for nothing.
            HeadFile::open(&self.dir)?;
        }
        let mut opened = match Self::open(&state, self.settings) {
            Err(damaged @ JournalError::Damaged { .. }) => {
                let set_aside = aside::set_aside(&state, damaged, Timestamp::now())?;
                Opened { set_aside: Some(set_aside), ..Self::open(&state, self.settings)? }
            }
            opened => opened?,
        };
        // Whoever reads it goes on reading it.
        opened.journal.reader = self.reader.clone();
        *self.reader.index.lock().unwrap_or_else(PoisonError::into_inner) = segment_index::SegmentIndex::default();
        self.reader.head.write().unwrap_or_else(PoisonError::into_inner).clone_from(&opened.journal.head);
        if opened.journal.head != self.head || opened.torn > 0 || opened.set_aside.is_some() {
            return Err(AppendFailure::Found(Box::new(opened)));
        }
        *self = opened.journal;
        Ok(())
    }

    /// After a failed sync it is unknown what the disk holds of what was being written, and of the block that it shared with lines that
    /// count. What does not count is cut off, that block is written anew and synced, and the last line is looked at.
    pub(super) fn repair(&mut self) -> io::Result<()> {
        let Some(Files { newest, .. }) = &self.files else { return Ok(()) };
        newest.file.set_len(newest.len)?;
        let from = newest.len - newest.len % BLOCK;
        let mut block = vec![0; usize::try_from(newest.len - from).unwrap_or_default()];
        newest.file.read_exact_at(&mut block, from)?;
        // Not through the segment's own handle, which appends wherever it is told to write.
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
