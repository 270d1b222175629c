//! From a configuration file to a running agent.
//!
//! Owns the order of start and stop. It never decides anything.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use postern_core::grant::{PortSpec, Protocol};
use postern_core::key::TCP;
use postern_core::ledger::{Event, Record};
use postern_core::mode::{self, Enabling, Mode};
use postern_core::policy::Policy;
use postern_core::table::Table;
use postern_core::trust::{Trust, TrustFile};
use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::broadcast;

use crate::clock::{self, Clock};
use crate::config::{self, Closing, Config};
use crate::enforcer::{self, Closed, Enforcer, EnforcerError};
use crate::engine::{self, Engine, Published, Rules, Setup};
use crate::host::HostError;
use crate::journal::{self, Journal, JournalError, Opened, SetAside};
use crate::keeper::Keeper;
use crate::privilege::{self, Confinement};
use crate::proof::HostKeys;
use crate::sysctl::{self, Reserved};
use crate::{api, host, journald, keeper, links, notify, sessions};

/// Threads for work that would hold others up. Four of them work at once (signatures, audits); one that has just finished is not
/// always free already when the next is wanted.
const BLOCKING: usize = 8;

/// Why the agent did not do what it was told.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A file that the administrator writes is wrong.
    #[error("{0}")]
    Config(String),
    /// What was asked on the command line makes no sense here.
    #[error("{0}")]
    Usage(String),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl Failure {
    fn config(error: impl std::fmt::Display) -> Self {
        Self::Config(error.to_string())
    }

    fn other(error: impl std::fmt::Display) -> Self {
        Self::Other(error.to_string())
    }
}

/// Reads what a reload reads: the policy and whose signatures count. By way of a keeper, where that has to open the files.
pub(crate) fn rules(path: &Path, config: &Config, keeper: Option<&Keeper>) -> Result<Rules, Failure> {
    let read = |path: &Path| {
        config::check_and_read(keeper::open(keeper, path))
            .map_err(|reason| Failure::Config(format!("{}: {reason}", path.display())))
    };
    let signers = String::from_utf8(read(&config.trust_file)?)
        .map_err(|_| Failure::Config(format!("{}: is not UTF-8 text", config.trust_file.display())))?;
    let revoked = config.revoked_keys.as_deref().map(read).transpose()?.unwrap_or_default();
    let trust = Trust::parse(&signers, &revoked).map_err(|error| {
        let revoked_file = config.revoked_keys.as_ref().filter(|_| error.file == TrustFile::Revoked);
        Failure::Config(format!("{}: {error}", revoked_file.unwrap_or(&config.trust_file).display()))
    })?;
    let mut files = Context::new(&SHA256);
    for bytes in [&read(path)?, signers.as_bytes(), &revoked] {
        files.update(&(bytes.len() as u64).to_be_bytes());
        files.update(bytes);
    }
    let digest = files.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Ok(Rules { policy: Arc::new(config.policy()), trust: Arc::new(trust), digest: digest.into() })
}

/// Takes Postern's programs out of the kernel and says so in the journal first.
///
/// # Errors
/// [`Failure`]; when the agent runs, or the journal cannot be written, nothing is opened.
pub fn unlock(path: &Path) -> Result<(), Failure> {
    let config = Config::load(path).map_err(Failure::config)?;
    let _lock = host::lock(&config.state_dir).map_err(Failure::other)?;
    let now = Clock::new(config.clock.unsynchronised).map_err(Failure::other)?.now();
    // The ports are about to be opened: nothing needs to be closed before a damaged journal is set aside.
    let Opened { mut journal, mut ledger, set_aside, .. } = open_journal(&config, now.wall, || Ok(()))?;
    let mut records = Vec::new();
    for event in set_aside.map(SetAside::event).into_iter().chain([Event::Unlocked]) {
        let record = Record::next(&ledger, None, event, &now);
        ledger.apply(&record);
        records.push(record);
    }
    let lines = journal.append(&records).map_err(Failure::other)?;
    keeper::hand_back(&config);
    if config.audit.journald.unwrap_or_else(journald::is_there) {
        for (record, line) in records.into_iter().zip(lines.split(|byte| *byte == b'\n')) {
            journald::export(&Published { record, life: None, line: line.to_vec() });
        }
    }
    enforcer::unlock(&config.pin_dir).map_err(Failure::other)?;
    let given_back = Reserved::open(&config.state_dir, now.boot_id).and_then(|reserved| reserved.give_back());
    given_back.map_err(|e| {
        Failure::Other(format!("the ports are open, but stay in net.ipv4.ip_local_reserved_ports: {e}"))
    })?;
    println!("Every port that Postern protected is open until posternd starts again.");
    Ok(())
}

