//! The layout that user space and the kernel share: map keys, map values, counters.
//!
//! Owns the bytes of every shared map. It never decides ([`crate::verdict`] does) and never touches a map.
//! Everything is `repr(C)` without implicit padding, and addresses and ports are in network byte order, so that packet
//! bytes need no conversion. Raise [`LAYOUT_VERSION`] whenever a type here changes its meaning or its bytes.

/// Version of everything in this module. The directory of pinned maps and links carries it.
pub const LAYOUT_VERSION: u32 = 6;

/// What the eBPF object carries, so that no agent is built around an object of another layout: the version, in words.
pub const LAYOUT_MARK: [u8; 20] = {
    let [a, b, c, d] = LAYOUT_VERSION.to_le_bytes();
    [b'p', b'o', b's', b't', b'e', b'r', b'n', b' ', b'l', b'a', b'y', b'o', b'u', b't', b' ', b'=', a, b, c, d]
};

/// IP protocol number of TCP (RFC 9293).
pub const TCP: u8 = 6;
/// IP protocol number of UDP (RFC 768).
pub const UDP: u8 = 17;

/// Address family in [`GrantKey::family`]: IPv4.
pub const V4: u8 = 4;
/// Address family in [`GrantKey::family`]: IPv6.
pub const V6: u8 = 6;

/// The largest number of bits in a prefix of `family` ([`V4`]: 32, [`V6`]: 128).
#[inline(always)]
#[must_use]
pub const fn max_prefix(family: u8) -> u8 {
    if family == V4 { 32 } else { 128 }
}

/// An IP address with its family, and key of the map `LOCAL`. IPv4 lives in the first four bytes; the other twelve are zero.
/// 24 bytes; aligned, so that eBPF code moves words and not bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// [`V4`] or [`V6`].
    pub family: u8,
    /// Zero.
    pub zero: [u8; 7],
    /// Network byte order in memory.
    pub(crate) words: [u64; 2],
}

impl Address {
    /// An IPv4 address from its four bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn v4(b: [u8; 4]) -> Self {
        Self { family: V4, zero: [0; 7], words: [((u32::from_be_bytes(b) as u64) << 32).to_be(), 0] }
    }

    /// An IPv6 address from its sixteen bytes in network order.
    #[inline(always)]
    #[must_use]
    pub const fn v6(b: [u8; 16]) -> Self {
        let words = [
            u64::from_ne_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            u64::from_ne_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        ];
        Self { family: V6, zero: [0; 7], words }
    }

    /// The sixteen bytes in network order; IPv4 has the first four.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(&self) -> [u8; 16] {
        let (a, b) = (self.words[0].to_ne_bytes(), self.words[1].to_ne_bytes());
        [a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]
    }

    /// What one customer of a provider has: an IPv4 address, or an IPv6 /64.
    #[inline(always)]
    #[must_use]
    pub const fn network(self) -> Self {
        if self.family == V4 { self } else { Self { words: [self.words[0], 0], ..self } }
    }
}

/// Key of the map `GRANTS`: who may reach what. 24 bytes; aligned, so that eBPF code moves words and not bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantKey {
    /// [`V4`] or [`V6`].
    pub family: u8,
    /// Leading bits of `source` that count.
    pub prefix_len: u8,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Zero.
    pub zero: u8,
    /// The host's port, network byte order.
    pub port: [u8; 2],
    /// Zero.
    pub zero2: [u8; 2],
    /// The source with every bit behind the prefix cleared, network byte order in memory.
    source: [u64; 2],
}

/// Value of the map `GRANTS`. 40 bytes.
///
/// It has two ends (docs/decisions/0030-sessions-that-outlive-their-grant.md): one for everything from the source, and one for
/// the sockets in `FLOWS` alone. An entry of which only the second is still to come is `established_only`.
///
/// The kernel may reuse a deleted or replaced element at once, so a reader can look at the bytes of another grant
/// (DESIGN 3). `tag_front` and `tag_back` are [`GrantKey::tag`] of the key this value belongs to and lie around
/// the expiry: whichever way the kernel copies a new value, one of the two is written before the expiry. A reader reads
/// the expiry first and then both tags, and treats a mismatch as no entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantValue {
    /// [`GrantKey::tag`] of the value's key.
    pub tag_front: u64,
    /// `CLOCK_BOOTTIME` in nanoseconds at which the entry is no longer live: `now >= expires` means closed.
    pub expires_boot_ns: u64,
    /// As `expires_boot_ns`, for the sockets in `FLOWS`; 0 where there are none.
    pub established_boot_ns: u64,
    /// Index into `USAGE`.
    pub slot: u32,
    /// Zero.
    pub zero: u32,
    /// [`GrantKey::tag`] of the value's key.
    pub tag_back: u64,
}

