//! Parses netlink messages about sockets and addresses. Holds no socket, so that the fuzz target `netlink` can pass any bytes.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NetlinkDeserializable, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::inet::SocketId;

/// A session's socket, as netlink identifies it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// Addresses, ports and cookie.
    pub id: SocketId,
}

impl Socket {
    /// The socket in a message of a dump, if the message is about one.
    #[must_use]
    pub fn of(message: SockDiagMessage) -> Option<Self> {
        let SockDiagMessage::InetResponse(response) = message else { return None };
        Some(Self { family: response.header.family, id: response.header.socket_id })
    }

    /// The cookie that `bpf_get_socket_cookie` and `SO_COOKIE` return. Netlink carries the lower half first.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        let [a, b, c, d, e, f, g, h] = self.id.cookie;
        u64::from(u32::from_ne_bytes([a, b, c, d])) | u64::from(u32::from_ne_bytes([e, f, g, h])) << 32
    }
}

/// Takes the first message off a datagram.
///
/// # Errors
/// Fails if the datagram does not begin with a valid message. Then the rest of the datagram cannot be parsed.
pub fn take<M: NetlinkDeserializable>(datagram: &mut Vec<u8>) -> io::Result<NetlinkPayload<M>> {
    let message = NetlinkMessage::<M>::deserialize(datagram).map_err(io::Error::other)?;
    // netlink(7): messages are aligned to 4 bytes.
    let used = (message.header.length as usize).next_multiple_of(4).min(datagram.len());
    datagram.drain(..used);
    Ok(message.payload)
}

/// The host's own addresses in one message.
pub fn own_addresses(message: &AddressMessage) -> impl Iterator<Item = IpAddr> + '_ {
    message.attributes.iter().filter_map(|attribute| match attribute {
        // IFA_LOCAL is the host's end of a point-to-point link; IPv6 has IFA_ADDRESS only.
        AddressAttribute::Local(address) => Some(*address),
        AddressAttribute::Address(address @ IpAddr::V6(_)) => Some(*address),
        _ => None,
    })
}
