//! The commands that touch the kernel or the journal: `run`, `early`, `unlock` and `audit export`.
//!
//! Owns the steps of each command and the order of a start. It decides nothing about access.

use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::sync::Arc;

use jiff::tz::TimeZone;
use postern_core::condition::Condition;
use postern_core::ledger::{Event, Ledger, Record};
use postern_core::message::Identity;
use postern_core::mode::{self, Enabling, Mode};
use postern_core::policy::Policy;
use postern_core::table::Table;
use postern_core::text;
use postern_core::time::Now;
use postern_core::trust::{Trust, TrustFile};
use ring::digest::{Context, SHA256};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::broadcast;

use crate::config::effective::{self, Copies, Effective, RootFiles};
use crate::config::{Closing, Config};
use crate::enforcer::{self, Closed, Enforcer, EnforcerError};
use crate::engine::{self, Published, Rules, Setup};
use crate::journal::{self, Journal, JournalError, Opened, SetAside};
use crate::sandbox::helper::{self, Helper};
use crate::sandbox::privilege::Confinement;
use crate::system::clock::{self, Clock, KernelLog};
use crate::system::files::{Contents, Opener, read_owned};
use crate::system::host::{HostError, StateLock};
use crate::system::surroundings::Surroundings;
use crate::system::sysctl::Reserved;
use crate::system::{guarded, host, sessions};

mod journald;
mod notify;
mod periodic;
mod serve;
mod settings;

use serve::Serving;

/// Threads for blocking work. At most ten work at once: three check signatures, three sign statements, four read the journal. The others
/// are for reloads, which block while a disk hangs. Root's break-glass needs a thread for its statement even then.
const BLOCKING: usize = 16;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A mistake in a file that the administrator writes.
    #[error("{0}")]
    Config(String),
    /// Wrong usage of the command line.
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

/// The policy of `config`, which was read from `file`, and the trust files. Any mistake in them is an error.
pub(crate) fn rules(file: &Contents, config: &Config) -> Result<Rules, Failure> {
    let read =
        |path: &Path| read_owned(path).map_err(|reason| Failure::Config(format!("{}: {reason}", path.display())));
    let signers = String::from_utf8(read(&config.trust_file)?)
        .map_err(|_| Failure::Config(format!("{}: is not UTF-8 text", config.trust_file.display())))?;
    let revoked = config.revoked_keys.as_deref().map(read).transpose()?.unwrap_or_default();
    let trust = Trust::parse_in(&signers, &revoked, Some(&TimeZone::system())).map_err(|error| {
        let revoked_file = config.revoked_keys.as_ref().filter(|_| error.file == TrustFile::Revoked);
        Failure::Config(format!("{}: {error}", revoked_file.unwrap_or(&config.trust_file).display()))
    })?;
    let mut files = Context::new(&SHA256);
    for bytes in [file.bytes.as_deref().unwrap_or_default(), signers.as_bytes(), &revoked] {
        files.update(&(bytes.len() as u64).to_be_bytes());
        files.update(bytes);
    }
    let digest = files.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Ok(Rules { policy: Arc::new(config.policy()), trust: Arc::new(trust), digest: digest.into() })
}

/// Records the unlocking in the journal, then removes Postern's programs from the kernel.
///
/// # Errors
/// [`Failure`]. No port is opened while posternd runs, or if neither the journal nor the log takes the record.
pub fn unlock(path: &Path) -> Result<(), Failure> {
    // posternd's user may write to the journal, but only root can open the ports. A record by that user would be false.
    let user = rustix::process::geteuid();
    if !user.is_root() {
        return Err(Failure::Other(format!(
            "user {} cannot open the ports, so nothing was opened and nothing was recorded. Run `posternd unlock` as root",
            user.as_raw()
        )));
    }
    // If the configuration has mistakes, its last good copy or its readable part names the state directory and the pins.
    let config = effective::read(path, &Opener::default(), &Copies::of(path).last()).config;
    // Held until the end, so that a posternd that starts now cannot attach the programs again.
    let pins = enforcer::hold_pins(&config.pin_dir).map_err(Failure::other)?;
    let now = Clock::new(config.clock.unsynchronised, enforcer::ntp_error).map_err(Failure::other)?.now();
    let records = unlocking(&config, &now)?;
    if config.audit.journald.unwrap_or_else(journald::is_there) {
        for published in records {
            journald::export(&published);
        }
    }
    pins.unlock().map_err(Failure::other)?;
    let given_back = Reserved::open(&config.state_dir, now.boot_id).give_back();
    given_back.map_err(|e| {
        Failure::Other(format!(
            "the ports are open, but could not be removed from net.ipv4.ip_local_reserved_ports: {e}"
        ))
    })?;
    super::print("Every port that Postern protected is open until posternd starts again.")
}