impl GrantKey {
    /// The key for `source` cut to `prefix_len` bits. A length beyond the family's is taken as the family's.
    #[inline(always)]
    #[must_use]
    pub fn new(source: Address, prefix_len: u8, protocol: u8, port: u16) -> Self {
        let most = max_prefix(source.family);
        Self::with_len(source, if prefix_len > most { most } else { prefix_len }, protocol, port)
    }

    /// As [`Self::new`], for a length that is known to be one of the family's. Without branches, because the kernel's verifier
    /// follows each of them anew for each prefix length.
    #[inline(always)]
    pub(crate) fn with_len(source: Address, prefix_len: u8, protocol: u8, port: u16) -> Self {
        Self {
            family: source.family,
            prefix_len,
            protocol,
            zero: 0,
            port: port.to_be_bytes(),
            zero2: [0; 2],
            source: masked(source.words, prefix_len),
        }
    }

    /// A 64-bit name of this key for [`GrantValue`]. Not a secret and not collision-free: it tells two racing grants apart,
    /// both of which policy has allowed.
    #[inline(always)]
    #[must_use]
    pub fn tag(&self) -> u64 {
        let head = u64::from_be_bytes([
            self.family,
            self.prefix_len,
            self.protocol,
            self.zero,
            self.port[0],
            self.port[1],
            self.zero2[0],
            self.zero2[1],
        ]);
        // Multiplication by odd constants (the golden ratio and its neighbour in splitmix64) spreads bits both ways.
        let [high, low] = self.source;
        (head ^ high.wrapping_mul(0x9e37_79b9_7f4a_7c15)) ^ low.wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    /// The source, cut to the prefix.
    #[must_use]
    pub const fn source(&self) -> Address {
        Address { family: self.family, zero: [0; 7], words: self.source }
    }
}

impl GrantValue {
    /// The value for `key`.
    #[inline(always)]
    #[must_use]
    pub fn new(key: &GrantKey, expires_boot_ns: u64, established_boot_ns: u64, slot: u32) -> Self {
        let tag = key.tag();
        Self { tag_front: tag, expires_boot_ns, established_boot_ns, slot, zero: 0, tag_back: tag }
    }
}

/// Value of the map `FLOWS`, whose key is a socket's cookie (`bpf_get_socket_cookie`, `SO_COOKIE`, `idiag_cookie`: one number,
/// which the kernel gives to no other socket until it boots again). 24 bytes.
///
/// The tags are [`flow_tag`]: they bind the cookie to its port and source, and stand around the end for the same reason
/// as those of [`GrantValue`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowValue {
    /// [`flow_tag`].
    pub tag_front: u64,
    /// `CLOCK_BOOTTIME` in nanoseconds at which the session is over: `now >= until` means cut.
    pub until_boot_ns: u64,
    /// [`flow_tag`].
    pub tag_back: u64,
}

/// A 64-bit name of one session: its socket's cookie, its peer's whole address, its protocol and the host's port. As
/// little a secret as [`GrantKey::tag`]: the stack itself gives a session's socket no packet of anybody else.
#[inline(always)]
#[must_use]
pub fn flow_tag(cookie: u64, peer: Address, protocol: u8, port: u16) -> u64 {
    let key = GrantKey::with_len(peer, max_prefix(peer.family), protocol, port);
    key.tag() ^ cookie.wrapping_mul(0x94d0_49bb_1331_11eb)
}

impl FlowValue {
    /// The value for the session with this [`flow_tag`].
    #[inline(always)]
    #[must_use]
    pub fn new(tag: u64, until_boot_ns: u64) -> Self {
        Self { tag_front: tag, until_boot_ns, tag_back: tag }
    }
}

/// `words` (network byte order in memory) with everything behind the first `len` bits cleared; `len` above 128 keeps all.
#[inline(always)]
fn masked([high, low]: [u64; 2], len: u8) -> [u64; 2] {
    let len = len as u64;
    let leading = mask(len & 63);
    // All ones where the length reaches into the second word, and where it fills it.
    let second = 0u64.wrapping_sub(len >> 6 & 1 | len >> 7);
    let whole = 0u64.wrapping_sub(len >> 7);
    [high & (leading | second).to_be(), low & ((leading | whole) & second).to_be()]
}

