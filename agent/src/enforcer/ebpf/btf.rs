//! Offsets from the running kernel's type information (BTF).
//!
//! Owns reading /sys/kernel/btf/vmlinux for the fields that the programs need. The format is in the kernel's Documentation/bpf/btf.rst.

use std::{fs, io};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `skc_net` in `struct sock_common`.
    pub skc_net: u64,
    /// `net_cookie` in `struct net`.
    pub net_cookie: u64,
    /// `skc_num` in `struct sock_common`, on a kernel with MPTCP. `struct mptcp_sock` begins with `struct sock_common`.
    pub skc_num: Option<u64>,
    /// The fields that show a packet that a VRF device looped back, in the order of `VRF_OFFSETS` of the programs. All are zero if BTF
    /// lacks a name; then the cut judges the host's own traffic inside a VRF like other traffic.
    pub vrf: [u64; 8],
    /// `pm.server_side` in `struct mptcp_sock`, a byte, on a kernel with MPTCP.
    pub server_side: Option<u64>,
    pub mptcp: bool,
}

impl Offsets {
    pub fn of_running_kernel() -> io::Result<Self> {
        read(Self::parse)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let btf = Btf::new(bytes)?;
        let common = btf.structure("sock_common")?;
        let mptcp = btf.structure("mptcp_sock");
        let skc_num = mptcp.and_then(|_| btf.member(common, "skc_num", NESTED));
        let server_side = mptcp.and_then(|mptcp| {
            let manager = btf.member(mptcp, "pm", NESTED)?;
            Some(manager + btf.member(btf.structure("mptcp_pm_data")?, "server_side", NESTED)?)
        });
        let net_cookie = btf.member(btf.structure("net")?, "net_cookie", NESTED)?;
        let skc_net = btf.member(common, "skc_net", NESTED)?;
        let vrf = vrf(&btf).unwrap_or_default();
        Some(Self { skc_net, net_cookie, skc_num, server_side, mptcp: mptcp.is_some(), vrf })
    }
}

fn vrf(btf: &Btf<'_>) -> Option<[u64; 8]> {
    let of = |name: &str, field: &str| btf.member(btf.structure(name)?, field, NESTED);
    Some([
        of("sk_buff", "dev")?,
        of("sk_buff", "head")?,
        of("sk_buff", "mac_header")?,
        of("sk_buff", "network_header")?,
        of("sk_buff", "_skb_refdst")?,
        of("net_device", "rtnl_link_ops")?,
        of("net_device", "dev_addr")?,
        of("rtnl_link_ops", "kind")?,
    ])
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOffsets {
    /// `skc_family` in `struct sock_common`. Since Linux 3.13 the two bytes before it are the local port (`skc_num`).
    pub family: u64,
    /// `skc_state` in `struct sock_common`.
    pub state: u64,
    /// `encap_type` in `struct udp_sock`, a byte.
    pub encap_type: u64,
    /// `encap_rcv` in `struct udp_sock`, a pointer.
    pub encap_rcv: u64,
}

impl SocketOffsets {
    pub fn of_running_kernel() -> io::Result<Self> {
        read(Self::parse)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let btf = Btf::new(bytes)?;
        let (common, udp) = (btf.structure("sock_common")?, btf.structure("udp_sock")?);
        Some(Self {
            family: btf.member(common, "skc_family", NESTED)?,
            state: btf.member(common, "skc_state", NESTED)?,
            encap_type: btf.member(udp, "encap_type", NESTED)?,
            encap_rcv: btf.member(udp, "encap_rcv", NESTED)?,
        })
    }
}

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
/// The most nameless structures and unions around a field.
const NESTED: u32 = 4;

fn read<T>(parse: impl Fn(&[u8]) -> Option<T>) -> io::Result<T> {
    let missing = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's BTF does not name the fields needed");
    parse(&fs::read(VMLINUX)?).ok_or_else(missing)
}

struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// The start of each type, by its number minus one.
    starts: Vec<usize>,
}

