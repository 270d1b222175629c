//! The start of the worker. This module owns its order: bring the kernel in step with the journal, record the start, then serve. A start
//! opens only what the journal holds.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, RwLock};
use std::thread::{self, JoinHandle};

use postern_core::bootstrap;
use postern_core::budget::Rates;
use postern_core::condition::Condition;
use postern_core::grant::PortSpec;
use postern_core::ledger::{Capacity, Event, Ledger, Record};
use postern_core::message::{Challenger, Identity, MAX_MESSAGE_LIFE};
use postern_core::mode::{self, Mode};
use postern_core::policy::Policy;
use postern_core::retained::Session;
use postern_core::time::{BootNanos, Now};
use tokio::sync::{broadcast, mpsc, watch};
use uuid::Uuid;

use super::conditions::Conditions;
use super::draft::Draft;
use super::kernel::{self, Kernel};
use super::pipeline::publish;
use super::trial::policy_loaded;
use super::wake::Queues;
use super::{
    State, Worker, guard, idle, prefilter, restores, retained, summaries, surroundings, tunnels, upkeep, warnings,
};
use crate::config::PrefilterConfig;
use crate::config::effective::RootFiles;
use crate::enforcer::{self, Enforcer, EnforcerError, LayerState};
use crate::engine::command::Notice;
use crate::engine::commit::{Committer, StartupFindings};
use crate::engine::share::{Shares, Turns};
use crate::engine::shared::Shared;
use crate::engine::{Engine, Published, QUEUE, Rules, WATCH_BACKLOG, denied, pulse, tally, verifier};
use crate::journal::{AppendFailure, Opened};
use crate::system::clock::Clock;
use crate::system::sessions;
use crate::system::surroundings::Surroundings;
use crate::system::terminals::Terminals;

/// Everything a worker needs.
pub struct Setup {
    /// The journal, and the state that its records add up to.
    pub opened: Opened,
    /// This boot's clock.
    pub clock: Clock,
    /// Which host this is.
    pub identity: Identity,
    /// Policy and trust.
    pub rules: Rules,
    /// 32 random bytes for challenges, new for each start.
    pub secret: [u8; 32],
    /// How the kernel part is set up.
    pub enforcer: enforcer::Settings,
    /// Where the prefilter is wanted.
    pub xdp: PrefilterConfig,
    /// Gives up rights as soon as the lock and the cut are in force, before any thread runs.
    pub confine: Confine,
    /// Where posternd runs.
    pub surroundings: Surroundings,
    /// Where the configuration is.
    pub config_file: PathBuf,
    /// How posternd reaches root's files.
    pub files: RootFiles,
    /// How many messages one principal may send.
    pub rates: Rates,
    /// Where each line of the journal is published once it is durable.
    pub lines: broadcast::Sender<Arc<Published>>,
}

/// Gives up rights. The arguments are whether posternd still has to load programs, and a check whether all layers are in force. Returns a
/// sentence for each right that was kept.
pub type Confine = Box<dyn FnOnce(bool, &dyn Fn() -> bool) -> Vec<String> + Send>;

/// Why the engine could not start. Programs that were pinned before stay in force.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The lock or the cut could not be set up.
    #[error("{0}")]
    Kernel(#[from] EnforcerError),
    /// A thread could not be started.
    #[error("the engine's thread could not be started: {0}")]
    Thread(std::io::Error),
}

