//! The one writer.
//!
//! Owns ledger, journal and enforcer, on a thread of its own: take a batch of commands → decide → record, with one sync for
//! all → bring the kernel in step → answer. What it reads for others is what is durable. It never verifies signatures and never
//! waits for the network, nor for the disk: a thread beside it does (`commit`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use postern_core::budget::Summed;
use postern_core::condition::Condition;
use postern_core::ledger::{Capacity, Event, Ledger, Record, Seen};
use postern_core::refusal::{Reason, Refusal};
use postern_core::request::{EndCause, Ending};
use postern_core::table::{self, Table};
use postern_core::time::{BootNanos, Now};
use tokio::sync::{broadcast, mpsc, oneshot};
use uuid::Uuid;

use super::pulse::Beat;
use super::{Answer, Change, Command, Engine, Published, Rules, Shared, view};
use crate::enforcer::Enforcer;
use crate::journal::Journal;
use crate::journal::writer::{Writer, Written};
use crate::system::sessions::{self, Scope};
use crate::system::terminals::Terminals;

mod append_failure;
mod clock;
mod commit;
mod decide;
mod guard;
mod health;
mod mode;
mod park;
mod people;
mod prefilter;
mod read;
mod retained;
mod setup;
mod surroundings;
mod tunnels;
mod unused;
mod upkeep;
mod warn;

pub use setup::{Setup, StartError, start};

/// Commands that share one sync of the journal (group commit).
const BATCH: usize = 256;
/// How long counts of unverified messages gather before they are written down: three lines a minute at most.
const TALLY_EVERY: Duration = Duration::from_secs(20);
/// After the kernel refused a change, how long until it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The thread's state.
pub(super) struct Worker {
    engine: Engine,
    /// Shows the watchdog that this thread comes round.
    beat: Beat,
    /// Away while a batch is being written.
    journal: Option<Journal>,
    writer: Writer,
    commit: Option<commit::Commit>,
    /// What waits until the disk has taken the batch before.
    backlog: VecDeque<Command>,
    /// The same, for what waits behind nobody's requests.
    first: VecDeque<Command>,
    /// Rules whose record the disk did not take. They are the next to be put in force.
    unrecorded_rules: Option<Rules>,
    /// Who reads waits a moment for what is being written.
    readers: Vec<Command>,
    /// Records of what has taken effect, the next to be written: root's break-glass on a disk that took none.
    unrecorded: Vec<Record>,
    /// Set while decisions cannot be recorded.
    gap: Option<append_failure::Gap>,
    /// What the start found, until it is on record.
    found: Option<setup::Found>,
    /// What may not be open although no record has ended it yet.
    blocked: BTreeMap<Uuid, EndCause>,
    /// Somebody asked it to stop.
    stopping: bool,
    /// What is on record, and what is unrecorded to it.
    ledger: Ledger,
    enforcer: Enforcer,
    /// What the kernel holds, as far as edits were acknowledged.
    installed: Table,
    capacity: Capacity,
    prefilter: prefilter::Prefilter,
    /// Parts that do not work as they should, with the reason.
    degraded: BTreeMap<Condition, String>,
    since: health::Since,
    started: jiff::Timestamp,
    /// When the agent started, on the boot clock.
    started_boot: BootNanos,
    /// When to look again whether grants with a limit on that are in use.
    use_due: Option<BootNanos>,
    /// Sessions that outlive a grant which ends soon were looked for until then.
    looked: BootNanos,
    /// Warnings were given for whatever was due until then.
    warned: BootNanos,
    /// When somebody's last words held the others up.
    last_pause: BootNanos,
    terminals: Terminals,
    /// When the counts of unverified messages are due.
    tally_due: Option<BootNanos>,
    guard: guard::Guard,
    tunnels: tunnels::Watch,
    surroundings: surroundings::Watch,
    upkeep: upkeep::Upkeep,
    restores: clock::Restores,
    /// Set while the kernel is behind the ledger, or the record behind the kernel.
    retry_due: Option<BootNanos>,
}

