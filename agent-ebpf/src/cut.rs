//! The cut: `cgroup_skb`, both directions, on the root of cgroup v2.
//!
//! Owns the end of grants: it judges every packet of a socket on a protected port, and of an MPTCP subflow whose connection has such a
//! port. The address is that of a connected socket, else of the IP header (docs/decisions/0045, 0046). It parses nothing else.

use aya_ebpf::{
    EbpfContext,
    bindings::bpf_sock,
    helpers::{
        bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_probe_read_kernel, bpf_sk_fullsock,
        generated::bpf_skc_to_mptcp_sock,
    },
    macros::cgroup_skb,
    programs::SkBuffContext,
};
use postern_core::{
    key::{Address, TCP, UDP},
    packet::Flow,
    peer::{Header, Peer, decide_packet},
    rate,
    verdict::{Exemption, Fate, Hook, Session, Verdict, observed_at},
};

use crate::{
    maps::{Limits, Maps, count, is_protected, note_refusal, refuse, used},
    own, vrf,
};

const DROP: i32 = 0;
const PASS: i32 = 1;
/// The loopback device has this index in every network namespace.
const LOOPBACK: u32 = 1;
/// `IPPROTO_MPTCP`. A socket shows this protocol although it sends TCP.
const MPTCP: u32 = 262;
/// `SOCK_STREAM`.
const SOCK_STREAM: u32 = 1;
const ETHERTYPE_IPV4: u32 = 0x0800;
const ETHERTYPE_IPV6: u32 = 0x86dd;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// The byte with the RST bit in a TCP header (RFC 9293).
const TCP_FLAGS: usize = 13;
const TCP_RST: u8 = 0x04;
/// The checksum in a UDP header (RFC 768).
const UDP_CHECKSUM: usize = 6;
/// The fragment offset in the fourth word of an IPv4 header (RFC 791).
const FRAGMENT_OFFSET: u16 = 0x1fff;
// States (include/net/tcp_states.h), a bit for each: ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING.
const TCP_ESTABLISHED_STATES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// `ESTABLISHED`: also the state of a connected UDP socket.
pub const UDP_CONNECTED_STATES: u32 = 1 << 1;
const TCP_LISTEN: u32 = 10;
/// Every state except `LISTEN` (10).
const TCP_CONNECTED_STATES: u32 = !(1 << 10);

// The loader sets these constants before the verifier reads them, so the verifier prunes the branch not taken.

/// `SO_NETNS_COOKIE` of the agent's network namespace.
#[unsafe(no_mangle)]
static NETNS_COOKIE: u64 = 0;
/// 1: ask the helper. 0: read the socket at the offsets below, on kernels that refuse the helper in `cgroup_skb`.
#[unsafe(no_mangle)]
static COOKIE_BY_HELPER: u64 = 1;
/// Offset of `skc_net` in `struct sock_common`.
#[unsafe(no_mangle)]
static SKC_NET_OFFSET: u64 = 0;
/// Offset of `net_cookie` in `struct net`.
#[unsafe(no_mangle)]
static NET_COOKIE_OFFSET: u64 = 0;
/// Offset of `skc_num` in `struct mptcp_sock`. 0: the kernel has no MPTCP, or no `bpf_skc_to_mptcp_sock` (Linux 5.19).
#[unsafe(no_mangle)]
static SKC_NUM_OFFSET: u64 = 0;

#[cgroup_skb(ingress)]
pub fn cut_ingress(context: SkBuffContext) -> i32 {
    cut(&context, true)
}

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
    let Some(protocol) = protocol(socket) else {
        return PASS;
    };
    // The decision checks this too. Here the check comes first, so that packets to other ports need no address.
    let Some(port) = protected_port(socket, protocol) else {
        return if inwards && is_too_fast(context, socket, protocol) { DROP } else { PASS };
    };
    let (hook, fate) = if inwards {
        (Hook::CutIngress, judge::<true>(context, socket, protocol, port))
    } else {
        (Hook::CutEgress, judge::<false>(context, socket, protocol, port))
    };
    count(hook, fate);
    if fate.passes() { PASS } else { DROP }
}

/// Not inlined, and [`is_too_fast`] is called beside it: the kernel limits the frames of a chain of calls to 512 bytes together.
#[inline(never)]
fn judge<const INWARDS: bool>(context: &SkBuffContext, socket: *mut bpf_sock, protocol: u8, port: u16) -> Fate {
    let (inwards, hook) = (INWARDS, if INWARDS { Hook::CutIngress } else { Hook::CutEgress });
    let header = || header(context, socket, protocol, inwards);
    let peer = Peer::of(inwards, protocol, header, || connected(socket, protocol));
    let is_ours = || own::is_ours(context, socket, protocol, &peer).then_some(Exemption::OwnConnection);
    let exemption = || exemption(context, socket).or_else(is_ours);
    let maps = Maps(exemption, || session(context, socket, protocol));
    let (verdict, address) = decide_packet(&maps, protocol, port, peer);
    if let Verdict::Granted { slot, now } = verdict {
        used(slot, now, u64::from(context.len()), inwards);
    }
    let Some(fate) = verdict.fate() else {
        return Fate::NoGrant;
    };
    if inwards && protocol == UDP {
        own::note_met(socket, &maps, fate, port, &address);
    }
    if fate.passes() {
        return fate;
    }
    // The VRF check comes late, so that only packets that would be dropped need it.
    if remote(context, inwards).is_some_and(|address| vrf::is_own(context, address, inwards)) {
        return Fate::OwnTraffic;
    }
    if !inwards && protocol == TCP && is_reset(context) {
        return Fate::ResetOut;
    }
    match address {
        Some(address) => refuse(&maps, hook, fate, protocol, port, address),
        None if observed_at(&maps).is_some() => Fate::Observed,
        None => fate,
    }
}

