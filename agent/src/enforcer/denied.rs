//! Denied attempts, and attempts that a host in observe mode would deny.
//!
//! Owns their types. A backend reads them from the kernel.

use std::{net::IpAddr, os::fd::AsFd};

use postern_core::verdict::{Fate, Hook};

/// A denied attempt. Each CPU reports at most a few a second; the counters count all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeniedAttempt {
    /// The other host.
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

/// A reader of denied attempts. Its descriptor is readable (epoll) while attempts wait.
pub trait DeniedAttempts: AsFd + Send {
    /// Returns every attempt that the kernel reported since the last call. It never blocks.
    fn drain(&mut self) -> Vec<DeniedAttempt>;
}

/// The backend's reader of denied attempts.
pub type DeniedReader = Box<dyn DeniedAttempts>;

/// Traffic from one source to one port that the host would deny in enforce mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The other host.
    pub source: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The host's port.
    pub port: u16,
    /// Lookups that the lock would refuse: new connections, and datagrams to unconnected sockets.
    pub lookups: u64,
    /// Packets to a socket that the cut would drop.
    pub packets: u64,
    /// The time of the last one: `CLOCK_BOOTTIME` in nanoseconds.
    pub last_boot_ns: u64,
}