/// Brings the kernel in step with the journal and starts the thread.
///
/// # Errors
/// [`StartError`]. Then nothing is open that was not open before.
pub fn start(setup: Setup) -> Result<(Engine, JoinHandle<()>, Option<enforcer::DeniedReader>), StartError> {
    let Setup { mut opened, clock, identity, rules, enforcer: settings, lines, confine, config_file, files, .. } =
        setup;
    let capacity = Capacity { entries: settings.grants as usize, slots: settings.slots };
    clock.resume(opened.ledger.high(), opened.ledger.clock_of(clock.boot_id()));
    let now = clock.now();
    let mut conditions = passed_over(&opened.passed_over);
    let file = record_existing_sessions(&mut opened, &rules, &settings, capacity, &now, &lines, &mut conditions);
    let blocked: BTreeMap<_, _> = retained::forbidden(&rules, &opened.ledger, &now).into_iter().collect();
    let installed = kernel::wanted(&rules.policy, &opened.ledger, &blocked.keys().copied().collect(), file, &now);
    let mut enforcer = Enforcer::start(&settings, &installed)?;
    let tunnels = tunnels::Watch::new();
    let kept = confine(enforcer.has_to_load(), &|| are_in_force(&enforcer));
    conditions.set(Condition::Privileges, (!kept.is_empty()).then(|| kept.join("; ")));
    let denied_reader = enforcer.take_denied();
    let (commands, received) = mpsc::channel(QUEUE);
    let (first, first_received) = mpsc::channel(QUEUE);
    let (done, written) = mpsc::unbounded_channel();
    let (pulse, beat) = pulse::pulse();
    let engine = Engine(Arc::new(Shared {
        names: [&identity.names[..], &identity.host_keys].concat(),
        identity: identity.into(),
        clock,
        started: now.wall,
        challenger: RwLock::new(Challenger::new(&setup.secret)),
        shares: Shares::new(setup.rates, &rules.policy),
        rules: RwLock::new(rules),
        coming: RwLock::new(None),
        rules_changed: watch::channel(()).0,
        unsure_until: AtomicU64::new(unsure_until(&opened, &now).0),
        tally: tally::Tally::new(),
        repeats: verifier::Repeats::default(),
        turns: Turns::new(),
        journal: opened.journal.reader(),
        denied: denied::DeniedAttempts::default(),
        config_file,
        files,
        commands,
        first,
        pulse,
        changes: broadcast::channel(WATCH_BACKLOG).0,
        lines,
    }));
    let upkeep = upkeep::Upkeep::start(engine.clone(), opened.journal.reader(), opened.lines);
    let terminals = terminals(engine.clone()).map_err(StartError::Thread)?;
    let findings = StartupFindings { torn: opened.torn, set_aside: opened.set_aside };
    let worker = Worker {
        engine: engine.clone(),
        beat,
        committer: Committer::start(opened.journal, findings, done).map_err(StartError::Thread)?,
        state: State {
            ledger: opened.ledger,
            kernel: Kernel::new(enforcer, installed, capacity),
            conditions,
            blocked,
            summaries: summaries::Summaries::default(),
            surroundings: surroundings::Watch::new(setup.surroundings),
        },
        queries: Vec::new(),
        stopping: false,
        retry_due: None,
        guard: guard::Guard::new(),
        tunnels,
        prefilter: prefilter::Prefilter::new(setup.xdp),
        restores: restores::Restores::default(),
        retained: retained::Watch::new(),
        idle: idle::Watch::new(&now),
        warnings: warnings::Warnings::new(terminals, &now),
        upkeep: upkeep.map_err(StartError::Thread)?,
    };
    let queues = Queues { first: first_received, commands: received, written };
    Ok((engine, spawn(worker, queues, &now).map_err(StartError::Thread)?, denied_reader))
}

fn are_in_force(enforcer: &Enforcer) -> bool {
    enforcer.layers().iter().all(|layer| layer.state == LayerState::InForce)
}

/// Records the sessions on ports that this start closes, or the change to `observe`. Returns the mode that may hold then.
fn record_existing_sessions(
    opened: &mut Opened,
    rules: &Rules,
    settings: &enforcer::Settings,
    capacity: Capacity,
    now: &Now,
    lines: &broadcast::Sender<Arc<Published>>,
    conditions: &mut Conditions,
) -> Mode {
    let (observed, observes) = observing(&opened.ledger, rules.policy.mode, now);
    let closed = closed_before(opened, enforcer::is_pinned(settings) && !observed, &rules.policy);
    let unended = retained::forget_closed(&mut opened.ledger, now).err().or_else(sessions::cannot_end);
    conditions.set(Condition::SessionsNotEnded, unended);
    let mut file = rules.policy.mode;
    if observes
        && !observed
        && let Err(error) = open_up(opened, rules, now, lines)
    {
        let why = format!("every port stays closed until it is on record that they open: {error}");
        conditions.set(Condition::ModeUnrecorded, Some(why));
        file = Mode::Enforce;
    }
    // Nobody watched these ports until now, so the direction of their connections is unknown.
    match retained::existing_sessions(
        &rules.policy,
        &closed,
        &opened.ledger,
        || Ok(sessions::OwnSockets::default()),
        now,
    ) {
        // An observing host drops nothing.
        Ok((existing, _)) if existing.is_empty() || observes => {}
        Ok((existing, served)) => bootstrap(opened, (&existing, &served), capacity, now, lines, conditions),
        Err(error) => conditions.set(Condition::BootstrapIncomplete, Some(error)),
    }
    file
}

/// The ports that an earlier run closed: its record is known, its programs are still pinned, and it did not only observe. If the journal
/// has lost that list, all protected ports count as closed.
fn closed_before(opened: &Opened, by_earlier_run: bool, policy: &Policy) -> BTreeSet<(u8, u16)> {
    let closed = if by_earlier_run { opened.ledger.protected() } else { &[] };
    let forgotten = policy.protected().filter(|_| opened.forgot_protected());
    closed.iter().flat_map(PortSpec::transports).chain(forgotten).collect()
}

