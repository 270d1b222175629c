//! Denied attempts, and what a host that observes would have denied.
//!
//! Owns their form. A backend reads them from the kernel.

use std::{net::IpAddr, os::fd::AsFd};

use postern_core::verdict::{Fate, Hook};

/// A denied attempt. The kernel reports at most a few a second for each CPU; the counters have all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeniedAttempt {
    /// The other end.
    pub source: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The host's port.
    pub port: u16,
    /// The hook that denied it.
    pub hook: Hook,
    /// The reason.
    pub fate: Fate,
}

/// A reader of denied attempts. Its descriptor is readable (epoll) while there are attempts to drain.
pub trait DeniedAttempts: AsFd + Send {
    /// Every attempt that was reported since the last call. It never blocks.
    fn drain(&mut self) -> Vec<DeniedAttempt>;
}

/// The backend's reader of denied attempts.
pub type DeniedReader = Box<dyn DeniedAttempts>;

/// What the host would have refused to one source at one port, if it enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The other end.
    pub source: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The host's port.
    pub port: u16,
    /// Look-ups that the lock would have refused: new connections, and datagrams to unconnected sockets.
    pub lookups: u64,
    /// Packets to a socket that the cut would have dropped.
    pub packets: u64,
    /// `CLOCK_BOOTTIME` in nanoseconds of the last of them.
    pub last_boot_ns: u64,
}