/// Whether a packet to a listener exceeds the rate of new connections to the API (docs/decisions/0034). The client repeats the SYN.
#[inline(never)]
fn is_too_fast(context: &SkBuffContext, socket: *mut bpf_sock, protocol: u8) -> bool {
    let Some(flow) = beginning(context, socket, protocol) else {
        return false;
    };
    if exemption(context, socket).is_some() || !rate::is_too_fast(&Limits::<false>, &flow) {
        return false;
    }
    count(Hook::CutIngress, Fate::SynRate);
    // SAFETY: a read of the context, which the verifier checks.
    note_refusal(flow.destination, flow.port, unsafe { (*context.skb.skb).ifindex });
    true
}

/// The start of a connection: a packet to a listener whose header is TCP's own.
#[inline(always)]
fn beginning(context: &SkBuffContext, socket: *mut bpf_sock, protocol: u8) -> Option<Flow> {
    if protocol != TCP {
        return None;
    }
    // SAFETY: the socket is the context's and not null.
    let full = unsafe { bpf_sk_fullsock(socket) };
    // SAFETY: not null; the verifier knows this field of it.
    if full.is_null() || unsafe { (*full).state } != TCP_LISTEN {
        return None;
    }
    // SAFETY: as above.
    let port = unsafe { (*full).src_port } as u16;
    let flags = context.load::<u8>(transport(context, TCP)? + TCP_FLAGS).ok()?;
    let (source, destination) = if ethertype(context) == ETHERTYPE_IPV4 {
        (Address::v4(context.load(12).ok()?), Address::v4(context.load(16).ok()?))
    } else {
        (Address::v6(context.load(8).ok()?), Address::v6(context.load(24).ok()?))
    };
    Some(Flow { protocol, port, source, destination, flags })
}

/// The protected port of the socket or of a subflow's MPTCP connection. `None` if neither is protected.
#[inline(always)]
fn protected_port(socket: *mut bpf_sock, protocol: u8) -> Option<u16> {
    if protocol == TCP
        && let Some(port) = connection_port(socket)
        && is_protected(TCP, port)
    {
        return Some(port);
    }
    // SAFETY: not null; the verifier knows this field of it.
    let port = unsafe { (*socket).src_port } as u16;
    is_protected(protocol, port).then_some(port)
}

/// The local port of a subflow's MPTCP connection. The subflow itself may have another one (`ip mptcp endpoint … port`).
#[inline(always)]
fn connection_port(socket: *mut bpf_sock) -> Option<u16> {
    // SAFETY: a static of this program; volatile, because the loader sets it.
    let offset = unsafe { (&raw const SKC_NUM_OFFSET).read_volatile() };
    if offset == 0 {
        return None;
    }
    of_connection(socket, offset)
}

/// A field of a subflow's MPTCP connection, at an offset from the kernel's BTF.
#[inline(always)]
pub fn of_connection<T>(socket: *mut bpf_sock, offset: u64) -> Option<T> {
    // The helper takes each full socket of protocol TCP for a TCP socket, also a raw one: the kernel's own, which sends resets, and that
    // of a port scanner. It reads behind the end of a raw socket, and Linux 6.1 crashed on what it found there.
    // SAFETY: the socket is the context's and not null.
    let full = unsafe { bpf_sk_fullsock(socket) };
    // SAFETY: not null; the verifier knows this field of it.
    if full.is_null() || unsafe { (*full).type_ } != SOCK_STREAM {
        return None;
    }
    // SAFETY: the socket is the context's and not null.
    let connection = unsafe { bpf_skc_to_mptcp_sock(socket.cast()) };
    if connection.is_null() {
        return None;
    }
    // SAFETY: the helper survives any address, and this is a field of a live socket.
    unsafe { bpf_probe_read_kernel::<T>(connection.cast::<u8>().add(offset as usize).cast()) }.ok()
}

/// The socket's protocol. `None` if it is neither TCP nor UDP. A mini socket is TCP.
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

/// The packet's session: a full socket in an established state. Listeners and mini sockets (handshakes, `TIME_WAIT`) have none.
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
    // goes through the helper too, because the verifier forbids arithmetic on the pointer itself.
    unsafe {
        let socket: u64 = bpf_probe_read_kernel((&raw const socket).cast()).ok()?;
        let net: u64 = bpf_probe_read_kernel((socket + skc_net) as *const u64).ok()?;
        bpf_probe_read_kernel((net + net_cookie) as *const u64).ok()
    }
}

