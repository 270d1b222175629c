//! Offsets from the running kernel's type information (BTF).
//!
//! Owns reading /sys/kernel/btf/vmlinux as far as the programs need it: where a socket's network namespace and that one's cookie
//! lie, and what shows that a UDP socket is a tunnel's. The format is in the kernel's Documentation/bpf/btf.rst.

use std::{fs, io};

/// Byte offsets in the kernel's structures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets {
    /// `skc_net` in `struct sock_common`.
    pub skc_net: u64,
    /// `net_cookie` in `struct net`.
    pub net_cookie: u64,
}

impl Offsets {
    /// Reads them from /sys/kernel/btf/vmlinux.
    ///
    /// # Errors
    /// There is no BTF, or it does not name these fields.
    pub fn of_running_kernel() -> io::Result<Self> {
        let bytes = fs::read(VMLINUX)?;
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's BTF does not name the fields needed");
        Self::parse(&bytes).ok_or_else(missing)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let btf = Btf::new(bytes)?;
        Some(Self { skc_net: btf.member("sock_common", "skc_net")?, net_cookie: btf.member("net", "net_cookie")? })
    }
}

/// Byte offsets in a UDP socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketOffsets {
    /// `skc_family` in `struct sock_common`. The local port (`skc_num`, in a union without a name) are the two bytes before it, in
    /// every kernel since 3.13.
    pub family: u64,
    /// `skc_state` in `struct sock_common`.
    pub state: u64,
    /// `encap_type` in `struct udp_sock`, a byte.
    pub encap_type: u64,
    /// `encap_rcv` in `struct udp_sock`, a pointer.
    pub encap_rcv: u64,
}

impl SocketOffsets {
    /// Reads them from /sys/kernel/btf/vmlinux.
    ///
    /// # Errors
    /// There is no BTF, or it does not name these fields.
    pub fn of_running_kernel() -> io::Result<Self> {
        let bytes = fs::read(VMLINUX)?;
        let missing = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's BTF does not name the fields needed");
        Self::parse(&bytes).ok_or_else(missing)
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let btf = Btf::new(bytes)?;
        Some(Self {
            family: btf.member("sock_common", "skc_family")?,
            state: btf.member("sock_common", "skc_state")?,
            encap_type: btf.member("udp_sock", "encap_type")?,
            encap_rcv: btf.member("udp_sock", "encap_rcv")?,
        })
    }
}

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const MAGIC: u16 = 0xeb9f;
const KIND_STRUCT: u32 = 4;

struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Btf<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let magic = bytes.first_chunk().copied().map(u16::from_ne_bytes)?;
        if magic != MAGIC {
            return None;
        }
        let body = bytes.get(word(bytes, 4)? as usize..)?;
        let section = |at| body.get(word(bytes, at)? as usize..)?.get(..word(bytes, at + 4)? as usize);
        Some(Self { types: section(8)?, strings: section(16)? })
    }

    /// The byte offset of a field that is no bit field.
    fn member(&self, structure: &str, field: &str) -> Option<u64> {
        let mut at = 0;
        while at < self.types.len() {
            let (name, info) = (word(self.types, at)?, word(self.types, at + 4)?);
            let (kind, count, flagged) = (info >> 24 & 0x1f, (info & 0xffff) as usize, info >> 31 == 1);
            if kind == KIND_STRUCT && self.is(name, structure) {
                let mut members = (0..count).map(|n| at + 12 + n * 12);
                let found = members.find(|&m| word(self.types, m).is_some_and(|name| self.is(name, field)))?;
                let bits = word(self.types, found + 8)?;
                return Some(u64::from(if flagged { bits & 0x00ff_ffff } else { bits } / 8));
            }
            at += 12 + extra(kind, count)?;
        }
        None
    }

    fn is(&self, offset: u32, name: &str) -> bool {
        let rest = self.strings.get(offset as usize..).and_then(|s| s.strip_prefix(name.as_bytes()));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }
}

/// Bytes behind the common twelve of a type; `None` for a kind that this code does not know, whose size it cannot tell.
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
    fn the_running_kernel_names_both_fields() {
        let offsets = Offsets::of_running_kernel().unwrap();
        // Pointers and 64-bit numbers are aligned, and neither field is the first of its structure.
        assert!(offsets.skc_net > 0 && offsets.skc_net.is_multiple_of(8), "{offsets:?}");
        assert!(offsets.net_cookie > 0 && offsets.net_cookie.is_multiple_of(8), "{offsets:?}");
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
