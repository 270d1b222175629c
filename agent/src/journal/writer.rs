//! The thread that waits for the disk, so that nobody else has to.
//!
//! Owns nothing but the journal that it is given with each batch, and gives it back with the outcome. It never decides what is written.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;

use postern_core::ledger::{Event, Record};
use tokio::sync::mpsc::UnboundedSender;

use super::{AppendFailure, Journal};

/// A batch on its way to the disk.
struct Batch {
    journal: Journal,
    records: Vec<Record>,
}

/// A batch that came back.
pub struct Written {
    /// To append to again.
    pub journal: Journal,
    /// What was to be written.
    pub records: Vec<Record>,
    /// The lines as they stand in the journal, each with its end; or why there are none.
    pub outcome: Result<Vec<u8>, AppendFailure>,
}

/// The way to the thread.
pub struct Writer(mpsc::Sender<Batch>);

impl Writer {
    /// Starts the thread; each batch comes back on `done`.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn start(done: UnboundedSender<Written>) -> io::Result<Self> {
        let (batches, work) = mpsc::channel::<Batch>();
        let run = move || {
            for Batch { journal, records } in work {
                let Ok(written) = catch_unwind(AssertUnwindSafe(|| write(journal, records))) else {
                    // The engine would wait for ever, and look alive: the service manager starts posternd anew.
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

    /// Sends a batch off. It comes back, whatever becomes of it.
    pub fn send(&self, journal: Journal, records: Vec<Record>) {
        // The thread lives as long as this sender and the receiver of what it has done.
        let _ = self.0.send(Batch { journal, records });
    }
}

/// Writes a batch and waits until it is durable; then removes what its records say is removed.
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
