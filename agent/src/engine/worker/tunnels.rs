//! Kernel tunnels on protected UDP ports. Postern's promise does not cover their packets, so a condition names each tunnel.

use postern_core::condition::Condition;
use postern_core::key::UDP;
use postern_core::time::{BootNanos, Now};

use super::kernel::Kernel;
use super::wake::{SURROUNDINGS_EVERY, nanos};
use crate::enforcer::{Tunnel, Tunnels};

pub(super) struct Watch {
    due: BootNanos,
    /// The program that lists tunnels, or why it could not be loaded.
    tunnels: Result<Tunnels, String>,
    /// The tunnels on all ports.
    found: Vec<Tunnel>,
    /// Why the last look failed.
    failed: Option<String>,
}

impl Watch {
    /// Loads the program that lists tunnels, before posternd gives up the rights for that.
    pub(super) fn new() -> Self {
        let tunnels = Tunnels::load().map_err(|error| error.to_string());
        if let Err(error) = &tunnels {
            tracing::warn!(%error, "posternd cannot look for kernel tunnels");
        }
        Self { due: BootNanos(0), tunnels, found: Vec::new(), failed: None }
    }

    /// Makes the next look due, because something has changed.
    pub(super) fn hurry(&mut self) {
        self.due = BootNanos(0);
    }

    pub(super) fn look(&mut self, kernel: &Kernel, now: &Now) {
        if self.due > now.boot || !kernel.protects_udp() {
            return;
        }
        self.due = now.boot.plus_nanos(nanos(SURROUNDINGS_EVERY));
        let found = match &self.tunnels {
            Ok(tunnels) => tunnels.find().map_err(|error| error.to_string()),
            Err(error) => Err(error.clone()),
        };
        match found {
            Ok(found) => {
                for tunnel in found.iter().filter(|tunnel| !self.found.contains(tunnel)) {
                    let (port, kind) = (tunnel.port, &tunnel.kind);
                    tracing::info!(port, %kind, "a kernel tunnel takes the datagrams of this UDP port");
                }
                (self.found, self.failed) = (found, None);
            }
            // The known tunnels stay listed, because they may still exist.
            Err(error) => self.failed = Some(error),
        }
    }

    /// One condition for each tunnel on a protected port, and one if tunnels could not be listed.
    pub(super) fn conditions(&self, kernel: &Kernel) -> Vec<(Condition, String)> {
        if !kernel.protects_udp() {
            return Vec::new();
        }
        let here = self.found.iter().filter(|tunnel| kernel.protected().contains(&(UDP, tunnel.port)));
        let unknown = self.failed.iter().map(|error| {
            let why = format!("whether kernel tunnels take the datagrams of protected UDP ports is not known: {error}");
            (Condition::TunnelsUnknown, why)
        });
        here.map(|tunnel| (Condition::KernelTunnel, tunnel.sentence())).chain(unknown).collect()
    }
}
