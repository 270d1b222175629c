//! Kernel tunnels on protected UDP ports: what is not promised there is said as long as they are there.
//!
//! Owns how soon a tunnel is noticed, and the sentence. It changes nothing in the kernel: what can be refused there is the lock's.

use std::time::Duration;

use postern_core::condition::Condition;
use postern_core::key::UDP;
use postern_core::time::{BootNanos, Now};

use super::{Worker, nanos};
use crate::enforcer::{Tunnel, Tunnels};

/// How often the sockets are looked at, with a look at the layers that is due anyway. One walk takes three system calls and less
/// than a millisecond.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What the worker knows of tunnels.
pub(super) struct Watch {
    due: BootNanos,
    /// What asks the kernel, or why it cannot be asked.
    tunnels: Result<Tunnels, String>,
    /// On all ports.
    found: Vec<Tunnel>,
    /// Why the last look failed.
    failed: Option<String>,
}

impl Watch {
    /// Loads what asks the kernel, which takes rights that posternd gives up later. The first look is due.
    pub(super) fn new() -> Self {
        let tunnels = Tunnels::load().map_err(|error| error.to_string());
        if let Err(error) = &tunnels {
            tracing::warn!(%error, "kernel tunnels are not looked for");
        }
        Self { due: BootNanos(0), tunnels, found: Vec::new(), failed: None }
    }

    /// Has the next look not wait: something has changed.
    pub(super) fn hurry(&mut self) {
        self.due = BootNanos(0);
    }

    fn look(&mut self) {
        let found = match &self.tunnels {
            Ok(tunnels) => tunnels.find().map_err(|error| error.to_string()),
            Err(error) => Err(error.clone()),
        };
        match found {
            Ok(found) => {
                for tunnel in found.iter().filter(|tunnel| !self.found.contains(tunnel)) {
                    tracing::info!(
                        port = tunnel.port,
                        kind = tunnel.kind,
                        "the kernel takes this UDP port's datagrams"
                    );
                }
                (self.found, self.failed) = (found, None);
            }
            // What was there is there still, as far as anybody knows.
            Err(error) => self.failed = Some(error),
        }
    }
}

impl Worker {
    /// Looks for tunnels, where a UDP port is protected.
    pub(super) fn look_for_tunnels(&mut self, now: &Now) {
        if self.tunnels.due > now.boot || !self.protects_udp() {
            return;
        }
        self.tunnels.due = now.boot.plus_nanos(nanos(LOOK_EVERY));
        self.tunnels.look();
    }

    fn protects_udp(&self) -> bool {
        self.installed.protected.iter().any(|(protocol, _)| *protocol == UDP)
    }

    /// One condition for each tunnel on a port that is protected now, or that nobody knows of them.
    pub(super) fn tunnel_conditions(&self) -> Vec<(Condition, String)> {
        if !self.protects_udp() {
            return Vec::new();
        }
        let Watch { found, failed, .. } = &self.tunnels;
        let here = found.iter().filter(|tunnel| self.installed.protected.contains(&(UDP, tunnel.port)));
        let unknown = failed.iter().map(|error| {
            let why = format!("whether kernel tunnels take the datagrams of protected UDP ports is not known: {error}");
            (Condition::TunnelsUnknown, why)
        });
        here.map(|tunnel| (Condition::KernelTunnel, tunnel.sentence())).chain(unknown).collect()
    }
}
