//! The prefilter's parser: from the first byte of a frame to a [`Flow`], or [`NotSure`]. Owns [`Bytes`], the only access to a packet's
//! bytes, and the few packet shapes that the prefilter knows. It never guesses: any other packet is [`NotSure`] and goes on to the lock
//! and the cut, which rely on Linux's own parser (DESIGN 3).

use crate::key::{Address, TCP, UDP};

/// Bounds-checked access to a packet. The host implements it for a slice, the XDP program for `data..data_end`.
pub trait Bytes {
    /// The `N` bytes at `offset`, or `None` if one of them lies outside.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Bytes for [u8] {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

/// The fields of a packet to the host that a verdict needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// The destination port, host byte order.
    pub port: u16,
    /// The source address.
    pub source: Address,
    /// The destination address.
    pub destination: Address,
    /// TCP's flags (RFC 9293); 0 for UDP, and if the frame's linear part ends before them.
    pub flags: u8,
}

impl Flow {
    /// Whether the packet asks for a new connection: SYN without ACK. Each answer to the host's own connections has ACK.
    #[inline(always)]
    #[must_use]
    pub const fn begins(&self) -> bool {
        self.flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }
}

/// The packet has a shape that the parser does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotSure;

// Ethertypes: IEEE 802 numbers as IANA lists them.
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;

const ETHERNET_HEADER: usize = 14;
const VLAN_TAG: usize = 4;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// The more-fragments flag and the fragment offset (RFC 791). Either makes the packet a fragment.
const IPV4_FRAGMENT: u16 = 0x3fff;
/// The shortest TCP and UDP headers. In a shorter payload the ports may not be the packet's own.
const TCP_HEADER: u16 = 20;
const UDP_HEADER: u16 = 8;
/// The offset of the flags in a TCP header, and two of them.
const TCP_FLAGS: usize = 13;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

/// Parses an Ethernet frame with at most two VLAN tags (802.1Q or 802.1ad).
/// # Errors
/// [`NotSure`], except for TCP or UDP in an unfragmented IPv4 packet, or in an IPv6 packet without extension headers.
#[inline(always)]
pub fn parse_ethernet(frame: &(impl Bytes + ?Sized)) -> Result<Flow, NotSure> {
    let mut at = ETHERNET_HEADER;
    let mut ethertype = u16_at(frame, at - 2)?;
    for _ in 0..2 {
        if ethertype != ETHERTYPE_VLAN && ethertype != ETHERTYPE_QINQ {
            break;
        }
        at += VLAN_TAG;
        ethertype = u16_at(frame, at - 2)?;
    }
    match ethertype {
        ETHERTYPE_IPV4 => parse_ipv4(frame, at),
        ETHERTYPE_IPV6 => parse_ipv6(frame, at),
        _ => Err(NotSure),
    }
}

#[inline(always)]
fn parse_ipv4(frame: &(impl Bytes + ?Sized), at: usize) -> Result<Flow, NotSure> {
    let header: [u8; IPV4_HEADER] = frame.read(at).ok_or(NotSure)?;
    let header_len = usize::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || header_len < IPV4_HEADER {
        return Err(NotSure);
    }
    if u16::from_be_bytes([header[6], header[7]]) & IPV4_FRAGMENT != 0 {
        return Err(NotSure);
    }
    let total_len = u16::from_be_bytes([header[2], header[3]]);
    let payload_len = total_len.checked_sub(header_len as u16).ok_or(NotSure)?;
    let source = Address::v4([header[12], header[13], header[14], header[15]]);
    let destination = Address::v4([header[16], header[17], header[18], header[19]]);
    transport(frame, at + header_len, header[9], payload_len, source, destination)
}

