//! System calls without a safe wrapper, for the clock and for signals.
//!
//! Owns unsafe code that has nothing to do with a backend.
#![allow(unsafe_code)]

use std::{ffi::c_long, io};

/// The kernel's estimate of the wall clock's largest error, in microseconds. `None` where nobody synchronises the clock. adjtimex(2)
/// without modes only reads, and needs no capability.
///
/// # Errors
/// A filter forbids the call.
pub fn ntp_error() -> io::Result<Option<u64>> {
    // The adjtimex function of glibc makes another system call, which can also set clocks. Filters forbid that one.
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

/// Makes this process ignore the signals by which people and service managers control an agent.
pub fn ignore_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGTERM] {
        // SAFETY: no handler runs; each of these signals may be ignored.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
