//! Settings of the kernel that others write too, looked at for as long as posternd runs.
//!
//! Owns how often they are looked at. It changes one of them, by way of [`Reserved`], and says of the others what does not hold.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use postern_core::condition::Condition;
use postern_core::policy::Policy;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::engine::Engine;
use crate::grpc::Listeners;
use crate::system::sysctl::{self, Reserved};

/// How often. One look is two reads of /proc that do not wait.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Keeps the host's own connections off the policy's ports. [`Settings`] says what is wrong with that. A disk that hangs holds up this
/// work alone.
pub(super) async fn reserve(reserved: &Arc<Reserved>, policy: &Policy) -> Option<String> {
    let ports: BTreeSet<u16> = policy.ports.iter().map(|rule| rule.port.number).collect();
    let reserved = Arc::clone(reserved);
    let kept = tokio::task::spawn_blocking(move || reserved.keep(&ports)).await;
    kept.unwrap_or_else(|error| Some(format!("net.ipv4.ip_local_reserved_ports is not watched: {error}")))
}

/// What was said of the settings so far. Nobody else says anything of these conditions.
pub(super) struct Settings {
    engine: Engine,
    reserved: Arc<Reserved>,
    listeners: watch::Receiver<Listeners>,
    told: [(Condition, Option<String>); 2],
}

impl Settings {
    /// Nothing is said yet.
    pub(super) fn new(engine: Engine, reserved: Arc<Reserved>, listeners: watch::Receiver<Listeners>) -> Self {
        Self { engine, reserved, listeners, told: [(Condition::ReservedPorts, None), (Condition::SynCookies, None)] }
    }

    /// Looks once, and says what has changed.
    pub(super) async fn look(&mut self) {
        let policy = Arc::clone(&self.engine.rules().policy);
        let reserved = reserve(&self.reserved, &policy).await;
        // Without SYN cookies strangers can do harm only where they reach the API.
        let cookies = sysctl::without_cookies().filter(|_| !self.listeners.borrow().reachable.is_empty());
        for ((condition, before), now) in self.told.iter_mut().zip([reserved, cookies]) {
            if *before == now {
                continue;
            }
            if let Some(why) = &now {
                tracing::warn!("{why}");
            }
            self.engine.degraded(*condition, now.clone()).await;
            *before = now;
        }
    }

    /// Looks for ever.
    pub(super) async fn watch(mut self) {
        let mut turns = interval(LOOK_EVERY);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            self.look().await;
        }
    }
}
