//! Random packets for the differential test.
//!
//! Owns the shapes: well-formed ones, those the prefilter must not be sure of, and plain damage.

pub mod twin;

use std::net::IpAddr;

/// xorshift64*: repeatable from its seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 16) % limit
    }

    /// One of few ports, most of them protected at times.
    pub fn port(&mut self) -> u16 {
        [22, 22, 23, 3389, 80][self.below(5) as usize]
    }

    /// One of few addresses of either family, among them IPv4-mapped ones.
    pub fn address(&mut self) -> IpAddr {
        let host = self.below(6) as u8;
        match self.below(5) {
            0 | 1 => IpAddr::from([192, 0, 2, host]),
            2 | 3 => IpAddr::from([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, host]),
            _ => IpAddr::from([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, host]),
        }
    }

    fn address_like(&mut self, other: IpAddr) -> IpAddr {
        loop {
            let address = self.address();
            if address.is_ipv4() == other.is_ipv4() {
                return address;
            }
        }
    }
}

/// A frame, mostly to one of `local`.
pub fn packet(random: &mut Random, local: &[IpAddr]) -> Vec<u8> {
    let to = match local {
        [_, ..] if random.below(4) > 0 => local[random.below(local.len() as u64) as usize],
        _ => random.address(),
    };
    let from = random.address_like(to);
    let protocol = [6, 6, 6, 17, 17, 132, 58][random.below(7) as usize];
    let segment = segment(random, protocol);
    let body = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4(random, from.octets(), to.octets(), protocol, &segment),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6(random, from.octets(), to.octets(), protocol, &segment),
        _ => unreachable!("one family"),
    };
    let ethertype = match random.below(40) {
        0 => random.next() as u16,
        1 => 0x0806,
        _ if to.is_ipv4() => 0x0800,
        _ => 0x86dd,
    };
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for _ in 0..random.below(8).saturating_sub(4) {
        let tag: [u16; 4] = [0x8100, 0x88a8, 0x8100, 0x9100];
        frame.extend(tag[random.below(4) as usize].to_be_bytes());
        frame.extend((random.next() as u16).to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(body);
    if random.below(10) == 0 {
        let trailer = random.below(20) as usize;
        frame.extend(vec![0x16; trailer]);
    }
    // Plain damage: one byte is anything.
    if random.below(8) == 0 {
        let at = 12 + random.below(frame.len() as u64 - 12) as usize;
        frame[at] = random.next() as u8;
    }
    frame
}

fn segment(random: &mut Random, protocol: u8) -> Vec<u8> {
    let mut segment = (40_000 + random.below(4) as u16).to_be_bytes().to_vec();
    segment.extend(random.port().to_be_bytes());
    let len = if protocol == 17 { 8 } else { 20 } + random.below(12) as usize;
    segment.resize(len, random.next() as u8);
    if random.below(20) == 0 {
        segment.truncate(random.below(segment.len() as u64) as usize);
    }
    segment
}

fn ipv4(random: &mut Random, from: [u8; 4], to: [u8; 4], protocol: u8, segment: &[u8]) -> Vec<u8> {
    let options = random.below(14).saturating_sub(3) as usize;
    let header_len = 20 + 4 * options;
    let total = match random.below(20) {
        0 => random.next() as u16,
        _ => (header_len + segment.len()) as u16,
    };
    let fragment: u16 = match random.below(12) {
        0 => 0x2000,
        1 => random.below(0x2000) as u16,
        2 => 0x4000,
        _ => 0,
    };
    let mut packet = vec![0x40 | (header_len / 4) as u8, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(from);
    packet.extend(to);
    packet.extend((0..4 * options).map(|n| n as u8));
    packet.extend(segment);
    packet
}

fn ipv6(random: &mut Random, from: [u8; 16], to: [u8; 16], protocol: u8, segment: &[u8]) -> Vec<u8> {
    let extension = random.below(6) == 0;
    let mut payload = Vec::new();
    if extension {
        payload.extend([protocol, 0, 1, 4, 0, 0, 0, 0]);
    }
    payload.extend(segment);
    let len = if random.below(20) == 0 { random.below(40) as u16 } else { payload.len() as u16 };
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(len.to_be_bytes());
    packet.extend([if extension { [0, 43, 44, 60][random.below(4) as usize] } else { protocol }, 64]);
    packet.extend(from);
    packet.extend(to);
    packet.extend(payload);
    packet
}
