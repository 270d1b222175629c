//! The store of pins: requests of the enforcer, and their replies.
//!
//! Owns both types. A [`PinStore`] answers: `pins::Directory` in this process, or the helper through its client. It opens no pin itself.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::pins::{ADVICE_PINS, Directory};
use crate::{
    enforcer::{EnforcerError, Settings},
    system::os_error::OsError,
};

/// The state of the directory of pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirState {
    /// It is in order.
    Fine,
    /// It is missing, another directory or file system covers it, or this agent has not taken it.
    Gone,
    /// Users other than root may use it.
    Exposed,
}

/// A request to the store of pins.
#[derive(Debug, Serialize, Deserialize)]
pub enum PinRequest {
    /// Take the directory for this agent alone.
    Open,
    /// Whether a layer of an earlier run is pinned. The directory need not be taken.
    IsPinned,
    /// The state of the directory.
    State,
    /// Repair the directory, or take it if that failed before. The caller must pin everything again afterwards.
    Heal,
    /// Whether an agent that held this directory loaded the program with this tag.
    Knows(String),
    /// Record that links may also run programs with these tags. This must precede the first such link.
    Expect(Vec<String>),
    /// Record that links run programs with these tags only.
    Settle(Vec<String>),
    /// The sorted names of the pins, without the first `from`. At most [`NAMES`].
    Names {
        /// The number of names that the caller has.
        from: usize,
    },
    /// The object that is pinned under this name.
    Find(String),
    /// Pin the object that comes with the request. It replaces an earlier pin of the name without a gap.
    Pin(String),
    /// Remove the pin. If it is a link of Postern's, detach the link at once.
    Remove(String),
}

/// The most names in one reply, so that each reply fits into one message of the helper.
pub const NAMES: usize = 1000;

/// The reply to a [`PinRequest`].
#[derive(Debug, Serialize, Deserialize)]
pub enum PinReply {
    /// The request was carried out.
    Done,
    /// The answer to `IsPinned` and `Knows`.
    Is(bool),
    /// The answer to `State`.
    State(DirState),
    /// The answer to `Names`.
    Names(Vec<String>),
    /// The answer to `Find`: no object has the name.
    Absent,
    /// The answer to `Find`, with the descriptor of a link.
    Link,
    /// The answer to `Find`, with the descriptor of a map.
    Map,
    /// The answer to `Find`: the name belongs to an object that must not be used. The text says why.
    Foreign(String),
}

/// Why a request failed.
#[derive(Debug, Serialize, Deserialize)]
pub enum PinError {
    /// The kernel or the file system refused.
    Os(OsError),
    /// Another agent holds the directory at this path.
    InUse(String),
    /// The directory cannot be used.
    Directory {
        /// The step, as an infinitive.
        what: String,
        /// The reason.
        cause: String,
    },
}

impl From<io::Error> for PinError {
    fn from(error: io::Error) -> Self {
        Self::Os(error.into())
    }
}

impl From<EnforcerError> for PinError {
    fn from(error: EnforcerError) -> Self {
        match error {
            EnforcerError::InUse(path) => Self::InUse(path),
            EnforcerError::Kernel { what, cause, .. } => Self::Directory { what, cause },
            other => Self::Directory { what: "use the pin directory".to_owned(), cause: other.to_string() },
        }
    }
}

impl From<PinError> for EnforcerError {
    fn from(error: PinError) -> Self {
        match error {
            PinError::Os(error) => Self::kernel("use the pin directory", &io::Error::from(error), ADVICE_PINS),
            PinError::InUse(path) => Self::InUse(path),
            PinError::Directory { what, cause } => Self::Kernel { what, cause, advice: ADVICE_PINS },
        }
    }
}

impl From<PinError> for io::Error {
    fn from(error: PinError) -> Self {
        match error {
            PinError::Os(error) => error.into(),
            other => Self::other(EnforcerError::from(other)),
        }
    }
}

/// A reply, with a descriptor if the reply is an object, or an error.
pub type PinResult = Result<(PinReply, Option<OwnedFd>), PinError>;

