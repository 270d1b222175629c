//! Frames by hand: Ethernet, VLAN tags, IPv4, IPv6 with extension headers, TCP and UDP, right or wrong on purpose.
//!
//! Never repairs what a caller sets: a field that is set is sent as it is. What is left alone is made correct.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol numbers and IPv6 extension header types (IANA).
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// IPv6 no next header.
    pub const NONE: u8 = 59;
    /// IPv6 destination options.
    pub const DESTINATION: u8 = 60;
}

/// TCP flags.
pub mod flag {
    /// FIN
    pub const FIN: u8 = 1;
    /// SYN
    pub const SYN: u8 = 2;
    /// RST
    pub const RST: u8 = 4;
    /// PSH
    pub const PSH: u8 = 8;
    /// ACK
    pub const ACK: u8 = 16;
    /// URG
    pub const URG: u8 = 32;
    /// ECE
    pub const ECE: u8 = 64;
    /// CWR
    pub const CWR: u8 = 128;
}

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const IPV6: u16 = 0x86dd;
/// EtherType of an 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// EtherType of an 802.1ad tag.
pub const QINQ: u16 = 0x88a8;

/// An Ethernet frame.
#[must_use]
pub fn ethernet(to: [u8; 6], from: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// The frame with tags (EtherType, tag control information) put in, the outermost first.
#[must_use]
pub fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for (kind, control) in tags {
        out.extend(kind.to_be_bytes());
        out.extend(control.to_be_bytes());
    }
    out.extend(&frame[12..]);
    out
}

/// The Internet checksum (RFC 1071) of some bytes.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u16 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The checksum of a TCP or UDP segment whose own checksum field is zero.
#[must_use]
pub fn transport_checksum(source: IpAddr, destination: IpAddr, protocol: u8, segment: &[u8]) -> u16 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let length = (segment.len() as u32).to_be_bytes();
    checksum(&[&octets(source), &octets(destination), &length[..], &[0, 0, 0, protocol], segment].concat())
}

/// A TCP segment.
#[derive(Clone, Debug)]
pub struct Tcp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// See [`flag`].
    pub flags: u8,
    /// The four bits between data offset and flags.
    pub reserved: u8,
    /// Window.
    pub window: u16,
    /// Urgent pointer.
    pub urgent: u16,
    /// Whole options; a multiple of four bytes.
    pub options: Vec<u8>,
    /// Data offset in words; what `options` says when `None`.
    pub offset: Option<u8>,
    /// Data.
    pub payload: Vec<u8>,
    /// Added to the right checksum.
    pub wrong_by: u16,
}

impl Tcp {
    /// A plain SYN with a maximum segment size of 1460.
    #[must_use]
    pub fn syn(source: u16, destination: u16) -> Self {
        Self {
            source,
            destination,
            sequence: 0x1000,
            acknowledgement: 0,
            flags: flag::SYN,
            reserved: 0,
            window: 64240,
            urgent: 0,
            options: vec![2, 4, 0x05, 0xb4],
            offset: None,
            payload: Vec::new(),
            wrong_by: 0,
        }
    }

    /// The segment with which a client answers the SYN-ACK that it got for this SYN; `payload` goes with it.
    #[must_use]
    pub fn answer(&self, syn_ack: &Seen, payload: &[u8]) -> Self {
        Self {
            sequence: self.sequence.wrapping_add(1),
            acknowledgement: syn_ack.sequence.wrapping_add(1),
            flags: flag::ACK,
            options: Vec::new(),
            payload: payload.to_vec(),
            ..self.clone()
        }
    }

    /// The segment between two addresses.
    #[must_use]
    pub fn segment(&self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let offset = self.offset.unwrap_or(5 + (self.options.len() / 4) as u8);
        let mut out = [self.source.to_be_bytes(), self.destination.to_be_bytes()].concat();
        out.extend(self.sequence.to_be_bytes());
        out.extend(self.acknowledgement.to_be_bytes());
        out.extend([offset << 4 | self.reserved, self.flags]);
        out.extend(self.window.to_be_bytes());
        out.extend([0, 0]);
        out.extend(self.urgent.to_be_bytes());
        out.extend(&self.options);
        out.extend(&self.payload);
        let sum = transport_checksum(source, destination, protocol::TCP, &out).wrapping_add(self.wrong_by);
        out[16..18].copy_from_slice(&sum.to_be_bytes());
        out
    }
}

