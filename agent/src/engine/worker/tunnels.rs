//! Kernel tunnels on protected UDP ports: a condition names each of them, because Postern's promise does not cover their packets.
//!
//! Owns how soon a tunnel is noticed, and the condition. It changes nothing in the kernel.

use postern_core::condition::Condition;
use postern_core::key::UDP;
use postern_core::time::{BootNanos, Now};

use super::kernel::Kernel;
use super::wake::{SURROUNDINGS_EVERY, nanos};
use crate::enforcer::{Tunnel, Tunnels};

/// The known tunnels.
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
    /// Loads the program that lists tunnels. That takes rights that posternd gives up later. The first look is due.
    pub(super) fn new() -> Self {
        let tunnels = Tunnels::load().map_err(|error| error.to_string());
        if let Err(error) = &tunnels {
            tracing::warn!(%error, "posternd cannot look for kernel tunnels");
        }
        Self { due: BootNanos(0), tunnels, found: Vec::new(), failed: None }
    }

    /// Makes the next look due: something has changed.
    pub(super) fn hurry(&mut self) {
        self.due = BootNanos(0);
    }

    /// Looks for tunnels, if that is due and a UDP port is protected.
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
            // The known tunnels stay listed: nobody knows that they are gone.
            Err(error) => self.failed = Some(error),
        }
    }

    /// One condition for each tunnel on a port that is protected now, and one where tunnels could not be listed.
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