/// Closes the protected ports for everybody, unless Postern is in force already. With a configuration that is not valid it
/// closes what can be read of it and the default ports, and fails all the same. Where the host is only to observe it closes nothing.
///
/// # Errors
/// [`Failure`]; what was closed stays closed.
pub fn early(path: &Path) -> Result<(), Failure> {
    let loaded = Config::load(path);
    let closing = match &loaded {
        Ok(config) => Closing {
            protected: config.policy().protected().collect(),
            pin_dir: config.pin_dir.clone(),
            cgroup: config.cgroup.clone(),
            mode: config.policy().mode,
        },
        Err(_) => Closing::salvage(path),
    };
    if closing.mode == Mode::Observe {
        println!("The configuration says mode = \"observe\": nothing is closed, and nothing was changed.");
        return loaded.map(drop).map_err(Failure::config);
    }
    let table = Table { protected: closing.protected, ..Table::default() };
    let settings = |cgroup| enforcer::Settings {
        pin_dir: closing.pin_dir.clone(),
        keeper: None,
        cgroup,
        grants: 1,
        flows: 1,
        slots: 1,
    };
    let closed = match Enforcer::close(&settings(closing.cgroup.clone()), &table) {
        // A part of a configuration that is wrong may itself be what is wrong.
        Err(_) if loaded.is_err() && closing.cgroup.is_some() => Enforcer::close(&settings(None), &table),
        outcome => outcome,
    };
    match closed.map_err(Failure::other)? {
        Closed::Now => println!("{} ports are closed for everybody.", table.protected.len()),
        Closed::Already => println!("Postern is in force already; nothing was changed."),
    }
    loaded.map(drop).map_err(Failure::config)
}

/// Opens the journal. Whatever is wrong with it, `close` closes the ports first. A damaged one is then set aside, and a new one
/// begun.
fn open_journal(
    config: &Config,
    now: jiff::Timestamp,
    close: impl FnOnce() -> Result<(), EnforcerError>,
) -> Result<Opened, Failure> {
    let error = match Journal::open(&config.state_dir, config.journal) {
        Ok(opened) => return Ok(opened),
        Err(error) => error,
    };
    if let JournalError::Io { .. } = error {
        return Ok(unwritable(config, &error));
    }
    if let Err(kernel) = close() {
        return Err(Failure::Other(format!("{error}; and {kernel}")));
    }
    tracing::error!(%error, "the journal cannot be used; every port is closed");
    let set_aside = match journal::set_aside(&config.state_dir, error, now) {
        Err(error @ JournalError::Io { .. }) => return Ok(unwritable(config, &error)),
        other => other.map_err(Failure::other)?,
    };
    tracing::error!(path = %set_aside.path, "the damaged journal was set aside; a new one begins");
    let opened = Journal::open(&config.state_dir, config.journal).map_err(Failure::other)?;
    Ok(Opened { set_aside: Some(set_aside), ..opened })
}

/// What can be known of a journal that the disk does not let anybody write: what is open by it goes on and ends on time, and
/// nothing else opens until it can be written.
fn unwritable(config: &Config, error: &JournalError) -> Opened {
    tracing::error!(%error, "the journal cannot be written; nothing new is granted until it can be");
    Journal::look(&config.state_dir, config.journal).unwrap_or_else(|error| {
        tracing::error!(%error, "nor can it be read: nothing is open until it can be");
        Journal::unread(&config.state_dir, config.journal)
    })
}

