//! What a client sees: one connection attempt or one datagram, and how it ends.
//!
//! Never retries: what a probe says is what one attempt met.

use crate::netns::Netns;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream, UdpSocket};
use std::time::Duration;

/// How long a probe waits before it calls the other side silent. A wire without loss answers at once; this is long
/// enough for a busy machine and shorter than the first retransmission (1 s), so a probe is one attempt.
pub const PATIENCE: Duration = Duration::from_millis(300);

/// How long a probe waits for an answer that must come: longer than the first retransmissions of a SYN and of neighbour
/// discovery, for machines that are busy with other things.
pub const LONG_PATIENCE: Duration = Duration::from_secs(4);

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A connection, or an answer to the datagram.
    Answered,
    /// A RST or an ICMP port unreachable, as from a port without a listener.
    Refused,
    /// Nothing in time.
    Silent,
}

/// Tries to connect from one of the namespace's addresses.
///
/// # Panics
/// On errors that say nothing about the other side, for example an address that the namespace does not have.
#[must_use]
pub fn tcp(namespace: &Netns, from: impl Into<IpAddr>, to: SocketAddr) -> Outcome {
    outcome(connect_within(namespace, from.into(), to, PATIENCE))
}

/// As [`tcp`], and whether it is answered, for where silence would be a fault: waits [`LONG_PATIENCE`].
///
/// # Panics
/// As [`tcp`].
#[must_use]
pub fn tcp_answers(namespace: &Netns, from: impl Into<IpAddr>, to: SocketAddr) -> bool {
    outcome(connect_within(namespace, from.into(), to, LONG_PATIENCE)) == Outcome::Answered
}

/// Connects from one of the namespace's addresses.
///
/// # Errors
/// As `connect(2)`; `TimedOut` after [`LONG_PATIENCE`].
pub fn connect(namespace: &Netns, from: impl Into<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    connect_within(namespace, from.into(), to, LONG_PATIENCE)
}

fn connect_within(namespace: &Netns, from: IpAddr, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let from = source(from, to);
    namespace.run(move || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), patience)?;
        Ok(socket.into())
    })
}

/// Sends one datagram to a service that answers each (see [`crate::service::Service::udp_echo`]).
///
/// # Panics
/// On errors that say nothing about the other side.
#[must_use]
pub fn udp(namespace: &Netns, from: impl Into<IpAddr>, to: SocketAddr) -> Outcome {
    datagram(namespace, from.into(), to, PATIENCE)
}

/// As [`udp`], and whether it is answered, for where silence would be a fault: waits [`LONG_PATIENCE`].
///
/// # Panics
/// As [`udp`].
#[must_use]
pub fn udp_answers(namespace: &Netns, from: impl Into<IpAddr>, to: SocketAddr) -> bool {
    datagram(namespace, from.into(), to, LONG_PATIENCE) == Outcome::Answered
}

fn datagram(namespace: &Netns, from: IpAddr, to: SocketAddr, patience: Duration) -> Outcome {
    let from = source(from, to);
    outcome(namespace.run(move || {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(patience))?;
        socket.send(b"probe")?;
        socket.recv(&mut [0; 64]).map(drop)
    }))
}

/// Where a probe comes from; a link-local address belongs to the interface that `to` names.
fn source(from: IpAddr, to: SocketAddr) -> SocketAddr {
    match (from, to) {
        (IpAddr::V6(from), SocketAddr::V6(to)) => SocketAddrV6::new(from, 0, 0, to.scope_id()).into(),
        (from, _) => SocketAddr::new(from, 0),
    }
}

fn outcome<T>(result: io::Result<T>) -> Outcome {
    match result {
        Ok(_) => Outcome::Answered,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Outcome::Refused,
        Err(error) if [io::ErrorKind::TimedOut, io::ErrorKind::WouldBlock].contains(&error.kind()) => Outcome::Silent,
        Err(error) => panic!("a probe that says nothing: {error}"),
    }
}
