//! What the rest of posternd reports to the worker: the network, the clock, and conditions.
//!
//! Owns the way of a notice into the queue. A notice waits for room there and is never refused. It never decides anything.

use std::net::SocketAddr;
use std::sync::PoisonError;

use postern_core::condition::Condition;
use postern_core::key::SynRate;
use postern_core::message::Challenger;

use super::Engine;
use super::command::Notice;
use crate::config::PrefilterConfig;
use crate::system::links::LinkState;

impl Engine {
    /// Reports the host's interfaces and addresses as they are now.
    pub async fn network_changed(&self, state: LinkState) {
        self.notify(Notice::Links(state)).await;
    }

    /// Reports where the configuration wants the prefilter from now on.
    pub async fn prefilter(&self, xdp: PrefilterConfig) {
        self.notify(Notice::Prefilter(xdp)).await;
    }

    /// Has the kernel limit how fast one source begins connections to these addresses of the API.
    pub async fn limit_syns(&self, addresses: Vec<SocketAddr>, rate: SynRate) {
        self.notify(Notice::LimitSyns(addresses, rate)).await;
    }

    /// Reports that a condition holds, with the reason, or holds no longer.
    pub async fn degraded(&self, part: Condition, why: Option<String>) {
        self.notify(Notice::Condition(part, why)).await;
    }

    /// As [`Engine::degraded`], for a thread that ends afterwards. Blocks until the queue has room: not for a task.
    pub fn degraded_by_thread(&self, part: Condition, why: String) {
        self.notify_by_thread(Notice::Condition(part, Some(why)));
    }

    /// Reports that the machine was restored from a snapshot, or is a copy. The worker closes everything that is open, and no earlier
    /// challenge is accepted. `secret` is 32 random bytes, drawn after the restore.
    ///
    /// Blocks until the queue has room: not for a task.
    pub fn restored(&self, secret: &[u8; 32]) {
        // First: the worker then also ends what a message with an old challenge opened until here.
        self.renew_challenges(secret);
        self.0.clock.note_restore();
        self.clock_changed();
    }

    /// Makes every earlier challenge invalid. `secret` is 32 random bytes.
    pub fn renew_challenges(&self, secret: &[u8; 32]) {
        *self.0.challenger.write().unwrap_or_else(PoisonError::into_inner) = Challenger::new(secret);
    }

    /// Has the worker look at the clock at once. Blocks as [`Engine::restored`].
    pub fn clock_changed(&self) {
        self.notify_by_thread(Notice::Clock);
    }

    async fn notify(&self, notice: Notice) {
        // This fails only after the worker has stopped. Then nobody needs the notice.
        let _ = self.0.commands.send(notice.into()).await;
    }

    /// As [`Engine::notify`], for a thread.
    pub(super) fn notify_by_thread(&self, notice: Notice) {
        let _ = self.0.commands.blocking_send(notice.into());
    }
}
