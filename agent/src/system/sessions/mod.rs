//! The sessions of protected ports: finds those that may outlive their grant, and ends those of a grant that is over.
//!
//! Owns the use of `sock_diag`. A destroyed socket shows both ends that the session is over; the cut (cgroup hook) has stopped the packets
//! already. Never touches listeners or unconnected UDP sockets. Needs Linux 4.9 with `CONFIG_INET_DIAG_DESTROY` (Debian has it).

mod diag;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_sock_diag::inet::SocketId;
use postern_core::grant::Grant;
pub use postern_core::retained::Session;

use crate::system::netlink::Socket;
use diag::Fate;

/// How often one port is listed. Later rounds find sockets that came up during the previous round.
const MAX_ROUNDS: usize = 4;

/// How many sessions may outlive their grant at once. Each takes about 250 bytes of kernel memory, allocated at the start.
pub const MOST_RETAINED: u32 = 4096;

/// The sessions that one grant carries on one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// IP protocol number.
    pub protocol: u8,
    /// The host's port.
    pub port: u16,
    /// The addresses of the other end.
    pub source: IpNet,
}

/// The sockets that the host itself connected: cookie and address of the peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnSockets(BTreeMap<u64, IpAddr>);

impl OwnSockets {
    /// Whether the host itself connected the socket with this cookie to `peer`.
    #[must_use]
    pub fn contains(&self, cookie: u64, peer: IpAddr) -> bool {
        self.0.get(&cookie) == Some(&peer)
    }
}

impl FromIterator<(u64, IpAddr)> for OwnSockets {
    fn from_iter<T: IntoIterator<Item = (u64, IpAddr)>>(sockets: T) -> Self {
        Self(sockets.into_iter().collect())
    }
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

/// Whether a session is over: an ended grant carried it and no live one does.
fn is_over(protocol: u8, id: &SocketId, over: &[Scope], kept: &[Scope]) -> bool {
    let peer = id.destination_address.to_canonical();
    let carried = |scopes: &[Scope]| scopes.iter().any(|scope| scope.carries(protocol, id.source_port, peer));
    id.destination_port != 0 && carried(over) && !carried(kept)
}

/// Whether the host talks to itself. Lock and cut exempt such sessions, so no grant carries them.
fn is_with_itself(id: &SocketId, own: &[IpAddr]) -> bool {
    let (local, peer) = (id.source_address.to_canonical(), id.destination_address.to_canonical());
    peer.is_loopback() || peer == local || own.contains(&peer)
}

impl From<&Session> for Scope {
    fn from(session: &Session) -> Self {
        Self { protocol: session.protocol, port: session.port, source: session.peer.into() }
    }
}

/// The established sessions that a scope in `scopes` carries: TCP connections with a complete handshake and connected UDP sockets, over
/// IPv4 and IPv6, without the host's sessions with itself. Uses the network namespace of the calling thread.
///
/// # Errors
/// Fails if the kernel does not list its sockets or addresses.
pub fn established(scopes: &[Scope]) -> io::Result<Vec<Session>> {
    let mut found = Vec::new();
    for (protocol, port) in ports_of(scopes) {
        for socket in diag::list_established(protocol, port)? {
            if is_over(protocol, &socket.id, scopes, &[]) {
                found.push((protocol, socket));
            }
        }
    }
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let own = diag::own_addresses()?;
    found.retain(|(_, socket)| !is_with_itself(&socket.id, &own));
    let session = |(protocol, socket): (u8, Socket)| Session {
        cookie: socket.cookie(),
        protocol,
        port: socket.id.source_port,
        peer: socket.id.destination_address.to_canonical(),
    };
    Ok(found.into_iter().map(session).collect())
}

/// As [`established`], without the sessions that the host itself opened (`own`), because no grant carries those.
///
/// # Errors
/// Fails as [`established`] does, or if `own` fails.
pub fn inbound(scopes: &[Scope], own: impl Fn() -> io::Result<OwnSockets>) -> io::Result<Vec<Session>> {
    let mut found = established(scopes)?;
    if !found.is_empty() {
        let own = own()?;
        found.retain(|session| !own.contains(session.cookie, session.peer));
    }
    Ok(found)
}

/// The cookies of those of `sessions` that the other side could open again: a TCP listener or an unconnected UDP socket has the session's
/// own address. Uses the network namespace of the calling thread.
///
/// # Errors
/// Fails if the kernel does not list its sockets.
pub fn served(sessions: &[Session]) -> io::Result<BTreeSet<u64>> {
    let mut served = BTreeSet::new();
    let ports: BTreeSet<_> = sessions.iter().map(|session| (session.protocol, session.port)).collect();
    for (protocol, port) in ports {
        let listening: BTreeSet<IpAddr> = diag::list_listening(protocol, port)?.iter().map(local).collect();
        let theirs = diag::list_established(protocol, port)?;
        served.extend(theirs.iter().filter(|socket| listens_at(&listening, local(socket))).map(Socket::cookie));
    }
    Ok(served)
}

/// The local address; IPv4 also for an IPv6 socket that carries IPv4.
fn local(socket: &Socket) -> IpAddr {
    socket.id.source_address.to_canonical()
}

/// Whether an address in `listening` accepts what is sent to `address`. `::` counts for IPv4 too.
fn listens_at(listening: &BTreeSet<IpAddr>, address: IpAddr) -> bool {
    let any = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    [address, any, Ipv6Addr::UNSPECIFIED.into()].iter().any(|at| listening.contains(at))
}

fn ports_of(scopes: &[Scope]) -> BTreeSet<(u8, u16)> {
    scopes.iter().map(|scope| (scope.protocol, scope.port)).collect()
}

/// The outcome for the sessions that were over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destroyed {
    /// Sockets that the kernel aborted.
    pub sockets: usize,
    /// Sockets that the kernel refused to abort (all without `CONFIG_INET_DIAG_DESTROY`). The cut stops their packets all the same.
    pub refused: usize,
    /// The kernel's error number for the last refusal.
    pub errno: Option<i32>,
}

