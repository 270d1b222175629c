//! Everything that runs beside the engine until posternd stops.
//!
//! Owns the signals, reloads, and the threads that wait in the kernel for events. It decides nothing about access.

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
use crate::proof::{self, HostKeys, Reports};
use crate::sandbox::helper::Helper;
use crate::sandbox::privilege;
use crate::system::clock::KernelLog;
use crate::system::links::LinkState;
use crate::system::sysctl::Reserved;
use crate::system::{clock, links};
use crate::{config, enforcer, grpc};

pub(super) struct Serving<'a> {
    pub(super) path: &'a Path,
    pub(super) config: &'a Config,
    /// Whether the configuration has mistakes and no last good copy.
    pub(super) is_bare: bool,
    pub(super) findings: Vec<Finding>,
    pub(super) helper: Option<Helper>,
    pub(super) files: RootFiles,
    pub(super) log: Option<KernelLog>,
    pub(super) exported: Option<broadcast::Receiver<Arc<Published>>>,
    pub(super) denied: Option<enforcer::DeniedReader>,
    pub(super) reserved: Arc<Reserved>,
}

impl Serving<'_> {
    pub(super) async fn serve(self, engine: Engine) -> Result<(), Failure> {
        let Self { path, config, is_bare, findings, helper, files, log, exported, denied, reserved } = self;
        // Before posternd is visible: from here on SIGHUP reloads and does not kill the process.
        let signals = Signals::new().map_err(Failure::other)?;
        tell(&engine, findings).await;
        let _settings_says_what_is_wrong = settings::reserve(&reserved, &engine.rules().policy).await;
        let export = exported.map(|lines| journald::Export::start(lines, engine.clone()));
        let export = export.transpose().map_err(Failure::other)?;
        let watcher = tokio::spawn(links::follow(report_links(engine.clone())));
        read_denied(&engine, denied).await.map_err(Failure::other)?;
        if let Err(error) = watch_clock(engine.clone(), log) {
            let why = format!("the kernel does not report a set clock or a restored machine: {error}");
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
        let payload = proof::payload(engine.who_am_i().host_id, &engine.who_am_i().names, tls);
        let remote = helper.map(Helper::into_host_keys);
        let host_keys = HostKeys::start(&config.ssh_host_keys, remote, report_keys(&engine), payload, tls).await;
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
        // The engine's rules may close more than the file (`effective::keep_closed`): a reload must not open these ports.
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
        // Running requests get their answers before the engine stops.
        let _ = serving.await;
        engine.stop().await;
        if let Some(export) = export {
            export.finish().await;
        }
        Ok(())
    }
}

/// Reports to the engine the addresses of the API, and those that could not be bound.
async fn follow(engine: &Engine, listeners: &Listeners, config: &Config) {
    engine.degraded(Condition::ApiAddress, listeners.shut.clone()).await;
    if let Some(rate) = config.api.syn_rate {
        engine.limit_syns(listeners.reachable.clone(), rate).await;
    }
}

/// Calls [`follow`] after each change of the addresses. Never ends.
async fn follow_all(engine: &Engine, mut listeners: watch::Receiver<Listeners>, config: &Config) {
    while listeners.changed().await.is_ok() {
        let now = listeners.borrow_and_update().clone();
        follow(engine, &now, config).await;
        tracing::info!(tls = ?now.tls, plaintext = ?now.plaintext, "the API listens");
    }
    std::future::pending().await
}

fn report_keys(engine: &Engine) -> Reports {
    let (keys, conditions) = (engine.clone(), engine.clone());
    Reports {
        holds: Box::new(move |tls, ssh| keys.holds_keys(tls, ssh)),
        condition: Box::new(move |why| {
            let engine = conditions.clone();
            Box::pin(async move { engine.degraded(Condition::HostKeys, why).await })
        }),
    }
}

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

/// A reload moves no listener, so it must not protect the port of a present or configured listener.
fn check_api(policy: &Policy, api: &config::Api, listeners: &Listeners) -> Result<(), Failure> {
    let own =
        [&api.tcp, &api.plaintext, &listeners.tls, &listeners.plaintext].into_iter().flatten().map(SocketAddr::port);
    let own: Vec<u16> = own.filter(|port| *port != 0).collect();
    match policy.protected().find(|(protocol, port)| *protocol == TCP && own.contains(port)) {
        None => Ok(()),
        Some((_, port)) => Err(Failure::Config(format!(
            "tcp port {port} would be protected while the API listens there, so nobody could request access. Start posternd again"
        ))),
    }
}

