//! The journal's upkeep: snapshots, verification, retention. This module owns when each is due. A separate thread does the long work, so
//! that no decision waits for it. That thread reads the journal and writes snapshots, and never touches a segment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use postern_core::condition::Condition;
use postern_core::ledger::Ledger;

use super::draft::Draft;
use crate::engine::Engine;
use crate::engine::command::Notice;
use crate::journal::Journal;
use crate::journal::scan::Scanner;
use crate::journal::snapshot::Snapshot;

/// The number of records until a new snapshot. A start reads few more lines than that.
const SNAPSHOT_EVERY: u64 = 10_000;
/// A snapshot waits until the last one has at most this many times the bytes of the lines since. That limits what snapshots write.
const BYTES_PER_LINE_BYTE: u64 = 4;

enum Chore {
    /// Verify the part of the chain that is not verified yet.
    Verify,
    Snapshot(Box<Snapshot>),
}

pub(super) struct Upkeep {
    chores: mpsc::Sender<Chore>,
    /// Records since the last snapshot.
    records: u64,
    /// The journal's rotations at the last [`Chore::Verify`].
    rotations: u64,
    /// Whether a snapshot is due, as soon as it is small beside the lines since the last one.
    due: bool,
    /// Bytes of lines since the last snapshot.
    bytes: u64,
    /// Bytes of the last snapshot.
    size: Arc<AtomicU64>,
}

impl Upkeep {
    /// Starts the thread, which first verifies all earlier lines. `lines` is how many lines the start read.
    pub(super) fn start(engine: Engine, journal: Scanner, lines: u64) -> std::io::Result<Self> {
        let (chores, work) = mpsc::channel();
        let size = Arc::new(AtomicU64::new(0));
        let known = Arc::clone(&size);
        let run = move || work.iter().for_each(|chore| do_chore(chore, &journal, &engine, &known));
        thread::Builder::new().name("upkeep".into()).spawn(run)?;
        let upkeep = Self { chores, records: lines, rotations: 0, due: false, bytes: 0, size };
        upkeep.give(Chore::Verify);
        Ok(upkeep)
    }

    pub(super) fn verify(&self) {
        self.give(Chore::Verify);
    }

    /// Does the work that is due after a durable batch of (records, bytes). `ledger` is `None` while it is ahead of the journal.
    pub(super) fn keep_up(&mut self, journal: &Journal, ledger: Option<&Ledger>, batch: (u64, u64), stopping: bool) {
        self.records += batch.0;
        self.bytes += batch.1;
        let rotated = journal.rotations() != self.rotations;
        if rotated {
            self.rotations = journal.rotations();
            self.give(Chore::Verify);
        }
        self.due |= rotated || self.records >= SNAPSHOT_EVERY;
        let small = self.size.load(Ordering::Relaxed) <= self.bytes.saturating_mul(BYTES_PER_LINE_BYTE);
        if !(stopping || self.due && small) {
            return;
        }
        let Some(snapshot) = ledger.and_then(|ledger| journal.snapshot(ledger.clone())) else { return };
        (self.records, self.bytes, self.due) = (0, 0, false);
        if !stopping {
            self.give(Chore::Snapshot(Box::new(snapshot)));
        } else if let Err(error) = snapshot.write() {
            tracing::warn!(%error, "no snapshot could be written; the next start takes longer");
        }
    }

    fn give(&self, chore: Chore) {
        // The thread lives as long as this sender.
        let _ = self.chores.send(chore);
    }
}

fn do_chore(chore: Chore, journal: &Scanner, engine: &Engine, size: &AtomicU64) {
    let (part, why) = match chore {
        Chore::Verify => (Condition::JournalDamaged, fault(journal)),
        Chore::Snapshot(snapshot) => {
            let failed = |e| format!("no snapshot could be written, so the next start takes longer: {e}");
            let written = snapshot.write().map(|bytes| size.store(bytes, Ordering::Relaxed));
            (Condition::SnapshotUnwritten, written.map_err(failed).err())
        }
    };
    if let Some(why) = &why {
        tracing::error!("{why}");
    }
    engine.notify_by_thread(Notice::Condition(part, why));
}

fn fault(journal: &Scanner) -> Option<String> {
    match journal.verify() {
        Ok(None) => None,
        Ok(Some(fault)) => Some(format!(
            "the journal was changed or damaged: {fault}. What is open and which messages were used is known without that \
             line; the next start may set the journal aside. Copy its directory as evidence and find out what happened"
        )),
        Err(error) => Some(format!("the journal could not be verified: {error}")),
    }
}

/// Records which of the oldest lines are about to be removed.
pub(super) fn record_outdated(draft: &mut Draft<'_>, journal: Option<&Journal>) {
    let Some(journal) = journal else { return };
    for event in journal.outdated(oldest_needed(&draft.state.ledger), &draft.now) {
        draft.push(None, event);
    }
}

/// The first line that a start needs to know what is open, scheduled or pending.
fn oldest_needed(ledger: &Ledger) -> u64 {
    ledger.oldest_open().unwrap_or(u64::MAX)
}
