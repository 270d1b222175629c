//! Waiting for a condition instead of for a time.
//!
//! Owns the one patience that tests have. Never asserts how long something took.

use std::thread;
use std::time::{Duration, Instant};

/// Longer than anything takes that happens at once, on a machine that builds something else at the same time.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until `done`.
///
/// # Panics
/// Where `what` did not become true within half a minute.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}
