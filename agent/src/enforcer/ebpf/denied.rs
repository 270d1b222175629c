//! Denied attempts from the ring buffer, and observed traffic from its map.
//!
//! Owns reading both. It never blocks.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, BorrowedFd},
};

use aya::maps::{MapData, RingBuf};
use postern_core::{
    key::{DeniedEvent, GrantKey, ObservedValue, V4},
    verdict::{Fate, Hook},
};

use super::shared::denied_event;
use crate::enforcer::{DeniedAttempt, DeniedAttempts, Observed};

pub struct Ring(pub(super) RingBuf<MapData>);

impl DeniedAttempts for Ring {
    /// Skips events of an unknown layout.
    fn drain(&mut self) -> Vec<DeniedAttempt> {
        let mut denied = Vec::new();
        while let Some(item) = self.0.next() {
            denied.extend(denied_event(&item).and_then(attempt));
        }
        denied
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

pub(super) fn observed(key: &GrantKey, value: ObservedValue) -> Observed {
    let ObservedValue { lookups, packets, last_boot_ns } = value;
    let source = address(key.family, key.source().bytes());
    Observed { source, protocol: key.protocol, port: u16::from_be_bytes(key.port), lookups, packets, last_boot_ns }
}

/// Converts an address of the maps.
pub(super) fn address(family: u8, bytes: [u8; 16]) -> IpAddr {
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
