//! Serving: everything that runs beside the engine until posternd is told to stop.
//!
//! Owns the signals, reloads, and the threads that sleep in the kernel for news. It never decides anything.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use futures_util::future::BoxFuture;
use postern_core::condition::Condition;
use postern_core::grant::{PortSpec, Protocol};
use postern_core::key::TCP;
use postern_core::policy::Policy;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{broadcast, watch};

use super::Failure;
use super::periodic::Periodic;
use super::settings::{self, Settings};
use super::{journald, notify};
use crate::config::Config;
use crate::config::effective::{self, Effective, Finding, Last, RootFiles};
use crate::engine::{Engine, Published, Rules};
use crate::grpc::Listeners;
use crate::proof::HostKeys;
use crate::sandbox::helper::Helper;
use crate::sandbox::privilege;
use crate::system::clock::KernelLog;
use crate::system::links::LinkState;
use crate::system::sysctl::Reserved;
use crate::system::{clock, links};
use crate::{config, enforcer, grpc};

/// What serving takes besides the engine.
pub(super) struct Serving<'a> {
    pub(super) path: &'a Path,
    pub(super) config: &'a Config,
    /// Whether that is only what can be known.
    pub(super) is_bare: bool,
    /// What was wrong with the files.
    pub(super) findings: Vec<Finding>,
    pub(super) helper: Option<Helper>,
    pub(super) files: RootFiles,
    pub(super) log: Option<KernelLog>,
    pub(super) exported: Option<broadcast::Receiver<Arc<Published>>>,
    pub(super) denied: Option<enforcer::DeniedReader>,
    pub(super) reserved: Arc<Reserved>,
}

