//! The commit pipeline: from decided records to durable records. This module owns the journal, the thread that writes to it, the one batch
//! in flight, the changes that wait for that batch, and everything unrecorded. It never decides, and never touches the kernel.

use std::time::Duration;

use jiff::Timestamp;
use postern_core::ledger::{Ledger, Record};
use postern_core::time::BootNanos;
use tokio::sync::mpsc::UnboundedSender;

pub(super) use backlog::Backlog;

use crate::journal::writer::{self, Writer, Written};
use crate::journal::{AppendFailure, Journal, Opened, SetAside};

mod backlog;
#[cfg(test)]
mod tests;

/// The pipeline. `B` is the owner's decision with a batch, which comes back with the outcome.
pub(super) struct Committer<B> {
    /// `None` while the writer has it.
    journal: Option<Journal>,
    writer: Writer,
    in_flight: Option<Submitted<B>>,
    pub backlog: Backlog,
    /// Records that took effect before they were written: root's break-glass while the disk took none. The next batch begins with them.
    unrecorded: Vec<Record>,
    /// A period without records that is itself not recorded yet.
    gap: Option<Gap>,
    /// The findings of the start, until they are recorded.
    startup: Option<StartupFindings>,
}

pub(super) struct Submitted<B> {
    pub decided: B,
    before: Ledger,
    pub after: Ledger,
    /// How many of its records took effect before they were written.
    unrecorded: usize,
    startup: Option<StartupFindings>,
    gap: Option<Gap>,
    pub since: BootNanos,
}

pub(super) struct Outcome<B> {
    pub decided: B,
    /// The ledger to go on with.
    pub ledger: Ledger,
    /// The records of the batch, without those that took effect earlier.
    pub records: Vec<Record>,
    pub result: Result<Recorded, Failure>,
}

/// A durable batch.
pub(super) struct Recorded {
    /// Its records that took effect earlier.
    pub earlier: Vec<Record>,
    /// Its lines as they are in the journal, each with its end of line.
    pub lines: Vec<u8>,
}

/// An append failure: no record of the batch counts.
pub(super) struct Failure {
    pub why: String,
    /// Set if the journal could only be opened now, and differs from what the start read of it.
    pub reopened: Option<Reopened>,
}

pub(super) struct Reopened {
    /// Whether the earlier journal was damaged and set aside.
    pub set_aside: bool,
}

/// Findings at the opening of the journal that the journal does not hold yet.
#[derive(Clone)]
pub(super) struct StartupFindings {
    /// Bytes of a torn last line that were cut off.
    pub torn: u64,
    /// The damaged journal that this one replaces.
    pub set_aside: Option<SetAside>,
}

/// A period in which decisions could not be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Gap {
    pub since: Timestamp,
    pub why: String,
    /// How many decisions were refused for that reason.
    pub refused: u64,
}

