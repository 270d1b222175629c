//! Notifications to systemd.
//!
//! Owns readiness and the watchdog (sd_notify(3)). Without systemd it does nothing.

use sd_notify::NotifyState;

use crate::engine::Engine;

pub fn ready() {
    send(NotifyState::Ready);
}

pub fn stopping() {
    send(NotifyState::Stopping);
}

/// Pings the watchdog twice in each period, each time after a turn of the worker ([`Engine::alive`]). A full queue or a slow disk does not
/// delay a turn. This runs on the reactor of the API. If the reactor or the worker hangs, systemd starts posternd again, and the kernel
/// keeps the ports closed.
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
