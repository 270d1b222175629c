//! The thread that waits for the disk in place of the engine.
//!
//! Owns the journal only while it writes a batch, and returns it with the outcome. It never decides what is written.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use postern_core::ledger::{Event, Record};
use tokio::sync::mpsc::UnboundedSender;

use super::{AppendFailure, Journal};

struct Batch {
    journal: Journal,
    records: Vec<Record>,
}

/// A written batch.
pub struct Written {
    /// The journal, for the next batch.
    pub journal: Journal,
    /// The records of the batch.
    pub records: Vec<Record>,
    /// The lines in the journal, each with its newline; or why there are none.
    pub outcome: Result<Vec<u8>, AppendFailure>,
}

/// The sender to the thread.
pub struct Writer(mpsc::Sender<Batch>);

impl Writer {
    /// Starts the thread. Each batch returns on `done`.
    ///
    /// # Errors
    /// Fails if the thread cannot be created.
    pub fn start(done: UnboundedSender<Written>) -> io::Result<Self> {
        let (batches, work) = mpsc::channel::<Batch>();
        let run = move || {
            for Batch { journal, records } in work {
                let Ok(written) = catch_unwind(AssertUnwindSafe(|| write(journal, records))) else {
                    // Without this thread the engine would wait for ever and seem alive. systemd starts posternd again.
                    std::process::abort();
                };
                if done.send(written).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("journal".into()).spawn(run)?;
        Ok(Self(batches))
    }

    /// Sends a batch to the thread. The batch returns with its outcome.
    pub fn send(&self, journal: Journal, records: Vec<Record>) {
        // The thread lives as long as this sender and the receiver of the outcomes.
        let _ = self.0.send(Batch { journal, records });
    }
}

/// Writes a batch durably, then removes the segments that its records name as removed.
#[must_use]
pub fn write(mut journal: Journal, records: Vec<Record>) -> Written {
    let outcome = journal.append(&records);
    let pruned =
        records.iter().filter_map(|r| if let Event::Pruned { through, .. } = r.event { Some(through) } else { None });
    if outcome.is_ok()
        && let Some(through) = pruned.max()
        && let Err(error) = journal.remove(through)
    {
        tracing::warn!(%error, "old segments of the journal could not be removed yet");
    }
    Written { journal, records, outcome }
}
