//! Netlink requests: lists the sessions of a port, destroys a socket, lists the host's own addresses. Never chooses which session ends.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use netlink_packet_sock_diag::{SockDiagDestroy, SockDiagMessage};
use netlink_sys::protocols::{NETLINK_ROUTE, NETLINK_SOCK_DIAG};
use netlink_sys::{Socket as NetlinkSocket, SocketAddr as NetlinkAddr};
use postern_core::key::TCP;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::system::netlink::{self, Socket, take};

/// The kernel fills at most 32 KiB per read of a dump (`netlink_dump`).
const READ_BYTES: usize = 64 * 1024;
/// The kernel answers within the system call; after this time no answer will come.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub(super) enum Fate {
    Destroyed,
    /// The socket closed by itself in the meantime.
    Gone,
    Refused(i32),
}

/// The sessions of `protocol` (TCP or UDP) on local `port` over IPv4 and IPv6, half-open ones too. IPv6 sockets may carry IPv4. The kernel
/// filters by port, so a million other sockets cost no copying.
pub(super) fn list(protocol: u8, port: u16) -> io::Result<Vec<Socket>> {
    list_in(protocol, port, states_of(protocol))
}

/// The sessions whose handshake is complete.
pub(super) fn list_established(protocol: u8, port: u16) -> io::Result<Vec<Socket>> {
    list_in(protocol, port, established_states_of(protocol))
}

/// The sockets that accept new sessions on local `port`.
pub(super) fn list_listening(protocol: u8, port: u16) -> io::Result<Vec<Socket>> {
    // A bound, unconnected UDP socket counts as closed.
    list_in(protocol, port, if protocol == TCP { StateFlags::LISTEN } else { StateFlags::CLOSE })
}

fn list_in(protocol: u8, port: u16, states: StateFlags) -> io::Result<Vec<Socket>> {
    let mut found = Vec::new();
    for (family, mut id) in [(AF_INET, SocketId::new_v4()), (AF_INET6, SocketId::new_v6())] {
        id.source_port = port;
        let request = request(family, protocol, id, states.clone());
        let mut answers = Conversation::begin(NETLINK_SOCK_DIAG, NLM_F_DUMP, request)?;
        while let Some(message) = answers.next_of_dump()? {
            found.extend(Socket::of(message).filter(|socket| socket.id.source_port == port));
        }
    }
    Ok(found)
}

/// Asks the kernel to abort one socket. The cookie protects a later socket with the same addresses.
pub(super) fn destroy(protocol: u8, socket: &Socket) -> io::Result<Fate> {
    let request = SockDiagDestroy::new(request(socket.family, protocol, socket.id.clone(), states_of(protocol)));
    Ok(fate(Conversation::begin(NETLINK_SOCK_DIAG, NLM_F_ACK, request)?.acknowledgement::<SockDiagMessage>()?))
}

/// The meaning of the error number in an acknowledgement; 0 is success.
fn fate(errno: i32) -> Fate {
    const GONE: [Errno; 3] = [Errno::NOENT, Errno::STALE, Errno::NOTCONN];
    match errno {
        0 => Fate::Destroyed,
        _ if GONE.iter().any(|gone| gone.raw_os_error() == errno) => Fate::Gone,
        _ => Fate::Refused(errno),
    }
}

/// Why the kernel would not list or abort sockets: no module, no `CONFIG_INET_DIAG_DESTROY`, or no CAP_NET_ADMIN. Asks for a socket that
/// cannot exist.
pub(super) fn cannot_destroy() -> io::Result<Option<i32>> {
    // No service listens on port 1 (tcpmux), so its list is short.
    list(TCP, 1)?;
    let nobody = request(AF_INET, TCP, SocketId::new_v4(), states_of(TCP));
    let mut asked = Conversation::begin(NETLINK_SOCK_DIAG, NLM_F_ACK, SockDiagDestroy::new(nobody))?;
    Ok(match fate(asked.acknowledgement::<SockDiagMessage>()?) {
        Fate::Refused(errno) => Some(errno),
        Fate::Destroyed | Fate::Gone => None,
    })
}

pub(super) fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let all = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let mut answers = Conversation::begin(NETLINK_ROUTE, NLM_F_DUMP, all)?;
    let mut own = Vec::new();
    while let Some(message) = answers.next_of_dump()? {
        let RouteNetlinkMessage::NewAddress(message) = message else { continue };
        own.extend(netlink::own_addresses(&message));
    }
    Ok(own)
}

/// One request and its answers, on a socket of its own, so that answers are not mixed up.
struct Conversation {
    socket: NetlinkSocket,
    buffer: Vec<u8>,
}

impl Conversation {
    fn begin<M>(protocol: isize, flags: u16, message: M) -> io::Result<Self>
    where
        M: NetlinkSerializable + Into<NetlinkPayload<M>>,
    {
        let socket = NetlinkSocket::new(protocol)?;
        socket.connect(&NetlinkAddr::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WITHIN))?;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        let mut packet = NetlinkMessage::new(header, message.into());
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        socket.send(&bytes, 0)?;
        Ok(Self { socket, buffer: Vec::with_capacity(READ_BYTES) })
    }

    fn next_of_dump<M: NetlinkDeserializable>(&mut self) -> io::Result<Option<M>> {
        loop {
            match self.next()? {
                NetlinkPayload::InnerMessage(message) => return Ok(Some(message)),
                NetlinkPayload::Done(_) => return Ok(None),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                _ => {}
            }
        }
    }

    fn acknowledgement<M: NetlinkDeserializable>(&mut self) -> io::Result<i32> {
        loop {
            if let NetlinkPayload::Error(error) = self.next::<M>()? {
                return Ok(error.raw_code().saturating_neg());
            }
        }
    }

    fn next<M: NetlinkDeserializable>(&mut self) -> io::Result<NetlinkPayload<M>> {
        if self.buffer.is_empty() && self.socket.recv(&mut self.buffer, 0)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        take(&mut self.buffer)
    }
}

fn request(family: u8, protocol: u8, socket_id: SocketId, states: StateFlags) -> SockDiagMessage {
    let extensions = ExtensionFlags::empty();
    SockDiagMessage::InetRequest(InetRequest { family, protocol, extensions, states, socket_id })
}

/// The states of sessions. TCP: all but listeners, closed sockets and `TIME_WAIT`, which belongs to no program (and which older kernels
/// refuse to destroy). UDP: a connected socket counts as established.
fn states_of(protocol: u8) -> StateFlags {
    match protocol {
        TCP => StateFlags::all() - StateFlags::LISTEN - StateFlags::CLOSE - StateFlags::TIME_WAIT,
        _ => StateFlags::ESTABLISHED,
    }
}

/// The states of [`list_established`]: those in which the cut looks for a session's cookie (`agent-ebpf/src/cut.rs`). A mini socket on its
/// way to `TIME_WAIT` may show as `FIN_WAIT2`; the cut recognises it.
fn established_states_of(protocol: u8) -> StateFlags {
    match protocol {
        TCP => states_of(TCP) - StateFlags::SYN_SENT - StateFlags::SYN_RECV,
        _ => StateFlags::ESTABLISHED,
    }
}
