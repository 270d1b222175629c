//! Whose grant does a packet of a socket need?
//!
//! Owns the choice between the address of the socket and the address in the IP header (docs/decisions/0045). The kernel
//! encapsulates packets before the cut sees them: IPsec and segment routing put a gateway's address in front. The eBPF
//! programs and the host tests compile this same code. It never reads a packet or a socket by itself.

use crate::{
    key::{Address, UDP},
    verdict::{Table, Verdict, covered, gate},
};

/// The IP header in front of a packet, as far as the cut reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The header belongs to the packet itself. This is the remote address in it.
    Own(Address),
    /// The kernel has encapsulated the packet: the header carries another protocol than the socket's.
    Other,
    /// Neither an IPv4 nor an IPv6 header.
    Unreadable,
}

/// Whose grant a packet needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The grant of this address.
    One(Address),
    /// A grant of each of the two: the socket's remote address, and the address in the header.
    Both(Address, Address),
    /// None. A TCP listener sends handshakes and resets, and no data; nothing shows to whom.
    Handshake,
    /// Nobody's: nothing shows who the peer is, so the packet is refused.
    Unknown,
}

impl Peer {
    /// The peer of a packet that comes in (`inwards`) or leaves, by the header in front of it and by `connected`: the remote
    /// address of the packet's socket, where the socket is connected.
    ///
    /// Inwards the stack has taken every encapsulation off, so the header is the packet's own. Outwards a connected TCP socket
    /// sends to its own peer and to nobody else. A connected UDP socket may send elsewhere (`sendto(2)`), so its header
    /// counts too, where it is its own.
    ///
    /// Both are asked for only where they count, for a packet's cost and for the kernel's verifier.
    #[inline(always)]
    #[must_use]
    pub fn of(
        inwards: bool,
        protocol: u8,
        header: impl Fn() -> Header,
        connected: impl Fn() -> Option<Address>,
    ) -> Self {
        if inwards {
            return match header() {
                Header::Own(header) => Self::One(header),
                Header::Other | Header::Unreadable => Self::Unknown,
            };
        }
        if protocol != UDP {
            return match connected() {
                Some(own) => Self::One(own),
                None => Self::of_listener(header()),
            };
        }
        match (header(), connected()) {
            (Header::Own(header), None) => Self::One(header),
            (Header::Own(header), Some(own)) if header != own => Self::Both(own, header),
            (Header::Own(_) | Header::Other, Some(own)) => Self::One(own),
            (Header::Other, None) | (Header::Unreadable, _) => Self::Unknown,
        }
    }

    #[inline(always)]
    fn of_listener(header: Header) -> Self {
        match header {
            Header::Own(header) => Self::One(header),
            Header::Other => Self::Handshake,
            Header::Unreadable => Self::Unknown,
        }
    }
}

/// What shows that the host itself opened a socket's connection (docs/decisions/0051).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction<'a> {
    /// The kernel's own record: an MPTCP connection, which knows who opened it.
    Known {
        /// Whether the host opened it.
        ours: bool,
    },
    /// The mark that the socket got when it connected; `None` where it has none.
    Marked(Option<&'a Address>),
}

/// Whether the host itself opened the connection of a packet's socket. `listens` is true for a TCP listener, which has no
/// connection. `connected` is true for a UDP socket that is connected now.
///
/// A TCP socket gets its mark by its first SYN, and no socket is connected twice without another one. A UDP socket can be
/// connected to somebody else at any time, and can send to anybody, so its mark counts for one address.
#[inline(always)]
#[must_use]
pub fn is_ours(direction: Direction<'_>, protocol: u8, listens: bool, connected: bool, peer: &Peer) -> bool {
    if protocol != UDP {
        return !listens
            && match direction {
                Direction::Known { ours } => ours,
                Direction::Marked(mark) => mark.is_some(),
            };
    }
    let Direction::Marked(Some(mark)) = direction else {
        return false;
    };
    connected && matches!(peer, Peer::One(address) if address == mark)
}