/// A UDP datagram between two addresses.
#[must_use]
pub fn udp(source: (IpAddr, u16), destination: (IpAddr, u16), payload: &[u8]) -> Vec<u8> {
    let mut out = [source.1.to_be_bytes(), destination.1.to_be_bytes()].concat();
    out.extend((8 + payload.len() as u16).to_be_bytes());
    out.extend([0, 0]);
    out.extend(payload);
    let sum = match transport_checksum(source.0, destination.0, protocol::UDP, &out) {
        0 => 0xffff,
        sum => sum,
    };
    out[6..8].copy_from_slice(&sum.to_be_bytes());
    out
}

/// An IPv4 header.
#[derive(Clone, Debug)]
pub struct Ipv4 {
    /// Source.
    pub source: Ipv4Addr,
    /// Destination.
    pub destination: Ipv4Addr,
    /// Type of service.
    pub service: u8,
    /// Identification; fragments of one packet share it.
    pub id: u16,
    /// Flags and fragment offset as they stand in the header.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub protocol: u8,
    /// Whole options; a multiple of four bytes.
    pub options: Vec<u8>,
    /// Version; 4 unless a test wants another.
    pub version: u8,
    /// Header length in words; what `options` says when `None`.
    pub words: Option<u8>,
    /// Total length; the right one when `None`.
    pub length: Option<u16>,
}

impl Ipv4 {
    /// A plain header around TCP.
    #[must_use]
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr) -> Self {
        let (service, id, fragment, ttl, options) = (0, 0x4242, 0, 64, Vec::new());
        let (version, words, length) = (4, None, None);
        let protocol = protocol::TCP;
        Self { source, destination, service, id, fragment, ttl, protocol, options, version, words, length }
    }

    /// The packet with this payload.
    #[must_use]
    pub fn packet(&self, payload: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let words = self.words.unwrap_or((header / 4) as u8);
        let mut out = vec![self.version << 4 | words, self.service];
        out.extend(self.length.unwrap_or((header + payload.len()) as u16).to_be_bytes());
        out.extend(self.id.to_be_bytes());
        out.extend(self.fragment.to_be_bytes());
        out.extend([self.ttl, self.protocol, 0, 0]);
        out.extend(self.source.octets());
        out.extend(self.destination.octets());
        out.extend(&self.options);
        // Over as many bytes as the header says that it has: else nobody would look further at a wrong length.
        let covered = out.len().min(usize::from(words) * 4);
        let sum = checksum(&out[..covered]);
        out[10..12].copy_from_slice(&sum.to_be_bytes());
        out.extend(payload);
        out
    }

    /// The packet in fragments that begin at these offsets (multiples of 8; the first is 0).
    #[must_use]
    pub fn fragments(&self, payload: &[u8], starts: &[usize]) -> Vec<Vec<u8>> {
        let ends = starts[1..].iter().copied().chain([payload.len()]);
        let piece = |(&start, end): (&usize, usize)| {
            let more = if end < payload.len() { 0x2000 } else { 0 };
            let header = Self { fragment: more | (start / 8) as u16, ..self.clone() };
            header.packet(&payload[start..end])
        };
        starts.iter().zip(ends).map(piece).collect()
    }
}

/// An IPv6 extension header: its type and its bytes, of which the first, the next header, is filled in later.
pub type Extension = (u8, Vec<u8>);

/// An IPv6 header and its chain of extension headers.
#[derive(Clone, Debug)]
pub struct Ipv6 {
    /// Source.
    pub source: Ipv6Addr,
    /// Destination.
    pub destination: Ipv6Addr,
    /// Traffic class.
    pub class: u8,
    /// Flow label.
    pub flow: u32,
    /// Hop limit.
    pub hops: u8,
    /// Version; 6 unless a test wants another.
    pub version: u8,
    /// Payload length; the right one when `None`.
    pub length: Option<u16>,
    /// Extension headers.
    pub extensions: Vec<Extension>,
}

impl Ipv6 {
    /// A plain header.
    #[must_use]
    pub fn new(source: Ipv6Addr, destination: Ipv6Addr) -> Self {
        let (class, flow, hops, version, length, extensions) = (0, 0, 64, 6, None, Vec::new());
        Self { source, destination, class, flow, hops, version, length, extensions }
    }

