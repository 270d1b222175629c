//! The conversation with netlink: lists the sessions of one port, destroys one socket, names the host's own addresses.
//!
//! Owns the order of messages. It never chooses whose session ends.

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
/// The kernel answers within the system call; a silence this long means that it never will.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// What the kernel did with one socket.
pub(super) enum Fate {
    Destroyed,
    /// Closed by itself in the meantime.
    Gone,
    /// The kernel's error number.
    Refused(i32),
}

/// The sessions of `protocol` (TCP or UDP) on local `port`, of both families, half-open ones too. IPv6 sockets that carry IPv4
/// are among those of IPv6. The kernel filters by port, so a host with a million other sockets costs no more copying.
pub(super) fn list(protocol: u8, port: u16) -> io::Result<Vec<Socket>> {
    list_in(protocol, port, states_of(protocol))
}

/// Those of the sessions whose handshake is over and whose socket is whole.
pub(super) fn list_established(protocol: u8, port: u16) -> io::Result<Vec<Socket>> {
    list_in(protocol, port, established_states_of(protocol))
}

/// The sockets that take new sessions on local `port`.
pub(super) fn list_listening(protocol: u8, port: u16) -> io::Result<Vec<Socket>> {
    // A UDP socket that is bound and not connected counts as closed.
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

/// Asks the kernel to abort one socket, named by its addresses and its cookie, so that no later socket with the same
/// addresses is hit.
pub(super) fn destroy(protocol: u8, socket: &Socket) -> io::Result<Fate> {
    let request = SockDiagDestroy::new(request(socket.family, protocol, socket.id.clone(), states_of(protocol)));
    Ok(fate(Conversation::begin(NETLINK_SOCK_DIAG, NLM_F_ACK, request)?.acknowledgement::<SockDiagMessage>()?))
}

/// What an acknowledgement means: it carries an error number, 0 for success.
fn fate(errno: i32) -> Fate {
    const GONE: [Errno; 3] = [Errno::NOENT, Errno::STALE, Errno::NOTCONN];
    match errno {
        0 => Fate::Destroyed,
        _ if GONE.iter().any(|gone| gone.raw_os_error() == errno) => Fate::Gone,
        _ => Fate::Refused(errno),
    }
}

/// Why the kernel would not list or abort sockets, found out by asking for one that cannot exist: without the module for it, without
/// `CONFIG_INET_DIAG_DESTROY`, or without CAP_NET_ADMIN.
pub(super) fn cannot_destroy() -> io::Result<Option<i32>> {
    // No service listens on port 1 (tcpmux), and a list of it is short.
    list(TCP, 1)?;
    let nobody = request(AF_INET, TCP, SocketId::new_v4(), states_of(TCP));
    let mut asked = Conversation::begin(NETLINK_SOCK_DIAG, NLM_F_ACK, SockDiagDestroy::new(nobody))?;
    Ok(match fate(asked.acknowledgement::<SockDiagMessage>()?) {
        Fate::Refused(errno) => Some(errno),
        Fate::Destroyed | Fate::Gone => None,
    })
}

/// The host's own addresses in this network namespace.
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

/// One request and its answers, on a socket of its own, so that no answer is taken for another's.
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

    /// The next item of a dump, or nothing at its end.
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

    /// The error number in the answer to a request, 0 for success.
    fn acknowledgement<M: NetlinkDeserializable>(&mut self) -> io::Result<i32> {
        loop {
            if let NetlinkPayload::Error(error) = self.next::<M>()? {
                return Ok(error.raw_code().saturating_neg());
            }
        }
    }

    /// The next message, read from the kernel when the last datagram is used up.
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

/// The states in which a socket is a session. TCP: all but listeners, closed sockets and `TIME_WAIT`, which belongs to no
/// program any more (and which older kernels refuse to destroy). UDP: a connected socket counts as established, an
/// unconnected one as closed.
fn states_of(protocol: u8) -> StateFlags {
    match protocol {
        TCP => StateFlags::all() - StateFlags::LISTEN - StateFlags::CLOSE - StateFlags::TIME_WAIT,
        _ => StateFlags::ESTABLISHED,
    }
}

/// The states of [`list_established`]: those in which the cut looks for a session's cookie (`agent-ebpf/src/cut.rs`). A mini
/// socket on its way to `TIME_WAIT` may show as `FIN_WAIT2`; the cut sees that it is no whole socket.
fn established_states_of(protocol: u8) -> StateFlags {
    match protocol {
        TCP => states_of(TCP) - StateFlags::SYN_SENT - StateFlags::SYN_RECV,
        _ => StateFlags::ESTABLISHED,
    }
}
