//! The address whose grant a packet needs. Owns the choice between the socket's address and the address in the IP header
//! (docs/decisions/0045): IPsec and segment routing put a gateway's address in front before the cut sees a packet. The eBPF programs and
//! the host tests compile this same code. It never reads a packet or a socket.

use crate::{
    key::{Address, UDP},
    verdict::{Table, Verdict, covered, gate},
};

/// The IP header in front of a packet, as the cut reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The packet's own header, with this remote address.
    Own(Address),
    /// A header of an encapsulation: it carries another protocol than the socket's.
    Other,
    /// Neither an IPv4 nor an IPv6 header.
    Unreadable,
}

/// The peer whose grant a packet needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// This address needs a grant.
    One(Address),
    /// Both need a grant: the socket's remote address, and the address in the header.
    Both(Address, Address),
    /// No grant is needed. A TCP listener sends handshakes and resets without data, to an unknown peer.
    Handshake,
    /// The peer is unknown, so the packet is refused.
    Unknown,
}

impl Peer {
    /// The peer of an incoming (`inwards`) or outgoing packet, by the header in front of it and the remote address of its connected
    /// socket. An incoming packet has no encapsulation left, so its header counts. A connected TCP socket sends only to its own peer. A
    /// connected UDP socket may send elsewhere (`sendto(2)`), so its own header counts too. The closures save time and verifier steps.
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

/// The evidence that the host itself opened a socket's connection (docs/decisions/0051).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction<'a> {
    /// The kernel's record of an MPTCP connection.
    Known {
        /// Whether the host opened it.
        ours: bool,
    },
    /// The mark that the socket got when it connected; `None` without a mark.
    Marked(Option<&'a Address>),
}

/// Whether the host itself opened the connection of a packet's socket. `listens` is true for a TCP listener, `connected` for a connected
/// UDP socket. A TCP socket gets a new mark with each SYN. A UDP socket can connect or send elsewhere, so its mark counts for one address.
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

/// Decides over `table` whether a packet may pass between the host's `port` (host byte order) and `peer`, and for which address.
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
        // The socket's own peer counts for TCP, whatever the header.
        assert_eq!(of(false, TCP, Header::Unreadable, Some(A)), Peer::One(A));
    }
}
