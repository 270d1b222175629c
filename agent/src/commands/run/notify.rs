//! What systemd wants to know.
//!
//! Owns readiness and the watchdog (sd_notify(3)). Without systemd it does nothing.

use sd_notify::NotifyState;

use crate::engine::Engine;

/// The agent serves.
pub fn ready() {
    send(NotifyState::Ready);
}

/// The agent is about to exit.
pub fn stopping() {
    send(NotifyState::Stopping);
}

/// Pings the watchdog twice in each of its periods, each time after the one writer has come round once more; does nothing where there
/// is no watchdog. The writer comes round however full its queue and however slow the disk is
/// ([`Engine::alive`]). It runs on the reactor that serves the API: when either is stuck, systemd starts the agent anew, and the
/// kernel keeps the ports closed meanwhile.
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
        tracing::warn!(%error, "systemd could not be told");
    }
}