/// The remote address of a connected socket. An IPv6 socket that carries IPv4 has an IPv4 address.
#[inline(always)]
pub fn connected(socket: *mut bpf_sock, protocol: u8) -> Option<Address> {
    // SAFETY: not null; the verifier knows this field of it.
    let state = unsafe { (*socket).state };
    // A UDP socket that is no longer connected still shows its last peer's address.
    let connected = if protocol == TCP { TCP_CONNECTED_STATES } else { UDP_CONNECTED_STATES };
    if connected >> (state & 31) & 1 == 0 {
        return None;
    }
    // SAFETY: as above.
    match unsafe { (*socket).family } {
        AF_INET => v4(unsafe { (*socket).dst_ip4 }),
        AF_INET6 => v6(socket),
        _ => None,
    }
}

#[inline(always)]
fn v4(address: u32) -> Option<Address> {
    if address == 0 { None } else { Some(Address::v4(address.to_ne_bytes())) }
}

#[inline(always)]
fn v6(socket: *mut bpf_sock) -> Option<Address> {
    macro_rules! word {
        ($n:literal) => {
            // SAFETY: not null; the verifier knows this field of it. Volatile keeps the compiler from joining reads into a
            // width that the verifier does not allow.
            unsafe { (&raw const (*socket).dst_ip6[$n]).read_volatile() }
        };
    }
    let (first, second, third, fourth) = (word!(0), word!(1), word!(2), word!(3));
    if first | second == 0 {
        if third == 0xffff_u32.to_be() {
            return v4(fourth);
        }
        if third | fourth == 0 {
            return None;
        }
    }
    let [a, b, c, d] = [first, second, third, fourth].map(u32::to_ne_bytes);
    let bytes = [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]];
    Some(Address::v6(bytes))
}

/// The remote address of the outer header, and whether the socket's own protocol wrote that header.
#[inline(always)]
fn header(context: &SkBuffContext, socket: *mut bpf_sock, protocol: u8, inwards: bool) -> Header {
    match remote(context, inwards) {
        None => Header::Unreadable,
        Some(_) if !inwards && !is_own(context, socket, protocol) => Header::Other,
        Some(address) => Header::Own(address),
    }
}

/// The outer header's source (incoming packet) or destination (outgoing packet).
#[inline(always)]
fn remote(context: &SkBuffContext, inwards: bool) -> Option<Address> {
    match ethertype(context) {
        ETHERTYPE_IPV4 => context.load(if inwards { 12 } else { 16 }).map(Address::v4).ok(),
        ETHERTYPE_IPV6 => context.load(if inwards { 8 } else { 24 }).map(Address::v6).ok(),
        _ => None,
    }
}

/// Whether the socket's own protocol wrote the header of an outgoing packet.
#[inline(always)]
fn is_own(context: &SkBuffContext, socket: *mut bpf_sock, protocol: u8) -> bool {
    let Some(transport) = transport(context, protocol) else {
        return false;
    };
    if protocol == TCP {
        return true;
    }
    // IPsec through NAT is also a UDP datagram (RFC 3948), from its own port. Address translation also changes the port of a socket's own
    // datagram. Over IPv4 the checksum shows the difference: Linux sends ESP without one.
    // SAFETY: not null; the verifier knows this field of it.
    let port = unsafe { (*socket).src_port } as u16;
    if context.load::<[u8; 2]>(transport) == Ok(port.to_be_bytes()) {
        return true;
    }
    ethertype(context) == ETHERTYPE_IPV4
        && context.load::<[u8; 2]>(transport + UDP_CHECKSUM).is_ok_and(|sum| sum != [0; 2])
}

/// The offset of the header of `protocol`. `None` for a later fragment, and if another header follows the IP header.
#[inline(always)]
fn transport(context: &SkBuffContext, protocol: u8) -> Option<usize> {
    if ethertype(context) == ETHERTYPE_IPV6 {
        return (context.load::<u8>(6) == Ok(protocol)).then_some(40);
    }
    let first = context.load::<u8>(0).ok()?;
    let fragment = context.load::<[u8; 2]>(6).ok()?;
    let whole = u16::from_be_bytes(fragment) & FRAGMENT_OFFSET == 0;
    (whole && context.load::<u8>(9) == Ok(protocol)).then_some(usize::from(first & 0x0f) * 4)
}

/// Whether this is a TCP reset. The outer header must name TCP, so encrypted bytes never count as a reset.
#[inline(always)]
fn is_reset(context: &SkBuffContext) -> bool {
    let Some(transport) = transport(context, TCP) else {
        return false;
    };
    context.load::<u8>(transport + TCP_FLAGS).is_ok_and(|flags| flags & TCP_RST != 0)
}

#[inline(always)]
fn ethertype(context: &SkBuffContext) -> u32 {
    // SAFETY: a read of the context, which the verifier checks.
    let protocol = unsafe { (*context.skb.skb).protocol };
    u32::from(u16::from_be(protocol as u16))
}
