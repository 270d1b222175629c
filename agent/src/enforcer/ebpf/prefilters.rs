//! The prefilter's links: at most one for each device, and only while this process lives.
//!
//! Owns attaching and detaching the prefilter. It pins nothing: without posternd no process watches the devices (docs/decisions/0050).

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use super::{
    pin_store::{Pinned, Pins},
    sys::{self, Place},
};
use crate::enforcer::{Unattached, XdpMode};

// XDP_FLAGS_…, include/uapi/linux/if_link.h
const GENERIC: u32 = 1 << 1;
const NATIVE: u32 = 1 << 2;

const fn how(mode: XdpMode) -> (u32, u32) {
    match mode {
        XdpMode::Native => (sys::ATTACH_XDP, NATIVE),
        XdpMode::Generic => (sys::ATTACH_XDP, GENERIC),
        XdpMode::Tcx | XdpMode::Standby | XdpMode::Off => (sys::ATTACH_TCX, 0),
    }
}

struct Prefilter {
    link: OwnedFd,
    mode: XdpMode,
}

#[derive(Default)]
pub struct Prefilters {
    by_index: BTreeMap<u32, Prefilter>,
}

impl Prefilters {
    /// Removes the pins of older versions, which attached XDP even without a flood.
    pub fn clear_pins(pins: &Pins) -> io::Result<()> {
        for name in pins.names()?.into_iter().filter(|name| name.starts_with("shed-")) {
            if let Ok(Pinned::Link(link)) = pins.find(&name) {
                // If this fails, removing the pin detaches the link a little later.
                let _ = sys::detach_link(link.as_fd());
            }
            pins.remove(&name)?;
        }
        Ok(())
    }

    /// Attaches `program` to the device in `mode`. A repeated call changes nothing.
    pub fn attach(&mut self, program: BorrowedFd<'_>, ifindex: u32, mode: XdpMode) -> Result<(), Unattached> {
        if self.by_index.contains_key(&ifindex) {
            return Ok(());
        }
        if mode == XdpMode::Tcx {
            alone(ifindex, 0)?;
        }
        let (attach_type, flags) = how(mode);
        let link = sys::create_link(program, ifindex, attach_type, flags).map_err(|e| words(mode, &e))?;
        self.by_index.insert(ifindex, Prefilter { link, mode });
        Ok(())
    }

    pub fn detach(&mut self, ifindex: u32) {
        if let Some(Prefilter { link, .. }) = self.by_index.remove(&ifindex) {
            // This fails if the device is gone. Then the link ends when it is closed.
            let _ = sys::detach_link(link.as_fd());
        }
    }

    /// Checks that the device's prefilter is still attached, and that no other program needs its place.
    pub fn check(&self, ifindex: u32) -> Result<(), Unattached> {
        let Some(Prefilter { link, mode }) = self.by_index.get(&ifindex) else {
            return Ok(());
        };
        match sys::link_info(link.as_fd()) {
            Ok(info) if info.place == Place::Device(ifindex.into()) => {}
            _ => return Err(Unattached::Taken("another program detached the prefilter".to_owned())),
        }
        if *mode == XdpMode::Tcx { alone(ifindex, 1) } else { Ok(()) }
    }
}

/// Checks that only `own` programs are at the device's TCX hook. Others may translate addresses or redirect packets.
fn alone(ifindex: u32, own: u32) -> Result<(), Unattached> {
    match sys::attached_to_device(ifindex, sys::ATTACH_TCX) {
        Ok(programs) if programs > own => {
            Err(Unattached::Taken("another program is attached to the device (TCX)".to_owned()))
        }
        // A kernel without TCX refuses this question and the attachment, and the latter error has the reason.
        _ => Ok(()),
    }
}

fn words(mode: XdpMode, error: &io::Error) -> Unattached {
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            Unattached::Taken("another XDP program is attached to the device; posternd leaves it in place".to_owned())
        }
        Some(libc::EINVAL) if mode == XdpMode::Tcx => {
            Unattached::Refused("the kernel has no TCX (Linux 6.6); lock and cut hold without the prefilter".to_owned())
        }
        Some(libc::EOPNOTSUPP) => Unattached::Refused("the driver does not support XDP".to_owned()),
        _ => Unattached::Refused(format!("the kernel refused to attach the prefilter ({}): {error}", mode.code())),
    }
}
