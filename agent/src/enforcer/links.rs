//! One pinned link: adopt it, make it, ask about it.
//!
//! Owns the order of steps in which a program comes into force without a gap. It does not know what the programs do.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use super::{
    place::PinDir,
    sys::{self, Place},
};

/// How a link is made where none can be adopted.
#[derive(Clone, Copy)]
pub struct Attachment<'a> {
    /// Name of the pin.
    pub pin: &'a str,
    /// Where the link has to be.
    pub place: Place,
    /// A descriptor's number, or a device's index.
    pub target: u32,
    /// `BPF_…` attach type.
    pub attach_type: u32,
    /// `BPF_LINK_CREATE` flags.
    pub flags: u32,
}

/// A link that is in force and pinned.
pub struct Link {
    fd: OwnedFd,
    /// Whether this process made it, rather than adopting it.
    pub fresh: bool,
}

/// What the kernel says about a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// Attached where it belongs, with our program, and pinned.
    InForce,
    /// The kernel or somebody detached it.
    Detached,
    /// Attached, but another program runs there.
    OtherProgram,
    /// In force as long as this process lives, because somebody took its pin away.
    Unpinned,
}

impl LayerState {
    /// A stable name.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::InForce => "in-force",
            Self::Detached => "detached",
            Self::OtherProgram => "other-program",
            Self::Unpinned => "unpinned",
        }
    }
}

impl Link {
    /// Brings `program` into force: by replacing the program of the pinned link if that is where it belongs, else by a new
    /// link. An old link is given up only after the new one is in force.
    pub fn hold(pins: &PinDir, attachment: Attachment<'_>, program: BorrowedFd<'_>) -> io::Result<Self> {
        if let Some(fd) = pins.pinned(attachment.pin)?
            && sys::link_info(fd.as_fd()).is_ok_and(|info| info.place == attachment.place)
            && sys::update_link(fd.as_fd(), program).is_ok()
        {
            return Ok(Self { fd, fresh: false });
        }
        let fd = sys::create_link(program, attachment.target, attachment.attach_type, attachment.flags)?;
        pins.pin(attachment.pin, fd.as_fd())?;
        Ok(Self { fd, fresh: true })
    }

    /// Whether the kernel says that the link is at `place`.
    pub fn is_at(&self, place: Place) -> bool {
        sys::link_info(self.fd.as_fd()).is_ok_and(|info| info.place == place)
    }

    /// What the kernel says about this link now.
    pub fn state(&self, pins: &PinDir, attachment: Attachment<'_>, program: Option<u32>) -> LayerState {
        match sys::link_info(self.fd.as_fd()) {
            Ok(info) if info.place != attachment.place => LayerState::Detached,
            Ok(info) if Some(info.program) != program => LayerState::OtherProgram,
            Ok(_) if !matches!(pins.pinned(attachment.pin), Ok(Some(_))) => LayerState::Unpinned,
            Ok(_) => LayerState::InForce,
            Err(_) => LayerState::Detached,
        }
    }

    /// Brings `program` into force again after [`Self::state`] said that it is not.
    pub fn heal(&mut self, pins: &PinDir, attachment: Attachment<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
        if self.is_at(attachment.place) {
            sys::update_link(self.fd.as_fd(), program)?;
            return pins.pin(attachment.pin, self.fd.as_fd());
        }
        *self = Self::hold(pins, attachment, program)?;
        Ok(())
    }
}