impl<B> Committer<B> {
    /// Starts with nothing in flight. Each batch of [`Committer::submit`] comes back on `done`. Fails if the thread cannot be started.
    pub(super) fn start(
        journal: Journal,
        startup: StartupFindings,
        done: UnboundedSender<Written>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            journal: Some(journal),
            writer: Writer::start(done)?,
            in_flight: None,
            backlog: Backlog::default(),
            unrecorded: Vec::new(),
            gap: None,
            startup: Some(startup),
        })
    }

    /// Sends a batch to the disk. `before` and `after` are the ledger without and with `records`; `before` holds until the batch is
    /// durable. The owner does not call this while another batch is in flight.
    pub(super) fn submit(
        &mut self,
        (before, after): (Ledger, Ledger),
        records: Vec<Record>,
        decided: B,
        now: BootNanos,
    ) {
        if let Some((journal, records)) = self.prepare((before, after), records, decided, now) {
            self.writer.send(journal, records);
        }
    }

    /// As [`Committer::submit`], and waits for the disk.
    pub(super) fn submit_and_wait(
        &mut self,
        ledgers: (Ledger, Ledger),
        records: Vec<Record>,
        decided: B,
        now: BootNanos,
    ) -> Option<Outcome<B>> {
        let (journal, records) = self.prepare(ledgers, records, decided, now)?;
        self.committed(writer::write(journal, records))
    }

    fn prepare(
        &mut self,
        (before, after): (Ledger, Ledger),
        records: Vec<Record>,
        decided: B,
        since: BootNanos,
    ) -> Option<(Journal, Vec<Record>)> {
        let journal = self.journal.take()?;
        let unrecorded = self.unrecorded.len();
        let records = self.unrecorded.iter().cloned().chain(records).collect();
        let (startup, gap) = (self.startup.take(), self.gap.take());
        self.in_flight = Some(Submitted { decided, before, after, unrecorded, startup, gap, since });
        Some((journal, records))
    }

    /// Takes back the batch in flight, with its outcome.
    pub(super) fn committed(&mut self, written: Written) -> Option<Outcome<B>> {
        let Submitted { decided, before, after, unrecorded, startup, gap, .. } = self.in_flight.take()?;
        let Written { journal, records: mut earlier, outcome } = written;
        self.journal = Some(journal);
        let records = earlier.split_off(unrecorded);
        let failure = match outcome {
            Ok(lines) => {
                self.unrecorded.drain(..unrecorded);
                let result = Ok(Recorded { earlier, lines });
                return Some(Outcome { decided, ledger: after, records, result });
            }
            Err(failure) => failure,
        };
        self.startup = startup.or(self.startup.take());
        self.gap = gap.into_iter().chain(self.gap.take()).reduce(Gap::with);
        let why = failure.to_string();
        let (ledger, reopened) = match failure {
            AppendFailure::Found(opened) => {
                let Opened { journal, ledger, torn, set_aside, .. } = *opened;
                self.journal = Some(journal);
                let reopened = Reopened { set_aside: set_aside.is_some() };
                self.startup = Some(StartupFindings { torn, set_aside });
                (self.with_unrecorded(ledger, 0), Some(reopened))
            }
            AppendFailure::Disk(_) | AppendFailure::Journal(_) => (self.with_unrecorded(before, unrecorded), None),
        };
        Some(Outcome { decided, ledger, records, result: Err(Failure { why, reopened }) })
    }

    /// Applies to `ledger` the unrecorded records that it does not hold: all but the first `held`.
    fn with_unrecorded(&mut self, mut ledger: Ledger, held: usize) -> Ledger {
        for record in self.unrecorded.iter_mut().skip(held) {
            record.seq = ledger.last_seq() + 1;
            ledger.apply(record);
        }
        ledger
    }

    /// Applies a record that takes effect before it is written. The record comes first in the next batch.
    pub(super) fn record_later(&mut self, mut record: Record, ledger: &mut Ledger) {
        let after = self.in_flight.as_mut().map(|batch| &mut batch.after);
        record.seq = after.as_ref().map_or(ledger.last_seq(), |after| after.last_seq()) + 1;
        if let Some(after) = after {
            after.apply(&record);
        }
        ledger.apply(&record);
        self.unrecorded.push(record);
    }

    /// Notes that `refused` decisions could not be recorded. A period without records goes on, or begins at `since`.
    pub(super) fn note_gap(&mut self, why: &str, since: Timestamp, refused: u64) {
        let gap = self.gap.get_or_insert_with(|| Gap { since, why: why.to_owned(), refused: 0 });
        gap.refused += refused;
    }

    pub(super) fn in_flight(&self) -> Option<&Submitted<B>> {
        self.in_flight.as_ref()
    }

    pub(super) fn in_flight_mut(&mut self) -> Option<&mut Submitted<B>> {
        self.in_flight.as_mut()
    }

    pub(super) fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    /// Records that took effect and are not durable, the oldest first.
    pub(super) fn unrecorded(&self) -> &[Record] {
        &self.unrecorded
    }

    /// The period without records that the next batch has to record.
    pub(super) fn gap(&self) -> Option<&Gap> {
        self.gap.as_ref()
    }

    pub(super) fn startup(&self) -> Option<&StartupFindings> {
        self.startup.as_ref()
    }

    /// Whether this start is on record.
    pub(super) fn is_start_recorded(&self) -> bool {
        self.startup.is_none() && self.in_flight.as_ref().is_none_or(|batch| batch.startup.is_none())
    }
}

impl<B> Submitted<B> {
    pub(super) fn age(&self, now: BootNanos) -> Duration {
        Duration::from_nanos(self.since.until(now))
    }
}

impl Gap {
    fn with(self, later: Self) -> Self {
        Self { refused: self.refused + later.refused, ..self }
    }
}
