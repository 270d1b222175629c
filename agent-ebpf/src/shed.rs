//! The shed: XDP on the uplinks.
//!
//! Owns saving work under a flood. It drops only what it is sure of and guarantees nothing (DESIGN 3).

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use postern_core::{
    packet::{Bytes, parse_ethernet},
    rate,
    verdict::{Exemption, Fate, Hook, Session, decide},
};

use crate::maps::{Limits, Maps, count, is_local, refuse};

/// Drops frames to a protected port of the host from a source without a live grant, and SYNs to the API from a source that sends
/// too many.
#[xdp(frags)]
pub fn shed(context: XdpContext) -> u32 {
    let Ok(flow) = parse_ethernet(&Frame(&context)) else {
        count(Hook::Shed, Fate::NotSure);
        return xdp_action::XDP_PASS;
    };
    let maps = Maps(|| (!is_local(&flow.destination)).then_some(Exemption::NotLocal), || Session::Unknown);
    let verdict = decide(&maps, flow.protocol, flow.port, flow.source);
    let Some(fate) = verdict.fate() else {
        if rate::is_too_fast(&Limits, &flow) {
            count(Hook::Shed, Fate::SynRate);
            return xdp_action::XDP_DROP;
        }
        return xdp_action::XDP_PASS;
    };
    let fate =
        if fate.passes() { fate } else { refuse(&maps, Hook::Shed, fate, flow.protocol, flow.port, flow.source) };
    count(Hook::Shed, fate);
    if fate.passes() { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
}

/// The linear part of a frame: the one door to its bytes.
struct Frame<'a>(&'a XdpContext);

impl Bytes for Frame<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.0.data() + offset;
        if start + N > self.0.data_end() {
            return None;
        }
        // SAFETY: `start..start + N` lies within the frame, as the verifier sees from the comparison above.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }
}
