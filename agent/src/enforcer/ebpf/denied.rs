//! Who was turned away, or would have been, as the kernel reports it.
//!
//! Owns reading the ring buffer, and the shape of both. It never blocks: wait for its descriptor to become readable, then drain it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use aya::maps::{MapData, RingBuf};
use postern_core::{
    key::{DeniedEvent, GrantKey, ObservedValue, V4},
    verdict::{Fate, Hook},
};

use super::shared::denied_event;

/// Somebody was turned away. The kernel reports at most a few a second for each CPU; the counters have them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeniedAttempt {
    /// Who.
    pub source: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The host's port.
    pub port: u16,
    /// Which hook turned them away.
    pub hook: Hook,
    /// Why.
    pub fate: Fate,
}

/// The reader. Its descriptor is readable (epoll) while there is something to drain.
pub struct DeniedAttempts {
    ring: RingBuf<MapData>,
}

impl DeniedAttempts {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// Everything that was reported since the last call. Events of a layout that this build does not know are left out.
    pub fn drain(&mut self) -> Vec<DeniedAttempt> {
        let mut denied = Vec::new();
        while let Some(item) = self.ring.next() {
            denied.extend(denied_event(&item).and_then(attempt));
        }
        denied
    }
}

impl AsRawFd for DeniedAttempts {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

/// What one source would have been refused at one port, had the host not only observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Who.
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

impl Observed {
    pub(super) fn new(key: &GrantKey, value: ObservedValue) -> Self {
        let ObservedValue { lookups, packets, last_boot_ns } = value;
        let source = address(key.family, key.source().bytes());
        Self { source, protocol: key.protocol, port: u16::from_be_bytes(key.port), lookups, packets, last_boot_ns }
    }
}

fn address(family: u8, bytes: [u8; 16]) -> IpAddr {
    let [a, b, c, d, ..] = bytes;
    if family == V4 { Ipv4Addr::new(a, b, c, d).into() } else { Ipv6Addr::from(bytes).into() }
}

fn attempt(event: DeniedEvent) -> Option<DeniedAttempt> {
    Some(DeniedAttempt {
        source: address(event.family, event.source),
        protocol: event.protocol,
        port: u16::from_be_bytes(event.port),
        hook: Hook::from_index(event.hook)?,
        fate: Fate::from_index(event.fate)?,
    })
}

impl AsFd for DeniedAttempts {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
