//! Ending the sessions of a grant that is over.
//!
//! Owns the conversation with the kernel's `sock_diag`: list the sockets of protected ports, destroy those that no live grant
//! carries, so that both ends see it at once instead of hanging in silence. It never touches listeners or unconnected UDP sockets,
//! and it guarantees nothing: the cut has stopped the packets already.
//!
//! Minimum kernel: 4.9 with `CONFIG_INET_DIAG_DESTROY` (Debian's kernels have it).

use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_core::{NetlinkDeserializable, NetlinkSerializable};
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_SOCK_DIAG};
use postern_core::grant::Grant;
use postern_core::key::TCP;

/// What one grant opens on one port: the sessions that it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// IP protocol number.
    pub protocol: u8,
    /// The host's port.
    pub port: u16,
    /// Where the other end is.
    pub source: IpNet,
}

/// The scopes of a grant.
pub fn scopes(grant: &Grant) -> impl Iterator<Item = Scope> + '_ {
    let ports = grant.ports.iter().flat_map(|p| p.protocol.numbers().iter().map(|&protocol| (protocol, p.number)));
    ports.flat_map(|(protocol, port)| grant.sources.iter().map(move |s| Scope { protocol, port, source: s.net() }))
}

impl Scope {
    fn carries(&self, protocol: u8, port: u16, peer: IpAddr) -> bool {
        self.protocol == protocol && self.port == port && self.source.contains(&peer)
    }
}

/// Whether a socket's session is over: an ended grant carried it and no live one does.
fn is_over(protocol: u8, id: &SocketId, over: &[Scope], kept: &[Scope]) -> bool {
    let peer = id.destination_address.to_canonical();
    let carried = |scopes: &[Scope]| scopes.iter().any(|scope| scope.carries(protocol, id.source_port, peer));
    id.destination_port != 0 && carried(over) && !carried(kept)
}

/// Destroys the TCP connections and connected UDP sockets that a scope in `over` carried and none in `kept` carries; says how many.
///
/// # Errors
/// When the kernel cannot be asked (no `CAP_NET_ADMIN`), or refuses to destroy (no `CONFIG_INET_DIAG_DESTROY`). A socket that ended
/// by itself in between is no error.
pub fn destroy(over: &[Scope], kept: &[Scope]) -> io::Result<usize> {
    let mut destroyed = 0;
    for protocol in [TCP, postern_core::key::UDP] {
        if over.iter().all(|scope| scope.protocol != protocol) {
            continue;
        }
        // An IPv4 peer of a dual-stack socket is listed under AF_INET6.
        for family in [AF_INET, AF_INET6] {
            for id in list(family, protocol)?.iter().filter(|id| is_over(protocol, id, over, kept)) {
                destroyed += usize::from(destroy_one(family, protocol, id)?);
            }
        }
    }
    Ok(destroyed)
}

fn request(family: u8, protocol: u8, socket_id: SocketId) -> SockDiagMessage {
    // Connected UDP sockets count as established, unconnected ones as closed.
    let states = match protocol {
        TCP => StateFlags::all() - StateFlags::LISTEN - StateFlags::CLOSE,
        _ => StateFlags::ESTABLISHED,
    };
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id,
    })
}

fn list(family: u8, protocol: u8) -> io::Result<Vec<SocketId>> {
    let any = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let socket = ask(request(family, protocol, any), NLM_F_REQUEST | NLM_F_DUMP)?;
    let mut found = Vec::new();
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        for message in messages::<SockDiagMessage>(&bytes) {
            match message?.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    found.push(response.header.socket_id)
                }
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
    }
}

/// Whether this call destroyed the socket; false when it was gone already.
fn destroy_one(family: u8, protocol: u8, id: &SocketId) -> io::Result<bool> {
    let message = SockDiagDestroy::new(request(family, protocol, id.clone()));
    let socket = ask(message, NLM_F_REQUEST | NLM_F_ACK)?;
    let (bytes, _) = socket.recv_from_full()?;
    for message in messages::<SockDiagDestroy>(&bytes) {
        if let NetlinkPayload::Error(error) = message?.payload
            && error.code.is_some()
        {
            let error = error.to_io();
            return if error.kind() == io::ErrorKind::NotFound { Ok(false) } else { Err(error) };
        }
    }
    Ok(true)
}

/// Sends one request on a socket of its own, so that no answer is taken for another's.
fn ask<T>(payload: T, flags: u16) -> io::Result<Socket>
where
    T: NetlinkSerializable + Into<NetlinkPayload<T>>,
{
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, payload.into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    Ok(socket)
}

/// The messages of one datagram.
fn messages<T: NetlinkDeserializable>(mut bytes: &[u8]) -> impl Iterator<Item = io::Result<NetlinkMessage<T>>> + '_ {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let message = NetlinkMessage::<T>::deserialize(bytes).map_err(io::Error::other);
        // netlink(7): messages are aligned to 4 bytes.
        let length = message.as_ref().map_or(bytes.len(), |m| (m.header.length as usize).next_multiple_of(4));
        bytes = bytes.get(length.max(16)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(protocol: u8, port: u16, source: &str) -> Scope {
        Scope { protocol, port, source: source.parse().unwrap() }
    }

    fn socket(port: u16, peer: &str, peer_port: u16) -> SocketId {
        let addresses = SocketId { destination_address: peer.parse().unwrap(), ..SocketId::new_v6() };
        SocketId { source_port: port, destination_port: peer_port, ..addresses }
    }

    #[test]
    fn only_sessions_that_no_live_grant_carries_are_over() {
        let over = [scope(6, 22, "10.0.0.0/8"), scope(6, 22, "2001:db8::/32")];
        let kept = [scope(6, 22, "10.1.0.0/16")];
        for (socket, want) in [
            (socket(22, "10.0.0.1", 4000), true),
            (socket(22, "::ffff:10.0.0.1", 4000), true),
            (socket(22, "2001:db8::9", 4000), true),
            (socket(22, "10.1.0.1", 4000), false),
            (socket(22, "11.0.0.1", 4000), false),
            (socket(23, "10.0.0.1", 4000), false),
            (socket(22, "10.0.0.1", 0), false),
        ] {
            assert_eq!(is_over(6, &socket, &over, &kept), want, "{socket:?}");
        }
        assert!(!is_over(17, &socket(22, "10.0.0.1", 4000), &over, &kept));
    }

    #[test]
    fn a_connection_on_loopback_is_destroyed_for_both_ends_and_others_live() {
        use std::io::Read as _;
        use std::net::{TcpListener, TcpStream};
        let pair = |address: &str| {
            let listener = TcpListener::bind((address, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            let client = TcpStream::connect((address, port)).unwrap();
            (listener.accept().unwrap().0, client, port)
        };
        for (address, net) in [("127.0.0.1", "127.0.0.0/8"), ("::1", "::1/128")] {
            let (mut server, mut client, port) = pair(address);
            let (mut other_server, _other_client, other_port) = pair(address);
            assert_eq!(destroy(&[scope(6, port, net)], &[scope(6, port, net)]).unwrap(), 0);
            assert_eq!(destroy(&[scope(6, port, net)], &[scope(6, other_port, net)]).unwrap(), 1);
            assert_eq!(server.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
            assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
            other_server.set_nonblocking(true).unwrap();
            assert_eq!(other_server.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }
}
