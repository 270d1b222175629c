//! The messages between the agent and its helper: a question and an answer, each with at most one descriptor.
//!
//! Owns their form, and sends each as one packet. It does not know their meaning.

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

use crate::enforcer::ebpf::{PinError, PinReply, PinRequest};
use crate::proof;
use crate::system::os_error::OsError;

/// The longest message in bytes. A thousand names of pins fit.
const MOST: usize = 64 * 1024;

/// Whether a message fits into one packet. A longer message would end the connection, and so posternd.
pub(super) fn fits(message: &impl Serialize) -> bool {
    serde_json::to_vec(message).is_ok_and(|bytes| bytes.len() <= MOST)
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Question {
    /// A request about pins, with its descriptor.
    Pins(PinRequest),
    /// Watch the pin directory. The answer has the descriptor that reports changes.
    Watch,
    Listen,
    Read(PathBuf),
    /// Read the files again, and update their last good copies.
    Copy,
    /// Read the SSH host keys and sign this text with each of them. The helper signs only the first such text, any number of times.
    HostKeys(String),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// Success, with a descriptor if the question asks for one.
    Done,
    /// With the Unix socket, and any fault of its place.
    Listens(Option<String>),
    /// With the descriptor of the reply.
    Pins(Result<PinReply, PinError>),
    /// The signatures of the host keys, and the keys that did not sign.
    HostKeys(proof::Found),
    Failed(OsError),
}

/// Sends one message. The error is `BrokenPipe` when the other process has ended.
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

/// Waits for one message. `None` when the other process has ended. The error is `InvalidData` for an oversized packet.
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
