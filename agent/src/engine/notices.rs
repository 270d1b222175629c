//! Reports to the worker about the network, the clock and conditions. A notice waits for room in the queue, and is never refused.

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

    /// Has the kernel limit how fast one source begins connections to these API addresses.
    pub async fn limit_syns(&self, addresses: Vec<SocketAddr>, rate: SynRate) {
        self.notify(Notice::LimitSyns(addresses, rate)).await;
    }

    /// Reports that a condition holds, with the reason, or holds no longer.
    pub async fn degraded(&self, part: Condition, why: Option<String>) {
        self.notify(Notice::Condition(part, why)).await;
    }

    /// As [`Engine::degraded`], for a thread that ends afterwards. Blocks until the queue has room, so a task must not call it.
    pub fn degraded_by_thread(&self, part: Condition, why: String) {
        self.notify_by_thread(Notice::Condition(part, Some(why)));
    }

    /// Reports that the machine was restored from a snapshot, or is a copy. The worker closes everything, and earlier challenges become
    /// invalid. `secret` is 32 random bytes, drawn after the restore. Blocks as [`Engine::degraded_by_thread`].
    pub fn restored(&self, secret: &[u8; 32]) {
        // This comes first, so that the worker also ends what a message with an old challenge opened until now.
        self.renew_challenges(secret);
        self.0.clock.note_restore();
        self.clock_changed();
    }

    /// Makes every earlier challenge invalid. `secret` is 32 random bytes.
    pub fn renew_challenges(&self, secret: &[u8; 32]) {
        *self.0.challenger.write().unwrap_or_else(PoisonError::into_inner) = Challenger::new(secret);
    }

    /// Has the worker check the clock at once. Blocks as [`Engine::degraded_by_thread`].
    pub fn clock_changed(&self) {
        self.notify_by_thread(Notice::Clock);
    }

    async fn notify(&self, notice: Notice) {
        // The send fails only after the worker has stopped. Then nobody needs the notice.
        let _ = self.0.commands.send(notice.into()).await;
    }

    pub(super) fn notify_by_thread(&self, notice: Notice) {
        let _ = self.0.commands.blocking_send(notice.into());
    }
}