/// Whether the host has only observed so far, by the ledger, and whether it observes with the configured mode `file`.
fn observing(ledger: &Ledger, file: Mode, now: &Now) -> (bool, bool) {
    let standing = ledger.mode_state();
    (standing.observes(now), mode::is_observing(file, &standing.enabling, now))
}

/// Records that nothing is dropped, before that takes effect.
fn open_up(
    opened: &mut Opened,
    rules: &Rules,
    now: &Now,
    lines: &broadcast::Sender<Arc<Published>>,
) -> Result<(), AppendFailure> {
    tracing::error!("the configuration says mode = \"observe\": every protected port is open");
    let record = Record::next(&opened.ledger, None, policy_loaded(rules), now);
    let written = opened.journal.append(std::slice::from_ref(&record))?;
    opened.ledger.apply(&record);
    publish(lines, &opened.ledger, &[record], &written);
    Ok(())
}

/// Retains the sessions that existed before their port was protected, and lets their sources in for a while, once that is on record. If the
/// disk takes no record, the ports are closed for everybody.
fn bootstrap(
    opened: &mut Opened,
    (existing, served): (&[Session], &BTreeSet<u64>),
    capacity: Capacity,
    now: &Now,
    lines: &broadcast::Sender<Arc<Published>>,
    conditions: &mut Conditions,
) {
    let (events, refusal) = bootstrap::plan(&opened.ledger, existing, served, capacity, now, Uuid::new_v4);
    let (before, mut records) = (opened.ledger.clone(), Vec::new());
    for event in events {
        retained::log_bootstrap(&event);
        let record = Record::next(&opened.ledger, None, event, now);
        opened.ledger.apply(&record);
        records.push(record);
    }
    match opened.journal.append(&records) {
        Ok(written) => {
            publish(lines, &opened.ledger, &records, &written);
            conditions.set(Condition::BootstrapIncomplete, refusal.as_ref().map(retained::no_room));
        }
        Err(error) => {
            opened.ledger = before;
            let why = format!("sessions could not be kept, the journal could not be written: {error}");
            conditions.set(Condition::BootstrapIncomplete, Some(why));
        }
    }
}

/// The condition for unusable snapshots.
fn passed_over(why: &[String]) -> Conditions {
    why.iter().for_each(|why| tracing::warn!("passed over: {why}"));
    let first = why.first();
    let sentence =
        first.map(|why| format!("a snapshot of the journal was passed over, which loses nothing but time: {why}"));
    let mut conditions = Conditions::default();
    conditions.set(Condition::SnapshotPassedOver, sentence);
    conditions
}

/// The time until which replay history is incomplete, so that messages need a challenge.
fn unsure_until(opened: &Opened, now: &Now) -> BootNanos {
    match opened.set_aside {
        None if !opened.unread => opened.ledger.unsure_until(now.boot_id),
        _ => stale(now),
    }
}

/// Starts the thread that writes to people's terminals. The thread reports when it may not.
fn terminals(engine: Engine) -> std::io::Result<Terminals> {
    Terminals::start(move |why| {
        // If the queue is full, this notice is lost: other conditions matter more then.
        let _ = engine.0.commands.try_send(Notice::Condition(Condition::TerminalsSilent, why).into());
    })
}

/// The time at which every message that is fresh now has expired.
pub(super) fn stale(now: &Now) -> BootNanos {
    now.boot.plus_nanos(MAX_MESSAGE_LIFE.0 * 1_000_000_000)
}

/// Has the worker record the start, then runs the worker on its own thread.
fn spawn(mut worker: Worker, queues: Queues, now: &Now) -> std::io::Result<JoinHandle<()>> {
    worker.guard.note_start(&mut worker.state.kernel.enforcer, now);
    worker.begin();
    let work = move || {
        let run = AssertUnwindSafe(|| worker.run(queues));
        if catch_unwind(run).is_err() {
            // Without its one writer posternd is useless. systemd restarts it, and the kernel keeps the ports closed.
            std::process::abort();
        }
    };
    thread::Builder::new().name("engine".into()).spawn(work)
}

pub(super) fn record(draft: &mut Draft<'_>, findings: &StartupFindings) {
    if let Some(set_aside) = findings.set_aside.clone() {
        draft.push(None, set_aside.event());
    }
    if findings.torn > 0 {
        draft.push(None, Event::Repaired { bytes: findings.torn });
    }
    restores::record_clock(draft);
    let rules = draft.shared.rules();
    let protected = rules.policy.ports.iter().map(|r| r.port).collect();
    let (version, mode) = (env!("CARGO_PKG_VERSION").to_owned(), rules.policy.mode);
    let (rules, host_id) = (rules.digest.to_string(), draft.shared.identity().host_id);
    draft.push(None, Event::Started { version, host_id, protected, rules, mode });
}
