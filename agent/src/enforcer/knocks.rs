//! Who was turned away, as the kernel reports it.
//!
//! Owns reading the ring buffer. It never blocks: wait for its descriptor to become readable, then drain it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use aya::maps::{MapData, RingBuf};
use postern_core::{
    key::{KnockEvent, V4},
    verdict::{Fate, Hook},
};

use super::shared::knock_event;

/// Somebody was turned away. The kernel reports at most a few a second for each CPU; the counters have them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Knock {
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
pub struct Knocks {
    ring: RingBuf<MapData>,
}

impl Knocks {
    pub(super) fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// Everything that was reported since the last call. Events of a layout that this build does not know are left out.
    pub fn drain(&mut self) -> Vec<Knock> {
        let mut knocks = Vec::new();
        while let Some(item) = self.ring.next() {
            knocks.extend(knock_event(&item).and_then(knock));
        }
        knocks
    }
}

impl AsRawFd for Knocks {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

fn knock(event: KnockEvent) -> Option<Knock> {
    let source = if event.family == V4 {
        let [a, b, c, d, ..] = event.source;
        IpAddr::from(Ipv4Addr::new(a, b, c, d))
    } else {
        IpAddr::from(Ipv6Addr::from(event.source))
    };
    Some(Knock {
        source,
        protocol: event.protocol,
        port: u16::from_be_bytes(event.port),
        hook: Hook::from_index(event.hook)?,
        fate: Fate::from_index(event.fate)?,
    })
}

impl AsFd for Knocks {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}
