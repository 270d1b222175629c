//! Serving: everything that runs beside the engine until posternd is told to stop.
//!
//! Owns the signals, reloads, and the threads that sleep in the kernel for news. It never decides anything.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use postern_core::grant::{PortSpec, Protocol};
use postern_core::key::TCP;
use postern_core::policy::Policy;
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::broadcast;

use super::{Failure, rules};
use crate::clock::KernelLog;
use crate::config::Config;
use crate::engine::{Engine, Published, Rules};
use crate::keeper::Keeper;
use crate::proof::HostKeys;
use crate::sysctl::Reserved;
use crate::{api, clock, enforcer, journald, links, notify, privilege};

/// What serving takes besides the engine.
pub(super) struct Serving<'a> {
    pub(super) path: &'a Path,
    pub(super) config: &'a Config,
    pub(super) keeper: Option<Keeper>,
    pub(super) host_keys: HostKeys,
    pub(super) log: Option<KernelLog>,
    pub(super) exported: Option<broadcast::Receiver<Arc<Published>>>,
    pub(super) knocks: Option<enforcer::Knocks>,
    pub(super) reserved: io::Result<Reserved>,
    pub(super) cookies: Option<String>,
}

impl Serving<'_> {
    /// Serves until SIGTERM or SIGINT.
    pub(super) async fn serve(self, engine: Engine) -> Result<(), Failure> {
        let Self { path, config, keeper, host_keys, log, exported, knocks, reserved, cookies } = self;
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
        if let Err(error) = watch_clock(engine.clone(), log) {
            let why = format!("the kernel does not tell when the clock is set or the machine restored: {error}");
            engine.degraded("clock", Some(why)).await;
        }
        let (stop, stopped) = tokio::sync::watch::channel(());
        let bound = api::bind(&config.api, &config.state_dir, keeper.as_ref()).map_err(Failure::other)?;
        let listening: Vec<u16> =
            [bound.tcp_addresses(), bound.plaintext_addresses()].concat().iter().map(SocketAddr::port).collect();
        engine.holds_keys(bound.tls_audience(), host_keys.fingerprints());
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
fn watch_clock(engine: Engine, log: Option<KernelLog>) -> io::Result<()> {
    let watch = clock::Watch::open(log)?;
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
