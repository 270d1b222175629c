//! The prefilter as the status shows it, and as the kernel does.
//!
//! Owns the waiting for it. It attaches nothing.

use postern_proto::v1::{Interface, XdpMode};

use crate::bpf;
use crate::netns::Netns;
use crate::postern::Postern;
use crate::until::find;

/// What the status says of the prefilter on this device, once it says something.
///
/// # Panics
/// Where the device is not in the status for half a minute.
#[must_use]
pub fn of(postern: &Postern, device: &str) -> Interface {
    await_interface(postern, device, |_| true)
}

/// Waits until the prefilter of this device is in this mode, and returns what the status says of it.
///
/// # Panics
/// Where it is not for half a minute.
pub fn until(postern: &Postern, device: &str, mode: XdpMode) -> Interface {
    await_interface(postern, device, |interface| interface.mode() == mode)
}

/// Waits until the prefilter of this device is in another mode, and returns what the status says of it.
///
/// # Panics
/// As [`until`].
pub fn until_not(postern: &Postern, device: &str, mode: XdpMode) -> Interface {
    await_interface(postern, device, |interface| interface.mode() != mode)
}

fn await_interface(postern: &Postern, device: &str, is_right: impl Fn(&Interface) -> bool) -> Interface {
    let client = postern.client();
    find(|| {
        let seen = client.status().expect("a status").interfaces;
        let found = seen.iter().find(|interface| interface.name == device && is_right(interface)).cloned();
        found.ok_or_else(|| format!("{device} in the status: {seen:?}\n{}", postern.log()))
    })
}

/// Whether the kernel has an XDP program on the device, by what `ip` shows.
///
/// # Panics
/// Where `ip` cannot be run.
#[must_use]
pub fn has_xdp(namespace: &Netns, device: &str) -> bool {
    let shown = namespace.command("ip").args(["-d", "link", "show", "dev", device]).output().expect("ip");
    String::from_utf8_lossy(&shown.stdout).contains("prog/xdp")
}

/// How many TCX programs the kernel has on the device; none where it has no TCX (before Linux 6.6).
///
/// # Panics
/// Where there is no such device.
#[must_use]
pub fn tcx_programs(namespace: &Netns, device: &str) -> u32 {
    let index = namespace.interface(device);
    namespace.run(|| bpf::attached_tcx(index)).unwrap_or(0)
}

/// How many packets the prefilter has dropped.
///
/// # Panics
/// Where there is no status.
#[must_use]
pub fn dropped(postern: &Postern) -> u64 {
    let counters = postern.client().status().expect("a status").counters;
    let drops = ["no-grant", "expired", "syn-rate"];
    counters.iter().filter(|c| c.hook == "xdp" && drops.contains(&c.reason.as_str())).map(|c| c.count).sum()
}
