//! How the prefilter is attached to a device, or why it is not.
//!
//! Owns these types. The engine chooses the devices, and a backend attaches the prefilter.

/// How the prefilter is attached to a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// At the beginning of the network stack, beside other programs (TCX). It changes nothing about the device. Minimum kernel: 6.6.
    Tcx,
    /// XDP in the driver.
    Native,
    /// XDP after the driver has made an skb, before the network stack.
    Generic,
    /// Not attached: there is no flood.
    Standby,
    /// Not attached. The lock and the cut work without it.
    Off,
}

impl XdpMode {
    /// The stable name.
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

    /// Whether the prefilter sees packets.
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
    /// Why the prefilter is not attached. Empty if it is.
    pub reason: String,
}

/// Why the prefilter is not attached to a device, or must be detached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unattached {
    /// Another program has the place or needs it, in words.
    Taken(String),
    /// The kernel refused, in words.
    Refused(String),
}

impl Unattached {
    /// The reason in words.
    #[must_use]
    pub fn words(&self) -> &str {
        match self {
            Self::Taken(words) | Self::Refused(words) => words,
        }
    }
}