/// Decides over `table` whether a packet may pass between `port` (host byte order) of the host and `peer`, by `protocol`. Also
/// says which address the verdict is about; `None` where no address was looked up.
#[inline(always)]
pub fn decide_packet(table: &impl Table, protocol: u8, port: u16, peer: Peer) -> (Verdict, Option<Address>) {
    if let Some(verdict) = gate(table, protocol, port) {
        return (verdict, None);
    }
    match peer {
        Peer::One(address) => (covered(table, protocol, port, address), Some(address)),
        Peer::Both(own, header) => match covered(table, protocol, port, own) {
            Verdict::Granted { .. } | Verdict::Established => (covered(table, protocol, port, header), Some(header)),
            refused => (refused, Some(own)),
        },
        Peer::Handshake => (Verdict::Handshake, None),
        Peer::Unknown => (Verdict::NoAddress, None),
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;
    use crate::key::TCP;

    const A: Address = Address::v4([192, 0, 2, 7]);
    const B: Address = Address::v4([192, 0, 2, 8]);

    fn of(inwards: bool, protocol: u8, header: Header, connected: Option<Address>) -> Peer {
        Peer::of(inwards, protocol, || header, || connected)
    }

    #[test]
    fn a_connected_socket_sends_to_its_own_peer() {
        for protocol in [TCP, UDP] {
            assert_eq!(of(false, protocol, Header::Own(A), Some(A)), Peer::One(A));
            assert_eq!(of(false, protocol, Header::Other, Some(A)), Peer::One(A));
        }
        assert_eq!(of(false, TCP, Header::Own(B), Some(A)), Peer::One(A));
    }

    #[test]
    fn a_datagram_to_somebody_else_than_the_sockets_peer_needs_both_grants() {
        assert_eq!(of(false, UDP, Header::Own(B), Some(A)), Peer::Both(A, B));
    }

    #[test]
    fn an_unconnected_socket_sends_by_its_own_header_alone() {
        for protocol in [TCP, UDP] {
            assert_eq!(of(false, protocol, Header::Own(A), None), Peer::One(A));
        }
        assert_eq!(of(false, UDP, Header::Other, None), Peer::Unknown);
        assert_eq!(of(false, TCP, Header::Other, None), Peer::Handshake);
    }

    #[test]
    fn what_comes_in_comes_from_the_headers_source() {
        for (protocol, connected) in [(TCP, None), (TCP, Some(A)), (UDP, None), (UDP, Some(A))] {
            assert_eq!(of(true, protocol, Header::Own(B), connected), Peer::One(B));
            assert_eq!(of(true, protocol, Header::Other, connected), Peer::Unknown);
        }
    }

    #[test]
    fn a_tcp_connection_is_ours_by_its_mark_or_by_the_kernels_record() {
        let ours = |direction: Direction<'_>, listens| is_ours(direction, TCP, listens, false, &Peer::One(B));
        assert!(ours(Direction::Marked(Some(&A)), false) && ours(Direction::Known { ours: true }, false));
        assert!(!ours(Direction::Marked(None), false) && !ours(Direction::Known { ours: false }, false));
        assert!(!ours(Direction::Marked(Some(&A)), true) && !ours(Direction::Known { ours: true }, true), "a listener");
    }

    #[test]
    fn a_udp_socket_is_ours_for_the_address_that_it_was_connected_to() {
        let ours = |direction: Direction<'_>, connected, peer: Peer| is_ours(direction, UDP, false, connected, &peer);
        let mark = Direction::Marked(Some(&A));
        assert!(ours(mark, true, Peer::One(A)));
        assert!(!ours(mark, false, Peer::One(A)), "it is connected no longer");
        assert!(!ours(mark, true, Peer::One(B)), "it is connected to somebody else");
        assert!(!ours(mark, true, Peer::Both(A, B)), "it sends to somebody else");
        assert!(!ours(Direction::Marked(None), true, Peer::One(A)) && !ours(mark, true, Peer::Unknown));
        assert!(!ours(Direction::Known { ours: true }, true, Peer::One(A)));
    }

    #[test]
    fn nobody_is_the_peer_behind_a_header_that_cannot_be_read() {
        for (inwards, protocol, connected) in
            [(true, TCP, None), (true, TCP, Some(A)), (true, UDP, Some(A)), (false, UDP, Some(A)), (false, UDP, None)]
        {
            assert_eq!(of(inwards, protocol, Header::Unreadable, connected), Peer::Unknown);
        }
        assert_eq!(of(false, TCP, Header::Unreadable, None), Peer::Unknown);
        // A TCP socket's own peer is known whatever stands in front.
        assert_eq!(of(false, TCP, Header::Unreadable, Some(A)), Peer::One(A));
    }
}
