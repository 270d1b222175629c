//! The bypass corpus: one SYN or one datagram, and every way to write it down that we know of.
//!
//! Owns the list and the way to run it. Never says which of them Linux answers: a test asks Linux first.

mod ethernet;
mod ipv4;
mod ipv6;
mod tcp;

use crate::frame::{self, Ipv4, Ipv6, Seen, Tcp, protocol};
use crate::net::{CLIENT_MAC, Host, SERVER, SERVER_MAC};
use crate::wire::Wire;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

/// What a corpus is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// SYNs; a SYN-ACK answers.
    Tcp,
    /// Datagrams; any datagram answers.
    Udp,
}

impl Transport {
    /// IP protocol number.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => protocol::TCP,
            Self::Udp => protocol::UDP,
        }
    }

    /// The segment, or a datagram with its ports and data.
    fn segment(self, tcp: &Tcp, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        match self {
            Self::Tcp => tcp.segment(source, destination),
            // As long as a SYN with options, so that it is cut into fragments at the same places.
            Self::Udp => {
                let data = [&[0x42; 16][..], &tcp.payload].concat();
                frame::udp((source, tcp.source), (destination, tcp.destination), &data)
            }
        }
    }

    fn is_answer(self, seen: &Seen) -> bool {
        seen.protocol == self.number() && (self == Self::Udp || seen.is_syn_ack())
    }
}

/// One encoding of a SYN or a datagram.
#[derive(Clone, Debug)]
pub struct Case {
    /// What it is at heart.
    pub transport: Transport,
    /// Whether it goes to a broadcast or multicast address, for which the kernel asks for no single socket.
    pub to_many: bool,
    /// What is special about it.
    pub name: String,
    /// Where the SYN comes from; no other case of the corpus shares it, so an answer names its case.
    pub source: (IpAddr, u16),
    /// The frames, in the order in which they are sent.
    pub frames: Vec<Vec<u8>>,
}

impl Case {
    /// Whether it comes from one of the host's addresses, and not from one that the case is about.
    #[must_use]
    pub fn is_from(&self, host: Host) -> bool {
        host.both().contains(&self.source.0)
    }
}

/// Every case, from one client's addresses to one port of [`SERVER`]. Source ports start at `first`.
#[must_use]
pub fn corpus(transport: Transport, client: Host, port: u16, first: u16) -> Vec<Case> {
    let mut build = Build { transport, client, server: SERVER, port, next: first, cases: Vec::new() };
    ethernet::cases(&mut build);
    ipv4::cases(&mut build);
    ipv6::cases(&mut build);
    if transport == Transport::Tcp {
        tcp::cases(&mut build);
    }
    build.cases
}

/// Sends every case and says, in the same order, which were answered. Waits until the wire has been
/// quiet for 500 ms, which no answer on a wire without loss takes.
#[must_use]
pub fn answered(wire: &Wire, cases: &[Case]) -> Vec<bool> {
    let _from_before = wire.arrived();
    let mut frames = Vec::new();
    for case in cases {
        case.frames.iter().for_each(|frame| wire.send(frame));
        frames.extend(wire.arrived());
    }
    frames.extend(wire.collect(Duration::from_millis(500), Duration::from_secs(5)));
    let answers: BTreeSet<(u8, IpAddr, u16)> = frames
        .iter()
        .filter_map(|frame| frame::read(frame))
        .filter(|seen| [Transport::Tcp, Transport::Udp].iter().any(|transport| transport.is_answer(seen)))
        .map(|seen| (seen.protocol, seen.destination, seen.destination_port))
        .collect();
    let is_answered = |case: &Case| answers.contains(&(case.transport.number(), case.source.0, case.source.1));
    cases.iter().map(is_answered).collect()
}

/// The list while it grows.
struct Build {
    transport: Transport,
    client: Host,
    server: Host,
    port: u16,
    next: u16,
    cases: Vec<Case>,
}

impl Build {
    /// A SYN from a source port that no other case has.
    fn syn(&mut self) -> Tcp {
        let syn = Tcp::syn(self.next, self.port);
        self.next += 1;
        syn
    }

    fn ipv4(&self) -> Ipv4 {
        Ipv4 { protocol: self.transport.number(), ..Ipv4::new(self.client.v4, self.server.v4) }
    }

    fn ipv6(&self) -> Ipv6 {
        Ipv6::new(self.client.v6, self.server.v6)
    }

    /// A case of one IPv4 packet; `edit` makes it special.
    fn v4(&mut self, name: impl Into<String>, edit: impl FnOnce(&mut Ipv4, &mut Tcp)) {
        let (mut ip, mut tcp) = (self.ipv4(), self.syn());
        edit(&mut ip, &mut tcp);
        let packet = ip.packet(&self.transport.segment(&tcp, ip.source.into(), ip.destination.into()));
        self.push(name, (ip.source.into(), tcp.source), vec![v4_frame(&packet)]);
        self.last().to_many = ip.destination.is_multicast() || ip.destination.octets()[2..] == [255, 255];
    }

    /// A case of one IPv6 packet; `edit` makes it special.
    fn v6(&mut self, name: impl Into<String>, edit: impl FnOnce(&mut Ipv6, &mut Tcp)) {
        let (mut ip, mut tcp) = (self.ipv6(), self.syn());
        edit(&mut ip, &mut tcp);
        let segment = self.transport.segment(&tcp, ip.source.into(), ip.destination.into());
        let packet = ip.packet(self.transport.number(), &segment);
        self.push(name, (ip.source.into(), tcp.source), vec![v6_frame(&packet)]);
        self.last().to_many = ip.destination.is_multicast();
    }

    /// Changes the frames of the case before.
    fn rewrite(&mut self, edit: impl FnMut(&mut Vec<u8>)) {
        self.last().frames.iter_mut().for_each(edit);
    }

    fn last(&mut self) -> &mut Case {
        self.cases.last_mut().expect("a case before")
    }

    fn push(&mut self, name: impl Into<String>, source: (IpAddr, u16), frames: Vec<Vec<u8>>) {
        let (transport, to_many) = (self.transport, false);
        self.cases.push(Case { transport, to_many, name: name.into(), source, frames });
    }
}

fn v4_frame(packet: &[u8]) -> Vec<u8> {
    frame::ethernet(SERVER_MAC, CLIENT_MAC, frame::IPV4, packet)
}

fn v6_frame(packet: &[u8]) -> Vec<u8> {
    frame::ethernet(SERVER_MAC, CLIENT_MAC, frame::IPV6, packet)
}
