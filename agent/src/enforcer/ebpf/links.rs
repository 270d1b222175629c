//! One link: adopt the pinned link, make a new one, read its state.
//!
//! Owns the order of steps that brings a program into force without a gap. It does not know the purpose of the programs.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
};

use super::{
    pin_store::{Pinned, Pins},
    sys::{self, LinkInfo, Place},
};
use crate::enforcer::LayerState;

#[derive(Clone, Copy)]
pub struct Attachment<'a> {
    pub pin: &'a str,
    pub place: Place,
    /// A descriptor's number, or a device's index.
    pub target: u32,
    pub attach_type: u32,
    pub flags: u32,
}

/// A link that runs one of Postern's programs.
pub struct Link {
    fd: OwnedFd,
}

impl Link {
    pub fn create(attachment: Attachment<'_>, program: BorrowedFd<'_>) -> io::Result<Self> {
        let Attachment { target, attach_type, flags, .. } = attachment;
        sys::create_link(program, target, attach_type, flags).map(|fd| Self { fd })
    }

    /// Takes over the pinned link, at any place, if it runs one of Postern's programs. Else the state of the pin, `None` without a pin.
    pub fn adopt(pins: &Pins, pin: &str) -> Result<Self, Option<LayerState>> {
        let foreign = |what: &str| {
            tracing::warn!(pin, found = what, "what is pinned under our name is not ours; it is replaced");
            Err(Some(LayerState::ForeignPin))
        };
        let fd = match pins.find(pin) {
            Ok(Pinned::Absent) => return Err(None),
            Ok(Pinned::Link(fd)) => fd,
            Ok(Pinned::Map(_)) => return foreign("a map"),
            Ok(Pinned::Foreign(what)) => return foreign(&what),
            Err(error) => return foreign(&error.to_string()),
        };
        match sys::program_tag(fd.as_fd()) {
            Ok(tag) if pins.knows(&tag) => Ok(Self { fd }),
            Ok(tag) => foreign(&format!("a link that runs program {tag}")),
            Err(error) => foreign(&error.to_string()),
        }
    }

    pub fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        sys::update_link(self.fd.as_fd(), program)
    }

    pub fn place(&self) -> Option<Place> {
        sys::link_info(self.fd.as_fd()).ok().map(|info| info.place)
    }

    pub fn is_at(&self, place: Place) -> bool {
        self.place() == Some(place)
    }

    /// `program` is the kernel's number of the program that the link must run.
    pub fn state(&self, pins: &Pins, attachment: Attachment<'_>, program: Option<u32>) -> LayerState {
        match sys::link_info(self.fd.as_fd()) {
            Ok(info) if info.place != attachment.place => LayerState::Detached,
            Ok(info) if Some(info.program) != program => LayerState::OtherProgram,
            Ok(info) => pin_state(pins, attachment.pin, &info),
            Err(_) => LayerState::Detached,
        }
    }

    pub fn pin(&self, pins: &Pins, attachment: Attachment<'_>) -> io::Result<()> {
        match sys::link_info(self.fd.as_fd()).map(|info| pin_state(pins, attachment.pin, &info)) {
            Ok(LayerState::InForce) => Ok(()),
            _ => pins.pin(attachment.pin, self.fd.as_fd()),
        }
    }
}

/// The state of the link that `info` describes, by its pin.
fn pin_state(pins: &Pins, name: &str, info: &LinkInfo) -> LayerState {
    match pins.find(name) {
        Ok(Pinned::Link(fd)) if sys::link_info(fd.as_fd()).is_ok_and(|pinned| pinned.id == info.id) => {
            LayerState::InForce
        }
        // This process has no free descriptor to read the pin. That is no loss; a later check reads the pin.
        Err(error) if error.raw_os_error() == Some(libc::EMFILE) => LayerState::InForce,
        Ok(Pinned::Absent) | Err(_) => LayerState::Unpinned,
        Ok(Pinned::Link(_) | Pinned::Map(_) | Pinned::Foreign(_)) => LayerState::ForeignPin,
    }
}

pub fn is_in_force(pins: &Pins, name: &str, place: Place) -> bool {
    let Ok(Pinned::Link(fd)) = pins.find(name) else { return false };
    sys::program_tag(fd.as_fd()).is_ok_and(|tag| pins.knows(&tag))
        && sys::link_info(fd.as_fd()).is_ok_and(|info| info.place == place)
}