    /// The packet with this payload.
    #[must_use]
    pub fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let (first, chained) = chain(&self.extensions, protocol, payload);
        self.around(first, &chained)
    }

    /// The packet in fragments: `self.extensions` stand before each fragment header, `inner` ones are cut up with the
    /// payload at these offsets (multiples of 8; the first is 0).
    #[must_use]
    pub fn fragments(
        &self,
        inner: &[Extension],
        protocol: u8,
        payload: &[u8],
        starts: &[usize],
        id: u32,
    ) -> Vec<Vec<u8>> {
        let (first, whole) = chain(inner, protocol, payload);
        let ends = starts[1..].iter().copied().chain([whole.len()]);
        let piece = |(&start, end): (&usize, usize)| {
            let mut each = self.clone();
            each.extensions.push((protocol::FRAGMENT, fragment_header(start, end < whole.len(), id)));
            each.packet(first, &whole[start..end])
        };
        starts.iter().zip(ends).map(piece).collect()
    }

    fn around(&self, next: u8, payload: &[u8]) -> Vec<u8> {
        let word = u32::from(self.version) << 28 | u32::from(self.class) << 20 | self.flow;
        let mut out = word.to_be_bytes().to_vec();
        out.extend(self.length.unwrap_or(payload.len() as u16).to_be_bytes());
        out.extend([next, self.hops]);
        out.extend(self.source.octets());
        out.extend(self.destination.octets());
        out.extend(payload);
        out
    }
}

/// The first header's type, and the headers one after the other with the payload behind them.
fn chain(extensions: &[Extension], protocol: u8, payload: &[u8]) -> Extension {
    let mut out = Vec::new();
    for (at, (_, bytes)) in extensions.iter().enumerate() {
        out.push(extensions.get(at + 1).map_or(protocol, |next| next.0));
        out.extend(&bytes[1..]);
    }
    out.extend(payload);
    (extensions.first().map_or(protocol, |first| first.0), out)
}

/// An options header of `length` bytes (a multiple of 8, at most 2048): up to six bytes of padding, as much as Linux
/// accepts, or options of a type that is to be skipped.
#[must_use]
pub fn filler_options(length: usize) -> Vec<u8> {
    const PADDING: u8 = 1;
    const SKIP: u8 = 0x1e;
    let mut out = vec![0, (length / 8 - 1) as u8];
    while out.len() < length {
        // 254 leaves no single byte over, which no option with a length fits.
        let room = (length - out.len()).min(254);
        let kind = if length == 8 { PADDING } else { SKIP };
        out.extend([kind, (room - 2) as u8]);
        out.resize(out.len() + room - 2, 0);
    }
    out
}

/// A routing header of this type with no segments left.
#[must_use]
pub fn routing_header(kind: u8) -> Vec<u8> {
    vec![0, 0, kind, 0, 0, 0, 0, 0]
}

/// A fragment header.
#[must_use]
pub fn fragment_header(offset: usize, more: bool, id: u32) -> Vec<u8> {
    let field = (offset as u16 & !7) | u16::from(more);
    [&[0, 0][..], &field.to_be_bytes(), &id.to_be_bytes()].concat()
}

/// What a TCP segment without IPv6 extension headers says, as far as tests ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Source.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// TCP or UDP.
    pub protocol: u8,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// TCP flags; 0 for UDP.
    pub flags: u8,
    /// TCP sequence number; 0 for UDP.
    pub sequence: u32,
}

impl Seen {
    /// Whether it is a SYN-ACK.
    #[must_use]
    pub fn is_syn_ack(&self) -> bool {
        self.flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN | flag::ACK
    }
}

/// Reads an untagged TCP or UDP frame as a host sends it; `None` for anything else.
#[must_use]
pub fn read(frame: &[u8]) -> Option<Seen> {
    let packet = frame.get(14..)?;
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let (source, destination, protocol, header): (IpAddr, IpAddr, u8, usize) = match word(12)? {
        IPV4 => {
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            (address(12)?.into(), address(16)?.into(), *packet.get(9)?, usize::from(packet.first()? & 15) * 4)
        }
        IPV6 => {
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            (address(8)?.into(), address(24)?.into(), *packet.get(6)?, 40)
        }
        _ => return None,
    };
    let at = 14 + header;
    let (flags, sequence) = match protocol {
        protocol::TCP => (*frame.get(at + 13)?, u32::from(word(at + 4)?) << 16 | u32::from(word(at + 6)?)),
        protocol::UDP => (0, 0),
        _ => return None,
    };
    let (source_port, destination_port) = (word(at)?, word(at + 2)?);
    Some(Seen { source, destination, protocol, source_port, destination_port, flags, sequence })
}
