//! The host's own connections: those that the host opened, from any port.
//!
//! Owns the marks of sockets (`OWN`, docs/decisions/0051). The cut marks TCP sockets in `SYN_SENT`, which only the opening side has; hooks
//! of `connect(2)` mark UDP sockets, which have no such state. It never guesses from flags or ports, and never drops a packet.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    EbpfContext,
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::{
        bpf_get_socket_cookie, bpf_sk_fullsock,
        generated::{bpf_seq_write, bpf_sk_storage_delete, bpf_sk_storage_get},
    },
    macros::cgroup_sock_addr,
    programs::{SkBuffContext, SockAddrContext},
};
use postern_core::{
    key::{Address, TCP, UDP},
    own::OwnValue,
    peer::{self, Direction, Peer},
    verdict::{Fate, Table, observed_at},
};

use crate::{
    cut::{UDP_CONNECTED_STATES, connected, of_connection},
    maps::{OWN, is_protected, note_met as note, was_met},
};

// States of a TCP socket (include/net/tcp_states.h).
const SYN_SENT: u32 = 2;
const LISTEN: u32 = 10;
const CREATE: u64 = 1;
const ALLOW: i32 = 1;

// The loader sets these constants before the verifier reads them.

/// 1: `OWN` and `MET` are the maps that outlive every run. 0: the programs set and read no marks.
#[unsafe(no_mangle)]
static MARKS: u64 = 0;
/// 1: a TCP socket's state shows that the host opens a connection. 0: the socket may be an MPTCP subflow of a connection that the peer
/// opened (before Linux 5.19 the kernel does not show that).
#[unsafe(no_mangle)]
static MARKS_TCP: u64 = 0;
/// Offset of `pm.server_side` in `struct mptcp_sock`. 0: the kernel has no MPTCP, or no `bpf_skc_to_mptcp_sock`.
#[unsafe(no_mangle)]
static SERVER_SIDE_OFFSET: u64 = 0;

macro_rules! constant {
    ($name:ident) => {
        // SAFETY: a static of this program; volatile, because the loader sets it.
        unsafe { (&raw const $name).read_volatile() }
    };
}

/// Whether the host itself opened the connection of a packet's socket. Marks a TCP socket that opens one. Not inlined, so its frame is gone
/// before the search: the kernel limits the frames of a chain of calls to 512 bytes together.
#[inline(never)]
pub fn is_ours(context: &SkBuffContext, socket: *mut bpf_sock, protocol: u8, peer: &Peer) -> bool {
    if constant!(MARKS) == 0 {
        return false;
    }
    // SAFETY: the socket is the context's and not null.
    let full = unsafe { bpf_sk_fullsock(socket) };
    if full.is_null() {
        return false;
    }
    // SAFETY: not null; the verifier knows this field of it.
    let state = unsafe { (*full).state };
    let (listens, is_connected) = (state == LISTEN, UDP_CONNECTED_STATES >> (state & 31) & 1 == 1);
    let direction = if protocol == UDP {
        Direction::Marked(if is_connected { marked(full) } else { None })
    } else if listens {
        Direction::Marked(None)
    } else {
        of_stream(context, socket, full, state)
    };
    peer::is_ours(direction, protocol, listens, is_connected, peer)
}

/// The side that opened the connection of a TCP socket that does not listen.
#[inline(always)]
fn of_stream<'a>(context: &SkBuffContext, socket: *mut bpf_sock, full: *mut bpf_sock, state: u32) -> Direction<'a> {
    let offset = constant!(SERVER_SIDE_OFFSET);
    if offset != 0
        && let Some(server_side) = of_connection::<u8>(socket, offset)
    {
        let ours = server_side == 0;
        // The list of the host's own connections needs the mark.
        if ours && marked(full).is_none() {
            mark_stream(context, full);
        }
        return Direction::Known { ours };
    }
    if state == SYN_SENT && constant!(MARKS_TCP) == 1 {
        mark_stream(context, full);
    }
    Direction::Marked(marked(full))
}

#[inline(always)]
fn mark_stream(context: &SkBuffContext, full: *mut bpf_sock) {
    let Some(peer) = connected(full, TCP) else {
        return;
    };
    // SAFETY: the helper takes the context and reads its socket.
    let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
    mark(full.cast(), OwnValue { peer, cookie });
}

#[inline(always)]
fn storage() -> *mut c_void {
    (&raw const OWN).cast_mut().cast()
}

