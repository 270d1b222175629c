//! The cut: `cgroup_skb`, both directions, on the root of cgroup v2.
//!
//! Owns the end of grants: it judges every packet to or from a socket that is bound to a protected port, established or not.
//! It parses nothing: the port is the socket's, the address stands at a fixed place in the IP header.

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock,
    helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_probe_read_kernel, bpf_sk_fullsock},
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use postern_core::{
    key::{Address, TCP, UDP},
    verdict::{Exemption, Fate, Hook, Session, Verdict, decide, observed_at},
};

use crate::maps::{Maps, count, is_protected, refuse, used};

const DROP: i32 = 0;
const PASS: i32 = 1;
/// The loopback device has this index in every network namespace.
const LOOPBACK: u32 = 1;
/// `IPPROTO_MPTCP`, which a socket shows although TCP is what it sends.
const MPTCP: u32 = 262;
const ETHERTYPE_IPV4: u32 = 0x0800;
const ETHERTYPE_IPV6: u32 = 0x86dd;
/// The RST bit in the fourteenth byte of a TCP header (RFC 9293).
const TCP_FLAGS: usize = 13;
const TCP_RST: u8 = 0x04;
// States of a socket (include/net/tcp_states.h), a bit for each.
/// `ESTABLISHED`, `FIN_WAIT1`, `FIN_WAIT2`, `CLOSE_WAIT`, `LAST_ACK`, `CLOSING`.
const TCP_ESTABLISHED_STATES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// `ESTABLISHED`: a UDP socket that is connected.
const UDP_CONNECTED_STATES: u32 = 1 << 1;

// Constants that the loader sets before the verifier reads them, so that it prunes the branch not taken.

/// `SO_NETNS_COOKIE` of the agent's network namespace.
#[unsafe(no_mangle)]
static NETNS_COOKIE: u64 = 0;
/// 1: ask the helper. 0: read the socket at the offsets below (kernels that refuse the helper in `cgroup_skb`).
#[unsafe(no_mangle)]
static COOKIE_BY_HELPER: u64 = 1;
/// Offset of `skc_net` in `struct sock_common`.
#[unsafe(no_mangle)]
static SKC_NET_OFFSET: u64 = 0;
/// Offset of `net_cookie` in `struct net`.
#[unsafe(no_mangle)]
static NET_COOKIE_OFFSET: u64 = 0;

/// Judges packets to the host's sockets.
#[cgroup_skb(ingress)]
pub fn cut_ingress(context: SkBuffContext) -> i32 {
    cut(&context, true)
}

/// Judges packets from the host's sockets.
#[cgroup_skb(egress)]
pub fn cut_egress(context: SkBuffContext) -> i32 {
    cut(&context, false)
}

