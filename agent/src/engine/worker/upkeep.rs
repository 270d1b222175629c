//! The journal's upkeep: snapshots, verification, retention.
//!
//! Owns when each is due. What takes long is done on a thread of its own, so that no decision waits for it; that thread
//! reads the journal and writes snapshots, and never touches a segment.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use postern_core::condition::Condition;
use postern_core::ledger::{Ledger, Record};
use postern_core::time::Now;

use super::{Batch, Worker};
use crate::engine::{Command, Engine};
use crate::journal::scan::Scanner;
use crate::journal::snapshot::Snapshot;

/// After so many records there is a new snapshot: a start reads few more lines than that.
const SNAPSHOT_EVERY: u64 = 10_000;
/// A snapshot waits until the journal has grown by this part of the last snapshot: so snapshots write at most so many times the
/// bytes that the journal does, however much there is to remember.
const BYTES_PER_LINE_BYTE: u64 = 4;

/// Work for the thread.
enum Chore {
    /// Whether the chain holds, in whatever was not verified yet.
    Verify,
    /// Write it.
    Snapshot(Box<Snapshot>),
}

/// What is due, and the thread that does it.
pub(super) struct Upkeep {
    chores: mpsc::Sender<Chore>,
    /// Records since the last snapshot.
    records: u64,
    /// Segments that were begun when the chain was last to be verified.
    rotations: u64,
    /// A snapshot is due, but for the bytes that it would take.
    due: bool,
    /// Bytes of lines since the last snapshot.
    bytes: u64,
    /// Bytes of the last snapshot.
    size: Arc<AtomicU64>,
}

impl Upkeep {
    /// Starts the thread, with the verification of all that was there before as its first work. `lines` had to be read at the start.
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

    /// Has the chain verified, in whatever was not yet.
    pub(super) fn verify(&self) {
        self.give(Chore::Verify);
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
    let command = Command::Degraded { part, why };
    let _ = engine.0.commands.blocking_send(command);
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

impl Worker {
    /// Records which of the oldest lines are about to be removed.
    pub(super) fn let_go(&mut self, batch: &mut Batch, now: &Now) {
        let Some(journal) = &self.journal else { return };
        for event in journal.outdated(oldest_needed(&self.ledger), now) {
            self.push(batch, None, event, now);
        }
    }

    /// What a durable batch asks for.
    pub(super) fn keep_up(&mut self, records: &[Record], bytes: u64, stopping: bool) {
        let Some(journal) = &self.journal else { return };
        self.upkeep.records += records.len() as u64;
        self.upkeep.bytes += bytes;
        let rotated = journal.rotations() != self.upkeep.rotations;
        if rotated {
            self.upkeep.rotations = journal.rotations();
            self.upkeep.give(Chore::Verify);
        }
        self.upkeep.due |= rotated || self.upkeep.records >= SNAPSHOT_EVERY;
        let small = self.upkeep.size.load(Ordering::Relaxed) <= self.upkeep.bytes.saturating_mul(BYTES_PER_LINE_BYTE);
        if !(stopping || self.upkeep.due && small) {
            return;
        }
        // A snapshot is of what is on record, no more.
        let Some(snapshot) = journal.snapshot(self.ledger.clone()).filter(|_| self.unrecorded.is_empty()) else {
            return;
        };
        (self.upkeep.records, self.upkeep.bytes, self.upkeep.due) = (0, 0, false);
        if !stopping {
            self.upkeep.give(Chore::Snapshot(Box::new(snapshot)));
        } else if let Err(error) = snapshot.write() {
            tracing::warn!(%error, "no snapshot could be written; the next start takes longer");
        }
    }
}

/// The first line without which a start would not know what is open, scheduled or pending.
fn oldest_needed(ledger: &Ledger) -> u64 {
    ledger.oldest_open().unwrap_or(u64::MAX)
}