/// Why no session can be ended now, in words; `None` if sessions can be ended.
#[must_use]
pub fn cannot_end() -> Option<String> {
    let why = match diag::cannot_destroy() {
        Ok(None) => return None,
        Ok(Some(errno)) => io::Error::from_raw_os_error(errno),
        Err(error) => error,
    };
    Some(format!(
        "the kernel does not list or destroy sockets for posternd, so sessions of ended grants hang silently: {why}; it takes \
         CONFIG_INET_DIAG_DESTROY (modules inet_diag and tcp_diag) and CAP_NET_ADMIN"
    ))
}

/// As [`destroy_but`], without exceptions.
///
/// # Errors
/// Fails as [`destroy_but`] does.
pub fn destroy(over: &[Scope], kept: &[Scope]) -> io::Result<Destroyed> {
    destroy_but(&BTreeSet::new(), || Ok(OwnSockets::default()), over, kept)
}

/// Destroys the TCP connections (half-open ones too) and connected UDP sockets that a scope in `over` carried and none in `kept` carries.
/// Spares the host's sessions with itself, the cookies in `spared`, and the sockets of `own_sockets`. Counts refused sockets; those that
/// ended by themselves are not counted. Uses the network namespace of the calling thread.
///
/// # Errors
/// The kernel cannot be asked, or `own_sockets` fails: then nothing more is destroyed.
pub fn destroy_but(
    spared: &BTreeSet<u64>,
    own_sockets: impl Fn() -> io::Result<OwnSockets>,
    over: &[Scope],
    kept: &[Scope],
) -> io::Result<Destroyed> {
    let mut outcome = Destroyed::default();
    let mut own = None;
    for (protocol, port) in ports_of(over) {
        // A handshake that completes between listing and aborting becomes another socket, so the port is listed again.
        for _ in 0..MAX_ROUNDS {
            let mut sockets = diag::list(protocol, port)?;
            sockets.retain(|s| !spared.contains(&s.cookie()) && is_over(protocol, &s.id, over, kept));
            let own = match &own {
                Some(own) => own,
                None if sockets.is_empty() => break,
                None => own.insert(diag::own_addresses()?),
            };
            sockets.retain(|socket| !is_with_itself(&socket.id, own));
            if !sockets.is_empty() {
                // Asked after the list was made, so that every own connection in the list has its mark.
                let ours = own_sockets()?;
                sockets.retain(|s| !ours.contains(s.cookie(), s.id.destination_address.to_canonical()));
            }
            if !abort(protocol, &sockets, &mut outcome)? {
                break;
            }
        }
    }
    Ok(outcome)
}

/// Aborts each of `sockets`; returns whether another round makes sense.
fn abort(protocol: u8, sockets: &[Socket], outcome: &mut Destroyed) -> io::Result<bool> {
    let before = outcome.refused;
    for socket in sockets {
        match diag::destroy(protocol, socket)? {
            Fate::Destroyed => outcome.sockets += 1,
            Fate::Gone => {}
            Fate::Refused(errno) => {
                outcome.refused += 1;
                outcome.errno = Some(errno);
            }
        }
    }
    Ok(!sockets.is_empty() && outcome.refused == before)
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
    fn a_session_is_served_where_somebody_listens_at_its_own_address() {
        let at = |listening: &[&str], address: &str| {
            let listening = listening.iter().map(|a| a.parse().unwrap()).collect();
            listens_at(&listening, address.parse().unwrap())
        };
        assert!(at(&["0.0.0.0"], "192.0.2.1") && at(&["::"], "192.0.2.1") && at(&["::"], "2001:db8::1"));
        assert!(at(&["192.0.2.1"], "192.0.2.1") && at(&["127.0.0.1", "192.0.2.1"], "192.0.2.1"));
        assert!(!at(&[], "192.0.2.1") && !at(&["127.0.0.1"], "192.0.2.1") && !at(&["0.0.0.0"], "2001:db8::1"));
    }

    #[test]
    fn the_host_talking_to_itself_is_recognised() {
        let own = ["192.0.2.9".parse().unwrap()];
        for (local, peer, want) in [
            ("127.0.0.1", "127.0.0.1", true),
            ("::1", "::1", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.9", true),
            ("::ffff:192.0.2.1", "::ffff:192.0.2.9", true),
            ("192.0.2.1", "192.0.2.10", false),
            ("2001:db8::1", "2001:db8::2", false),
        ] {
            let id = SocketId { source_address: local.parse().unwrap(), ..socket(22, peer, 4000) };
            assert_eq!(is_with_itself(&id, &own), want, "{local} {peer}");
        }
    }
}