#[inline(always)]
fn marked<'a>(socket: *mut bpf_sock) -> Option<&'a Address> {
    // SAFETY: a whole socket, which the caller holds.
    let value = unsafe { bpf_sk_storage_get(storage(), socket.cast(), ptr::null_mut(), 0) }.cast::<OwnValue>();
    // SAFETY: the helper returned a pointer to a whole value, which stays mapped until the program ends, or null.
    if value.is_null() { None } else { Some(unsafe { &(*value).peer }) }
}

/// Marks a socket. If the kernel has no memory, the socket stays unmarked and its packets need a grant.
#[inline(always)]
fn mark(socket: *mut c_void, mark: OwnValue) {
    // SAFETY: a whole socket, which the caller holds.
    let value = unsafe { bpf_sk_storage_get(storage(), socket, ptr::null_mut(), CREATE) }.cast::<OwnValue>();
    if !value.is_null() {
        // SAFETY: as in `marked`. Only the socket's own connection is ever written here.
        unsafe { *value = mark };
    }
}

/// Records a known peer if an unconnected UDP socket admitted its datagram. A later connect to this peer may be an answer.
#[inline(always)]
pub fn note_met(socket: *mut bpf_sock, table: &impl Table, fate: Fate, port: u16, source: &Option<Address>) {
    let Some(source) = source else {
        return;
    };
    // SAFETY: not null; the verifier knows this field of it.
    let state = unsafe { (*socket).state };
    let is_connected = UDP_CONNECTED_STATES >> (state & 31) & 1 == 1;
    if !is_connected && constant!(MARKS) == 1 && (fate.passes() || observed_at(table).is_some()) {
        note(port, source);
    }
}

/// Marks a UDP socket of a protected port that connects over IPv4.
#[cgroup_sock_addr(connect4)]
pub fn note_connect4(context: SockAddrContext) -> i32 {
    // SAFETY: a read of the context, which the verifier checks.
    let address = unsafe { (*context.sock_addr).user_ip4 };
    note_connect(&context, Some(Address::v4(address.to_ne_bytes())));
    ALLOW
}

/// As [`note_connect4`] for IPv6, and for IPv4 in an IPv6 address.
#[cgroup_sock_addr(connect6)]
pub fn note_connect6(context: SockAddrContext) -> i32 {
    macro_rules! word {
        ($n:literal) => {
            // SAFETY: a read of the context, which the verifier checks. Volatile keeps the compiler from joining reads.
            unsafe { (&raw const (*context.sock_addr).user_ip6[$n]).read_volatile() }.to_ne_bytes()
        };
    }
    let (a, b, c, d) = (word!(0), word!(1), word!(2), word!(3));
    let address = if a == [0; 4] && b == [0; 4] && c == [0, 0, 0xff, 0xff] {
        Address::v4(d)
    } else {
        Address::v6([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]])
    };
    note_connect(&context, Some(address));
    ALLOW
}

#[inline(always)]
fn note_connect(context: &SockAddrContext, peer: Option<Address>) {
    let address: *mut bpf_sock_addr = context.sock_addr;
    // SAFETY: reads of the context, which the verifier checks.
    let (protocol, socket) = unsafe { ((*address).protocol, (*address).__bindgen_anon_1.sk) };
    if protocol != u32::from(UDP) || constant!(MARKS) == 0 || socket.is_null() {
        return;
    }
    // SAFETY: not null; the verifier knows this field of it.
    let port = unsafe { (*socket).src_port } as u16;
    if !is_protected(UDP, port) {
        return;
    }
    match peer {
        Some(peer) if !was_met(port, peer) => {
            // SAFETY: the helper takes the context and reads its socket.
            let cookie = unsafe { bpf_get_socket_cookie(context.as_ptr()) };
            mark(socket.cast(), OwnValue { peer, cookie });
        }
        // SAFETY: the context's socket.
        _ => _ = unsafe { bpf_sk_storage_delete(storage(), socket.cast()) },
    }
}

/// `struct bpf_iter__bpf_sk_storage_map`, in part.
#[repr(C)]
pub struct Context {
    meta: *const Meta,
    map: *const c_void,
    socket: *const c_void,
    value: *const OwnValue,
}

/// `struct bpf_iter_meta`, in part.
#[repr(C)]
pub struct Meta {
    seq: *mut c_void,
}

/// Writes the mark of each marked socket as bytes (`iter/bpf_sk_storage_map`, since Linux 5.9).
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub extern "C" fn own_sockets(context: *const Context) -> i32 {
    // SAFETY: the kernel passes a valid context, and the verifier checks what is read of it.
    let (meta, value) = unsafe { ((*context).meta, (*context).value) };
    if !value.is_null() {
        // SAFETY: as above; the kernel's own file, and a value with its length.
        unsafe { bpf_seq_write((*meta).seq.cast(), value.cast(), size_of::<OwnValue>() as u32) };
    }
    0
}
