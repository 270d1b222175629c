//! Settings of the kernel that other programs write too.
//!
//! Owns what is done about a change of one. It changes one setting, by way of [`Reserved`], and reports what does not hold of the others.
//! When to look is decided in `periodic`.

use std::collections::BTreeSet;
use std::sync::Arc;

use postern_core::condition::Condition;
use postern_core::policy::Policy;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::engine::Engine;
use crate::grpc::Listeners;
use crate::system::sysctl::{self, Reserved};

/// Keeps the host's own connections off the policy's ports. [`Settings`] says what is wrong with that. A disk that hangs holds up this
/// work alone.
pub(super) async fn reserve(reserved: &Arc<Reserved>, policy: &Policy) -> Option<String> {
    let ports = numbers(policy);
    let reserved = Arc::clone(reserved);
    let kept = tokio::task::spawn_blocking(move || reserved.keep(&ports)).await;
    kept.unwrap_or_else(|error| Some(format!("net.ipv4.ip_local_reserved_ports is not watched: {error}")))
}

fn numbers(policy: &Policy) -> BTreeSet<u16> {
    policy.ports.iter().map(|rule| rule.port.number).collect()
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

    /// Looks once, and tells the engine what has changed. It waits for the disk where a port has to be reserved anew, so it belongs on a
    /// thread that may wait.
    pub(super) fn look(&mut self, runtime: &Handle) {
        let reserved = self.reserved.keep(&numbers(&self.engine.rules().policy));
        // Without SYN cookies strangers can do harm only where they reach the API.
        let cookies = sysctl::without_cookies().filter(|_| !self.listeners.borrow().reachable.is_empty());
        for ((condition, before), now) in self.told.iter_mut().zip([reserved, cookies]) {
            if *before == now {
                continue;
            }
            if let Some(why) = &now {
                tracing::warn!("{why}");
            }
            runtime.block_on(self.engine.degraded(*condition, now.clone()));
            *before = now;
        }
    }
}
