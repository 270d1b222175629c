//! Packets of the host to itself inside a VRF (docs/decisions/0052-own-traffic-in-a-vrf.md).
//!
//! Owns one question about a packet that the cut would refuse: has a VRF device of this host looped the packet back? Inside a VRF
//! both own and foreign packets show the VRF device, and another host can claim one of the host's IPv6 addresses as source. It never decides
//! about grants.

use core::ffi::c_void;

use aya_ebpf::{helpers::bpf_probe_read_kernel, programs::SkBuffContext};
use postern_core::key::Address;

use crate::maps::is_local;

/// Offsets that the loader reads from the running kernel's BTF: `dev`, `head`, `mac_header`, `network_header` and `_skb_refdst` in
/// `struct sk_buff`, `rtnl_link_ops` and `dev_addr` in `struct net_device`, `kind` in `struct rtnl_link_ops`. Zeros: the
/// kernel does not name them, and nothing is known of VRFs.
#[unsafe(no_mangle)]
static VRF_OFFSETS: [u64; 8] = [0; 8];
const DEV: usize = 0;
const HEAD: usize = 1;
const MAC_HEADER: usize = 2;
const NETWORK_HEADER: usize = 3;
const ROUTE: usize = 4;
const LINK_OPS: usize = 5;
const DEV_ADDR: usize = 6;
const KIND: usize = 7;

/// The kind of a VRF device (drivers/net/vrf.c).
const VRF: [u8; 4] = *b"vrf\0";
/// Bytes of an Ethernet header.
const ETHERNET: u16 = 14;
/// `SKB_DST_NOREF` (include/linux/skbuff.h): the packet has borrowed its route, as packets do that come in.
const BORROWED: u64 = 1;

/// Whether the host sends the packet to itself through a VRF. `remote` is the header's source of a packet that comes in, and its
/// destination of one that leaves.
///
/// The VRF device loops back what the host routes for others into the VRF, too: only an address of the host's is the host.
#[inline(always)]
pub fn is_own(context: &SkBuffContext, remote: Address, inwards: bool) -> bool {
    if offset(KIND) == 0 || !is_local(&remote) {
        return false;
    }
    let packet: *const c_void = context.skb.skb.cast();
    // SAFETY: the helper survives any address. The packet's own address goes through the helper, because the verifier lets nobody
    // calculate with the pointer to the context, which in the kernel's memory is the packet.
    let Ok(packet) = (unsafe { bpf_probe_read_kernel::<u64>((&raw const packet).cast()) }) else {
        return false;
    };
    // What leaves by a VRF device goes to an address inside that VRF.
    if inwards { is_looped(packet).unwrap_or(false) } else { vrf_of(packet).is_some() }
}

/// Whether a VRF device has made the packet's Ethernet header, and the packet has its route from its way out.
///
/// The VRF device writes its own hardware address as the destination, without which the kernel would not deliver the packet. A
/// frame that comes in has the hardware address of the port; a frame for another address is "for another host" to the kernel.
#[inline(always)]
fn is_looped(packet: u64) -> Option<bool> {
    let device = vrf_of(packet)?;
    let mac: u16 = field(packet, MAC_HEADER)?;
    let network: u16 = field(packet, NETWORK_HEADER)?;
    let route: u64 = field(packet, ROUTE)?;
    if network.wrapping_sub(mac) != ETHERNET || route & BORROWED != 0 {
        return Some(false);
    }
    let (head, own): (u64, u64) = (field(packet, HEAD)?, field(device, DEV_ADDR)?);
    let destination: [u8; 6] = read(head + u64::from(mac))?;
    Some(destination == read::<[u8; 6]>(own)?)
}

/// The packet's device, where that is a VRF.
#[inline(always)]
fn vrf_of(packet: u64) -> Option<u64> {
    let device: u64 = field(packet, DEV)?;
    let operations: u64 = field(device, LINK_OPS)?;
    if operations == 0 {
        return None;
    }
    let kind: u64 = field(operations, KIND)?;
    (read::<[u8; 4]>(kind)? == VRF).then_some(device)
}

#[inline(always)]
fn field<T>(structure: u64, which: usize) -> Option<T> {
    read(structure + offset(which))
}

#[inline(always)]
fn read<T>(address: u64) -> Option<T> {
    // SAFETY: the helper survives any address.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

#[inline(always)]
fn offset(which: usize) -> u64 {
    // SAFETY: a static of this program; volatile, because the loader sets it. The index is a constant below 8.
    unsafe { (&raw const VRF_OFFSETS).cast::<u64>().add(which).read_volatile() }
}
