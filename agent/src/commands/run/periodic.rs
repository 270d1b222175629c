//! The one timer outside the engine.
//!
//! Owns the interval of the checks for which the kernel sends no event, and which may wait for a disk. It decides nothing.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;

use super::settings::Settings;
use crate::proof::HostKeys;

/// A thread of its own wakes up once for each check. A task would also wake the reactor and a thread for blocking work.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Ends the checks when it is dropped.
pub(super) struct Periodic(#[expect(dead_code, reason = "dropping it closes the channel")] Sender<()>);

impl Periodic {
    /// Checks on a thread of its own until the value is dropped, because a disk may hang. Fails if no thread can be made.
    pub(super) fn start(mut settings: Settings, host_keys: Arc<HostKeys>) -> io::Result<Self> {
        let (stop, stopped) = channel();
        let runtime = Handle::current();
        let run = move || {
            while stopped.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
                settings.look(&runtime);
                host_keys.look_for_changes(&runtime);
            }
        };
        thread::Builder::new().name("periodic".into()).spawn(run)?;
        Ok(Self(stop))
    }
}