struct Reloads<'a> {
    path: &'a Path,
    /// Whether posternd started without a usable configuration.
    is_bare: bool,
    /// The configuration in force.
    running: RefCell<Config>,
    files: RootFiles,
    engine: &'a Engine,
    reserved: &'a Arc<Reserved>,
    api: &'a config::Api,
    listeners: &'a watch::Receiver<Listeners>,
}

impl Reloads<'_> {
    /// Reads the files again. A file with mistakes adds no rights: the older rules stay, without the rights that the file takes away.
    async fn reload(&self) {
        let (rules, mut findings) = self.read();
        let is_broken = findings.iter().any(|(_, why)| why.is_some());
        let _settings_says_what_is_wrong = settings::reserve(self.reserved, &rules.policy).await;
        findings.push(effective::way_in(&rules, self.engine.who_am_i().host_time.as_second()));
        let now = self.engine.rules();
        let outcome = if Arc::ptr_eq(&rules.policy, &now.policy) && rules.trust == now.trust {
            Ok(0)
        } else {
            self.engine.reload(rules).await.map_err(|refusal| refusal.to_string())
        };
        match &outcome {
            Ok(ended) if is_broken => {
                tracing::warn!(ended, "reloaded; the next lines name the files that could not be used");
            }
            Ok(ended) => tracing::info!(ended, "policy and trust reloaded"),
            Err(error) => tracing::error!(%error, "nothing was reloaded"),
        }
        let why =
            outcome.err().map(|error| format!("the last reload failed, and the older rules are in force: {error}"));
        self.engine.degraded(Condition::ReloadFailed, why).await;
        tell(self.engine, findings).await;
        let xdp = self.running.borrow().xdp.clone();
        self.engine.prefilter(xdp).await;
        self.engine.keep_copies().await;
    }

    fn read(&self) -> (Rules, Vec<Finding>) {
        // The newest rules, even if they still wait for the disk: a right that they take away stays away.
        let now = self.engine.newest_rules();
        let last = Last::running(&self.running.borrow(), &now);
        let Effective { config, rules, mut findings, .. } = effective::read(self.path, &self.files.opener, &last);
        let refused = check_api(&rules.policy, self.api, &self.listeners.borrow()).err();
        let moved = self.is_bare && config.api != *self.api;
        let moved = moved.then(|| {
            "posternd started without a usable configuration, and the API does not listen at its addresses. Start posternd again \
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

/// Logs the findings about the files, and reports them to the engine.
async fn tell(engine: &Engine, findings: Vec<Finding>) {
    for (part, why) in findings {
        if let Some(why) = &why {
            tracing::error!("{why}");
        }
        engine.degraded(part, why).await;
    }
}

/// Starts a thread that waits in the kernel, and reports to the engine when the clock is set or the machine is restored.
fn watch_clock(engine: Engine, log: Option<KernelLog>) -> io::Result<()> {
    let watch = clock::Watch::open(log)?;
    let follow = move || {
        loop {
            match watch.wait() {
                Ok(news) if news.restored => engine.restored(&secret_or_abort()),
                // posternd may have missed a restore, so the older challenges end. Clients ask for new ones on their own.
                Ok(news) if news.missed => engine.renew_challenges(&secret_or_abort()),
                Ok(_) => engine.clock_changed(),
                Err(error) => {
                    tracing::error!(%error, "posternd cannot watch the clock any more");
                    let why = format!("the kernel does not report a set clock or a restored machine any more: {error}");
                    return engine.degraded_by_thread(Condition::ClockUnwatched, why);
                }
            }
        }
    };
    thread::Builder::new().name("clock".into()).spawn(follow).map(drop)
}

/// 32 random bytes. Aborts without them, because the older secret must not be used any more.
fn secret_or_abort() -> [u8; 32] {
    let mut secret = [0; 32];
    if SystemRandom::new().fill(&mut secret).is_err() {
        std::process::abort();
    }
    secret
}

/// Starts the thread that records denied attempts, or reports that no thread records them.
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

/// Moves denied attempts from the kernel's ring buffer into the engine's memory until the process ends.
fn note_denied(mut denied: enforcer::DeniedReader, engine: Engine) {
    loop {
        let mut wanted = [PollFd::new(&denied, PollFlags::IN)];
        match poll(&mut wanted, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                tracing::error!(%error, "posternd cannot record denied attempts any more");
                let why = format!(
                    "posternd does not record denied attempts any more: {error}. Start posternd again (systemctl restart posternd)"
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
