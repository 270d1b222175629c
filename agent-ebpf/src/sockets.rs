//! UDP sockets whose datagrams go to a kernel tunnel before the cut sees them.
//!
//! Owns one walk over the UDP sockets of a network namespace (`iter/udp`, since Linux 5.9). It decides and changes nothing.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_probe_read_kernel, generated::bpf_seq_printf};

// Offsets that the loader reads from the running kernel's BTF.

/// Offset of `skc_family` in `struct sock_common`. The local port is in the two bytes before it.
#[unsafe(no_mangle)]
static SKC_FAMILY_OFFSET: u64 = 0;
/// Offset of `skc_state` in `struct sock_common`.
#[unsafe(no_mangle)]
static SKC_STATE_OFFSET: u64 = 0;
/// Offset of `encap_type` in `struct udp_sock`.
#[unsafe(no_mangle)]
static ENCAP_TYPE_OFFSET: u64 = 0;
/// Offset of `encap_rcv` in `struct udp_sock`.
#[unsafe(no_mangle)]
static ENCAP_RCV_OFFSET: u64 = 0;

/// Port, address family, state, type of encapsulation, and the name of the kernel function that takes the datagrams.
static LINE: [u8; 17] = *b"%u %u %u %u %ps\n\0";

/// `struct bpf_iter__udp`, in part.
#[repr(C)]
pub struct Context {
    meta: *const Meta,
    socket: *const c_void,
}

/// `struct bpf_iter_meta`, in part.
#[repr(C)]
pub struct Meta {
    seq: *mut c_void,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/udp")]
pub extern "C" fn encapsulating(context: *const Context) -> i32 {
    // SAFETY: the kernel passes a valid context, and the verifier checks what is read of it.
    let (meta, socket) = unsafe { ((*context).meta, (*context).socket) };
    let _ = line(meta, socket);
    0
}

#[inline(always)]
fn line(meta: *const Meta, socket: *const c_void) -> Option<()> {
    // SAFETY: statics of this program; volatile, because the loader sets them.
    let (family_at, state_at, type_at, receive_at) = unsafe {
        (
            (&raw const SKC_FAMILY_OFFSET).read_volatile(),
            (&raw const SKC_STATE_OFFSET).read_volatile(),
            (&raw const ENCAP_TYPE_OFFSET).read_volatile(),
            (&raw const ENCAP_RCV_OFFSET).read_volatile(),
        )
    };
    // SAFETY: the offsets are from the running kernel's BTF, and the helper survives any address. The socket's own address goes
    // through the helper too, because the verifier forbids arithmetic on the pointer itself.
    let fields = unsafe {
        let socket: u64 = bpf_probe_read_kernel((&raw const socket).cast()).ok()?;
        if socket == 0 {
            return None;
        }
        let receive: u64 = bpf_probe_read_kernel((socket + receive_at) as *const u64).ok()?;
        if receive == 0 {
            return None;
        }
        let port: u16 = bpf_probe_read_kernel((socket + family_at - 2) as *const u16).ok()?;
        let family: u16 = bpf_probe_read_kernel((socket + family_at) as *const u16).ok()?;
        let state: u8 = bpf_probe_read_kernel((socket + state_at) as *const u8).ok()?;
        let kind: u8 = bpf_probe_read_kernel((socket + type_at) as *const u8).ok()?;
        [u64::from(port), u64::from(family), u64::from(state), u64::from(kind), receive]
    };
    // SAFETY: the kernel's own file, a format with its length, and the numbers that it asks for with theirs.
    unsafe {
        bpf_seq_printf(
            (*meta).seq.cast(),
            LINE.as_ptr().cast(),
            LINE.len() as u32,
            fields.as_ptr().cast(),
            size_of_val(&fields) as u32,
        );
    }
    Some(())
}
