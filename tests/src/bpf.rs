//! What an attacker with root, or a careless tool, does to a pinned link.
//!
//! Never uses the agent's own code for it.
#![allow(unsafe_code)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

// enum bpf_cmd, include/uapi/linux/bpf.h
const BPF_OBJ_GET: libc::c_int = 7;
const BPF_LINK_DETACH: libc::c_int = 34;

/// Detaches the link pinned at `path`, as `bpftool link detach` does. The pin stays.
///
/// # Errors
/// As `bpf(2)`.
pub fn detach_link(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = bpf(BPF_OBJ_GET, [path.as_ptr() as u64, 0])?;
    // SAFETY: the kernel has just made this descriptor for us.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    bpf(BPF_LINK_DETACH, [link.as_raw_fd() as u64, 0]).map(drop)
}

fn bpf(command: libc::c_int, mut attr: [u64; 2]) -> io::Result<libc::c_int> {
    // SAFETY: both commands read at most these sixteen bytes, and the path outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attr, size_of_val(&attr)) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as libc::c_int) }
}
