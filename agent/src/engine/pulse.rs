//! The watchdog's check whether the worker still runs. Neither the question nor the answer waits behind commands. Only a turn of the worker
//! answers, so a worker that is stuck in a turn does not.

use tokio::sync::{Notify, watch};

/// The worker has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine's thread has ended")]
pub struct Ended;

/// The watchdog's side.
pub(super) struct Pulse {
    asked: std::sync::Arc<Notify>,
    turns: watch::Receiver<u64>,
}

/// The worker's side.
pub(super) struct Beat {
    asked: std::sync::Arc<Notify>,
    turns: watch::Sender<u64>,
}

pub(super) fn pulse() -> (Pulse, Beat) {
    let asked = std::sync::Arc::new(Notify::new());
    let (sender, turns) = watch::channel(0);
    (Pulse { asked: std::sync::Arc::clone(&asked), turns }, Beat { asked, turns: sender })
}

impl Pulse {
    pub(super) async fn beat(&self) -> Result<(), Ended> {
        let mut turns = self.turns.clone();
        turns.mark_unchanged();
        self.asked.notify_one();
        turns.changed().await.map_err(|_| Ended)
    }
}

impl Beat {
    /// Notes that the worker begins a turn, or the next command of a turn.
    pub(super) fn turn(&self) {
        self.turns.send_modify(|turns| *turns = turns.wrapping_add(1));
    }

    /// Waits until the watchdog asks.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn only_a_turn_answers() {
        let (pulse, beat) = pulse();
        beat.turn();
        // A turn from before the question does not count.
        let early = tokio::time::timeout(Duration::from_millis(20), pulse.beat()).await;
        assert!(early.is_err());
        let writer = async {
            beat.asked().await;
            beat.turn();
        };
        let (answer, ()) = tokio::join!(pulse.beat(), writer);
        assert_eq!(answer, Ok(()));
        drop(beat);
        assert_eq!(pulse.beat().await, Err(Ended));
    }
}
