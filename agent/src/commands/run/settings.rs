//! Settings of the kernel that other programs write too.
//!
//! Owns the reaction to a change. It changes one setting, through [`Reserved`], and reports conditions about the others.

use std::collections::BTreeSet;
use std::sync::Arc;

use postern_core::condition::Condition;
use postern_core::policy::Policy;
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::engine::Engine;
use crate::grpc::Listeners;
use crate::system::sysctl::{self, Reserved};

/// Keeps the host's own connections off the policy's ports. Returns the problem, if any. A disk that hangs blocks only this call.
pub(super) async fn reserve(reserved: &Arc<Reserved>, policy: &Policy) -> Option<String> {
    let ports = numbers(policy);
    let reserved = Arc::clone(reserved);
    let kept = tokio::task::spawn_blocking(move || reserved.keep(&ports)).await;
    kept.unwrap_or_else(|error| Some(format!("posternd does not watch net.ipv4.ip_local_reserved_ports: {error}")))
}

fn numbers(policy: &Policy) -> BTreeSet<u16> {
    policy.ports.iter().map(|rule| rule.port.number).collect()
}

/// The conditions as reported last. No other code reports these conditions.
pub(super) struct Settings {
    engine: Engine,
    reserved: Arc<Reserved>,
    listeners: watch::Receiver<Listeners>,
    told: [(Condition, Option<String>); 2],
}

impl Settings {
    pub(super) fn new(engine: Engine, reserved: Arc<Reserved>, listeners: watch::Receiver<Listeners>) -> Self {
        Self { engine, reserved, listeners, told: [(Condition::ReservedPorts, None), (Condition::SynCookies, None)] }
    }

    /// Checks once, and reports changes to the engine. It may wait for the disk, so it needs a thread for blocking work.
    pub(super) fn look(&mut self, runtime: &Handle) {
        let reserved = self.reserved.keep(&numbers(&self.engine.rules().policy));
        // Missing SYN cookies matter only if other hosts reach the API.
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