/// What one batch decided and who waits for it.
#[derive(Default)]
struct Batch {
    records: Vec<Record>,
    waiting: Vec<Waiting>,
    /// What ended in this batch: its sessions end too.
    over: Vec<Scope>,
}

/// An answer that may be given once the batch is durable and in force.
enum Waiting {
    Grant(Uuid, Answer<view::GrantView>),
    Refused(Refusal, Answer<view::GrantView>),
    Recorded(Refusal, oneshot::Sender<Refusal>),
    /// What root asked of the mode: refused, or decided, with the grant that proves the way in.
    Mode(Result<Option<Uuid>, Refusal>, ModeAnswer),
    Reloaded(Rules, usize, oneshot::Sender<Result<usize, Refusal>>),
    NotReloaded(Refusal, oneshot::Sender<Result<usize, Refusal>>),
    Stopped(oneshot::Sender<()>),
}

/// Tells whoever asked.
type ModeAnswer = Box<dyn FnOnce(Result<(view::ModeView, Option<Uuid>), Refusal>) + Send>;

impl Worker {
    /// Serves until it is told to stop.
    fn run(mut self, Queues { mut first, mut commands }: Queues, mut written: mpsc::UnboundedReceiver<Written>) {
        while !self.is_done() {
            self.beat.turn();
            let wait = self.wait();
            let woken = async {
                tokio::select! {
                    biased;
                    Some(written) = written.recv() => Next::Written(Box::new(written)),
                    () = self.beat.asked() => Next::Asked,
                    Some(command) = first.recv() => Next::Command(Box::new(command)),
                    command = commands.recv() => command.map_or(Next::Nobody, |command| Next::Command(Box::new(command))),
                }
            };
            let one = match park::ready_within(woken, wait).unwrap_or(Next::Due) {
                Next::Nobody => return,
                // Whoever asked sees the next turn.
                Next::Asked => continue,
                Next::Command(one) => Some(*one),
                Next::Due => None,
                Next::Written(written) => {
                    self.committed(*written);
                    self.serve_readers();
                    if self.nobody_waits() {
                        continue;
                    }
                    None
                }
            };
            let closing = std::iter::from_fn(|| first.try_recv().ok()).take(BATCH);
            let rest = std::iter::from_fn(|| commands.try_recv().ok()).take(BATCH);
            let batch: Vec<_> = one.into_iter().chain(closing).chain(rest).collect();
            self.turn(batch);
        }
    }

    /// How long nothing is due.
    fn wait(&self) -> Duration {
        let now = self.shared().clock.boot();
        let due = if self.commit.is_some() {
            self.next_meanwhile()
        } else {
            // While something failed, the next try is all that is due: what is over stays due until it can be recorded.
            let dues = [self.ledger.next_due(), self.next_look(), self.use_due, self.tally_due];
            self.retry_due.or(dues.into_iter().flatten().min())
        };
        Duration::from_nanos(now.until(due.map_or(self.guard.due(), |due| due.min(self.guard.due()))))
    }

    fn shared(&self) -> &Shared {
        &self.engine.0
    }

    /// The rules under which the next record is made. In the ledger's order that are those of the newest `policy-loaded`, which may be
    /// on its way to the disk.
    fn next_rules(&self) -> Rules {
        let ahead = self.commit.as_ref().and_then(|commit| commit.batch.reloaded());
        ahead.unwrap_or_else(|| self.shared().rules())
    }

    /// Adds an event to the batch and to the ledger, which goes back if the batch cannot be made durable.
    fn push(&mut self, batch: &mut Batch, message: Option<Seen>, event: Event, now: &Now) {
        let record = Record::next(&self.ledger, message, event, now);
        self.ledger.apply(&record);
        batch.records.push(record);
    }

