//! Whether the one writer comes round.
//!
//! Owns the question and the answer, and no queue: neither waits behind commands. It never answers for the writer: only the writer's
//! own turns count, so one that is stuck in a turn does not answer.

use tokio::sync::{Notify, watch};

/// The writer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the engine's thread has ended")]
pub struct Ended;

/// For those who ask.
pub(super) struct Pulse {
    asked: std::sync::Arc<Notify>,
    turns: watch::Receiver<u64>,
}

/// For the writer.
pub(super) struct Beat {
    asked: std::sync::Arc<Notify>,
    turns: watch::Sender<u64>,
}

/// Both ends.
pub(super) fn pulse() -> (Pulse, Beat) {
    let asked = std::sync::Arc::new(Notify::new());
    let (sender, turns) = watch::channel(0);
    (Pulse { asked: std::sync::Arc::clone(&asked), turns }, Beat { asked, turns: sender })
}

impl Pulse {
    /// Waits until the writer has begun a turn since this was called.
    ///
    /// # Errors
    /// [`Ended`].
    pub(super) async fn beat(&self) -> Result<(), Ended> {
        let mut turns = self.turns.clone();
        turns.mark_unchanged();
        self.asked.notify_one();
        turns.changed().await.map_err(|_| Ended)
    }
}

impl Beat {
    /// The writer begins a turn, or the next command of a turn: it is not stuck.
    pub(super) fn turn(&self) {
        self.turns.send_modify(|turns| *turns = turns.wrapping_add(1));
    }

    /// Wakes up when somebody wants to see a turn.
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
