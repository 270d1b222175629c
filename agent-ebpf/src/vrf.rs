//! Packets of the host to itself inside a VRF (docs/decisions/0052).
//!
//! Owns one question about a packet that the cut would refuse: did a VRF device of this host loop it back? Device and source address do not
//! show that: every packet has the VRF device, and others can claim an IPv6 address of the host. It never decides about grants.

use core::ffi::c_void;

use aya_ebpf::{helpers::bpf_probe_read_kernel, programs::SkBuffContext};
use postern_core::key::Address;

use crate::maps::is_local;

/// Offsets from the kernel's BTF: `dev`, `head`, `mac_header`, `network_header` and `_skb_refdst` in `struct sk_buff`, `rtnl_link_ops` and
/// `dev_addr` in `struct net_device`, `kind` in `struct rtnl_link_ops`. Zeros: BTF does not name them, and no packet counts as looped back.
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
const ETHERNET: u16 = 14;
/// `SKB_DST_NOREF` (include/linux/skbuff.h): the packet borrows its route, as incoming packets do.
const BORROWED: u64 = 1;

/// Whether the host sends the packet to itself through a VRF. `remote` is the source of an incoming or the destination of an outgoing
/// packet. It must be an address of the host: the VRF device also loops back packets that the host routes for others into the VRF.
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
    // A packet that leaves by a VRF device goes to an address inside that VRF.
    if inwards { is_looped(packet).unwrap_or(false) } else { vrf_of(packet).is_some() }
}

/// Whether a VRF device wrote the packet's Ethernet header, and the packet owns its route from its way out.
/// The VRF device writes its own hardware address as the destination; the kernel delivers no packet without it. A frame from outside has
/// the port's hardware address. For the kernel, a frame to any other address is for another host.
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
