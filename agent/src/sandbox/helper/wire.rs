//! What the agent and its helper say to each other: a question, an answer, and with either at most one descriptor.
//!
//! Owns the messages and how they cross the socket, each as one packet. It knows nothing of their meaning.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::retry_on_intr;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::enforcer::{DirState, EnforcerError};

/// The longest message, in bytes: a thousand names of pins, or a sentence.
const MOST: usize = 64 * 1024;

/// Whether a message is short enough to cross the socket: one that is not would end the talk, and with it posternd.
pub(super) fn fits(message: &impl Serialize) -> bool {
    serde_json::to_vec(message).is_ok_and(|bytes| bytes.len() <= MOST)
}

/// What the agent asks. Those about pins are [`crate::enforcer`]'s.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// Take the directory of pins.
    Open,
    /// Whether layers of an earlier run are pinned. The directory need not have been taken.
    IsPinned,
    State,
    /// Have the kernel note changes in the directory of pins from now on. The answer holds the descriptor that shows them.
    Watch,
    Heal,
    Knows(String),
    Expect(Vec<String>),
    Settle(Vec<String>),
    /// Those behind the first `from`, in order, as many as fit.
    Names {
        from: usize,
    },
    Find(String),
    /// With the descriptor of a link.
    Pin(String),
    Remove(String),
    /// The Unix socket's listener.
    Listen,
    /// A file that a reload reads, opened.
    Read(PathBuf),
    /// Bring the last good copies up to date: the files are read anew.
    Copy,
    /// Read the SSH host keys and sign this with each of them. Only the first text is signed, as often as it is asked for.
    HostKeys(String),
}

/// What the helper answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// With a descriptor, where one was asked for.
    Done,
    /// With the Unix socket, and what is wrong with it.
    Listens(Option<String>),
    State(DirState),
    Known(bool),
    Names(Vec<String>),
    Found(Found),
    /// What the host keys signed, and which keys did not.
    HostKeys(crate::proof::Found),
    Failed(Failed),
    /// Another agent holds the directory of pins, by its name.
    InUse(String),
    /// What could not be done with the directory, and why.
    Pins {
        what: String,
        cause: String,
    },
}

/// What lies under a name.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Found {
    Nothing,
    /// With its descriptor.
    Link,
    /// With its descriptor.
    Map,
    Foreign(String),
}

/// An error of the operating system.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failed {
    number: Option<i32>,
    text: String,
}

impl From<&io::Error> for Failed {
    fn from(error: &io::Error) -> Self {
        Self { number: error.raw_os_error(), text: error.to_string() }
    }
}

impl From<Failed> for io::Error {
    fn from(Failed { number, text }: Failed) -> Self {
        number.map_or_else(|| Self::other(text), Self::from_raw_os_error)
    }
}

impl From<EnforcerError> for Answer {
    fn from(error: EnforcerError) -> Self {
        match error {
            EnforcerError::InUse(path) => Self::InUse(path),
            EnforcerError::Kernel { what, cause, .. } => Self::Pins { what, cause },
            other => Self::Pins { what: "keep the pins".to_owned(), cause: other.to_string() },
        }
    }
}

/// Sends one message.
///
/// # Errors
/// The socket's; `BrokenPipe` when the other side is gone.
pub(super) fn send(socket: BorrowedFd<'_>, message: &impl Serialize, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<_> = fd.into_iter().collect();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    retry_on_intr(|| sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Waits for one message. None when the other side is gone.
///
/// # Errors
/// The socket's; `InvalidData` for what is no such message.
pub(super) fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Option<OwnedFd>)>> {
    let mut bytes = vec![0; MOST];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received =
        retry_on_intr(|| recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC))?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fd = fds.next().and_then(|mut fds| fds.next());
    match received.bytes {
        0 => Ok(None),
        _ if received.flags.contains(ReturnFlags::TRUNC) => Err(io::ErrorKind::InvalidData.into()),
        length => Ok(Some((serde_json::from_slice(&bytes[..length])?, fd))),
    }
}
