//! Waiting for a condition instead of for a time.
//!
//! Owns the one patience that tests have, and every sleep of a test. Never asserts how long something took.

use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes that happens at once, on a machine that builds something else at the same time.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The time between two questions.
const TURN: Duration = Duration::from_millis(5);

/// How much of it there is: `usual`, or what `$POSTERN_TEST_PATIENCE` says in seconds, for a machine that is only emulated.
pub(crate) fn patience(usual: Duration) -> Duration {
    let asked = std::env::var("POSTERN_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    asked.map_or(usual, Duration::from_secs)
}

/// Lets a sender pause, where no condition shows when the next thing is to be sent. To wait for a condition, use [`until`].
pub fn pause(time: Duration) {
    thread::sleep(time);
}

/// Whether `done` becomes true within `time`.
#[must_use]
pub fn within(time: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    while !done() {
        if Instant::now() > end {
            return done();
        }
        thread::sleep(TURN);
    }
    true
}

/// Asks again and again until something is found. The error says what was there instead.
///
/// # Panics
/// Where it was not found within half a minute.
pub fn find<T>(mut look: impl FnMut() -> Result<T, String>) -> T {
    let (start, patience) = (Instant::now(), patience(PATIENCE));
    loop {
        match look() {
            Ok(found) => return found,
            Err(instead) => assert!(start.elapsed() < patience, "not within {patience:?}: {instead}"),
        }
        thread::sleep(TURN);
    }
}

/// Asks again and again until `done`.
///
/// # Panics
/// Where `what` did not become true within half a minute.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    find(|| if done() { Ok(()) } else { Err(what.to_owned()) });
}
