//! How the prefilter is attached to a device, and why it is not.
//!
//! Owns these words. The engine chooses the devices, and a backend attaches the prefilter.

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

    /// Whether packets pass the prefilter.
    #[must_use]
    pub const fn is_attached(self) -> bool {
        matches!(self, Self::Tcx | Self::Native | Self::Generic)
    }
}

/// The prefilter of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct XdpStatus {
    /// The device's index.
    pub ifindex: u32,
    /// The device's name.
    pub name: String,
    /// How the prefilter is attached.
    pub mode: XdpMode,
    /// Why it is not attached; empty where it is.
    pub reason: String,
}

/// Why the prefilter is not at a device, or must leave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unattached {
    /// In words: another program has the place, or wants it.
    Taken(String),
    /// In words: the kernel refused.
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
