//! Events of the clocks and the machine.
//!
//! Owns the kernel's sources: a timer that setting the wall clock cancels, the kernel's log, and the uevent of a new VM generation
//! (Linux 6.8, and distribution kernels with that change). Never decides what follows.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_KOBJECT_UEVENT};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::log::KernelLog;

/// The multicast group of the kernel's own uevents; group 2 is udev's.
const KERNEL_EVENTS: u32 = 1;
/// Receive buffer in bytes, for bursts when many devices appear at once.
const ROOM: usize = 1 << 20;

/// The events since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockEvents {
    /// The wall clock was set.
    pub set: bool,
    /// The machine was restored from a snapshot, or is a copy.
    pub restored: bool,
    /// Some events were lost, perhaps one of a restore.
    pub missed: bool,
}

/// Waits for clock events.
pub struct Watch {
    timer: OwnedFd,
    events: Socket,
    log: Option<KernelLog>,
}

impl Watch {
    /// Starts to watch, also the kernel's log if `log` is given.
    ///
    /// # Errors
    /// Fails if the kernel refuses the timer or the socket.
    pub fn open(log: Option<KernelLog>) -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        arm(timer.as_fd())?;
        let mut events = Socket::new(NETLINK_KOBJECT_UEVENT)?;
        events.set_non_blocking(true)?;
        // A smaller buffer still receives events.
        let _ = events.set_rx_buf_sz(ROOM);
        events.bind(&SocketAddr::new(0, KERNEL_EVENTS))?;
        Ok(Self { timer, events, log })
    }

    /// Blocks until an event comes.
    ///
    /// # Errors
    /// Fails if the kernel refuses to wait or an event cannot be read.
    pub fn wait(&self) -> io::Result<ClockEvents> {
        loop {
            let fds = [self.timer.as_fd(), self.events.as_fd()].into_iter().chain(self.log.as_ref().map(AsFd::as_fd));
            let mut wanted: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            match poll(&mut wanted, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let news = self.heard()?;
            if news != ClockEvents::default() {
                return Ok(news);
            }
        }
    }

    fn heard(&self) -> io::Result<ClockEvents> {
        let mut news = ClockEvents::default();
        match rustix::io::read(&self.timer, &mut [0; 8]) {
            Err(Errno::CANCELED) => {
                news.set = true;
                arm(self.timer.as_fd())?;
            }
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(log) = &self.log {
            let heard = log.heard()?;
            news.restored |= heard.restored;
            news.missed |= heard.missed;
        }
        loop {
            match self.events.recv_from_full() {
                Ok((event, from)) => news.restored |= from.port_number() == 0 && is_new_generation(&event),
                Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                    Some(Errno::AGAIN) => return Ok(news),
                    Some(Errno::INTR) => {}
                    Some(Errno::NOBUFS) => news.missed = true,
                    _ => return Err(error),
                },
            }
        }
    }
}

/// Sets the timer to a moment that never comes. Setting the wall clock cancels the timer.
fn arm(timer: BorrowedFd<'_>) -> io::Result<()> {
    let never = Timespec { tv_sec: i64::MAX, tv_nsec: 0 };
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: never };
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &once)?;
    Ok(())
}

/// Whether a uevent reports a new VM generation: `change@/devices/…`, then `NAME=value` lines, each ended by a zero byte. The kernel
/// prefixes a name that root writes into a `uevent` file of sysfs (`SYNTH_ARG_…`).
fn is_new_generation(event: &[u8]) -> bool {
    let mut lines = event.split(|byte| *byte == 0);
    lines.next().is_some_and(|head| head.starts_with(b"change@")) && lines.any(|line| line == b"NEW_VMGENID=1")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_the_kernels_word_of_a_new_generation_counts() {
        let real = b"change@/devices/platform/VMGENCTR:00\0ACTION=change\0DEVPATH=/devices/platform/VMGENCTR:00\0\
                     SUBSYSTEM=platform\0NEW_VMGENID=1\0DRIVER=vmgenid\0SEQNUM=4711\0";
        assert!(is_new_generation(real));
        let other = |from: &str, to: &str| {
            let text = String::from_utf8_lossy(real).replace(from, to);
            is_new_generation(text.as_bytes())
        };
        assert!(!other("NEW_VMGENID=1", "SYNTH_ARG_NEW_VMGENID=1"));
        assert!(!other("NEW_VMGENID=1", "NEW_VMGENID=10"));
        assert!(!other("NEW_VMGENID=1\0", ""));
        assert!(!other("change@", "add@"));
        assert!(!is_new_generation(b"") && !is_new_generation(b"NEW_VMGENID=1\0"));
    }

    #[test]
    fn an_event_that_says_nothing_of_a_restore_is_passed_over() {
        let watch = match Watch::open(None) {
            Ok(watch) => watch,
            Err(error) => return println!("skipped: {error}"),
        };
        // Root can make the kernel send a uevent, whose names get the prefix `SYNTH_ARG_` and may have no underscore.
        let made_up = "change 01234567-89ab-cdef-0123-456789abcdef NEWVMGENID=1";
        if fs::write("/sys/class/net/lo/uevent", made_up).is_err() {
            return println!("skipped: needs root");
        }
        let mut wanted = [PollFd::new(&watch.events, PollFlags::IN)];
        poll(&mut wanted, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap();
        assert!(wanted[0].revents().contains(PollFlags::IN), "the event arrives");
        assert_eq!(watch.heard().unwrap(), ClockEvents::default());
    }
}
