//! The shed's parser: from the first byte of a frame to a [`Flow`], or [`NotSure`].
//!
//! Owns [`Bytes`], the only door to a packet's bytes, and the few shapes that the shed is sure of. It never decides and
//! never guesses: whatever it does not know for certain is [`NotSure`] and goes on to the lock and the cut, which let
//! Linux itself do the parsing (DESIGN 3).

use crate::key::{Address, TCP, UDP};

/// Bounds-checked access to a packet. The host implements it for a slice, the XDP program for `data..data_end`.
pub trait Bytes {
    /// The `N` bytes at `offset`, or `None` if even one of them lies outside.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;
}

impl Bytes for [u8] {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }
}

/// What a verdict needs to know about a packet to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// The destination port, host byte order.
    pub port: u16,
    /// Who sent it.
    pub source: Address,
    /// Whom it is for.
    pub destination: Address,
}

/// The packet is not one of the shapes that the parser is sure of.
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
/// Shortest TCP and UDP headers. Below that the ports need not be the packet's own.
const TCP_HEADER: u16 = 20;
const UDP_HEADER: u16 = 8;

/// Parses an Ethernet frame with at most two VLAN tags (802.1Q or 802.1ad).
///
/// # Errors
/// [`NotSure`] for everything but an unfragmented IPv4 packet of any header length, or an IPv6 packet without extension
/// headers, that carries TCP or UDP.
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
    Ok(Flow { protocol, port: u16_at(frame, at + 2)?, source, destination })
}

#[inline(always)]
fn u16_at(frame: &(impl Bytes + ?Sized), at: usize) -> Result<u16, NotSure> {
    frame.read(at).map(u16::from_be_bytes).ok_or(NotSure)
}
