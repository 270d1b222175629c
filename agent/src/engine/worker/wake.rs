//! The worker's loop, and every period and deadline for which the worker wakes up. The worker sleeps until the first of these:
//!
//! | what | when |
//! |---|---|
//! | a command, a batch that came back, a question of the watchdog | at once |
//! | a look at the layers ([`LAYERS_EVERY`]); looks at tunnels and surroundings ([`SURROUNDINGS_EVERY`]), floods and warnings join it | always |
//! | a start, an end or a trial in the ledger; a look for sessions ([`SESSION_LOOKS`]); an unused grant; a summary ([`SUMMARY_EVERY`]) | while no batch is in flight and nothing failed |
//! | a new try after a failure ([`RETRY`]) | instead of those, after a failure |
//! | [`BRISK`] after a batch was submitted, then the end of each grant and retained session | while a batch is in flight |

use std::time::Duration;

use postern_core::time::BootNanos;
use tokio::sync::mpsc;

use super::{BATCH, Worker, park};
use crate::engine::command::Command;
use crate::journal::writer::Written;

/// How often the worker checks the layers. The kernel reports none of their losses by itself, except removed pins. One check takes some 40
/// system calls that do not wait: well under a millisecond of processor time a second.
pub(super) const LAYERS_EVERY: Duration = Duration::from_millis(500);
/// How often the worker looks for kernel tunnels and at its surroundings, together with a check of the layers. A walk over the sockets
/// takes three system calls and less than a millisecond. The surroundings are two lists of mounts.
pub(super) const SURROUNDINGS_EVERY: Duration = Duration::from_secs(5);
/// How long counts of unverified messages gather before a summary: at most three lines a minute.
pub(super) const SUMMARY_EVERY: Duration = Duration::from_secs(20);
/// How long before a grant's end the worker looks for its sessions: early enough for a busy machine and a slow disk, and once more.
pub(super) const SESSION_LOOKS: [Duration; 2] = [Duration::from_secs(2), Duration::from_millis(250)];
/// The time until a retry, after the kernel refused a change or the disk a record.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// After this time in flight the worker ends the sessions of expired grants, and answers queries, without the batch.
pub(super) const BRISK: Duration = Duration::from_millis(250);

pub(super) struct Queues {
    pub first: mpsc::Receiver<Command>,
    pub commands: mpsc::Receiver<Command>,
    pub written: mpsc::UnboundedReceiver<Written>,
}

enum Next {
    /// The watchdog asks for a turn.
    Asked,
    Command(Box<Command>),
    Written(Box<Written>),
    Due,
    /// Every handle of the engine is gone.
    Nobody,
}

impl Queues {
    async fn next(&mut self, asked: impl Future<Output = ()>) -> Next {
        tokio::select! {
            biased;
            Some(written) = self.written.recv() => Next::Written(Box::new(written)),
            () = asked => Next::Asked,
            Some(command) = self.first.recv() => Next::Command(Box::new(command)),
            command = self.commands.recv() => command.map_or(Next::Nobody, |command| Next::Command(Box::new(command))),
        }
    }

    /// `one` and other waiting commands, as many as fit into one turn.
    fn take(&mut self, one: Option<Command>) -> Vec<Command> {
        let first = std::iter::from_fn(|| self.first.try_recv().ok()).take(BATCH);
        let rest = std::iter::from_fn(|| self.commands.try_recv().ok()).take(BATCH);
        one.into_iter().chain(first).chain(rest).collect()
    }
}

impl Worker {
    pub(super) fn run(mut self, mut queues: Queues) {
        while !self.is_done() {
            self.beat.turn();
            let wait = self.wait();
            let one = match park::ready_within(queues.next(self.beat.asked()), wait).unwrap_or(Next::Due) {
                Next::Nobody => return,
                // The next turn is the answer.
                Next::Asked => continue,
                Next::Command(one) => Some(*one),
                Next::Due => None,
                Next::Written(written) => {
                    self.committed(*written);
                    self.answer_queries();
                    if self.committer.backlog.is_empty() {
                        continue;
                    }
                    None
                }
            };
            self.turn(queues.take(one));
        }
    }

    /// The time until something is due.
    fn wait(&self) -> Duration {
        let (now, ledger) = (self.shared().clock.boot(), &self.state.ledger);
        let due = if self.committer.in_flight().is_some() {
            self.next_meanwhile()
        } else {
            let policy = self.shared().rules().policy;
            let dues = [
                ledger.next_due(),
                self.retained.next_look(&policy, ledger),
                self.idle.due(),
                self.state.summaries.due(),
            ];
            // After a failure only the retry is due: whatever is over stays due until it can be recorded.
            self.retry_due.or(dues.into_iter().flatten().min())
        };
        let look = self.guard.due();
        Duration::from_nanos(now.until(due.map_or(look, |due: BootNanos| due.min(look))))
    }

    /// Whether the worker was asked to stop, and has nothing left to write or a disk that takes nothing.
    fn is_done(&self) -> bool {
        let now = self.shared().clock.boot();
        let waits = self.committer.in_flight().is_some_and(|batch| batch.age(now) < super::slow_disk::PEOPLE_WAIT);
        self.stopping && self.committer.backlog.is_empty() && !waits
    }
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
