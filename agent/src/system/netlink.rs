//! Parses netlink messages about sockets and addresses.
//!
//! Owns the parsing. It holds no socket, so that tests can give it any bytes (the fuzz target `netlink` does).

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NetlinkDeserializable, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::inet::SocketId;

/// A session's socket, as the kernel finds it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// `AF_INET` or `AF_INET6`.
    pub family: u8,
    /// Addresses, ports and cookie.
    pub id: SocketId,
}

impl Socket {
    /// The socket that a message of a dump is about, if it is about one.
    #[must_use]
    pub fn of(message: SockDiagMessage) -> Option<Self> {
        let SockDiagMessage::InetResponse(response) = message else { return None };
        Some(Self { family: response.header.family, id: response.header.socket_id })
    }

    /// What `bpf_get_socket_cookie` and `SO_COOKIE` say of this socket; netlink carries the lower half first.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        let [a, b, c, d, e, f, g, h] = self.id.cookie;
        u64::from(u32::from_ne_bytes([a, b, c, d])) | u64::from(u32::from_ne_bytes([e, f, g, h])) << 32
    }
}

/// Takes the first message off what is left of a datagram.
///
/// # Errors
/// When it is none; what follows it cannot be found then.
pub fn take<M: NetlinkDeserializable>(datagram: &mut Vec<u8>) -> io::Result<NetlinkPayload<M>> {
    let message = NetlinkMessage::<M>::deserialize(datagram).map_err(io::Error::other)?;
    // netlink(7): messages are aligned to 4 bytes.
    let used = (message.header.length as usize).next_multiple_of(4).min(datagram.len());
    datagram.drain(..used);
    Ok(message.payload)
}

/// The host's own addresses in one message about them.
pub fn own_addresses(message: &AddressMessage) -> impl Iterator<Item = IpAddr> + '_ {
    message.attributes.iter().filter_map(|attribute| match attribute {
        // IFA_LOCAL is the host's end of a point-to-point link; IPv6 has IFA_ADDRESS alone.
        AddressAttribute::Local(address) => Some(*address),
        AddressAttribute::Address(address @ IpAddr::V6(_)) => Some(*address),
        _ => None,
    })
}
