//! System calls without a safe wrapper, for the clock and for signals.
//!
//! Owns the unsafe code that belongs to no backend.
#![allow(unsafe_code)]

use std::{ffi::c_long, io};

/// The kernel's estimate of the wall clock's largest error, in microseconds. `None` if nothing synchronises the clock.
///
/// # Errors
/// A filter forbids the call.
pub fn ntp_error() -> io::Result<Option<u64>> {
    // adjtimex(2) without modes only reads. The function of glibc makes another system call, which can set clocks and which filters forbid.
    let mut timex = std::mem::MaybeUninit::<libc::timex>::zeroed();
    // SAFETY: the pointer is to a timex of the size that the kernel expects, for the duration of the call.
    let state = unsafe { libc::syscall(libc::SYS_adjtimex, timex.as_mut_ptr()) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all its fields are integers, for which zeros are values too, and the kernel has filled it in.
    let timex = unsafe { timex.assume_init() };
    let synchronised = timex.status & libc::STA_UNSYNC == 0 && state != c_long::from(libc::TIME_ERROR);
    Ok(synchronised.then(|| u64::try_from(timex.maxerror).unwrap_or(0)))
}

/// Makes this process ignore the signals that control an agent (`SIGHUP`, `SIGINT`, `SIGTERM`).
pub fn ignore_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: no handler runs; each of these signals may be ignored.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
