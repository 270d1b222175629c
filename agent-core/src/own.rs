//! The layout of the two maps that outlive every run of the agent (docs/decisions/0051-the-hosts-own-connections.md).
//!
//! Owns the bytes of the maps `OWN` and `MET`, as [`crate::key`] owns those of the others. It never decides
//! ([`crate::peer::is_ours`] does).

use crate::key::{Address, GrantKey};

/// Value of the socket storage `OWN`: the host itself connected this socket to `peer`. 32 bytes.
///
/// Restarts keep this map, unlike the others, because nothing but the moment of the connection shows its direction. A type of
/// another size is another map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnValue {
    /// The address that the host connected to; an IPv4 address also where an IPv6 socket carries IPv4.
    pub peer: Address,
    /// The socket's cookie, as in the key of `FLOWS`.
    pub cookie: u64,
}

/// The most entries of the map `MET`: who sent a datagram to an unconnected socket of a protected port, and was let in. A
/// host that has let in more marks no UDP socket as its own until it boots again.
pub const MOST_MET: u32 = 8192;

/// A key of nobody: no protocol, no port. Its entry in `MET` holds 0 until that map has had no room for somebody.
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