impl Serving<'_> {
    /// Serves until SIGTERM or SIGINT.
    pub(super) async fn serve(self, engine: Engine) -> Result<(), Failure> {
        let Self { path, config, is_bare, findings, helper, files, log, exported, denied, reserved } = self;
        // Before anybody can see that posternd runs: from here on SIGHUP reloads and no longer kills.
        let signals = Signals::new().map_err(Failure::other)?;
        tell(&engine, findings).await;
        let _settings_says_what_is_wrong = settings::reserve(&reserved, &engine.rules().policy).await;
        let export = exported.map(|lines| journald::Export::start(lines, engine.clone()));
        let export = export.transpose().map_err(Failure::other)?;
        let watcher = tokio::spawn(links::follow(report_links(engine.clone())));
        read_denied(&engine, denied).await.map_err(Failure::other)?;
        if let Err(error) = watch_clock(engine.clone(), log) {
            let why = format!("the kernel does not tell when the clock is set or the machine restored: {error}");
            engine.degraded(Condition::ClockUnwatched, Some(why)).await;
        }
        let (stop, stopped) = tokio::sync::watch::channel(());
        let bound =
            grpc::bind(&config.api, &config.state_dir, helper.as_ref().map(Helper::listen)).map_err(Failure::other)?;
        for (part, why) in bound.conditions() {
            engine.degraded(part, why).await;
        }
        let listeners = bound.listeners();
        let tls = bound.tls_fingerprint();
        let host_keys =
            HostKeys::start(&config.ssh_host_keys, helper.map(Helper::into_host_keys), engine.clone(), tls).await;
        let at_start = listeners.borrow().clone();
        follow(&engine, &at_start, config).await;
        let mut settings = Settings::new(engine.clone(), Arc::clone(&reserved), listeners.clone());
        let runtime = tokio::runtime::Handle::current();
        let first_look = tokio::task::spawn_blocking(move || {
            settings.look(&runtime);
            settings
        });
        let settings = first_look.await.map_err(Failure::other)?;
        let calls = privilege::forbid_calls().err();
        engine.degraded(Condition::SystemCalls, calls).await;
        let periodic = Periodic::start(settings, Arc::clone(&host_keys)).map_err(Failure::other)?;
        let serving = tokio::spawn(bound.serve(engine.clone(), host_keys, stopped));
        notify::ready();
        let watchdog = tokio::spawn(notify::keep_alive(engine.clone()));
        // Its rules may close more than the file does (`effective::keep_closed`): a reload must not open that.
        let running = RefCell::new(config.clone().with_policy((*engine.rules().policy).clone()));
        let reloads = Reloads {
            path,
            is_bare,
            running,
            files,
            engine: &engine,
            reserved: &reserved,
            api: &config.api,
            listeners: &listeners,
        };
        engine.keep_copies().await;
        tokio::select! {
            () = signals.obey(&reloads) => {}
            () = follow_all(&engine, listeners.clone(), config) => {}
        }
        notify::stopping();
        drop(stop);
        watcher.abort();
        drop(periodic);
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

/// Tells the engine where the API listens by now, and where it does not.
async fn follow(engine: &Engine, listeners: &Listeners, config: &Config) {
    engine.degraded(Condition::ApiAddress, listeners.shut.clone()).await;
    if let Some(rate) = config.api.syn_rate {
        engine.limit_syns(listeners.reachable.clone(), rate).await;
    }
}

/// As [`follow`], each time that an address could be bound late. Never ends.
async fn follow_all(engine: &Engine, mut listeners: watch::Receiver<Listeners>, config: &Config) {
    while listeners.changed().await.is_ok() {
        let now = listeners.borrow_and_update().clone();
        follow(engine, &now, config).await;
        tracing::info!(tls = ?now.tls, plaintext = ?now.plaintext, "the API listens");
    }
    std::future::pending().await
}

/// Hands the state of the network to the engine, or why it is not known.
fn report_links(engine: Engine) -> impl Fn(Result<LinkState, String>) -> BoxFuture<'static, ()> {
    move |state| {
        let engine = engine.clone();
        Box::pin(async move {
            let failed = match state {
                Ok(state) => {
                    engine.network_changed(state).await;
                    None
                }
                Err(error) => Some(format!("interfaces are not followed: {error}")),
            };
            engine.degraded(Condition::DevicesUnfollowed, failed).await;
        })
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

/// A reload moves no listener, so a file that was valid at a start may cut off those that there are, or that are still to be bound.
fn check_api(policy: &Policy, api: &config::Api, listeners: &Listeners) -> Result<(), Failure> {
    let own =
        [&api.tcp, &api.plaintext, &listeners.tls, &listeners.plaintext].into_iter().flatten().map(SocketAddr::port);
    let own: Vec<u16> = own.filter(|port| *port != 0).collect();
    match policy.protected().find(|(protocol, port)| *protocol == TCP && own.contains(port)) {
        None => Ok(()),
        Some((_, port)) => Err(Failure::Config(format!(
            "tcp port {port} would be protected while the API listens there, so nobody could ask for it; start posternd anew"
        ))),
    }
}

/// What a reload needs.
struct Reloads<'a> {
    path: &'a Path,
    /// Whether posternd was started without its configuration.
    is_bare: bool,
    /// The configuration that holds.
    running: RefCell<Config>,
    files: RootFiles,
    engine: &'a Engine,
    reserved: &'a Arc<Reserved>,
    api: &'a config::Api,
    listeners: &'a watch::Receiver<Listeners>,
}

impl Reloads<'_> {
    /// A file that cannot be used only takes away: what held before stays, less that.
    async fn reload(&self) {
        let (rules, mut findings) = self.read();
        let is_broken = findings.iter().any(|(_, why)| why.is_some());
        let _settings_says_what_is_wrong = settings::reserve(self.reserved, &rules.policy).await;
        findings.push(effective::way_in(&rules, self.engine.who_am_i().host_time.as_second()));
        let now = self.engine.rules();
        let outcome = if Arc::ptr_eq(&rules.policy, &now.policy) && rules.trust == now.trust {
            // The older policy stays, and nothing was taken away.
            Ok(0)
        } else {
            self.engine.reload(rules).await.map_err(|refusal| refusal.to_string())
        };
        match &outcome {
            Ok(ended) if is_broken => {
                tracing::warn!(ended, "reloaded what could be used; the next lines name what could not");
            }
            Ok(ended) => tracing::info!(ended, "policy and trust reloaded"),
            Err(error) => tracing::error!(%error, "nothing was reloaded"),
        }
        let why = outcome.err().map(|error| format!("the last reload failed, the older rules are in force: {error}"));
        self.engine.degraded(Condition::ReloadFailed, why).await;
        tell(self.engine, findings).await;
        let xdp = self.running.borrow().xdp.clone();
        self.engine.prefilter(xdp).await;
        self.engine.keep_copies().await;
    }

    fn read(&self) -> (Rules, Vec<Finding>) {
        // Also rules that still wait for the disk: what they take away stays away.
        let now = self.engine.newest_rules();
        let last = Last::running(&self.running.borrow(), &now);
        let Effective { config, rules, mut findings, .. } = effective::read(self.path, &self.files.opener, &last);
        let refused = check_api(&rules.policy, self.api, &self.listeners.borrow()).err();
        let moved = self.is_bare && config.api != *self.api;
        let moved = moved.then(|| {
            "posternd was started without its configuration, and the API does not listen where that says: start posternd again \
             (systemctl restart posternd)"
                .to_owned()
        });
        findings.push((Condition::RestartNeeded, moved));
        let policy = if refused.is_some() { now.policy } else { Arc::clone(&rules.policy) };
        if refused.is_none() {
            self.running.replace(config);
        }
        findings.push((
            Condition::PolicyRefused,
            refused.map(|why| format!("the older policy is in force: {}: {why}", self.path.display())),
        ));
        (Rules { policy, ..rules }, findings)
    }
}