/// The leading `len` bits of 64 set, for a `len` below 64.
#[inline(always)]
fn mask(len: u64) -> u64 {
    !(u64::MAX >> len)
}

/// The one value of the map `LENGTHS`: which prefix lengths are in use. 32 bytes.
///
/// Bit `n` of `v4` stands for `/n`; bit `n % 64` of `v6[n / 64]` likewise.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    /// `/0` to `/32`.
    pub v4: u64,
    /// `/0` to `/128`.
    pub v6: [u64; 3],
}

impl Lengths {
    /// Adds `len` of `family`.
    pub fn insert(&mut self, family: u8, len: u8) {
        if family == V4 {
            self.v4 |= 1 << (len & 63);
        } else {
            self.v6[usize::from(len >> 6) % 3] |= 1 << (len & 63);
        }
    }

    /// Both together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            v4: self.v4 | other.v4,
            v6: [self.v6[0] | other.v6[0], self.v6[1] | other.v6[1], self.v6[2] | other.v6[2]],
        }
    }
}

/// Number of `u64` words in the map `PROTECTED` (an array of words): 65,536 ports for TCP, then 65,536 for UDP.
pub const PROTECTED_WORDS: u32 = 2048;

/// Word and bit of (`protocol`, `port`) in `PROTECTED`; `None` for any protocol but TCP and UDP.
#[inline(always)]
#[must_use]
pub fn protected_bit(protocol: u8, port: u16) -> Option<(u32, u32)> {
    let base = match protocol {
        TCP => 0,
        UDP => PROTECTED_WORDS / 2,
        _ => return None,
    };
    Some((base + (port as u32 >> 6), port as u32 & 63))
}

/// Key of the map `LISTENERS`: an address and port at which the API listens for strangers. The unspecified address stands for
/// every one of its family. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listener {
    /// Where.
    pub address: Address,
    /// The port, network byte order.
    pub port: [u8; 2],
    /// Zero.
    pub zero: [u8; 6],
}

impl Listener {
    /// At `address`, TCP port `port` (host byte order).
    #[inline(always)]
    #[must_use]
    pub const fn new(address: Address, port: u16) -> Self {
        Self { address, port: port.to_be_bytes(), zero: [0; 6] }
    }
}

/// Value of the map `LISTENERS`: how fast one source may begin connections there. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynRate {
    /// Nanoseconds that one SYN costs.
    pub interval_ns: u64,
    /// Nanoseconds that a source may be ahead of that.
    pub tolerance_ns: u64,
}

impl SynRate {
    /// So many a second, and `burst` at once; neither can be less than one.
    #[must_use]
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let interval_ns = 1_000_000_000 / if per_second == 0 { 1 } else { per_second as u64 };
        Self { interval_ns, tolerance_ns: interval_ns * (burst as u64).saturating_sub(1) }
    }
}

/// Key of the map `REFUSED`: an own address, a TCP port and the device at which the lock or the cut has itself refused a new
/// connection. 32 bytes. The value is the `CLOCK_BOOTTIME` of the last refusal in nanoseconds.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RefusedAt {
    /// The address of the host.
    pub address: Address,
    /// The index of the device at which the packet reached the IP layer.
    pub ifindex: u32,
    /// The port, network byte order.
    pub port: [u8; 2],
    /// Zero.
    pub zero: [u8; 2],
}

impl RefusedAt {
    /// At `address`, TCP port `port` (host byte order), over the device `ifindex`.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: Address, port: u16, ifindex: u32) -> Self {
        Self { address, ifindex, port: port.to_be_bytes(), zero: [0; 2] }
    }
}

/// Per-CPU value of the map `USAGE`, indexed by [`GrantValue::slot`]. 48 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotUsage {
    /// Packets from the source to the host, as the cut sees them (an aggregated segment counts once).
    pub packets_in: u64,
    /// Bytes of those, network header included.
    pub bytes_in: u64,
    /// Packets from the host to the source.
    pub packets_out: u64,
    /// Bytes of those.
    pub bytes_out: u64,
    /// `CLOCK_BOOTTIME` of the first packet on this CPU, 0 for none.
    pub first_boot_ns: u64,
    /// `CLOCK_BOOTTIME` of the last packet on this CPU, 0 for none.
    pub last_boot_ns: u64,
}

impl SlotUsage {
    /// The sum of two CPUs' parts.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        let first = match (self.first_boot_ns, other.first_boot_ns) {
            (0, b) => b,
            (a, 0) => a,
            (a, b) => a.min(b),
        };
        Self {
            packets_in: self.packets_in.wrapping_add(other.packets_in),
            bytes_in: self.bytes_in.wrapping_add(other.bytes_in),
            packets_out: self.packets_out.wrapping_add(other.packets_out),
            bytes_out: self.bytes_out.wrapping_add(other.bytes_out),
            first_boot_ns: first,
            last_boot_ns: self.last_boot_ns.max(other.last_boot_ns),
        }
    }
}

