//! The pins as the enforcer uses them: its own, or kept for it by the part of posternd that stays root.
//!
//! Owns the choice between the two, which mean the same. What a pin is worth is decided in `pins`.

use std::{io, os::fd::AsFd};

use super::{
    EnforcerError, Settings,
    pins::{DirState, PinDir, Pinned},
};
use crate::keeper::Keeper;

/// The directory of pins, taken for this process alone.
pub enum Pins {
    /// By root itself.
    Own(PinDir),
    /// By a keeper.
    Kept(Keeper),
}

impl Pins {
    /// As [`PinDir::open`].
    pub fn open(settings: &Settings) -> Result<Self, EnforcerError> {
        match &settings.keeper {
            None => PinDir::open(&settings.pin_dir).map(Self::Own),
            Some(keeper) => keeper.open_pins().map(|()| Self::Kept(keeper.clone())),
        }
    }

    /// As [`PinDir::state`].
    pub fn state(&self) -> DirState {
        match self {
            Self::Own(pins) => pins.state(),
            Self::Kept(keeper) => keeper.state(),
        }
    }

    /// As [`PinDir::heal`].
    pub fn heal(&mut self) -> Result<(), EnforcerError> {
        match self {
            Self::Own(pins) => pins.heal(),
            Self::Kept(keeper) => keeper.heal(),
        }
    }

    /// As [`PinDir::knows`].
    pub fn knows(&self, tag: &str) -> bool {
        match self {
            Self::Own(pins) => pins.knows(tag),
            Self::Kept(keeper) => keeper.knows(tag),
        }
    }

    /// As [`PinDir::expect`].
    pub fn expect(&mut self, tags: impl IntoIterator<Item = String>) -> Result<(), EnforcerError> {
        match self {
            Self::Own(pins) => pins.expect(tags),
            Self::Kept(keeper) => keeper.expect(tags.into_iter().collect()),
        }
    }

    /// As [`PinDir::settle`].
    pub fn settle(&mut self, tags: impl IntoIterator<Item = String>) -> Result<(), EnforcerError> {
        match self {
            Self::Own(pins) => pins.settle(tags),
            Self::Kept(keeper) => keeper.settle(tags.into_iter().collect()),
        }
    }

    /// As [`PinDir::find`].
    pub fn find(&self, name: &str) -> io::Result<Pinned> {
        match self {
            Self::Own(pins) => pins.find(name),
            Self::Kept(keeper) => keeper.find(name),
        }
    }

    /// As [`PinDir::pin`].
    pub fn pin(&self, name: &str, link: impl AsFd) -> io::Result<()> {
        match self {
            Self::Own(pins) => pins.pin(name, link),
            Self::Kept(keeper) => keeper.pin(name, link.as_fd()),
        }
    }

    /// As [`PinDir::remove`].
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match self {
            Self::Own(pins) => pins.remove(name),
            Self::Kept(keeper) => keeper.remove(name),
        }
    }

    /// As [`PinDir::names`].
    pub fn names(&self) -> io::Result<Vec<String>> {
        match self {
            Self::Own(pins) => pins.names(),
            Self::Kept(keeper) => keeper.names(),
        }
    }
}
