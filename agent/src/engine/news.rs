//! What the machine tells the worker: its network, its clock, what works with restrictions.
//!
//! Owns the way into the queue. News wait for room there and are never refused. It never decides anything.

use std::net::SocketAddr;
use std::sync::PoisonError;

use postern_core::condition::Condition;
use postern_core::key::SynRate;
use postern_core::message::Challenger;

use super::{Command, Engine};
use crate::config::PrefilterConfig;
use crate::system::links::LinkState;

/// What the worker learns about the network.
#[derive(Debug)]
pub(super) enum News {
    /// How the network is now.
    Links(LinkState),
    /// Where the configuration wants the prefilter from now on.
    Prefilter(PrefilterConfig),
}

impl Engine {
    /// Tells the worker what the network looks like now.
    pub async fn network_changed(&self, state: LinkState) {
        // It fails only when the worker has stopped: then nobody needs to know any more.
        let _ = self.0.commands.send(Command::Network(News::Links(state))).await;
    }

    /// Tells the worker where the prefilter is wanted from now on.
    pub async fn prefilter(&self, xdp: PrefilterConfig) {
        let _ = self.0.commands.send(Command::Network(News::Prefilter(xdp))).await;
    }

    /// Has the kernel limit how fast one source begins connections to these addresses of the API.
    pub async fn limit_syns(&self, addresses: Vec<SocketAddr>, rate: SynRate) {
        let _ = self.0.commands.send(Command::LimitSyns(addresses, rate)).await;
    }

    /// Notes that a part of the host works with restrictions, or no longer does.
    pub async fn degraded(&self, part: Condition, why: Option<String>) {
        let _ = self.0.commands.send(Command::Degraded { part, why }).await;
    }

    /// As [`Engine::degraded`], for a thread that ends with it. Blocks until the worker has room for it: not for a task.
    pub fn degraded_by_thread(&self, part: Condition, why: String) {
        let _ = self.0.commands.blocking_send(Command::Degraded { part, why: Some(why) });
    }

    /// Notes that the machine was restored from a snapshot, or is a copy: what is open is closed, and no challenge from before is
    /// accepted. `secret` is 32 random bytes, drawn since.
    ///
    /// Blocks until the worker has room for it: not for a task.
    pub fn restored(&self, secret: &[u8; 32]) {
        // What is let in by the old one from here on is among what is ended.
        self.renew_challenges(secret);
        self.0.clock.note_restore();
        self.clock_changed();
    }

    /// No challenge from before is accepted any more.
    pub fn renew_challenges(&self, secret: &[u8; 32]) {
        *self.0.challenger.write().unwrap_or_else(PoisonError::into_inner) = Challenger::new(secret);
    }

    /// Has the worker look at the clock at once. Blocks as [`Engine::restored`].
    pub fn clock_changed(&self) {
        // It fails only when the worker has stopped.
        let _ = self.0.commands.blocking_send(Command::Clock);
    }
}