impl<'a> Btf<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let magic = bytes.first_chunk().copied().map(u16::from_ne_bytes)?;
        if magic != MAGIC {
            return None;
        }
        let body = bytes.get(word(bytes, 4)? as usize..)?;
        let section = |at| body.get(word(bytes, at)? as usize..)?.get(..word(bytes, at + 4)? as usize);
        let (types, strings) = (section(8)?, section(16)?);
        let (mut starts, mut at) = (Vec::new(), 0);
        while at < types.len() {
            starts.push(at);
            let info = word(types, at + 4)?;
            at += 12 + extra(kind(info), members(info))?;
        }
        Some(Self { types, strings, starts })
    }

    fn structure(&self, name: &str) -> Option<usize> {
        let is = |at: &usize| {
            let (named, info) = (word(self.types, *at), word(self.types, *at + 4));
            info.is_some_and(|info| kind(info) == KIND_STRUCT) && named.is_some_and(|named| self.is(named, name))
        };
        self.starts.iter().copied().find(is)
    }

    /// The byte offset of a field in the structure or union at `at`, or in a nameless one up to `deep` levels down. No bit fields.
    fn member(&self, at: usize, field: &str, deep: u32) -> Option<u64> {
        let info = word(self.types, at + 4)?;
        let inside = |member: usize| {
            let (name, kind) = (word(self.types, member)?, word(self.types, member + 4)?);
            let bits = word(self.types, member + 8)?;
            let offset = u64::from(if info >> 31 == 1 { bits & 0x00ff_ffff } else { bits } / 8);
            if self.is(name, field) {
                return Some(offset);
            }
            let nested = self.is(name, "").then(|| self.starts.get((kind as usize).checked_sub(1)?).copied())??;
            Some(offset + self.member(nested, field, deep.checked_sub(1)?)?)
        };
        if !matches!(kind(info), KIND_STRUCT | KIND_UNION) {
            return None;
        }
        (0..members(info)).map(|n| at + 12 + n * 12).find_map(inside)
    }

    fn is(&self, offset: u32, name: &str) -> bool {
        let rest = self.strings.get(offset as usize..).and_then(|s| s.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }
}

const fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

const fn members(info: u32) -> usize {
    (info & 0xffff) as usize
}

/// The bytes after the first twelve of a type. `None` for an unknown kind, because its size is unknown.
fn extra(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // pointer, forward, typedef, volatile, const, restrict, function, float, type tag
        2 | 7..=12 | 16 | 18 => 0,
        // integer, variable, declaration tag
        1 | 14 | 17 => 4,
        3 => 12,
        // struct, union, data section, 64-bit enumeration
        4 | 5 | 15 | 19 => count * 12,
        // enumeration, function prototype
        6 | 13 => count * 8,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_names_the_fields() {
        let offsets = Offsets::of_running_kernel().unwrap();
        // Pointers and 64-bit numbers are aligned, and neither field is the first of its structure.
        assert!(offsets.skc_net > 0 && offsets.skc_net.is_multiple_of(8), "{offsets:?}");
        assert!(offsets.net_cookie > 0 && offsets.net_cookie.is_multiple_of(8), "{offsets:?}");
        // Before it: two addresses, a hash and the remote port, all in nameless structures.
        assert!(offsets.skc_num.is_none_or(|at| at == 14), "{offsets:?}");
        // Six pointers, and two numbers of 16 bits. `kind` follows the list head of `struct rtnl_link_ops`.
        let [dev, head, mac, network, route, ops, address, kind] = offsets.vrf;
        assert!([dev, head, route, ops, address, kind].iter().all(|at| at.is_multiple_of(8)), "{offsets:?}");
        assert!(mac.is_multiple_of(2) && network.is_multiple_of(2) && mac > network && kind > 0, "{offsets:?}");
        // Behind the connection's socket.
        assert_eq!(offsets.server_side.map(|at| at > 100), offsets.mptcp.then_some(true), "{offsets:?}");
    }

    #[test]
    fn the_running_kernel_names_what_shows_a_tunnel() {
        let offsets = SocketOffsets::of_running_kernel().unwrap();
        assert!(offsets.family >= 16 && offsets.state >= offsets.family, "{offsets:?}");
        assert!(offsets.encap_rcv.is_multiple_of(8) && offsets.encap_type > offsets.state, "{offsets:?}");
    }

    #[test]
    fn a_cut_short_file_is_no_btf() {
        let bytes = fs::read("/sys/kernel/btf/vmlinux").unwrap();
        for len in [0, 1, 23, 24, 1000, bytes.len() / 2] {
            assert_eq!(Offsets::parse(&bytes[..len]), None, "{len} bytes");
        }
    }
}