/// Prints the journal's lines from the disk, from `since` on, once the whole chain is checked. The agent may run or not.
///
/// # Errors
/// [`Failure`]: nothing was printed when the journal was changed or damaged.
pub fn export(path: &Path, since: Option<jiff::Timestamp>) -> Result<(), Failure> {
    let config = Config::load(path).map_err(Failure::config)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    journal::export(&config.state_dir, since, &mut out).map_err(Failure::other)?;
    Ok(())
}

/// A host without an identity serves nobody, but its ports are closed; unless Postern is in force already.
fn without_state(error: &HostError, settings: &enforcer::Settings, empty: &Table) -> Failure {
    if let HostError::Running(_) = error {
        return Failure::other(error);
    }
    match Enforcer::close(settings, empty) {
        Ok(_) => Failure::Other(format!(
            "{error}. The protected ports are closed, and this host cannot let anybody in before its state directory can be \
             written: make room or mount it writable, and start posternd again"
        )),
        Err(kernel) => Failure::Other(format!("{error}; and {kernel}")),
    }
}

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// [`Failure`]; the ports stay as closed as they were.
pub fn run(path: &Path) -> Result<(), Failure> {
    let config = Config::load(path).map_err(Failure::config)?;
    let rules = rules(path, &config, None)?;
    let mut settings = enforcer::Settings {
        pin_dir: config.pin_dir.clone(),
        keeper: None,
        cgroup: config.cgroup.clone(),
        grants: config.limits.entries,
        flows: sessions::MOST_KEPT,
        slots: config.limits.grants,
    };
    let clock = Clock::new(config.clock.unsynchronised).map_err(Failure::other)?;
    let observe_from = mode::observe_from(rules.policy.mode, &Enabling::None, clock.boot_id());
    let empty = Table { protected: rules.policy.protected().collect(), observe_from, ..Table::default() };
    let _lock = host::lock(&config.state_dir).map_err(|error| without_state(&error, &settings, &empty))?;
    // What only root may read is read by now.
    let host_keys = HostKeys::read(&config.ssh_host_keys);
    let keeper = keeper::step_down(path, &config);
    let confinement = Confinement::of(path, &config).with_keeper(&config, keeper.as_ref());
    let keeper = keeper.unwrap_or_default();
    settings.keeper.clone_from(&keeper);
    let (reserved, cookies) = (Reserved::open(&config.state_dir, clock.boot_id()), sysctl::without_cookies());
    let identity = host::identity(&config.state_dir, config.names.clone(), &config.ssh_host_keys);
    let identity = identity.map_err(|error| without_state(&error, &settings, &empty))?;
    if let Some(offset) = clock::boot_clock_offset() {
        return Err(in_a_time_namespace(&rules.policy, &settings, &offset));
    }
    // Whatever became of the journal: the ports are closed first.
    let opened = open_journal(&config, clock.now().wall, || Enforcer::start(&settings, &empty).map(drop))?;
    let mut secret = [0; 32];
    SystemRandom::new().fill(&mut secret).map_err(|_| Failure::Other("the kernel gave no random bytes".into()))?;
    let (lines, exported) = broadcast::channel(engine::WATCH_BACKLOG);
    let exported = config.audit.journald.unwrap_or_else(journald::is_there).then_some(exported);
    let (shed, config_file) = (config.shed.clone(), path.to_owned());
    let setup =
        Setup { opened, clock, identity, rules, secret, enforcer: settings, shed, lines, confinement, config_file };
    let (engine, worker, knocks) = engine::start(setup).map_err(Failure::other)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(BLOCKING).enable_all().build();
    let serving = Serving { path, config: &config, keeper, host_keys, exported, knocks, reserved, cookies };
    let served = runtime.map_err(Failure::other)?.block_on(serving.serve(engine));
    if served.is_ok() {
        // It has written its last record by now. After a failure nobody has told it to stop.
        let _ = worker.join();
    }
    served
}

