//! The pins as the enforcer uses them: its own, or kept for it by the part of posternd that stays root.
//!
//! Owns the choice between the two, which mean the same. What a pin is worth is decided in `pins`.

use std::{
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use super::{
    EnforcerError, Settings,
    pins::{ADVICE_PINS, DirState, PinDir, Pinned},
};
use crate::sandbox::helper::Helper;

/// The directory of pins, taken for this process alone.
pub enum Pins {
    /// By root itself.
    Own(PinDir),
    /// By a helper.
    RetainedSession(Helper),
    /// By nobody yet: the directory at this path cannot be used. Nothing is pinned, and what attached is in force as long as this
    /// process lives.
    Without(PathBuf),
}

impl Pins {
    /// As [`PinDir::open`].
    pub fn open(settings: &Settings) -> Result<Self, EnforcerError> {
        match &settings.helper {
            None => PinDir::open(&settings.pin_dir).map(Self::Own),
            Some(helper) => helper.open_pins().map(|()| Self::RetainedSession(helper.clone())),
        }
    }

    /// As [`Self::open`], but a directory that cannot be used keeps no layer from coming into force.
    ///
    /// # Errors
    /// Another agent holds it.
    pub fn open_if_usable(settings: &Settings) -> Result<Self, EnforcerError> {
        match Self::open(settings) {
            Err(error @ EnforcerError::InUse(_)) => Err(error),
            Err(error) => {
                tracing::error!(%error, "nothing can be pinned: what posternd attaches is in force only as long as it lives");
                let without = || Self::Without(settings.pin_dir.clone());
                Ok(settings.helper.clone().map_or_else(without, Self::RetainedSession))
            }
            opened => opened,
        }
    }

    /// As [`PinDir::state`].
    pub fn state(&self) -> DirState {
        match self {
            Self::Own(pins) => pins.state(),
            Self::RetainedSession(helper) => helper.state(),
            Self::Without(_) => DirState::Gone,
        }
    }

    /// As [`PinDir::heal`].
    pub fn heal(&mut self) -> Result<(), EnforcerError> {
        match self {
            Self::Own(pins) => pins.heal(),
            Self::RetainedSession(helper) => helper.heal(),
            Self::Without(path) => {
                *self = Self::Own(PinDir::open(path)?);
                Ok(())
            }
        }
    }

    /// As [`PinDir::knows`].
    pub fn knows(&self, tag: &str) -> bool {
        match self {
            Self::Own(pins) => pins.knows(tag),
            Self::RetainedSession(helper) => helper.knows(tag),
            Self::Without(_) => false,
        }
    }

    /// As [`PinDir::expect`].
    pub fn expect(&mut self, tags: impl IntoIterator<Item = String>) -> Result<(), EnforcerError> {
        match self {
            Self::Own(pins) => pins.expect(tags),
            Self::RetainedSession(helper) => helper.expect(tags.into_iter().collect()),
            Self::Without(path) => Err(without(path)),
        }
    }

    /// As [`PinDir::settle`].
    pub fn settle(&mut self, tags: impl IntoIterator<Item = String>) -> Result<(), EnforcerError> {
        match self {
            Self::Own(pins) => pins.settle(tags),
            Self::RetainedSession(helper) => helper.settle(tags.into_iter().collect()),
            Self::Without(path) => Err(without(path)),
        }
    }

    /// As [`PinDir::find`].
    pub fn find(&self, name: &str) -> io::Result<Pinned> {
        match self {
            Self::Own(pins) => pins.find(name),
            Self::RetainedSession(helper) => helper.find(name),
            Self::Without(_) => Ok(Pinned::Absent),
        }
    }

    /// As [`PinDir::pin`].
    pub fn pin(&self, name: &str, link: impl AsFd) -> io::Result<()> {
        match self {
            Self::Own(pins) => pins.pin(name, link),
            Self::RetainedSession(helper) => helper.pin(name, link.as_fd()),
            Self::Without(_) => Err(unusable()),
        }
    }

    /// As [`PinDir::remove`].
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match self {
            Self::Own(pins) => pins.remove(name),
            Self::RetainedSession(helper) => helper.remove(name),
            Self::Without(_) => Ok(()),
        }
    }

    /// As [`PinDir::names`].
    pub fn names(&self) -> io::Result<Vec<String>> {
        match self {
            Self::Own(pins) => pins.names(),
            Self::RetainedSession(helper) => helper.names(),
            Self::Without(_) => Ok(Vec::new()),
        }
    }
}

fn unusable() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the directory of pins cannot be used")
}

fn without(path: &Path) -> EnforcerError {
    EnforcerError::kernel(format!("use {}", path.display()), &unusable(), ADVICE_PINS)
}