    /// Housekeeping: the kernel stopped these grants by itself; here their end is recorded. And requests that waited too long.
    fn expire(&mut self, batch: &mut Batch, now: &Now) {
        for (id, cause) in self.ledger.overdue(now) {
            // It may be recorded late; it ended when it ended.
            let ended = self.ledger.get(&id).and_then(|held| held.grant()).filter(|_| cause == EndCause::Expired);
            let at = ended.map_or(now.wall, |grant| now.wall_at(grant.expires_boot));
            self.end(batch, id, Ending::by_itself(at, cause), None, now);
        }
    }

    /// Ends what may not be open, and what outlives it.
    fn end_blocked(&mut self, batch: &mut Batch, now: &Now) {
        let blocked: Vec<_> = self.blocked.iter().map(|(id, cause)| (*id, *cause)).collect();
        self.end_each(&blocked, batch, now);
    }

    /// Scheduled grants open once that is on record, if the rules of that moment still allow it: a key may have come to its end since.
    fn open(&mut self, batch: &mut Batch, now: &Now) {
        let rules = self.next_rules();
        for grant in self.ledger.due_to_open(now) {
            match self.ledger.get(&grant).and_then(|held| rules.forbid(held, now)) {
                None => self.push(batch, None, Event::Activated { grant }, now),
                Some(cause) => self.end(batch, grant, Ending::by_itself(now.wall, cause), None, now),
            }
        }
    }

    /// Ends one live grant, or a request that waits.
    fn end(&mut self, batch: &mut Batch, id: Uuid, ending: Ending, message: Option<Seen>, now: &Now) {
        let Some(held) = self.ledger.get(&id) else { return };
        let opened: Vec<_> = held.grant().filter(|_| held.opened).into_iter().flat_map(sessions::scopes).collect();
        let usage = self.usage(held, now);
        self.push(batch, message, Event::Ended { grant: id, ending, usage }, now);
        batch.over.extend(opened);
    }

    /// Sums up what unverified peers caused, when that is due.
    fn sum_up(&mut self, batch: &mut Batch, now: &Now) {
        if self.tally_due.is_some_and(|due| due <= now.boot) {
            self.tally_due = None;
            self.write_tally(false, batch, now);
        }
    }

    /// `all`: also what is not due yet, because the agent stops.
    fn write_tally(&mut self, all: bool, batch: &mut Batch, now: &Now) {
        let counts = self.shared().tally.take();
        if !counts.is_empty() {
            self.push(batch, None, Event::Unverified { counts }, now);
        }
        let summaries = self.shared().shares.lock().take_summaries(now.boot, all);
        for (principal, Summed { counts, first, last }) in summaries {
            self.push(batch, None, Event::Refusals { principal, counts, first, last }, now);
        }
        if self.shared().shares.lock().is_summary_due() {
            self.sum_up_later(now);
        }
    }

    fn sum_up_later(&mut self, now: &Now) {
        self.tally_due.get_or_insert(now.boot.plus_nanos(nanos(TALLY_EVERY)));
    }

    /// Compiles what the kernel should hold and edits it until it does.
    fn bring_in_step(&mut self, now: &Now) -> Result<(), Refusal> {
        let policy = self.shared().rules().policy;
        let blocked: BTreeSet<_> = self.blocked.keys().chain(&self.restores.void).copied().collect();
        let wanted = retained::table(&policy, &self.ledger, &blocked, self.file(), now);
        self.retry_due = None;
        for edit in table::diff(&self.installed, &wanted) {
            if let Err(error) = self.enforcer.apply(&edit) {
                tracing::error!(%error, ?edit, "the kernel refused a change");
                self.degraded.insert(Condition::KernelRefused, format!("the kernel refused a change: {error}"));
                self.retry_due = Some(now.boot.plus_nanos(nanos(RETRY)));
                return Err(Refusal::new(Reason::KernelFailed, error));
            }
            self.installed.apply(&edit);
        }
        self.degraded.remove(&Condition::KernelRefused);
        Ok(())
    }

    /// Tells the watchers.
    fn announce(&self, records: &[Record]) {
        for view in records.iter().filter_map(|record| self.view(&record.event.subject()?)) {
            // Nobody may be watching.
            let _ = self.shared().changes.send(Change { view, warning: None });
        }
    }