/// Ends would be computed by one boot clock and compared with another. Whatever is in force stays so; else the ports are closed.
fn in_a_time_namespace(policy: &Policy, settings: &enforcer::Settings, offset: &str) -> Failure {
    let table = Table { protected: policy.protected().collect(), ..Table::default() };
    let closed = match Enforcer::close(settings, &table) {
        Ok(_) => "the ports are closed".to_owned(),
        Err(error) => error.to_string(),
    };
    Failure::Other(format!(
        "this is a time namespace whose boot clock is {offset} off the kernel's, by which grants end: start posternd in the          initial one; {closed}"
    ))
}

/// What serving takes besides the engine.
struct Serving<'a> {
    path: &'a Path,
    config: &'a Config,
    keeper: Option<Keeper>,
    host_keys: HostKeys,
    exported: Option<broadcast::Receiver<Arc<Published>>>,
    knocks: Option<enforcer::Knocks>,
    reserved: io::Result<Reserved>,
    cookies: Option<String>,
}

impl Serving<'_> {
    async fn serve(self, engine: Engine) -> Result<(), Failure> {
        let Self { path, config, keeper, host_keys, exported, knocks, reserved, cookies } = self;
        // Before anybody can see that posternd runs: from here on SIGHUP reloads and no longer kills.
        let signals = Signals::new().map_err(Failure::other)?;
        reserve(&reserved, &config.policy(), &engine).await;
        let export = exported.map(|lines| journald::Export::start(lines, engine.clone()));
        let export = export.transpose().map_err(Failure::other)?;
        let watcher = tokio::spawn(links::follow(engine.clone()));
        if let Some(knocks) = knocks {
            let engine = engine.clone();
            thread::Builder::new()
                .name("knocks".into())
                .spawn(move || note_knocks(knocks, engine))
                .map_err(Failure::other)?;
        }
        if let Err(error) = watch_clock(engine.clone()) {
            let why = format!("the kernel does not tell when the clock is set or the machine restored: {error}");
            engine.degraded("clock", Some(why)).await;
        }
        let (stop, stopped) = tokio::sync::watch::channel(());
        let bound = api::bind(&config.api, &config.state_dir, keeper.as_ref()).map_err(Failure::other)?;
        let listening: Vec<u16> =
            [bound.tcp_addresses(), bound.plaintext_addresses()].concat().iter().map(SocketAddr::port).collect();
        let proof = host_keys.prove(&engine.who_am_i(), bound.tls_fingerprint());
        let reachable = bound.reachable();
        engine.degraded("syn cookies", cookies.filter(|_| !reachable.is_empty())).await;
        if let Some(rate) = config.api.syn_rate {
            engine.limit_syns(reachable, rate).await;
        }
        let calls = privilege::forbid_calls().err();
        engine.degraded("system calls", calls).await;
        let serving = tokio::spawn(bound.serve(engine.clone(), proof, stopped));
        notify::ready();
        let watchdog = tokio::spawn(notify::keep_alive(engine.clone()));
        let reloads = Reloads { path, keeper, engine: &engine, reserved: &reserved, listening: &listening };
        signals.obey(&reloads).await;
        notify::stopping();
        drop(stop);
        watcher.abort();
        watchdog.abort();
        // Whoever is being answered gets the answer first.
        let _ = serving.await;
        engine.stop().await;
        if let Some(export) = export {
            export.finish().await;
        }
        Ok(())
    }
}

/// What the service manager says.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let (hangup, terminate) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
        Ok(Self { hangup, terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Reloads on SIGHUP, returns on SIGTERM and SIGINT.
    async fn obey(mut self, reloads: &Reloads<'_>) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => reloads.reload().await,
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
            }
        }
    }
}

