//! The lock: `sk_lookup` on the host's network namespace. Minimum kernel: 5.17 (`ingress_ifindex`).
//!
//! Owns the refusal of new flows: every lookup of a listening or unconnected socket. After a refusal the kernel answers as if no socket
//! listened. It parses nothing, because the stack has parsed the packet.

use aya_ebpf::{bindings::bpf_sk_lookup, macros::sk_lookup, programs::SkLookupContext};
use postern_core::{
    key::{Address, TCP, UDP},
    verdict::{Exemption, Hook, Session, decide},
};

use crate::maps::{Maps, count, is_local, note_refusal, refuse};

const SK_DROP: u32 = 0;
const SK_PASS: u32 = 1;
const AF_INET: u32 = 2;
/// The loopback device has this index in every network namespace.
const LOOPBACK: u32 = 1;

macro_rules! field {
    ($context:ident, $($field:tt)+) => {
        // SAFETY: the kernel passes a valid context, and the verifier checks the offset. Volatile keeps the compiler from
        // joining reads into a width that the context does not allow.
        unsafe { (&raw const (*$context).$($field)+).read_volatile() }
    };
}

#[sk_lookup]
pub fn lock(context: SkLookupContext) -> u32 {
    let lookup: *const bpf_sk_lookup = context.lookup;
    let port = field!(lookup, local_port) as u16;
    let protocol = match field!(lookup, protocol) {
        6 => TCP,
        17 => UDP,
        _ => return SK_PASS,
    };
    let source = remote(lookup);
    // A lookup is for a listening or unconnected socket, so no established session has it.
    let maps = Maps(|| own_traffic(lookup, source).then_some(Exemption::OwnTraffic), || Session::New);
    let verdict = decide(&maps, protocol, port, source);
    let Some(fate) = verdict.fate() else {
        return SK_PASS;
    };
    let fate = if fate.passes() { fate } else { refuse(&maps, Hook::Lock, fate, protocol, port, source) };
    count(Hook::Lock, fate);
    if fate.passes() {
        return SK_PASS;
    }
    if protocol == TCP {
        note_refusal(local(lookup), port, field!(lookup, ingress_ifindex));
    }
    SK_DROP
}

/// Whether the host sends to itself: over loopback, or between its own addresses (the lookup then shows the address's interface). Another
/// host can claim an IPv6 address of this host; the cut sees the real interface and refuses the packet.
#[inline(always)]
fn own_traffic(lookup: *const bpf_sk_lookup, source: Address) -> bool {
    field!(lookup, ingress_ifindex) == LOOPBACK || is_local(&source) || source == local(lookup)
}

#[inline(always)]
fn remote(lookup: *const bpf_sk_lookup) -> Address {
    if field!(lookup, family) == AF_INET {
        return Address::v4(field!(lookup, remote_ip4).to_ne_bytes());
    }
    v6([
        field!(lookup, remote_ip6[0]),
        field!(lookup, remote_ip6[1]),
        field!(lookup, remote_ip6[2]),
        field!(lookup, remote_ip6[3]),
    ])
}

#[inline(always)]
fn local(lookup: *const bpf_sk_lookup) -> Address {
    if field!(lookup, family) == AF_INET {
        return Address::v4(field!(lookup, local_ip4).to_ne_bytes());
    }
    v6([
        field!(lookup, local_ip6[0]),
        field!(lookup, local_ip6[1]),
        field!(lookup, local_ip6[2]),
        field!(lookup, local_ip6[3]),
    ])
}

#[inline(always)]
fn v6(words: [u32; 4]) -> Address {
    let [a, b, c, d] = words.map(u32::to_ne_bytes);
    Address::v6([a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]])
}
