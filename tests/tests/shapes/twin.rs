//! A packet's fate, told by a parser and a loop that share nothing with the real ones. The fuzz target `packet` uses it too.
//!
//! Owns a small [`World`]: a table, the host's addresses, the time.

use std::net::IpAddr;

use postern_core::{
    key::{Address, FlowValue, GrantKey, GrantValue, Lengths, TCP, V4},
    packet::Flow,
    table::{Entry, Table},
    verdict::{Exemption, Session, Table as View},
};

/// What a frame of a sure shape says: protocol, port, source, destination. Written from the specifications by taking the
/// front off a slice, header by header; slow and obvious.
pub fn twin_flow(frame: &[u8]) -> Option<(u8, u16, IpAddr, IpAddr)> {
    let mut rest = frame.get(12..)?;
    let mut tags = 0;
    loop {
        match rest.get(..2)? {
            [0x81, 0x00] | [0x88, 0xa8] if tags < 2 => {
                tags += 1;
                rest = rest.get(4..)?;
            }
            [0x08, 0x00] => return twin_v4(rest.get(2..)?),
            [0x86, 0xdd] => return twin_v6(rest.get(2..)?),
            _ => return None,
        }
    }
}

fn twin_v4(packet: &[u8]) -> Option<(u8, u16, IpAddr, IpAddr)> {
    let words = usize::from(*packet.first()? % 16);
    let fixed = packet.get(..20)?;
    let total = usize::from(fixed[2]) * 256 + usize::from(fixed[3]);
    // More fragments is 0x20 of byte 6; "don't fragment" is 0x40 of it; the offset is the rest.
    let fragment = fixed[6] % 64 != 0 || fixed[7] != 0;
    if fixed[0] / 16 != 4 || words < 5 || fragment || total < words * 4 + twin_header(fixed[9])? {
        return None;
    }
    let ports = packet.get(words * 4..words * 4 + 4)?;
    let address = |at: usize| <[u8; 4]>::try_from(&fixed[at..at + 4]).map(IpAddr::from).ok();
    Some((fixed[9], twin_port(ports), address(12)?, address(16)?))
}

fn twin_v6(packet: &[u8]) -> Option<(u8, u16, IpAddr, IpAddr)> {
    let fixed = packet.get(..40)?;
    let payload = usize::from(fixed[4]) * 256 + usize::from(fixed[5]);
    if fixed[0] / 16 != 6 || payload < twin_header(fixed[6])? {
        return None;
    }
    let ports = packet.get(40..44)?;
    let address = |at: usize| <[u8; 16]>::try_from(&fixed[at..at + 16]).map(IpAddr::from).ok();
    Some((fixed[6], twin_port(ports), address(8)?, address(24)?))
}

/// The shortest header of the protocol.
fn twin_header(protocol: u8) -> Option<usize> {
    [(6, 20), (17, 8)].iter().find(|p| p.0 == protocol).map(|p| p.1)
}

fn twin_port(ports: &[u8]) -> u16 {
    u16::from(ports[2]) * 256 + u16::from(ports[3])
}

/// A table, the host's addresses, and the time.
#[derive(Debug)]
pub struct World {
    pub table: Table,
    pub local: Vec<IpAddr>,
    pub now: u64,
}

impl World {
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.local.clone()
    }

    /// What the prefilter sees of it.
    pub fn view(&self, flow: &Flow) -> Host<'_> {
        let own = |address| self.local.contains(&ip(address));
        let exempt = match (own(flow.destination), own(flow.source)) {
            (false, _) => Some(Exemption::NotLocal),
            (true, true) => Some(Exemption::OwnTraffic),
            (true, false) => None,
        };
        self.view_of(exempt, Session::Unknown)
    }

    pub fn view_of(&self, exempt: Option<Exemption>, session: Session) -> Host<'_> {
        Host { table: &self.table, lengths: self.table.lengths(), now: self.now, exempt, session }
    }

    /// What the prefilter does.
    pub fn twin_drops(&self, flow: &Flow) -> bool {
        let observes = (1..=self.now).contains(&self.table.observe_from);
        flow.protocol == TCP
            && flow.flags & 0x12 == 0x02
            && !observes
            && self.local.contains(&ip(flow.destination))
            && !self.local.contains(&ip(flow.source))
            && !self.twin_passes(flow, Session::Unknown)
    }

    /// A loop over everything.
    pub fn twin_passes(&self, flow: &Flow, session: Session) -> bool {
        let kept = match session {
            Session::Unknown => true,
            Session::New => false,
            Session::Socket(cookie) => self.table.flows.get(&cookie).is_some_and(|kept| {
                (kept.protocol, kept.port, kept.peer) == (flow.protocol, flow.port, flow.source)
                    && self.now < kept.until_boot_ns
            }),
        };
        let live = |e: &Entry| self.now < e.expires_boot_ns || kept && self.now < e.established_boot_ns;
        !self.table.protected.contains(&(flow.protocol, flow.port))
            || self.table.grants.iter().any(|(key, entry)| covers(key, flow) && live(entry))
    }
}

/// Whether the key is for this flow, bit by bit.
pub fn covers(key: &GrantKey, flow: &Flow) -> bool {
    let bit = |bytes: [u8; 16], n: usize| bytes[n / 8] >> (7 - n % 8) & 1;
    let (ours, theirs) = (key.source().bytes(), flow.source.bytes());
    key.family == flow.source.family
        && key.protocol == flow.protocol
        && u16::from_be_bytes(key.port) == flow.port
        && (0..usize::from(key.prefix_len)).all(|n| bit(ours, n) == bit(theirs, n))
}

/// The host's view of a table, which is what the maps are to the kernel.
pub struct Host<'a> {
    table: &'a Table,
    lengths: Lengths,
    now: u64,
    exempt: Option<Exemption>,
    session: Session,
}

impl View for Host<'_> {
    fn is_protected(&self, protocol: u8, port: u16) -> bool {
        self.table.protected.contains(&(protocol, port))
    }

    fn exemption(&self) -> Option<Exemption> {
        self.exempt
    }

    fn lengths(&self, family: u8, word: u32) -> u64 {
        if family == V4 { self.lengths.v4 } else { self.lengths.v6[word as usize] }
    }

    fn grant(&self, key: &GrantKey) -> Option<GrantValue> {
        self.table.grants.get(key).map(|e| GrantValue::new(key, e.expires_boot_ns, e.established_boot_ns, e.slot))
    }

    fn session(&self) -> Session {
        self.session
    }

    fn flow(&self, cookie: u64) -> Option<FlowValue> {
        self.table.flows.get(&cookie).map(|flow| FlowValue::new(flow.tag(cookie), flow.until_boot_ns))
    }

    fn now(&self) -> u64 {
        self.now
    }

    fn observe_from(&self) -> u64 {
        self.table.observe_from
    }
}

pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => Address::v4(ip.octets()),
        IpAddr::V6(ip) => Address::v6(ip.octets()),
    }
}

pub fn ip(address: Address) -> IpAddr {
    let bytes = address.bytes();
    if address.family == V4 { IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]]) } else { IpAddr::from(bytes) }
}
