//! One pinned link: adopt it, make it, ask about it.
//!
//! Owns the order of steps in which a program comes into force without a gap. It does not know what the programs do.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use super::{
    kept::Pins,
    pins::Pinned,
    sys::{self, LinkInfo, Place},
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
    /// As `Unpinned`, and something that is not ours has its name.
    ForeignPin,
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
            Self::ForeignPin => "foreign-pin",
        }
    }
}

impl Link {
    /// Brings `program` into force: by replacing the program of the pinned link if that is ours and where it belongs, else
    /// by a new link. An old link is given up only after the new one is in force. Says too what was found instead of a link
    /// of ours.
    pub fn hold(
        pins: &Pins,
        attachment: Attachment<'_>,
        program: BorrowedFd<'_>,
    ) -> io::Result<(Self, Option<LayerState>)> {
        let found = match adopt(pins, attachment, program) {
            Ok(fd) => return Ok((Self { fd, fresh: false }, None)),
            Err(found) => found,
        };
        let fd = create(attachment, program)?;
        pins.pin(attachment.pin, fd.as_fd())?;
        Ok((Self { fd, fresh: true }, found))
    }

    /// Whether the kernel says that the link is at `place`.
    pub fn is_at(&self, place: Place) -> bool {
        sys::link_info(self.fd.as_fd()).is_ok_and(|info| info.place == place)
    }

    /// What the kernel says about this link now.
    pub fn state(&self, pins: &Pins, attachment: Attachment<'_>, program: Option<u32>) -> LayerState {
        match sys::link_info(self.fd.as_fd()) {
            Ok(info) if info.place != attachment.place => LayerState::Detached,
            Ok(info) if Some(info.program) != program => LayerState::OtherProgram,
            Ok(info) => pin_state(pins, attachment.pin, &info),
            Err(_) => LayerState::Detached,
        }
    }

    /// Brings `program` into force again after [`Self::state`] said that it is not. It is in force before it is pinned, and
    /// also when it cannot be pinned.
    pub fn heal(&mut self, pins: &Pins, attachment: Attachment<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
        if !self.is_at(attachment.place) || sys::update_link(self.fd.as_fd(), program).is_err() {
            *self = Self { fd: create(attachment, program)?, fresh: true };
        }
        match sys::link_info(self.fd.as_fd()).map(|info| pin_state(pins, attachment.pin, &info)) {
            Ok(LayerState::InForce) => Ok(()),
            _ => pins.pin(attachment.pin, self.fd.as_fd()),
        }
    }
}

fn create(attachment: Attachment<'_>, program: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    sys::create_link(program, attachment.target, attachment.attach_type, attachment.flags)
}

/// Whether the pin is of the link that `info` describes.
fn pin_state(pins: &Pins, name: &str, info: &LinkInfo) -> LayerState {
    match pins.find(name) {
        Ok(Pinned::Link(fd)) if sys::link_info(fd.as_fd()).is_ok_and(|pinned| pinned.id == info.id) => {
            LayerState::InForce
        }
        Ok(Pinned::Absent) | Err(_) => LayerState::Unpinned,
        Ok(Pinned::Link(_) | Pinned::Foreign(_)) => LayerState::ForeignPin,
    }
}

/// Whether a link of ours is pinned as `name` and attached at `place`.
pub fn is_in_force(pins: &Pins, name: &str, place: Place) -> bool {
    let Ok(Pinned::Link(fd)) = pins.find(name) else { return false };
    sys::program_tag(fd.as_fd()).is_ok_and(|tag| pins.knows(&tag))
        && sys::link_info(fd.as_fd()).is_ok_and(|info| info.place == place)
}

/// The pinned link, with `program` in force, if it is ours and attached where it belongs. Else what there is instead;
/// `None` for nothing.
fn adopt(pins: &Pins, attachment: Attachment<'_>, program: BorrowedFd<'_>) -> Result<OwnedFd, Option<LayerState>> {
    let foreign = |what: &str| {
        tracing::warn!(pin = attachment.pin, found = what, "what is pinned under our name is not ours; it is replaced");
        Err(Some(LayerState::ForeignPin))
    };
    let fd = match pins.find(attachment.pin) {
        Ok(Pinned::Absent) => return Err(None),
        Ok(Pinned::Link(fd)) => fd,
        Ok(Pinned::Foreign(what)) => return foreign(&what),
        Err(error) => return foreign(&error.to_string()),
    };
    match sys::program_tag(fd.as_fd()) {
        Ok(tag) if pins.knows(&tag) => {}
        Ok(tag) => return foreign(&format!("a link that runs program {tag}")),
        Err(error) => return foreign(&error.to_string()),
    }
    if !sys::link_info(fd.as_fd()).is_ok_and(|info| info.place == attachment.place)
        || sys::update_link(fd.as_fd(), program).is_err()
    {
        return Err(Some(LayerState::Detached));
    }
    Ok(fd)
}
