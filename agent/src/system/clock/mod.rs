//! The only module that reads a clock.
//!
//! Owns [`Clock`] and its source of time ([`Clocks`]), which a test can replace. `postern_core::wall` decides whether to trust a clock.

use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use jiff::Timestamp;
use postern_core::time::{BootNanos, Now};
use postern_core::wall::{High, Reading, Seen, Unsynchronised, WallClock};
use rustix::time::{ClockId, clock_gettime};
use uuid::Uuid;

mod events;
mod log;

pub use events::{ClockEvents, Watch};
pub use log::KernelLog;

/// The source of the boot clock, the wall clock, and the kernel's estimate of its error.
pub trait Clocks: Send + Sync {
    /// `CLOCK_BOOTTIME`.
    fn boot(&self) -> BootNanos;

    /// The wall clock.
    fn wall(&self) -> Timestamp;

    /// The wall clock's largest error in microseconds; `None` if nothing synchronises that clock.
    fn max_error(&self) -> Option<u64>;
}

/// The clocks of this boot.
#[derive(Clone)]
pub struct Clock(Arc<Inner>);

struct Inner {
    boot_id: Uuid,
    clocks: Box<dyn Clocks>,
    unsynchronised: Unsynchronised,
    wall: Mutex<WallClock>,
    restores: AtomicU64,
    /// Why a restore would not be noticed.
    unnoticed: OnceLock<String>,
}

impl Clock {
    /// The kernel's clocks in the running boot.
    ///
    /// # Errors
    /// Fails if `/proc/sys/kernel/random/boot_id` cannot be read or is not a UUID.
    pub fn new(unsynchronised: Unsynchronised, max_error: MaxError) -> std::io::Result<Self> {
        let text = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        let boot_id = text.trim().parse().map_err(std::io::Error::other)?;
        Ok(Self::with(Box::new(Kernel(max_error)), boot_id, unsynchronised))
    }

    /// Other clocks, in the boot `boot_id`.
    #[must_use]
    pub fn with(clocks: Box<dyn Clocks>, boot_id: Uuid, unsynchronised: Unsynchronised) -> Self {
        let wall = Mutex::new(WallClock::new(unsynchronised, High::default(), None));
        let (restores, unnoticed) = (AtomicU64::new(0), OnceLock::new());
        Self(Arc::new(Inner { boot_id, clocks, unsynchronised, wall, restores, unnoticed }))
    }

    /// Continues from the record: `high` has the newest moments, `seen` is the newest record of this boot.
    pub fn resume(&self, high: High, seen: Option<Seen>) {
        *self.wall() = WallClock::new(self.0.unsynchronised, high, seen);
    }

    /// Takes over the newest moments on record.
    pub fn recorded(&self, high: High) {
        self.wall().recorded(high);
    }

    /// Notes that the machine was restored from a snapshot, or is a copy.
    pub fn note_restore(&self) {
        self.0.restores.fetch_add(1, Ordering::SeqCst);
    }

    /// How many restores were noted.
    #[must_use]
    pub fn restores(&self) -> u64 {
        self.0.restores.load(Ordering::SeqCst)
    }

    /// Stores why a restore would not be noticed; the first reason stays.
    pub fn notices_no_restore(&self, why: String) {
        let _ = self.0.unnoticed.set(why);
    }

    /// Why a restore would not be noticed; `None` if it would.
    #[must_use]
    pub fn unnoticed(&self) -> Option<&str> {
        self.0.unnoticed.get().map(String::as_str)
    }

    /// The id of this boot.
    #[must_use]
    pub fn boot_id(&self) -> Uuid {
        self.0.boot_id
    }

    /// The present, and the state of the wall clock.
    #[must_use]
    pub fn now(&self) -> Now {
        // One reading at a time, so that none is compared with a later one.
        let mut watched = self.wall();
        let clocks = &self.0.clocks;
        let (boot, wall) = (clocks.boot(), clocks.wall());
        let clock = watched.look(&Reading { boot, wall, max_error: clocks.max_error(), restores: self.restores() });
        Now { boot, wall, clock, boot_id: self.0.boot_id }
    }

    /// The boot clock.
    #[must_use]
    pub fn boot(&self) -> BootNanos {
        self.0.clocks.boot()
    }

    fn wall(&self) -> MutexGuard<'_, WallClock> {
        self.0.wall.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the kernel for the largest error of the wall clock, in microseconds; `None` if nothing synchronises that clock. The function is the
/// enforcer's, because the call needs unsafe code.
pub type MaxError = fn() -> std::io::Result<Option<u64>>;

struct Kernel(MaxError);

impl Clocks for Kernel {
    fn boot(&self) -> BootNanos {
        let t = clock_gettime(ClockId::Boottime);
        let nanos = i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec);
        BootNanos(u64::try_from(nanos).unwrap_or_default())
    }

    fn wall(&self) -> Timestamp {
        Timestamp::now()
    }

    fn max_error(&self) -> Option<u64> {
        // Without an answer, the clock counts as unsynchronised.
        (self.0)().ok().flatten()
    }
}

/// The offset of this process's boot clock from the kernel's, in words, if a time namespace (Linux 5.6) sets one.
#[must_use]
pub fn boot_clock_offset() -> Option<String> {
    // A kernel without time namespaces has no such file.
    offset_in(&fs::read_to_string("/proc/self/timens_offsets").ok()?)
}

/// The lines have name, seconds, nanoseconds. Linux 5.6 writes the clock's number (7) for `boottime`.
fn offset_in(text: &str) -> Option<String> {
    let mut lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.find_map(|fields| match &fields[..] {
        ["boottime" | "7", seconds, nanos] if [*seconds, *nanos] != ["0", "0"] => {
            Some(format!("{seconds} s and {nanos} ns"))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_offset_of_the_boot_clock_counts() {
        let text = |boot: &str| format!("monotonic           5         0\nboottime   {boot}\n");
        assert_eq!(offset_in(&text("0 0")), None);
        for other in ["86400 0", "-3 0", "0 1"] {
            assert!(offset_in(&text(other)).is_some(), "{other}");
        }
        assert!(offset_in("1 0 0\n7 9 0\n").is_some());
        assert_eq!(boot_clock_offset(), None, "these tests run where posternd could");
    }

    #[test]
    fn the_kernel_can_be_asked() {
        let max_error = crate::enforcer::ntp_error;
        max_error().unwrap();
        let clock = Clock::new(Unsynchronised::Trust, max_error).unwrap();
        let (one, two) = (clock.now(), clock.now());
        assert!(one.boot < two.boot && one.wall_trusted());
        clock.note_restore();
        assert!(!clock.now().wall_trusted());
    }
}
