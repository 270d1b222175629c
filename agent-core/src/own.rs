//! The layout of the two maps that survive a restart of the agent (docs/decisions/0051-the-hosts-own-connections.md). Owns the bytes of
//! the maps `OWN` and `MET`; [`crate::key`] owns those of the others. [`crate::peer::is_ours`] decides by them.

use crate::key::{Address, GrantKey};

/// The value of the socket storage `OWN`, 32 bytes: the host itself connected this socket to `peer`. Restarts keep this map, because only
/// the moment of the connection shows its direction. A type of another size is another map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnValue {
    /// The address that the host connected to; an IPv4 address even if an IPv6 socket carries IPv4.
    pub peer: Address,
    /// The socket's cookie, as in the key of `FLOWS`.
    pub cookie: u64,
}

/// The most entries of the map `MET`: the known peers, whose datagrams reached an unconnected socket of a protected port. If the map is
/// full, the host marks no further UDP socket as its own until it reboots.
pub const MOST_MET: u32 = 8192;

/// A key that no peer has: no protocol, no port. Its entry in `MET` holds 0 until the map lacked room for a peer.
#[inline(always)]
#[must_use]
pub fn nobody() -> GrantKey {
    GrantKey::new(Address::v4([0; 4]), 0, 0, 0)
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    #[test]
    fn a_mark_has_no_padding_and_nobody_is_no_peer() {
        assert_eq!(size_of::<OwnValue>(), 32);
        assert_ne!(nobody(), GrantKey::new(Address::v4([0; 4]), 32, crate::key::UDP, 0));
    }
}