#[inline(always)]
fn cut(context: &SkBuffContext, inwards: bool) -> i32 {
    // SAFETY: a read of the context, which the verifier checks.
    let socket = unsafe { (*context.skb.skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        return PASS;
    }
    // SAFETY: not null; the verifier knows this field of it.
    let port = unsafe { (*socket).src_port } as u16;
    let Some(protocol) = protocol(socket) else {
        return PASS;
    };
    // Asked here as well as in the decision, so that other ports do not pay for reading an address.
    if !is_protected(protocol, port) {
        return PASS;
    }
    let hook = if inwards { Hook::CutIngress } else { Hook::CutEgress };
    let fate = judge(context, socket, hook, protocol, port, inwards);
    count(hook, fate);
    if fate.passes() { PASS } else { DROP }
}

#[inline(always)]
fn judge(context: &SkBuffContext, socket: *mut bpf_sock, hook: Hook, protocol: u8, port: u16, inwards: bool) -> Fate {
    let maps = Maps(|| exemption(context, socket), || session(context, socket, protocol));
    let Some(remote) = remote(context, inwards) else {
        return if observed_at(&maps).is_some() { Fate::Observed } else { Fate::Unreadable };
    };
    let verdict = decide(&maps, protocol, port, remote);
    if let Verdict::Granted { slot, now } = verdict {
        used(slot, now, u64::from(context.len()), inwards);
    }
    let Some(fate) = verdict.fate() else {
        return Fate::NoGrant;
    };
    if fate.passes() {
        return fate;
    }
    if !inwards && protocol == TCP && is_reset(context) {
        return Fate::ResetOut;
    }
    refuse(&maps, hook, fate, protocol, port, remote)
}

/// The socket's protocol; `None` for one that is neither TCP nor UDP. A mini socket is TCP.
#[inline(always)]
fn protocol(socket: *mut bpf_sock) -> Option<u8> {
    // SAFETY: the socket is the context's and not null.
    let full = unsafe { bpf_sk_fullsock(socket) };
    if full.is_null() {
        return Some(TCP);
    }
    // SAFETY: not null; the verifier knows this field of it.
    match unsafe { (*full).protocol } {
        6 | MPTCP => Some(TCP),
        17 => Some(UDP),
        _ => None,
    }
}

/// The packet's session: that of a whole socket in one of the states of an established connection. Listeners and mini sockets
/// (handshakes, `TIME_WAIT`) have none: for a mini socket the kernel shows its listener here, or nothing.
#[inline(always)]
fn session(context: &SkBuffContext, socket: *mut bpf_sock, protocol: u8) -> Session {
    // SAFETY: the socket is the context's and not null.
    let full = unsafe { bpf_sk_fullsock(socket) };
    if full.is_null() {
        return Session::New;
    }
    // SAFETY: not null; the verifier knows this field of it.
    let state = unsafe { (*full).state };
    let established = if protocol == TCP { TCP_ESTABLISHED_STATES } else { UDP_CONNECTED_STATES };
    if established >> (state & 31) & 1 == 0 {
        return Session::New;
    }
    // SAFETY: the helper takes the context and reads its socket.
    match unsafe { bpf_get_socket_cookie(context.as_ptr()) } {
        0 => Session::New,
        cookie => Session::Socket(cookie),
    }
}

#[inline(always)]
fn exemption(context: &SkBuffContext, socket: *mut bpf_sock) -> Option<Exemption> {
    // SAFETY: a read of the context, which the verifier checks.
    if unsafe { (*context.skb.skb).ifindex } == LOOPBACK {
        return Some(Exemption::OwnTraffic);
    }
    // SAFETY: a static of this program; volatile, because the loader sets it.
    let ours = unsafe { (&raw const NETNS_COOKIE).read_volatile() };
    (netns_cookie(context, socket) != Some(ours)).then_some(Exemption::OtherNamespace)
}

#[inline(always)]
fn netns_cookie(context: &SkBuffContext, socket: *mut bpf_sock) -> Option<u64> {
    // SAFETY: statics of this program; volatile, because the loader sets them.
    let (by_helper, skc_net, net_cookie) = unsafe {
        (
            (&raw const COOKIE_BY_HELPER).read_volatile(),
            (&raw const SKC_NET_OFFSET).read_volatile(),
            (&raw const NET_COOKIE_OFFSET).read_volatile(),
        )
    };
    if by_helper == 1 {
        // SAFETY: the helper takes the context and reads its socket.
        return Some(unsafe { bpf_get_netns_cookie(context.as_ptr()) });
    }
    // SAFETY: the offsets are from the running kernel's BTF, and the helper survives any address. The socket's own address
    // goes through the helper too, because the verifier lets nobody calculate with the pointer itself.
    unsafe {
        let socket: u64 = bpf_probe_read_kernel((&raw const socket).cast()).ok()?;
        let net: u64 = bpf_probe_read_kernel((socket + skc_net) as *const u64).ok()?;
        bpf_probe_read_kernel((net + net_cookie) as *const u64).ok()
    }
}

/// The other side's address: the source of what comes in, the destination of what leaves.
#[inline(always)]
fn remote(context: &SkBuffContext, inwards: bool) -> Option<Address> {
    match ethertype(context) {
        ETHERTYPE_IPV4 => context.load(if inwards { 12 } else { 16 }).ok().map(Address::v4),
        ETHERTYPE_IPV6 => context.load(if inwards { 8 } else { 24 }).ok().map(Address::v6),
        _ => None,
    }
}

/// Whether this is a TCP reset. Behind IPv6 extension headers it is not looked for.
#[inline(always)]
fn is_reset(context: &SkBuffContext) -> bool {
    let Ok(first) = context.load::<u8>(0) else {
        return false;
    };
    let header = match ethertype(context) {
        ETHERTYPE_IPV4 => usize::from(first & 0x0f) * 4,
        _ if context.load::<u8>(6) == Ok(TCP) => 40,
        _ => return false,
    };
    context.load::<u8>(header + TCP_FLAGS).is_ok_and(|flags| flags & TCP_RST != 0)
}

#[inline(always)]
fn ethertype(context: &SkBuffContext) -> u32 {
    // SAFETY: a read of the context, which the verifier checks.
    let protocol = unsafe { (*context.skb.skb).protocol };
    u32::from(u16::from_be(protocol as u16))
}
