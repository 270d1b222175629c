//! The one timer outside the engine.
//!
//! Owns how often posternd looks at what the kernel does not report by itself and what may wait for a disk: settings of the kernel, and
//! the files of the SSH host keys. It decides nothing.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use tokio::runtime::Handle;

use super::settings::Settings;
use crate::proof::HostKeys;

/// How often. One look takes a few reads of /proc and one `stat` for each key file. A thread of its own wakes up once for that; the same
/// work as a task would also wake the reactor and a thread that may block.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Ends the looks when it is dropped.
pub(super) struct Periodic(#[expect(dead_code, reason = "dropping it closes the channel")] Sender<()>);

impl Periodic {
    /// Looks on a thread of its own until the value is dropped. A disk that hangs holds up this thread alone.
    ///
    /// # Errors
    /// No thread could be made.
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
