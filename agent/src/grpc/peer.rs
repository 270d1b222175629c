//! The other end of a connection, as the kernel reports it.
//!
//! Owns [`Peer`]. It never decides: an address is no identity, and only root on the Unix socket may act without a signature.

use std::net::{IpAddr, Ipv6Addr};

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// On the Unix socket, with the user id that the kernel reports (`SO_PEERCRED`).
    Local(u32),
    /// Over TCP.
    Remote(IpAddr),
}

/// This host's own address at which a connection arrived; none on the Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached(pub Option<IpAddr>);

/// Connections that count together, because one attacker can get many of their addresses without cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A local user.
    User(u32),
    /// An IPv4 address, or an IPv6 /64 with the other bits cleared.
    Network(IpAddr),
}

impl Peer {
    /// Over TCP from `address`. An IPv4 address that arrived on an IPv6 socket becomes an IPv4 address.
    #[must_use]
    pub fn remote(address: IpAddr) -> Self {
        Self::Remote(address.to_canonical())
    }

    /// The peer's IP address.
    #[must_use]
    pub fn address(self) -> Option<IpAddr> {
        match self {
            Self::Local(_) => None,
            Self::Remote(address) => Some(address),
        }
    }

    /// Whether this peer may read without a signature.
    #[must_use]
    pub fn is_local_root(self) -> bool {
        self == Self::Local(0)
    }

    /// The source under which this peer counts.
    #[must_use]
    pub fn source(self) -> Source {
        match self {
            Self::Local(uid) => Source::User(uid),
            Self::Remote(IpAddr::V4(a)) => Source::Network(a.into()),
            Self::Remote(IpAddr::V6(a)) => Source::Network(network_of(a).into()),
        }
    }
}

fn network_of(address: Ipv6Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_ipv6_network_counts_once_and_mapped_addresses_are_ipv4() {
        let source = |text: &str| Peer::remote(text.parse().unwrap()).source();
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_eq!(Peer::remote("::ffff:192.0.2.1".parse().unwrap()).address(), Some("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn only_root_on_the_unix_socket_is_root() {
        assert!(Peer::Local(0).is_local_root());
        assert!(!Peer::Local(1000).is_local_root());
        assert!(!Peer::remote("127.0.0.1".parse().unwrap()).is_local_root());
    }
}
