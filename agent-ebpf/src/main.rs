//! Postern's kernel programs: the lock, the cut and the prefilter.
//!
//! Owns how each hook reads {protocol, port, source} of a packet, and what a verdict means there. It never decides:
//! [`postern_core::verdict::decide`] decides for all hooks.
#![no_std]
#![no_main]

mod cut;
mod lock;
mod maps;
mod own;
mod prefilter;
mod sockets;
mod vrf;

/// The kernel allows some helpers (`bpf_probe_read_kernel`) only to programs with a GPL licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// `agent/build.rs` looks for this mark.
#[unsafe(link_section = "postern_layout")]
#[unsafe(no_mangle)]
static LAYOUT: [u8; 20] = postern_core::key::LAYOUT_MARK;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Nothing here panics; the verifier refuses the program if this loop can be reached.
    loop {}
}