/// A store that answers requests about pins.
pub trait PinStore: fmt::Debug + Send + Sync {
    /// Carries out `request`. `object` is the descriptor for [`PinRequest::Pin`].
    ///
    /// # Errors
    /// Nothing has changed, or the next [`PinRequest::Heal`] repairs the change.
    fn ask(&self, request: PinRequest, object: Option<BorrowedFd<'_>>) -> PinResult;
}

pub enum Pinned {
    Absent,
    /// A link in a file that only root can use. The caller must check its program.
    Link(OwnedFd),
    /// A map in a file that only root can use. The caller must check its shape.
    Map(OwnedFd),
    /// An object that must not be used, and the reason.
    Foreign(String),
}

#[derive(Clone)]
pub struct Pins(Arc<dyn PinStore>);

impl Pins {
    /// The store of `settings`. It takes no directory yet.
    pub fn of(settings: &Settings) -> Self {
        Self(settings.pins.clone().unwrap_or_else(|| Arc::new(Directory::new(&settings.pin_dir))))
    }

    pub fn open(&self) -> Result<(), EnforcerError> {
        Ok(self.done(PinRequest::Open)?)
    }

    /// As [`Self::open`], but fails only if another agent holds the directory. A layer can come into force without a pin.
    pub fn open_if_usable(&self) -> Result<(), EnforcerError> {
        match self.open() {
            Err(error @ EnforcerError::InUse(_)) => Err(error),
            Err(error) => {
                tracing::error!(%error, "nothing can be pinned: what posternd attaches is in force only as long as posternd lives");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    pub fn is_pinned(&self) -> bool {
        self.is(PinRequest::IsPinned)
    }

    pub fn state(&self) -> DirState {
        match self.0.ask(PinRequest::State, None) {
            Ok((PinReply::State(state), _)) => state,
            _ => DirState::Gone,
        }
    }

    pub fn heal(&self) -> Result<(), EnforcerError> {
        Ok(self.done(PinRequest::Heal)?)
    }

    pub fn knows(&self, tag: &str) -> bool {
        self.is(PinRequest::Knows(tag.to_owned()))
    }

    /// See [`PinRequest::Expect`].
    pub fn expect(&self, tags: Vec<String>) -> Result<(), EnforcerError> {
        Ok(self.done(PinRequest::Expect(tags))?)
    }

    /// See [`PinRequest::Settle`].
    pub fn settle(&self, tags: Vec<String>) -> Result<(), EnforcerError> {
        Ok(self.done(PinRequest::Settle(tags))?)
    }

    pub fn find(&self, name: &str) -> io::Result<Pinned> {
        match self.0.ask(PinRequest::Find(name.to_owned()), None)? {
            (PinReply::Link, Some(link)) => Ok(Pinned::Link(link)),
            (PinReply::Map, Some(map)) => Ok(Pinned::Map(map)),
            // The kernel dropped the descriptor because this process had no free number. Open connections can cause that for a moment.
            (PinReply::Link | PinReply::Map, None) => Err(rustix::io::Errno::MFILE.into()),
            (PinReply::Absent, _) => Ok(Pinned::Absent),
            (PinReply::Foreign(what), _) => Ok(Pinned::Foreign(what)),
            (other, _) => Err(unexpected(&other)),
        }
    }

    pub fn pin(&self, name: &str, object: impl AsFd) -> io::Result<()> {
        self.0.ask(PinRequest::Pin(name.to_owned()), Some(object.as_fd()))?;
        Ok(())
    }

    pub fn remove(&self, name: &str) -> io::Result<()> {
        Ok(self.done(PinRequest::Remove(name.to_owned()))?)
    }

    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        loop {
            match self.0.ask(PinRequest::Names { from: names.len() }, None)?.0 {
                PinReply::Names(more) if more.len() == NAMES => names.extend(more),
                PinReply::Names(more) => return Ok([names, more].concat()),
                other => return Err(unexpected(&other)),
            }
        }
    }

    fn is(&self, request: PinRequest) -> bool {
        matches!(self.0.ask(request, None), Ok((PinReply::Is(true), _)))
    }

    fn done(&self, request: PinRequest) -> Result<(), PinError> {
        self.0.ask(request, None).map(drop)
    }
}

fn unexpected(reply: &PinReply) -> io::Error {
    io::Error::other(format!("the store of pins gave the reply {reply:?} to another question"))
}
