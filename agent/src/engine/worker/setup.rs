//! How the worker starts.
//!
//! Owns the order of a start: close the kernel with what the journal says is live, then say so in the journal, then serve.
//! It never opens anything that the journal does not hold.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, RwLock};
use std::thread::JoinHandle;

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

use super::mode::policy_loaded;
use super::upkeep::Upkeep;
use super::{Batch, Queues, Worker, publish, retained, thread};
use crate::config::PrefilterConfig;
use crate::config::effective::RootFiles;
use crate::enforcer::{self, Enforcer, EnforcerError, LayerState};
use crate::engine::{
    Command, Engine, Published, QUEUE, Rules, Shared, Shares, Turns, WATCH_BACKLOG, denied, pulse, tally, verifier,
};
use crate::journal::writer::{Writer, Written};
use crate::journal::{AppendFailure, Opened, SetAside};
use crate::sandbox::privilege::Confinement;
use crate::system::clock::Clock;
use crate::system::sessions;
use crate::system::surroundings::Surroundings;
use crate::system::terminals::Terminals;

/// Everything a worker needs.
pub struct Setup {
    /// The journal and what it adds up to.
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
    /// What is given up as soon as lock and cut are in force, and no thread runs yet.
    pub confinement: Confinement,
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

/// Why the engine could not start. What was pinned before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Lock or cut could not be set up.
    #[error("{0}")]
    Kernel(#[from] EnforcerError),
    /// No thread could be made.
    #[error("the engine's thread could not be started: {0}")]
    Thread(std::io::Error),
}

/// Brings the kernel in step with the journal and starts the thread.
///
/// # Errors
/// [`StartError`]; nothing is open then that was not open before.
pub fn start(setup: Setup) -> Result<(Engine, JoinHandle<()>, Option<enforcer::DeniedReader>), StartError> {
    let (secret, rates, xdp, files) = (setup.secret, setup.rates, setup.xdp, setup.files);
    let surroundings = super::surroundings::Watch::new(setup.surroundings);
    let Setup { mut opened, clock, identity, rules, enforcer: settings, lines, confinement, config_file, .. } = setup;
    let capacity = Capacity { entries: settings.grants as usize, slots: settings.slots };
    clock.resume(opened.ledger.high(), opened.ledger.clock_of(clock.boot_id()));
    let now = clock.now();
    let mut degraded = passed_over(&opened.passed_over);
    let file = record_existing_sessions(&mut opened, &rules, &settings, capacity, &now, &lines, &mut degraded);
    let blocked: BTreeMap<_, _> = retained::forbidden(&rules, &opened.ledger, &now).into_iter().collect();
    let installed = retained::table(&rules.policy, &opened.ledger, &blocked.keys().copied().collect(), file, &now);
    let (mut enforcer, tunnels) = (Enforcer::start(&settings, &installed)?, super::tunnels::Watch::new());
    confine(confinement, &enforcer, &mut degraded);
    let denied_reader = enforcer.take_denied();
    let ((commands, first, queues), (pulse, beat)) = (queues(), pulse::pulse());
    let engine = Engine(Arc::new(Shared {
        names: [&identity.names[..], &identity.host_keys].concat(),
        identity: identity.into(),
        clock,
        challenger: RwLock::new(Challenger::new(&secret)),
        shares: Shares::new(rates, &rules.policy),
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
    let upkeep = Upkeep::start(engine.clone(), opened.journal.reader(), opened.lines).map_err(StartError::Thread)?;
    let terminals = terminals(engine.clone()).map_err(StartError::Thread)?;
    let (done, written) = mpsc::unbounded_channel();
    let worker = Worker {
        upkeep,
        beat,
        engine: engine.clone(),
        journal: Some(opened.journal),
        writer: Writer::start(done).map_err(StartError::Thread)?,
        commit: None,
        backlog: VecDeque::new(),
        first: VecDeque::new(),
        unrecorded_rules: None,
        readers: Vec::new(),
        unrecorded: Vec::new(),
        gap: None,
        found: Some(Found { torn: opened.torn, set_aside: opened.set_aside }),
        blocked,
        stopping: false,
        ledger: opened.ledger,
        enforcer,
        installed,
        capacity,
        prefilter: super::prefilter::Prefilter::new(xdp),
        degraded,
        since: super::health::Since::default(),
        started: now.wall,
        started_boot: now.boot,
        use_due: Some(now.boot), // Soon: what is open by then may have limits on its use.
        looked: BootNanos(0),
        warned: now.boot, // What was due while nobody was there is not made up for.
        last_pause: BootNanos(0),
        terminals,
        tally_due: None,
        guard: super::guard::Guard::new(),
        tunnels,
        surroundings,
        restores: super::clock::Restores::default(),
        retry_due: None,
    };
    Ok((engine, spawn(worker, queues, written, &now).map_err(StartError::Thread)?, denied_reader))
}

/// Gives up what is not needed once the layers are in force.
fn confine(confinement: Confinement, enforcer: &Enforcer, degraded: &mut BTreeMap<Condition, String>) {
    let confinement = confinement.with_loading(enforcer.has_to_load());
    let kept = confinement.apply(|| enforcer.layers().iter().all(|layer| layer.state == LayerState::InForce));
    degraded.extend(kept.first().map(|_| (Condition::Privileges, kept.join("; "))));
}

/// Has it on record what closing meets, or that nothing is closed. Which mode may hold then.
fn record_existing_sessions(
    opened: &mut Opened,
    rules: &Rules,
    settings: &enforcer::Settings,
    capacity: Capacity,
    now: &Now,
    lines: &broadcast::Sender<Arc<Published>>,
    degraded: &mut BTreeMap<Condition, String>,
) -> Mode {
    let (observed, observes) = observing(&opened.ledger, rules.policy.mode, now);
    let closed = closed_before(opened, enforcer::is_pinned(settings) && !observed, &rules.policy);
    let unended = retained::forget_closed(&mut opened.ledger, now).err().or_else(sessions::cannot_end);
    degraded.extend(unended.map(|why| (Condition::SessionsNotEnded, why)));
    let mut file = rules.policy.mode;
    if observes
        && !observed
        && let Err(error) = open_up(opened, rules, now, lines)
    {
        degraded.insert(
            Condition::ModeUnrecorded,
            format!("every port stays closed until it is on record that they open: {error}"),
        );
        file = Mode::Enforce;
    }
    // A port that nobody watched until now has no connection whose direction is known.
    match retained::met(&rules.policy, &closed, &opened.ledger, || Ok(sessions::OwnSockets::default()), now) {
        // A host that only observes locks nobody out.
        Ok((met, _)) if met.is_empty() || observes => {}
        Ok((met, served)) => bootstrap(opened, (&met, &served), capacity, now, lines, degraded),
        Err(error) => drop(degraded.insert(Condition::BootstrapIncomplete, error)),
    }
    file
}

/// What is closed by now: what is still there from an earlier run closed what that run said it would, unless it only observed;
/// everything else was open until now.
fn closed_before(opened: &Opened, by_earlier_run: bool, policy: &Policy) -> BTreeSet<(u8, u16)> {
    let closed = if by_earlier_run { opened.ledger.protected() } else { &[] };
    let forgotten = policy.protected().filter(|_| opened.forgot_protected());
    closed.iter().flat_map(PortSpec::transports).chain(forgotten).collect()
}

/// Whether the host has only observed so far, as far as is on record, and whether it does where the configuration says `file`.
fn observing(ledger: &Ledger, file: Mode, now: &Now) -> (bool, bool) {
    let standing = ledger.mode_state();
    (standing.observes(now), mode::is_observing(file, &standing.enabling, now))
}

/// Has it on record that nothing is dropped, before nothing is.
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

/// Keeps the sessions that were there before their port was protected, and lets their sources in for a while, once that is on
/// record. A journal that cannot be written keeps nobody in: the ports are closed all the same.
fn bootstrap(
    opened: &mut Opened,
    (met, served): (&[Session], &BTreeSet<u64>),
    capacity: Capacity,
    now: &Now,
    lines: &broadcast::Sender<Arc<Published>>,
    degraded: &mut BTreeMap<Condition, String>,
) {
    let (events, refusal) = bootstrap::plan(&opened.ledger, met, served, capacity, now, Uuid::new_v4);
    let (before, mut records) = (opened.ledger.clone(), Vec::new());
    for event in events {
        retained::tell_bootstrap(&event);
        let record = Record::next(&opened.ledger, None, event, now);
        opened.ledger.apply(&record);
        records.push(record);
    }
    match opened.journal.append(&records) {
        Ok(written) => {
            publish(lines, &opened.ledger, &records, &written);
            degraded.extend(refusal.map(|refusal| (Condition::BootstrapIncomplete, retained::no_room(&refusal))));
        }
        Err(error) => {
            opened.ledger = before;
            let why = format!("sessions could not be kept, the journal could not be written: {error}");
            degraded.insert(Condition::BootstrapIncomplete, why);
        }
    }
}

/// What to say of snapshots that were of no use.
fn passed_over(why: &[String]) -> BTreeMap<Condition, String> {
    why.iter().for_each(|why| tracing::warn!("passed over: {why}"));
    let said =
        why.iter().map(|why| format!("a snapshot of the journal was passed over, which loses nothing but time: {why}"));
    said.take(1).map(|why| (Condition::SnapshotPassedOver, why)).collect()
}

/// Until when only messages with a challenge are believed to be new.
fn unsure_until(opened: &Opened, now: &Now) -> BootNanos {
    match opened.set_aside {
        None if !opened.unread => opened.ledger.unsure_until(now.boot_id),
        _ => stale(now),
    }
}

/// What writes to people's terminals; it tells the worker when it may not.
fn terminals(engine: Engine) -> std::io::Result<Terminals> {
    Terminals::start(move |why| {
        // With the queue full there is worse to hear of.
        let _ = engine.0.commands.try_send(super::Command::Degraded { part: Condition::TerminalsSilent, why });
    })
}

/// When every message that is fresh now is not any more.
pub(super) fn stale(now: &Now) -> BootNanos {
    now.boot.plus_nanos(MAX_MESSAGE_LIFE.0 * 1_000_000_000)
}

/// The ways into the worker, and their other ends.
fn queues() -> (mpsc::Sender<Command>, mpsc::Sender<Command>, Queues) {
    let (commands, received) = mpsc::channel(QUEUE);
    let (first, first_received) = mpsc::channel(QUEUE);
    (commands, first, Queues { first: first_received, commands: received })
}

/// Has the worker write down what the start found, and run on a thread of its own.
fn spawn(
    mut worker: Worker,
    queues: Queues,
    written: mpsc::UnboundedReceiver<Written>,
    now: &Now,
) -> std::io::Result<JoinHandle<()>> {
    worker.note_found(now);
    worker.begin();
    let work = move || {
        let run = AssertUnwindSafe(|| worker.run(queues, written));
        if catch_unwind(run).is_err() {
            // Without its one writer the agent is of no use: systemd starts it anew, and the kernel keeps the ports closed.
            std::process::abort();
        }
    };
    thread::Builder::new().name("engine".into()).spawn(work)
}

/// What a start found and has to tell.
#[derive(Clone)]
pub(super) struct Found {
    /// Bytes of a torn last line that were cut off.
    pub torn: u64,
    /// The damaged journal that was there before this one.
    pub set_aside: Option<SetAside>,
}

impl Worker {
    /// Writes down what the start found and what ended before it. A disk that does not take it keeps nobody from starting: it is
    /// written as soon as it can be, and before anything else.
    fn begin(&mut self) {
        let now = self.shared().now();
        let over = self.forget_over(&now);
        let (before, mut batch) = (self.ledger.clone(), Batch { over, ..Batch::default() });
        self.tell_late(&mut batch, &now);
        self.submit_and_wait(before, batch, &now);
    }

    pub(super) fn tell_start(&mut self, found: &Found, batch: &mut Batch, now: &Now) {
        if let Some(set_aside) = found.set_aside.clone() {
            self.push(batch, None, set_aside.event(), now);
        }
        if found.torn > 0 {
            self.push(batch, None, Event::Repaired { bytes: found.torn }, now);
        }
        self.record_clock(batch, now);
        let rules = self.shared().rules();
        let protected = rules.policy.ports.iter().map(|r| r.port).collect();
        let (version, mode) = (env!("CARGO_PKG_VERSION").to_owned(), rules.policy.mode);
        let rules = rules.digest.to_string();
        let host_id = self.shared().identity().host_id;
        self.push(batch, None, Event::Started { version, host_id, protected, rules, mode }, now);
    }
}