    /// Gives the answers of a batch that is durable and in force.
    fn answer(&self, waiting: Vec<Waiting>) {
        for one in waiting {
            // A caller who went away needs no answer.
            match one {
                Waiting::Grant(id, answer) => {
                    let gone = || Refusal::new(Reason::GrantNotFound, id);
                    let _ = answer.send(self.view(&id).ok_or_else(gone));
                }
                Waiting::Refused(refusal, answer) => drop(answer.send(Err(refusal))),
                Waiting::Recorded(refusal, answer) => drop(answer.send(refusal)),
                Waiting::Mode(decided, answer) => {
                    answer(decided.map(|grant| (self.mode(&self.shared().now()), grant)));
                }
                Waiting::Reloaded(_, ended, answer) => drop(answer.send(Ok(ended))),
                Waiting::NotReloaded(refusal, answer) => drop(answer.send(Err(refusal))),
                Waiting::Stopped(answer) => drop(answer.send(())),
            }
        }
    }
}

/// Where commands come from.
struct Queues {
    /// What closes, and what root asks for.
    first: mpsc::Receiver<Command>,
    commands: mpsc::Receiver<Command>,
}

impl Batch {
    /// The rules that it puts in force.
    fn reloaded(&self) -> Option<Rules> {
        let reloads = self.waiting.iter().rev();
        reloads.filter_map(|one| if let Waiting::Reloaded(rules, ..) = one { Some(rules.clone()) } else { None }).next()
    }
}

/// What the thread wakes up for.
enum Next {
    /// Somebody wants to see that the thread comes round.
    Asked,
    Command(Box<Command>),
    Written(Box<Written>),
    Due,
    /// Nobody can ask for anything any more.
    Nobody,
}

impl Waiting {
    /// The same one, refused.
    fn refused(self, refusal: &Refusal) -> Self {
        match self {
            Self::Grant(_, answer) | Self::Refused(_, answer) => Self::Refused(refusal.clone(), answer),
            Self::Recorded(_, answer) => Self::Recorded(refusal.clone(), answer),
            Self::Mode(decided, answer) => Self::Mode(Err(decided.err().unwrap_or_else(|| refusal.clone())), answer),
            Self::Reloaded(_, _, answer) | Self::NotReloaded(_, answer) => Self::NotReloaded(refusal.clone(), answer),
            Self::Stopped(answer) => Self::Stopped(answer),
        }
    }
}

/// The grant that a record opens.
fn opens(record: &Record) -> Option<Uuid> {
    match &record.event {
        Event::Granted { grant } | Event::BreakGlass { grant } => Some(grant.id),
        Event::Activated { grant } => Some(*grant),
        _ => None,
    }
}

/// Tells those who watch the journal of `records`, which stand in it as the lines `written`. Nobody may be watching, and nobody is
/// waited for.
fn publish(lines: &broadcast::Sender<Arc<Published>>, ledger: &Ledger, records: &[Record], written: &[u8]) {
    for (record, line) in records.iter().zip(written.split(|byte| *byte == b'\n')) {
        let held = record.event.subject().and_then(|id| ledger.get(&id));
        let (life, record, line) = (held.map(|held| held.request.without_payload()), record.clone(), line.to_vec());
        let _ = lines.send(Arc::new(Published { record, life, line }));
    }
}

/// Nothing of the batch took effect.
fn refuse_all(waiting: Vec<Waiting>, refusal: &Refusal) {
    for one in waiting {
        match one {
            Waiting::Grant(_, answer) | Waiting::Refused(_, answer) => drop(answer.send(Err(refusal.clone()))),
            Waiting::Recorded(_, answer) => drop(answer.send(refusal.clone())),
            Waiting::Mode(decided, answer) => answer(Err(decided.err().unwrap_or_else(|| refusal.clone()))),
            Waiting::Reloaded(_, _, answer) | Waiting::NotReloaded(_, answer) => {
                drop(answer.send(Err(refusal.clone())));
            }
            Waiting::Stopped(answer) => drop(answer.send(())),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
