//! The agent's side of its helper.
//!
//! Owns the start of the helper and the socket to it. When the helper ends, the agent ends at once, and pinned layers stay in force.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::Duty;
use super::watch::Known;
use super::wire::{self, Answer, Question};
use crate::config::effective::RootFiles;
use crate::enforcer::ebpf::{DirState, PinReply, PinRequest, PinResult, PinStore};
use crate::proof;
use crate::system::files::{self, Opener};
use crate::system::sockets;

/// The argument that starts `posternd` as a helper.
const WORD: &str = "helper";

/// A running helper. It ends when the last clone is dropped or the agent dies.
#[derive(Clone, Debug)]
pub struct Helper(Arc<Mutex<Connection>>);

/// The socket, and the cached replies about pins.
#[derive(Debug)]
struct Connection {
    socket: OwnedFd,
    known: Known,
}

impl Connection {
    fn question(&self, question: &Question, fd: Option<BorrowedFd<'_>>) -> (Answer, Option<OwnedFd>) {
        let answer = wire::send(self.socket.as_fd(), question, fd).and_then(|()| wire::receive(self.socket.as_fd()));
        match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => gone(&"it is dead"),
            Err(error) => gone(&error),
        }
    }

    /// Checks that the helper lives, and starts the watch of the pin directory before the next question, so that no change is missed.
    fn watch(&mut self) {
        if has_ended(&self.socket) {
            gone(&"it is dead");
        }
        if !self.known.holds()
            && let (Answer::Done, Some(events)) = self.question(&Question::Watch, None)
        {
            self.known = Known::under(events);
        }
    }

    /// A cached reply that still holds. A request that changes the directory clears the cache.
    fn kept(&mut self, request: &PinRequest) -> Option<PinResult> {
        match request {
            PinRequest::State => {
                self.watch();
                self.known.is_fine().then_some(Ok((PinReply::State(DirState::Fine), None)))
            }
            PinRequest::Find(name) => self.known.pin(name),
            PinRequest::IsPinned | PinRequest::Knows(_) | PinRequest::Names { .. } => None,
            _ => {
                self.known.forget();
                None
            }
        }
    }
}

impl Helper {
    /// Starts this program again as a helper, from the same file.
    ///
    /// # Errors
    /// No process can be made.
    pub fn start(duty: &Duty) -> io::Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // Its own process group, so Ctrl-C reaches only the agent. No process waits for the helper, which ends just after the agent.
        Command::new("/proc/self/exe")
            .arg0("posternd")
            .arg(WORD)
            .stdin(Stdio::from(theirs))
            .process_group(0)
            .spawn()?;
        wire::send(ours.as_fd(), duty, None)?;
        Ok(Self(Arc::new(Mutex::new(Connection { socket: ours, known: Known::default() }))))
    }

    fn connection(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn question(&self, question: &Question) -> (Answer, Option<OwnedFd>) {
        self.connection().question(question, None)
    }

    /// Returns the Unix socket, bound and listening, and in words any fault of its place.
    ///
    /// # Errors
    /// As [`sockets::unix`].
    pub fn listen(&self) -> sockets::Bound {
        match self.question(&Question::Listen) {
            (Answer::Listens(why), Some(fd)) => Ok((fd, why)),
            (Answer::Listens(_), None) => Err(no_room()),
            (Answer::Failed(error), _) => Err(error.into()),
            (other, _) => gone(&format_args!("{other:?}")),
        }
    }

    /// The helper's store of pins.
    #[must_use]
    pub fn pins(&self) -> Arc<dyn PinStore> {
        Arc::new(self.clone())
    }

    /// The opener of root's files. This process opens the files that it may open, and the helper opens the others.
    #[must_use]
    pub fn root_files(&self) -> RootFiles {
        let (reader, copier) = (self.clone(), self.clone());
        let open = move |path: &Path| match files::open(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => reader.open(path),
            result => result,
        };
        RootFiles::new(Opener::new(open), move || copier.copy().map_err(|error| error.to_string()))
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        match self.question(&Question::Read(path.to_owned())) {
            (Answer::Done, Some(fd)) => Ok(fd.into()),
            (Answer::Done, None) => Err(no_room()),
            (Answer::Failed(error), _) => Err(error.into()),
            (other, _) => gone(&format_args!("{other:?}")),
        }
    }

    fn copy(&self) -> io::Result<()> {
        match self.question(&Question::Copy).0 {
            Answer::Done => Ok(()),
            Answer::Failed(error) => Err(error.into()),
            other => gone(&format_args!("{other:?}")),
        }
    }

    /// Makes the SSH host keys that are now on the disk sign a text. The text must be the same each time.
    pub(crate) fn into_host_keys(self) -> proof::Remote {
        Box::new(move |payload| self.host_keys(payload))
    }

    fn host_keys(&self, payload: &str) -> io::Result<proof::Found> {
        let question = Question::HostKeys(payload.to_owned());
        if !wire::fits(&question) {
            return Err(io::Error::other("the names of this host are too long to be signed"));
        }
        match self.question(&question).0 {
            Answer::HostKeys(found) => Ok(found),
            Answer::Failed(error) => Err(error.into()),
            other => gone(&format_args!("{other:?}")),
        }
    }
}

impl PinStore for Helper {
    fn ask(&self, request: PinRequest, object: Option<BorrowedFd<'_>>) -> PinResult {
        let mut connection = self.connection();
        if let Some(kept) = connection.kept(&request) {
            return kept;
        }
        let question = Question::Pins(request);
        let result = match connection.question(&question, object) {
            (Answer::Pins(reply), fd) => reply.map(|reply| (reply, fd)),
            (other, _) => gone(&format_args!("{other:?}")),
        };
        if let Question::Pins(request) = &question {
            connection.known.note(request, &result);
        }
        result
    }
}

fn has_ended(socket: &OwnedFd) -> bool {
    let mut wanted = [PollFd::new(socket, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut wanted, Some(&at_once)).is_ok() && wanted[0].revents().contains(PollFlags::HUP)
}

/// The error of a process without a free descriptor. Open connections can cause that for a moment, so the agent goes on.
pub(super) fn no_room() -> io::Error {
    rustix::io::Errno::MFILE.into()
}

/// Ends the agent: without a helper it could not pin a layer again. The service manager starts posternd again.
fn gone(why: &dyn std::fmt::Display) -> ! {
    tracing::error!(%why, "the helper has ended; posternd ends, and what is pinned stays in force");
    std::process::abort();
}
