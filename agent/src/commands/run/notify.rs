//! Notifications to systemd.
//!
//! Owns readiness and the watchdog (sd_notify(3)). Without systemd it does nothing.

use sd_notify::NotifyState;

use crate::engine::Engine;

/// posternd serves.
pub fn ready() {
    send(NotifyState::Ready);
}

/// posternd is about to exit.
pub fn stopping() {
    send(NotifyState::Stopping);
}

/// Pings the watchdog twice in each period, each time after the worker has made a turn. Does nothing without a watchdog. A full queue or
/// a slow disk does not delay a turn ([`Engine::alive`]). This runs on the reactor that serves the API: when the reactor or the worker
/// hangs, systemd starts posternd again, and the kernel keeps the ports closed in the meantime.
pub async fn keep_alive(engine: Engine) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        if engine.alive().await.is_ok() {
            send(NotifyState::Watchdog);
        }
    }
}

fn send(state: NotifyState) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd could not be notified");
    }
}