/// Says what is wrong with files, or that nothing is any more.
async fn tell(engine: &Engine, findings: Vec<Finding>) {
    for (part, why) in findings {
        if let Some(why) = &why {
            tracing::error!("{why}");
        }
        engine.degraded(part, why).await;
    }
}

/// Tells the engine when the clock is set or the machine restored, for as long as the process lives. A thread of its own sleeps in the
/// kernel until then.
fn watch_clock(engine: Engine, log: Option<KernelLog>) -> io::Result<()> {
    let watch = clock::Watch::open(log)?;
    let follow = move || {
        loop {
            match watch.wait() {
                Ok(news) if news.restored => engine.restored(&secret_or_abort()),
                // Challenges of before a restore that was missed are of no use; clients ask for others by themselves.
                Ok(news) if news.missed => engine.renew_challenges(&secret_or_abort()),
                Ok(_) => engine.clock_changed(),
                Err(error) => {
                    tracing::error!(%error, "the clock is watched no longer");
                    let why = format!(
                        "the kernel does not tell any more when the clock is set or the machine restored: {error}"
                    );
                    return engine.degraded_by_thread(Condition::ClockUnwatched, why);
                }
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

/// Starts the thread that reads denied attempts, or reports that nobody reads them.
async fn read_denied(engine: &Engine, denied: Option<enforcer::DeniedReader>) -> io::Result<()> {
    let unnoted = denied.is_none().then(|| {
        "who is refused is not noted: no kernel program was loaded when posternd started; once one is, start posternd again \
         (systemctl restart posternd)"
            .to_owned()
    });
    engine.degraded(Condition::DeniedUnnoted, unnoted).await;
    let Some(denied) = denied else { return Ok(()) };
    let engine = engine.clone();
    thread::Builder::new().name("denied".into()).spawn(move || note_denied(denied, engine)).map(drop)
}

/// Moves denied attempts from the kernel's ring buffer into the engine's memory, for as long as the process lives. A thread of its own
/// sleeps in the kernel until somebody denied attempts.
fn note_denied(mut denied: enforcer::DeniedReader, engine: Engine) {
    loop {
        let mut wanted = [PollFd::new(&denied, PollFlags::IN)];
        match poll(&mut wanted, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "denied are noted no longer");
                let why = format!(
                    "who is refused is not noted any more: {error}; start posternd again (systemctl restart posternd)"
                );
                return engine.degraded_by_thread(Condition::DeniedUnnoted, why);
            }
        }
        let at = jiff::Timestamp::now();
        for attempt in denied.drain() {
            if let Some(protocol) = Protocol::of_number(attempt.protocol) {
                engine.denied().note(attempt.source, PortSpec { number: attempt.port, protocol }, at);
            }
        }
    }
}
