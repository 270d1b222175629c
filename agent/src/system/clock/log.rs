//! The kernel's log, for the one line that reports a restore of the machine from a snapshot.
//!
//! Linux has no other report of it: the uevent of 6.8 was taken back in 6.9, and the generation id itself is the kernel's alone. Since
//! 5.18 the driver has the kernel's random numbers made anew, and that is logged. Owns the open log and how a record is read. It
//! never writes there, and never sees what was logged before it was opened.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, fstat, makedev, open, seek};
use rustix::io::{Errno, read};

/// Where the driver shows the devices that it serves: as a platform device since Linux 6.10, on ACPI before.
const DRIVERS: [&str; 2] = ["/sys/bus/platform/drivers/vmgenid", "/sys/bus/acpi/drivers/vmgenid"];
const LOG: &str = "/dev/kmsg";
/// Its device number, so that another file of this name is refused, as in some containers.
const DEVICE: (u32, u32) = (1, 11);
/// The kernel's line after it has new random numbers that no copy has.
const RESTORED: &[u8] = b"random: crng reseeded due to virtual machine fork";
/// Room for the longest record that there may be.
const LONGEST: usize = 8192;
/// Records that are read before other news is looked for: somebody may have the kernel log without end.
const AT_ONCE: usize = 1000;

/// The kernel's log from where it was opened on.
pub struct KernelLog(OwnedFd);

/// What the log said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    /// The machine was restored from a snapshot, or is a copy.
    pub restored: bool,
    /// Records were overwritten before they were read.
    pub missed: bool,
}

impl KernelLog {
    /// Opens it at its end, where the hypervisor tells this machine when it is restored or copied and the kernel listens. Takes
    /// `CAP_SYSLOG` where `kernel.dmesg_restrict` is set; to read on takes nothing.
    ///
    /// # Errors
    /// Why a restore will not be noticed, in words.
    pub fn open() -> Result<Self, String> {
        // Each device that it serves is a link to it, and has one back.
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

    /// What it said since the last time, without waiting. There may be more.
    pub(super) fn heard(&self) -> io::Result<Heard> {
        let (mut heard, mut record) = (Heard::default(), [0; LONGEST]);
        for _ in 0..AT_ONCE {
            match read(&self.0, &mut record) {
                Ok(length) => heard.restored |= says_restored(&record[..length]),
                Err(Errno::AGAIN) => break,
                Err(Errno::PIPE) => heard.missed = true,
                // A record that is longer than all that this is about is passed over.
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

/// Whether a record is the kernel's word that the machine was restored: `NUMBER,…;TEXT`, then lines that begin with a space. The number
/// is eight times who wrote it, which is 0 for the kernel and never 0 for anybody else, and how urgent it is.
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
            // Of a program: its facility is 1 at least.
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
        // As urgent as the kernel says it, and with the kernel's number for who it is.
        if fs::write(LOG, [b"<5>", RESTORED, b"\n"].concat()).is_err() {
            return println!("skipped: needs root");
        }
        let mut wanted = [PollFd::new(&log, PollFlags::IN)];
        poll(&mut wanted, Some(&Timespec { tv_sec: 10, tv_nsec: 0 })).unwrap();
        assert!(wanted[0].revents().contains(PollFlags::IN), "the line arrives");
        assert_eq!(log.heard().unwrap(), Heard::default());
    }
}
