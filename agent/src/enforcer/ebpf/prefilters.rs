//! The prefilter's links: at most one for each device, and only while this process lives.
//!
//! Owns how the prefilter is attached to a device and taken off again. Which devices get it, and when, is not decided here. Nothing
//! is pinned: where nobody watches the devices, nothing is attached to them (docs/decisions/0050-the-prefilter.md).

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use super::{
    pin_store::Pins,
    sys::{self, Place},
};

// XDP_FLAGS_…, include/uapi/linux/if_link.h
const GENERIC: u32 = 1 << 1;
const NATIVE: u32 = 1 << 2;

/// How the prefilter is attached to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// Beside other programs at the beginning of the network stack (TCX). Changes nothing about the device. Minimum kernel: 6.6.
    Tcx,
    /// XDP in the driver.
    Native,
    /// XDP before the stack, after the driver has made an skb.
    Generic,
    /// Not attached: there is no flood.
    Standby,
    /// Not attached; lock and cut hold without it.
    Off,
}

impl XdpMode {
    /// A stable name.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Standby => "standby",
            Self::Off => "off",
        }
    }

    /// Attach type and flags.
    const fn how(self) -> (u32, u32) {
        match self {
            Self::Native => (sys::ATTACH_XDP, NATIVE),
            Self::Generic => (sys::ATTACH_XDP, GENERIC),
            Self::Tcx | Self::Standby | Self::Off => (sys::ATTACH_TCX, 0),
        }
    }

    /// Whether packets meet the prefilter.
    #[must_use]
    pub const fn is_attached(self) -> bool {
        matches!(self, Self::Tcx | Self::Native | Self::Generic)
    }
}

/// What became of one device's prefilter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpStatus {
    /// The device's index.
    pub ifindex: u32,
    /// Its name.
    pub name: String,
    /// How the prefilter is attached, if it is.
    pub mode: XdpMode,
    /// Why not; empty where it is attached.
    pub reason: String,
}

/// Why the prefilter is not, or no longer, at a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unattached {
    /// Somebody else's program has the place, or wants it.
    Taken(String),
    /// The kernel refused, in words.
    Refused(String),
}

impl Unattached {
    /// In words.
    #[must_use]
    pub fn words(&self) -> &str {
        match self {
            Self::Taken(words) | Self::Refused(words) => words,
        }
    }
}

struct Prefilter {
    link: OwnedFd,
    mode: XdpMode,
}

/// All that are attached.
#[derive(Default)]
pub struct Prefilters {
    by_index: BTreeMap<u32, Prefilter>,
}

impl Prefilters {
    /// Takes away what an older posternd has pinned: versions that attached XDP at rest.
    pub fn clear_pins(pins: &Pins) -> io::Result<()> {
        for name in pins.names()?.into_iter().filter(|name| name.starts_with("shed-")) {
            if let Ok(super::Pinned::Link(link)) = pins.find(&name) {
                // Removing the pin does the same a little later.
                let _ = sys::detach_link(link.as_fd());
            }
            pins.remove(&name)?;
        }
        Ok(())
    }

    /// Attaches `program` to the device in the way of `mode`. Doing it again changes nothing.
    pub fn attach(&mut self, program: BorrowedFd<'_>, ifindex: u32, mode: XdpMode) -> Result<(), Unattached> {
        if self.by_index.contains_key(&ifindex) {
            return Ok(());
        }
        if mode == XdpMode::Tcx {
            alone(ifindex, 0)?;
        }
        let (attach_type, flags) = mode.how();
        let link = sys::create_link(program, ifindex, attach_type, flags).map_err(|e| words(mode, &e))?;
        self.by_index.insert(ifindex, Prefilter { link, mode });
        Ok(())
    }

    /// Takes the device's prefilter away at once, if it has one.
    pub fn detach(&mut self, ifindex: u32) {
        if let Some(Prefilter { link, .. }) = self.by_index.remove(&ifindex) {
            // It fails where the device is gone, and closing the link does the same.
            let _ = sys::detach_link(link.as_fd());
        }
    }

    /// Whether the device's prefilter is as it was attached, and nobody else wants its place.
    pub fn check(&self, ifindex: u32) -> Result<(), Unattached> {
        let Some(Prefilter { link, mode }) = self.by_index.get(&ifindex) else {
            return Ok(());
        };
        match sys::link_info(link.as_fd()) {
            Ok(info) if info.place == Place::Device(ifindex.into()) => {}
            _ => return Err(Unattached::Taken("somebody took the prefilter away".to_owned())),
        }
        if *mode == XdpMode::Tcx { alone(ifindex, 1) } else { Ok(()) }
    }
}

/// Whether only `own` programs are at the device's TCX hook: others may translate addresses, or send packets elsewhere.
fn alone(ifindex: u32, own: u32) -> Result<(), Unattached> {
    match sys::attached_to_device(ifindex, sys::ATTACH_TCX) {
        Ok(programs) if programs > own => {
            Err(Unattached::Taken("another program is attached to the device (TCX)".to_owned()))
        }
        // A kernel without TCX refuses to attach as well, and says why.
        _ => Ok(()),
    }
}

fn words(mode: XdpMode, error: &io::Error) -> Unattached {
    match error.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => {
            Unattached::Taken("another XDP program is attached to the device, and is left alone".to_owned())
        }
        Some(libc::EINVAL) if mode == XdpMode::Tcx => Unattached::Refused(
            "the kernel has no TCX (Linux 6.6); lock and cut refuse without the prefilter".to_owned(),
        ),
        Some(libc::EOPNOTSUPP) => Unattached::Refused("the driver does not know XDP".to_owned()),
        _ => Unattached::Refused(format!("the kernel refused to attach the prefilter ({}): {error}", mode.code())),
    }
}
