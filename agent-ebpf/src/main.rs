//! Postern's kernel programs: the lock, the cut and the prefilter.
//!
//! Owns how each hook reads a packet and carries out a verdict. It never decides: [`postern_core::verdict::decide`] does.
#![no_std]
#![no_main]

mod cut;
mod lock;
mod maps;
mod own;
mod prefilter;
mod sockets;
mod vrf;

/// The kernel allows some helpers (`bpf_probe_read_kernel`) only to GPL programs.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// `agent/build.rs` looks for this mark.
#[unsafe(link_section = "postern_layout")]
#[unsafe(no_mangle)]
static LAYOUT: [u8; 20] = postern_core::key::LAYOUT_MARK;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // Nothing here panics. The verifier refuses a program that can reach this loop.
    loop {}
}