/// Records the unlocking with the rights of the state directory's owner: posternd's user may have planted links there. If the journal takes
/// no record, the log gets it, so that an attacker with that user's rights cannot lock root out (decision 0049).
fn unlocking(config: &Config, now: &Now) -> Result<Vec<Published>, Failure> {
    let lock = match host::lock(&config.state_dir) {
        Err(running @ HostError::Running(_)) => return Err(Failure::other(running)),
        other => other,
    };
    let recorded = match lock {
        Ok(_lock) => guarded::as_owner(&config.state_dir, || record_unlocked(config, now)).map_err(|e| e.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let why = match recorded.and_then(|recorded| recorded) {
        Ok(records) => return Ok(records),
        Err(why) => why,
    };
    let record = Record::next(&Ledger::default(), None, Event::Unlocked, now);
    let line = log_record(&record, &why).map_err(|error| {
        Failure::Other(format!("{why}; and the log takes no record either: {error}. Nothing was opened"))
    })?;
    Ok(vec![Published { record, life: None, line }])
}

/// Appends the record to the journal. The error is the reason in words.
fn record_unlocked(config: &Config, now: &Now) -> Result<Vec<Published>, String> {
    // The ports open next, so a damaged journal is set aside without closing any port.
    let opened = open_journal(config, now.wall, || Ok(())).map_err(|failure| failure.to_string())?;
    let Opened { mut journal, mut ledger, set_aside, .. } = opened;
    let mut records = Vec::new();
    for event in set_aside.map(SetAside::event).into_iter().chain([Event::Unlocked]) {
        let record = Record::next(&ledger, None, event, now);
        ledger.apply(&record);
        records.push(record);
    }
    let lines = journal.append(&records).map_err(|error| error.to_string())?;
    let lines = lines.split(|byte| *byte == b'\n').map(<[u8]>::to_vec);
    Ok(records.into_iter().zip(lines).map(|(record, line)| Published { record, life: None, line }).collect())
}

/// Writes to standard error the whole record that the journal cannot take.
fn log_record(record: &Record, why: &str) -> std::io::Result<Vec<u8>> {
    let line = serde_json::to_string(record)?;
    let line = text::json(&line);
    let mut log = std::io::stderr().lock();
    writeln!(log, "posternd: the journal takes no record: {}", text::line(why))?;
    writeln!(log, "RECORD (only this log has it): {line}")?;
    log.flush()?;
    Ok(line.into_owned().into_bytes())
}

/// Closes the protected ports for everybody, unless Postern is already in force. If the configuration has mistakes, this closes its
/// readable ports, those of its last good copy, and the default ports; then it fails. In observe mode it closes nothing.
///
/// # Errors
/// [`Failure`]. Closed ports stay closed.
pub fn early(path: &Path) -> Result<(), Failure> {
    let loaded = Config::load(path);
    let closing = match &loaded {
        Ok(config) if !effective::is_emptied(path) => Closing {
            protected: config.policy().protected().collect(),
            pin_dir: config.pin_dir.clone(),
            cgroup: config.cgroup.clone(),
            mode: config.policy().mode,
        },
        _ => salvaged(path),
    };
    if closing.mode == Mode::Observe {
        super::print("The configuration says mode = \"observe\". No port was closed, and nothing was changed.")?;
        return loaded.map(drop).map_err(Failure::config);
    }
    let table = Table { protected: closing.protected, ..Table::default() };
    let settings = |cgroup| enforcer::Settings {
        pin_dir: closing.pin_dir.clone(),
        pins: None,
        cgroup,
        grants: 1,
        flows: 1,
        slots: 1,
    };
    let closed = match Enforcer::close(&settings(closing.cgroup.clone()), &table) {
        // The mistake in the configuration may be this cgroup.
        Err(_) if loaded.is_err() && closing.cgroup.is_some() => Enforcer::close(&settings(None), &table),
        outcome => outcome,
    };
    match closed.map_err(Failure::other)? {
        Closed::Now => super::print(&format!("{} ports are closed for everybody.", table.protected.len()))?,
        Closed::Already => super::print("Postern is already in force. Nothing was changed.")?,
    }
    loaded.map(drop).map_err(Failure::config)
}

/// The ports in the readable part of a configuration with mistakes, and those of its last good copy.
fn salvaged(path: &Path) -> Closing {
    let read = Closing::salvage(path);
    let Some((config, _)) = Copies::of(path).last().config else { return read };
    let (policy, protected) = (config.policy(), read.protected);
    let protected = policy.protected().chain(protected).collect();
    Closing { protected, pin_dir: config.pin_dir, cgroup: config.cgroup, mode: policy.mode }
}

/// Opens the journal. `close` closes the ports before a damaged journal is set aside and a new one begins.
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
    tracing::error!(%error, "the journal is damaged; every port is closed");
    let set_aside = match journal::set_aside(&config.state_dir, error, now) {
        // The cause may be a journal of a newer posternd: its grants open no port, and posternd still serves root.
        Err(error) => return Ok(unwritable(config, &error)),
        Ok(set_aside) => set_aside,
    };
    tracing::error!(path = %set_aside.path, "the damaged journal was set aside; a new one begins");
    let opened = Journal::open(&config.state_dir, config.journal).map_err(Failure::other)?;
    Ok(Opened { set_aside: Some(set_aside), ..opened })
}

/// A journal that cannot be written: its open grants end on time, and posternd grants nothing new until it can write.
fn unwritable(config: &Config, error: &JournalError) -> Opened {
    tracing::error!(%error, "the journal cannot be written; posternd grants nothing new until it can write");
    Journal::look(&config.state_dir, config.journal).unwrap_or_else(|error| {
        tracing::error!(%error, "the journal cannot be read either; no port is open until it can be read");
        Journal::unread(&config.state_dir, config.journal)
    })
}

/// Checks the whole chain on the disk, then prints the lines from `since` on. Works with and without a running posternd.
///
/// # Errors
/// [`Failure`]. Nothing of a changed or damaged journal is printed.
pub fn export(path: &Path, since: Option<jiff::Timestamp>) -> Result<(), Failure> {
    let config = Config::load(path).map_err(Failure::config)?;
    let out = std::io::stdout().lock();
    // A file gets the exact bytes, which the chain binds. A terminal gets its control characters escaped.
    let mut out: Box<dyn Write> = match out.is_terminal() {
        true => Box::new(Escaped(out)),
        false => Box::new(std::io::BufWriter::new(out)),
    };
    let state = &config.state_dir;
    let exported = guarded::as_owner(state, || journal::export(state, since, &mut out));
    exported.map_err(|error| Failure::Other(format!("{}: {error}", state.display())))?.map_err(Failure::other)?;
    Ok(())
}

/// Writes whole lines of JSON, and escapes characters that control a terminal.
struct Escaped<W>(W);

impl<W: Write> Write for Escaped<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.write_all(text::lines(&text::json(&text)).as_bytes()).map(|()| bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

/// Locks the state directory, or returns what is wrong with it.
fn lock(config: &Config) -> Result<(Option<StateLock>, Option<String>), Failure> {
    match host::lock(&config.state_dir) {
        Ok(lock) => Ok((Some(lock), None)),
        Err(error @ HostError::Running(_)) => Err(Failure::other(error)),
        Err(error) => Ok((None, Some(error.to_string()))),
    }
}

/// This host's identity. If the state directory cannot be used, `wrong` gets the reason, and the identity ends with this process.
fn identity(config: &Config, wrong: &mut Option<String>) -> Identity {
    host::identity(&config.state_dir, config.names.clone(), &config.ssh_host_keys).unwrap_or_else(|error| {
        wrong.get_or_insert(error.to_string());
        host::passing(config.names.clone(), &config.ssh_host_keys)
    })
}

fn no_state(error: &str) -> String {
    format!(
        "the state directory cannot be used: {error}. posternd records nothing there, so it grants nothing except root's break-glass, \
         and this host's identity may end with this process. Free space, mount it writable or correct the path, and start posternd \
         again"
    )
}

/// Runs posternd until SIGTERM or SIGINT. It starts even with files that cannot be used (decision 0042).
///
/// # Errors
/// [`Failure`]. The ports are at least as closed as before.
pub fn run(path: &Path) -> Result<(), Failure> {
    let Effective { config, mut rules, is_bare, mut findings } =
        effective::read(path, &Opener::default(), &Copies::of(path).last());
    let mut settings = enforcer::Settings {
        pin_dir: config.pin_dir.clone(),
        pins: None,
        cgroup: config.cgroup.clone(),
        grants: config.limits.entries,
        flows: sessions::MOST_RETAINED,
        slots: config.limits.grants,
    };
    let clock = Clock::new(config.clock.unsynchronised, enforcer::ntp_error).map_err(Failure::other)?;
    let observe_from = mode::observe_from(rules.policy.mode, &Enabling::None, clock.boot_id());
    let empty = Table { protected: rules.policy.protected().collect(), observe_from, ..Table::default() };
    let (_lock, mut unusable) = lock(&config)?;
    // The next two need root, which posternd gives up below.
    let log = KernelLog::open().map_err(|why| clock.notices_no_restore(why)).ok();
    let surroundings = Surroundings::open(&config.pin_dir);
    let helper = helper::step_down(path, &config);
    let confinement = Confinement::of(path, &config).with_helper(&config, helper.as_ref());
    let helper = helper.unwrap_or_default();
    settings.pins = helper.as_ref().map(Helper::pins);
    let files = helper.as_ref().map_or_else(|| RootFiles::own(path), Helper::root_files);
    let reserved = Arc::new(Reserved::open(&config.state_dir, clock.boot_id()));
    let identity = identity(&config, &mut unusable);
    findings.push((Condition::StateDirectory, unusable.as_deref().map(no_state)));
    if let Some(offset) = clock::boot_clock_offset() {
        return Err(in_a_time_namespace(&rules.policy, &settings, &offset));
    }
    // The ports are closed before a damaged journal is set aside.
    let opened = open_journal(&config, clock.now().wall, || Enforcer::start(&settings, &empty).map(drop))?;
    if is_bare {
        effective::keep_closed(&mut rules, opened.ledger.protected());
    }
    findings.push(effective::way_in(&rules, clock.now().wall.as_second()));
    let mut secret = [0; 32];
    SystemRandom::new().fill(&mut secret).map_err(|_| Failure::Other("the kernel gave no random bytes".into()))?;
    let (lines, exported) = broadcast::channel(engine::WATCH_BACKLOG);
    let exported = config.audit.journald.unwrap_or_else(journald::is_there).then_some(exported);
    let (xdp, config_file) = (config.xdp.clone(), path.to_owned());
    let (rates, enforcer) = (config.limits.rates, settings);
    let setup = Setup {
        opened,
        clock,
        identity,
        rules,
        secret,
        enforcer,
        xdp,
        lines,
        confine: Box::new(move |loads, in_force| confinement.with_loading(loads).apply(in_force)),
        surroundings,
        config_file,
        files: files.clone(),
        rates,
    };
    let (engine, worker, denied) = engine::start(setup).map_err(Failure::other)?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).max_blocking_threads(BLOCKING).enable_all().build();
    let serving = Serving { path, config: &config, is_bare, findings, helper, files, log, exported, denied, reserved };
    let served = runtime.map_err(Failure::other)?.block_on(serving.serve(engine));
    if served.is_ok() {
        // The worker has written its last record. After a failure it still runs, so posternd does not wait for it.
        let _ = worker.join();
    }
    served
}

/// In a time namespace posternd's boot clock is not the kernel's, by which grants end. Layers in force stay; else this closes the ports.
fn in_a_time_namespace(policy: &Policy, settings: &enforcer::Settings, offset: &str) -> Failure {
    let table = Table { protected: policy.protected().collect(), ..Table::default() };
    let closed = match Enforcer::close(settings, &table) {
        Ok(_) => "the ports are closed".to_owned(),
        Err(error) => error.to_string(),
    };
    Failure::Other(format!(
        "in this time namespace the boot clock differs by {offset} from the kernel's, by which grants end. Start posternd in the initial \
         time namespace. {closed}"
    ))
}