/// Per-CPU value of the map `OBSERVED`, whose key is the [`GrantKey`] of one whole address: what would have been dropped from it
/// at one port, had the host not only observed. 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObservedValue {
    /// Look-ups that the lock would have refused: new connections, and datagrams to unconnected sockets.
    pub lookups: u64,
    /// Packets to a socket that the cut would have dropped.
    pub packets: u64,
    /// `CLOCK_BOOTTIME` of the last of them on this CPU.
    pub last_boot_ns: u64,
}

impl ObservedValue {
    /// The sum of two CPUs' parts.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            lookups: self.lookups.wrapping_add(other.lookups),
            packets: self.packets.wrapping_add(other.packets),
            last_boot_ns: self.last_boot_ns.max(other.last_boot_ns),
        }
    }
}

/// What the map `EVENTS` (a ring buffer) carries: somebody was turned away. 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeniedEvent {
    /// [`V4`] or [`V6`].
    pub family: u8,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// Index of the [`crate::verdict::Hook`].
    pub hook: u8,
    /// Index of the [`crate::verdict::Fate`].
    pub fate: u8,
    /// The host's port, network byte order.
    pub port: [u8; 2],
    /// Zero.
    pub zero: [u8; 2],
    /// Who was turned away.
    pub source: [u8; 16],
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    #[test]
    fn layouts_have_no_padding() {
        assert_eq!(size_of::<GrantKey>(), 24);
        assert_eq!(size_of::<GrantValue>(), 40);
        assert_eq!(size_of::<FlowValue>(), 24);
        assert_eq!(size_of::<Lengths>(), 32);
        assert_eq!(size_of::<SlotUsage>(), 48);
        assert_eq!(size_of::<Address>(), 24);
        assert_eq!(size_of::<DeniedEvent>(), 24);
        assert_eq!(size_of::<Listener>(), 32);
        assert_eq!(size_of::<RefusedAt>(), 32);
        assert_eq!(size_of::<SynRate>(), 16);
        assert_eq!(size_of::<ObservedValue>(), 24);
    }

    #[test]
    fn masking_keeps_exactly_the_leading_bits() {
        for len in 0..=130u8 {
            let got = Address { words: masked([u64::MAX; 2], len), ..Address::v6([0; 16]) };
            let got = u128::from_be_bytes(got.bytes());
            let want = if len == 0 { 0 } else { u128::MAX << (128 - u32::from(len.min(128))) };
            assert_eq!(got, want, "/{len}");
        }
    }

    #[test]
    fn every_port_has_its_own_bit() {
        let mut seen = std::collections::HashSet::new();
        for protocol in [TCP, UDP] {
            for port in 0..=u16::MAX {
                let (word, bit) = protected_bit(protocol, port).unwrap();
                assert!(word < PROTECTED_WORDS && bit < 64 && seen.insert((word, bit)));
            }
        }
        assert_eq!(protected_bit(1, 22), None);
    }

    #[test]
    fn the_tag_depends_on_every_field() {
        let key = GrantKey::new(Address::v4([192, 0, 2, 7]), 32, TCP, 22);
        let others = [
            GrantKey::new(Address::v4([192, 0, 2, 6]), 32, TCP, 22),
            GrantKey::new(Address::v4([192, 0, 2, 7]), 31, TCP, 22),
            GrantKey::new(Address::v4([192, 0, 2, 7]), 32, UDP, 22),
            GrantKey::new(Address::v4([192, 0, 2, 7]), 32, TCP, 23),
            GrantKey::new(Address::v6([192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), 32, TCP, 22),
        ];
        assert!(others.iter().all(|other| other.tag() != key.tag()));
    }

    #[test]
    fn the_tag_of_a_session_depends_on_every_field() {
        let source = Address::v4([192, 0, 2, 7]);
        let others = [
            flow_tag(8, source, TCP, 22),
            flow_tag(7, Address::v4([192, 0, 2, 6]), TCP, 22),
            flow_tag(7, Address::v6([192, 0, 2, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), TCP, 22),
            flow_tag(7, source, UDP, 22),
            flow_tag(7, source, TCP, 23),
        ];
        assert!(others.iter().all(|other| *other != flow_tag(7, source, TCP, 22)));
    }
}
