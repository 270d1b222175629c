//! UDP ports whose datagrams go to a kernel tunnel before the cut sees them.
//!
//! Owns the list of sockets with a receive function of the kernel (`encap_rcv`). It does not know which ports are protected.

use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::{AsFd as _, OwnedFd},
};

use aya::{Btf, EbpfLoader, programs::Iter};

use super::{
    btf::SocketOffsets,
    programs::{OBJECT, missing},
    sys,
};
use crate::enforcer::EnforcerError;

const PROGRAM: &str = "encapsulating";
const ADVICE: &str =
    "posternd needs root (CAP_BPF, CAP_PERFMON) and a kernel with BTF to see them; `ip -d link` lists tunnels";
/// `TCP_ESTABLISHED`: also the state of a connected UDP socket.
const CONNECTED: u8 = 1;

/// A UDP socket whose datagrams go to a kernel function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tunnel {
    /// The local port.
    pub port: u16,
    /// The tunnel's kind: `VXLAN`, `ESP in UDP (IPsec)`, or the name of the function.
    pub kind: String,
    /// Whether the socket is connected to one peer. Then the kernel does not ask the lock either.
    pub connected: bool,
}

impl Tunnel {
    /// The protection that fails if the port is protected, and the remedy.
    #[must_use]
    pub fn sentence(&self) -> String {
        let Self { port, kind, connected } = self;
        let inward = if *connected {
            "its socket is connected to one peer, so what that peer sends still comes in after the grant's end"
        } else {
            "only the lock refuses what comes in without a grant"
        };
        format!(
            "{port}/udp belongs to a kernel tunnel ({kind}), whose packets the cut does not see: {inward}, and what the tunnel \
             sends still leaves after the grant's end. Take the tunnel down with the grant, or rely on the tunnel's own keys"
        )
    }
}

/// The program that lists these sockets. Only loading it needs the right to load programs.
pub struct Tunnels {
    program: OwnedFd,
}

impl Tunnels {
    /// Loads the program. Minimum kernel 5.9.
    ///
    /// # Errors
    /// The kernel has no BTF, or refused the program.
    pub fn load() -> Result<Self, EnforcerError> {
        let failed =
            |e: &dyn std::error::Error| EnforcerError::kernel("see which UDP ports kernel tunnels use", e, ADVICE);
        let offsets = SocketOffsets::of_running_kernel().map_err(|e| failed(&e))?;
        let mut ebpf = EbpfLoader::new()
            .override_global("SKC_FAMILY_OFFSET", &offsets.family, true)
            .override_global("SKC_STATE_OFFSET", &offsets.state, true)
            .override_global("ENCAP_TYPE_OFFSET", &offsets.encap_type, true)
            .override_global("ENCAP_RCV_OFFSET", &offsets.encap_rcv, true)
            .load(OBJECT)
            .map_err(|e| failed(&e))?;
        let btf = Btf::from_sys_fs().map_err(|e| failed(&e))?;
        let program = ebpf.program_mut(PROGRAM).ok_or_else(|| missing(PROGRAM))?;
        let program = <&mut Iter>::try_from(program).map_err(|e| failed(&e))?;
        program.load("udp", &btf).map_err(|e| failed(&e))?;
        let program = program.fd().map_err(|e| failed(&e))?.as_fd().try_clone_to_owned().map_err(|e| failed(&e))?;
        Ok(Self { program })
    }

    /// The sockets in the calling thread's network namespace, each once. Several system calls without a wait.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn find(&self) -> io::Result<Vec<Tunnel>> {
        let link = sys::create_link(self.program.as_fd(), 0, sys::ATTACH_ITER, 0)?;
        let mut text = String::new();
        File::from(sys::create_iter(link.as_fd())?).read_to_string(&mut text)?;
        let mut found: Vec<_> = text.lines().filter_map(parse).collect();
        found.sort();
        found.dedup();
        Ok(found)
    }
}

/// As [`Tunnels::load`] and [`Tunnels::find`], for a process that calls them once.
///
/// # Errors
/// As [`Tunnels::load`] and [`Tunnels::find`].
pub fn tunnels() -> Result<Vec<Tunnel>, EnforcerError> {
    let found = Tunnels::load()?.find();
    found.map_err(|e| EnforcerError::kernel("see which UDP ports kernel tunnels use", &e, ADVICE))
}

/// A line of the program: port, family, state, type of encapsulation, function.
fn parse(line: &str) -> Option<Tunnel> {
    let mut words = line.splitn(5, ' ');
    let port = words.next()?.parse().ok()?;
    let _family: u16 = words.next()?.parse().ok()?;
    let state: u8 = words.next()?.parse().ok()?;
    let encap: u8 = words.next()?.parse().ok()?;
    Some(Tunnel { port, kind: kind(encap, words.next()?), connected: state == CONNECTED })
}

/// The kind in words. The function's name comes first because several tunnels share one number.
fn kind(encap: u8, function: &str) -> String {
    // `vxlan_rcv [vxlan]` for a function in a module; an address if the kernel knows no name.
    let name = function.split([' ', '+']).next().unwrap_or_default();
    let begins = [
        ("vxlan", "VXLAN"),
        ("geneve", "Geneve"),
        ("wg_", "WireGuard"),
        ("fou_", "FOU"),
        ("gue_", "GUE"),
        ("l2tp", "L2TP"),
        ("gtp", "GTP"),
        ("xfrm", "ESP in UDP (IPsec)"),
        ("rxrpc", "RxRPC"),
        ("tipc", "TIPC"),
        ("bareudp", "bareudp"),
        ("pfcp", "PFCP"),
        ("amt", "AMT"),
        ("ovpn", "OpenVPN"),
        ("rxe", "RoCE (soft RDMA)"),
        ("sctp", "SCTP over UDP"),
    ];
    if let Some((_, known)) = begins.iter().find(|(begin, _)| name.starts_with(begin)) {
        return (*known).to_owned();
    }
    // UDP_ENCAP_…, include/uapi/linux/udp.h
    match encap {
        2 | 7 => "ESP in UDP (IPsec)".to_owned(),
        3 => "L2TP".to_owned(),
        4 | 5 => "GTP".to_owned(),
        6 => "RxRPC".to_owned(),
        _ if name.is_empty() || name.starts_with("0x") => "a kernel tunnel of an unknown kind".to_owned(),
        _ => format!("the kernel's {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_program_become_tunnels() {
        let tunnel = |port, kind: &str, connected| Some(Tunnel { port, kind: kind.to_owned(), connected });
        assert_eq!(parse("4789 2 7 1 vxlan_rcv [vxlan]"), tunnel(4789, "VXLAN", false));
        assert_eq!(parse("4500 10 7 2 xfrm6_udp_encap_rcv"), tunnel(4500, "ESP in UDP (IPsec)", false));
        assert_eq!(parse("1701 2 1 3 0xffffffffc0123456"), tunnel(1701, "L2TP", true));
        assert_eq!(parse("1 2 7 1 new_thing_rcv [new]"), tunnel(1, "the kernel's new_thing_rcv", false));
        assert_eq!(parse("1 2 7 1 0x0"), tunnel(1, "a kernel tunnel of an unknown kind", false));
        for nonsense in ["", "4789", "x 2 7 1 f", "70000 2 7 1 f", "1 2 7 1"] {
            assert_eq!(parse(nonsense), None, "{nonsense}");
        }
    }
}