/// Keeps the host's own connections off the policy's ports.
async fn reserve(reserved: &io::Result<Reserved>, policy: &Policy, engine: &Engine) {
    let ports: Vec<u16> = policy.ports.iter().map(|rule| rule.port.number).collect();
    let failed = match reserved {
        Ok(reserved) => reserved.add(&ports).err().map(|error| error.to_string()),
        Err(error) => Some(error.to_string()),
    };
    engine.degraded("reserved ports", failed.map(|e| format!("net.ipv4.ip_local_reserved_ports: {e}"))).await;
}

/// A reload moves no listener, so a file that was valid at a start may cut off those that there are.
fn check_api(policy: &Policy, listening: &[u16]) -> Result<(), Failure> {
    match policy.protected().find(|(protocol, port)| *protocol == TCP && listening.contains(port)) {
        None => Ok(()),
        Some((_, port)) => Err(Failure::Config(format!(
            "tcp port {port} would be protected while the API listens there, so nobody could ask for it; start posternd anew"
        ))),
    }
}

/// What a reload needs.
struct Reloads<'a> {
    path: &'a Path,
    keeper: Option<Keeper>,
    engine: &'a Engine,
    reserved: &'a io::Result<Reserved>,
    listening: &'a [u16],
}

impl Reloads<'_> {
    /// A bad file changes nothing.
    async fn reload(&self) {
        let outcome = match self.read() {
            Ok(rules) => {
                reserve(self.reserved, &rules.policy, self.engine).await;
                self.engine.reload(rules).await.map_err(|refusal| refusal.to_string())
            }
            Err(failure) => Err(failure.to_string()),
        };
        match &outcome {
            Ok(ended) => tracing::info!(ended, "policy and trust reloaded"),
            Err(error) => tracing::error!(%error, "nothing was reloaded"),
        }
        let why = outcome.err().map(|error| format!("the last reload failed, the older rules are in force: {error}"));
        self.engine.degraded("reload", why).await;
    }

    fn read(&self) -> Result<Rules, Failure> {
        let config = Config::load_through(self.keeper.as_ref(), self.path).map_err(Failure::config)?;
        let rules = rules(self.path, &config, self.keeper.as_ref())?;
        check_api(&rules.policy, self.listening).map(|()| rules)
    }
}

/// Tells the engine when the clock is set or the machine restored, for as long as the process lives. A thread of its own sleeps in the
/// kernel until then.
fn watch_clock(engine: Engine) -> io::Result<()> {
    let watch = clock::Watch::open()?;
    let follow = move || {
        loop {
            match watch.wait() {
                Ok(news) if news.restored => engine.restored(&secret_or_abort()),
                // Challenges of before a restore that was missed are of no use; clients ask for others by themselves.
                Ok(news) if news.missed => engine.renew_challenges(&secret_or_abort()),
                Ok(_) => engine.clock_changed(),
                Err(error) => return tracing::error!(%error, "the clock is watched no longer"),
            }
        }
    };
    thread::Builder::new().name("clock".into()).spawn(follow).map(drop)
}

/// 32 random bytes; without them the old ones must not be used either.
fn secret_or_abort() -> [u8; 32] {
    let mut secret = [0; 32];
    if SystemRandom::new().fill(&mut secret).is_err() {
        std::process::abort();
    }
    secret
}

/// Moves knocks from the kernel's ring buffer into the engine's memory, for as long as the process lives. A thread of its own
/// sleeps in the kernel until somebody knocks.
fn note_knocks(mut knocks: enforcer::Knocks, engine: Engine) {
    loop {
        let mut wanted = [PollFd::new(&knocks, PollFlags::IN)];
        match poll(&mut wanted, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return tracing::error!(%error, "knocks are noted no longer"),
        }
        let at = jiff::Timestamp::now();
        for knock in knocks.drain() {
            if let Some(protocol) = Protocol::of_number(knock.protocol) {
                engine.knocks().note(knock.source, PortSpec { number: knock.port, protocol }, at);
            }
        }
    }
}
