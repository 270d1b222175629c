//! The prefilter: TCX or XDP on the uplinks, while a flood lasts.
//!
//! Owns saving work in a flood: it drops SYNs where the lock or the cut refused one within a second. It guarantees nothing (decision 0050).

use aya_ebpf::{
    bindings::xdp_action,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use postern_core::{
    packet::{Bytes, Flow, parse_ethernet},
    rate,
    verdict::{Exemption, Fate, Hook, Session, decide},
};

use crate::maps::{Limits, Maps, count, is_local, is_refused, refuse};

/// `TCX_NEXT` and `TCX_DROP`, include/uapi/linux/bpf.h.
const NEXT: i32 = -1;
const DROP: i32 = 2;
/// `PACKET_HOST`, include/uapi/linux/if_packet.h.
const PACKET_HOST: u32 = 0;

#[xdp(frags)]
pub fn prefilter_xdp(context: XdpContext) -> u32 {
    let frame = Frame { start: context.data(), end: context.data_end() };
    // SAFETY: a read of the context, which the verifier checks.
    let ifindex = unsafe { (*context.ctx).ingress_ifindex };
    if drops(&frame, ifindex) { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

/// The prefilter for TCX. A frame with a VLAN tag or for another hardware address is not for this device.
#[classifier]
pub fn prefilter_tcx(context: TcContext) -> i32 {
    // SAFETY: reads of the context, which the verifier checks.
    let (kind, tagged, ifindex) = unsafe {
        let skb = context.skb.skb;
        ((*skb).pkt_type, (*skb).vlan_present, (*skb).ifindex)
    };
    if kind != PACKET_HOST || tagged != 0 {
        return NEXT;
    }
    let frame = Frame { start: context.data(), end: context.data_end() };
    if drops(&frame, ifindex) { DROP } else { NEXT }
}

/// Whether the frame is a SYN that the lock or the cut would also refuse. All other frames pass.
#[inline(always)]
fn drops(frame: &Frame, ifindex: u32) -> bool {
    let Ok(flow) = parse_ethernet(frame) else {
        count(Hook::Prefilter, Fate::NotSure);
        return false;
    };
    // A packet that is no SYN, or that answers a SYN, may belong to a connection that the host opened.
    if !flow.begins() {
        return false;
    }
    let maps = Maps(|| exemption(&flow), || Session::Unknown);
    let fate = match decide(&maps, flow.protocol, flow.port, flow.source).fate() {
        Some(fate) => fate,
        None if is_refused(flow.destination, flow.port, ifindex) && rate::is_too_fast(&Limits::<true>, &flow) => {
            Fate::SynRate
        }
        None => return false,
    };
    if fate.passes() || matches!(fate, Fate::SynRate) {
        count(Hook::Prefilter, fate);
        return !fate.passes();
    }
    if !is_refused(flow.destination, flow.port, ifindex) {
        return false;
    }
    let fate = refuse(&maps, Hook::Prefilter, fate, flow.protocol, flow.port, flow.source);
    count(Hook::Prefilter, fate);
    !fate.passes()
}

/// A packet with a source address of the host passes, because the lock and the cut also see the device and judge it.
#[inline(always)]
fn exemption(flow: &Flow) -> Option<Exemption> {
    if !is_local(&flow.destination) {
        return Some(Exemption::NotLocal);
    }
    is_local(&flow.source).then_some(Exemption::OwnTraffic)
}

/// The linear part of a frame, for checked reads.
struct Frame {
    start: usize,
    end: usize,
}

impl Bytes for Frame {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let start = self.start + offset;
        if start + N > self.end {
            return None;
        }
        // SAFETY: `start..start + N` lies within the frame, as the verifier sees from the comparison above.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }
}