#[inline(always)]
fn parse_ipv6(frame: &(impl Bytes + ?Sized), at: usize) -> Result<Flow, NotSure> {
    let head: [u8; 8] = frame.read(at).ok_or(NotSure)?;
    if head[0] >> 4 != 6 {
        return Err(NotSure);
    }
    let payload_len = u16::from_be_bytes([head[4], head[5]]);
    let source = Address::v6(frame.read(at + 8).ok_or(NotSure)?);
    let destination = Address::v6(frame.read(at + 24).ok_or(NotSure)?);
    transport(frame, at + IPV6_HEADER, head[6], payload_len, source, destination)
}

#[inline(always)]
fn transport(
    frame: &(impl Bytes + ?Sized),
    at: usize,
    protocol: u8,
    payload_len: u16,
    source: Address,
    destination: Address,
) -> Result<Flow, NotSure> {
    let shortest = match protocol {
        TCP => TCP_HEADER,
        UDP => UDP_HEADER,
        _ => return Err(NotSure),
    };
    if payload_len < shortest {
        return Err(NotSure);
    }
    let port = u16_at(frame, at + 2)?;
    let flags = if protocol == TCP { frame.read(at + TCP_FLAGS).map_or(0, |[flags]: [u8; 1]| flags) } else { 0 };
    Ok(Flow { protocol, port, source, destination, flags })
}

#[inline(always)]
fn u16_at(frame: &(impl Bytes + ?Sized), at: usize) -> Result<u16, NotSure> {
    frame.read(at).map(u16::from_be_bytes).ok_or(NotSure)
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A SYN from 192.0.2.7 to port 22 of 192.0.2.1.
    fn syn() -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, TCP, 0, 0, 192, 0, 2, 7, 192, 0, 2, 1]);
        frame.extend([0xc0, 0, 0, 22, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, TCP_SYN]);
        frame.resize(frame.len() + 6, 0);
        frame
    }

    #[test]
    fn a_plain_syn_is_read_and_every_truncation_is_not_sure() {
        let (source, destination) = (Address::v4([192, 0, 2, 7]), Address::v4([192, 0, 2, 1]));
        let flow = Flow { protocol: TCP, port: 22, source, destination, flags: TCP_SYN };
        assert_eq!(parse_ethernet(syn().as_slice()), Ok(flow));
        // 38 bytes hold everything up to the ports, 48 the flags; the network stack checks the rest of the TCP header.
        for len in 0..syn().len() {
            let flow = Flow { flags: if len < 48 { 0 } else { TCP_SYN }, ..flow };
            assert_eq!(parse_ethernet(&syn()[..len]), if len < 38 { Err(NotSure) } else { Ok(flow) }, "{len}");
            assert_eq!(flow.begins(), len >= 48);
        }
    }

    #[test]
    fn two_tags_are_looked_behind_and_three_are_not() {
        let mut frame = syn();
        for (depth, kind) in [[0x81, 0x00], [0x88, 0xa8], [0x81, 0x00]].into_iter().enumerate() {
            frame.splice(12..12, [kind[0], kind[1], 0, 7]);
            assert_eq!(parse_ethernet(frame.as_slice()).is_ok(), depth < 2);
        }
    }

    #[test]
    fn whatever_could_be_read_otherwise_is_not_sure() {
        // (offset, byte): version, header length 4, fragments, protocol, total length too short for a TCP header.
        for (at, byte) in [(14, 0x55), (14, 0x44), (20, 0x20), (20, 0x01), (21, 0x01), (23, 132), (17, 39), (17, 0)] {
            let mut frame = syn();
            frame[at] = byte;
            assert_eq!(parse_ethernet(frame.as_slice()), Err(NotSure), "{at}");
        }
    }

    #[test]
    fn options_move_the_ports() {
        let mut frame = syn();
        frame[14] = 0x46;
        frame[17] = 44;
        // An option that imitates a TCP header to port 80.
        frame.splice(34..34, [0, 1, 0, 80]);
        assert_eq!(parse_ethernet(frame.as_slice()).map(|flow| flow.port), Ok(22));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = parse_ethernet(bytes.as_slice());
        }
    }
}
