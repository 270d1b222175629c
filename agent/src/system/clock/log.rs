//! The kernel's log, for the one line that reports a restore of the machine from a snapshot.
//!
//! Linux has no other report: 6.9 removed the uevent of 6.8, and the kernel does not show the generation id. Since 5.18 the driver
//! reseeds the kernel's random numbers and logs that. Never writes to the log, and sees nothing from before it was opened.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, fstat, makedev, open, seek};
use rustix::io::{Errno, read};

/// The directory with a link to each device of the driver: a platform driver since Linux 6.10, an ACPI driver before.
const DRIVERS: [&str; 2] = ["/sys/bus/platform/drivers/vmgenid", "/sys/bus/acpi/drivers/vmgenid"];
const LOG: &str = "/dev/kmsg";
/// The device number. Some containers have another file at this path, which is refused.
const DEVICE: (u32, u32) = (1, 11);
/// The kernel logs this line after it reseeds its random numbers because of a restore.
const RESTORED: &[u8] = b"random: crng reseeded due to virtual machine fork";
/// The longest record, in bytes.
const LONGEST: usize = 8192;
/// Records that are read before other events are checked: a program may make the kernel log without end.
const AT_ONCE: usize = 1000;

/// The kernel's log, from its end at the time of opening.
pub struct KernelLog(OwnedFd);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    pub restored: bool,
    /// Records were overwritten before they were read.
    pub missed: bool,
}

impl KernelLog {
    /// Opens the log at its end, if hypervisor and kernel support the VM generation id. Needs `CAP_SYSLOG` if `kernel.dmesg_restrict` is
    /// set; reading needs nothing.
    ///
    /// # Errors
    /// Fails if there is no VM generation id or the log cannot be opened. The error says why a restore will not be noticed.
    pub fn open() -> Result<Self, String> {
        // The driver's directory has a link to each of its devices, and each device has a link back.
        let serves = |driver: &str| {
            fs::read_dir(driver)
                .is_ok_and(|entries| entries.flatten().any(|entry| entry.path().join("driver").exists()))
        };
        if !DRIVERS.into_iter().any(serves) {
            return Err("the hypervisor offers no VM generation id, or the kernel has no driver for it".into());
        }
        Self::at_its_end().map_err(|e| format!("the kernel's log could not be opened: {LOG}: {e}"))
    }

    fn at_its_end() -> io::Result<Self> {
        let fd = open(LOG, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
        let found = fstat(&fd)?;
        let is_device = FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice;
        if !is_device || found.st_rdev != makedev(DEVICE.0, DEVICE.1) {
            return Err(io::Error::other("not the kernel's log"));
        }
        seek(&fd, SeekFrom::End(0))?;
        Ok(Self(fd))
    }

    /// Reads up to [`AT_ONCE`] new records, without waiting.
    pub(super) fn heard(&self) -> io::Result<Heard> {
        let (mut heard, mut record) = (Heard::default(), [0; LONGEST]);
        for _ in 0..AT_ONCE {
            match read(&self.0, &mut record) {
                Ok(length) => heard.restored |= says_restored(&record[..length]),
                Err(Errno::AGAIN) => break,
                Err(Errno::PIPE) => heard.missed = true,
                // A record longer than the buffer cannot be the line.
                Err(Errno::INTR | Errno::INVAL) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(heard)
    }
}

impl AsFd for KernelLog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Whether a record is the kernel's line about a restore: `NUMBER,…;TEXT`, then lines that begin with a space. `NUMBER` is eight times the
/// facility, plus the level. Only the kernel has facility 0.
fn says_restored(record: &[u8]) -> bool {
    let Some(at) = record.iter().position(|byte| *byte == b';') else { return false };
    let (head, text) = (&record[..at], &record[at + 1..]);
    let number = head.split(|byte| *byte == b',').next().unwrap_or_default();
    let is_kernel = matches!(number, [digit] if (b'0'..b'8').contains(digit));
    is_kernel && text.split(|byte| *byte == b'\n').next() == Some(RESTORED)
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    #[test]
    fn only_the_kernels_own_line_counts() {
        let real = "5,1234,98765432,-;random: crng reseeded due to virtual machine fork\n";
        assert!(says_restored(real.as_bytes()));
        let other = |from: &str, to: &str| says_restored(real.replace(from, to).as_bytes());
        assert!(other(",-;", ",-,caller=T17;") && other("5,", "0,") && other("fork\n", "fork\n SUBSYSTEM=x\n"));
        for (from, to) in [
            // A program's facility is 1 or more.
            ("5,", "13,"),
            ("5,", "8,"),
            ("5,", ","),
            ("fork", "fork?"),
            ("random", " random"),
            (";", ";x: "),
            (";random", ";x\n random"),
            (";", ""),
        ] {
            assert!(!other(from, to), "{from} {to}");
        }
        assert!(!says_restored(b"") && !says_restored(b";"));
    }

    #[test]
    fn what_a_program_writes_into_the_log_is_not_the_kernels_word() {
        let log = match KernelLog::at_its_end() {
            Ok(log) => log,
            Err(error) => return println!("skipped: {error}"),
        };
        // With the kernel's level, and with facility 0.
        if fs::write(LOG, [b"<5>", RESTORED, b"\n"].concat()).is_err() {
            return println!("skipped: needs root");
        }
        let mut wanted = [PollFd::new(&log, PollFlags::IN)];
        poll(&mut wanted, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap();
        assert!(wanted[0].revents().contains(PollFlags::IN), "the line arrives");
        assert_eq!(log.heard().unwrap(), Heard::default());
    }
}
