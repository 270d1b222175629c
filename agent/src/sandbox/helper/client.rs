//! The agent's side of its helper.
//!
//! Owns the socket to it and its start. Without a helper an agent is of no use: it ends at once, and what is pinned stays in force.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::watch::Known;
use super::wire::{self, Answer, Found, Question};
use super::{Duty, NAMES};
use crate::config;
use crate::enforcer::{ADVICE_PINS, DirState, EnforcerError, Pinned};
use crate::proof;

/// What `posternd` is called with to be one.
const WORD: &str = "helper";

/// A helper that runs. It ends when the last of these is dropped, or the agent dies.
#[derive(Clone, Debug)]
pub struct Helper(Arc<Mutex<Talk>>);

/// The socket, and what the helper said of pins.
#[derive(Debug)]
struct Talk {
    socket: OwnedFd,
    known: Known,
}

impl Talk {
    fn ask(&self, question: &Question, fd: Option<BorrowedFd<'_>>) -> (Answer, Option<OwnedFd>) {
        let answer = wire::send(self.socket.as_fd(), question, fd).and_then(|()| wire::receive(self.socket.as_fd()));
        match answer {
            Ok(Some(answer)) => answer,
            Ok(None) => gone(&"it is dead"),
            Err(error) => gone(&error),
        }
    }

    /// Watches the directory of pins, and the helper itself, which is asked for nothing while the kept answers hold. The watch comes
    /// before the questions, so that no change between the two is missed.
    fn watch(&mut self) {
        if has_ended(&self.socket) {
            gone(&"it is dead");
        }
        if !self.known.holds()
            && let (Answer::Done, Some(events)) = self.ask(&Question::Watch, None)
        {
            self.known = Known::under(events);
        }
    }
}

/// Opens a file that a reload reads: as oneself, or through the helper where that is not allowed.
///
/// # Errors
/// As when it is opened.
pub fn open(helper: Option<&Helper>, path: &Path) -> io::Result<File> {
    match (config::open(path), helper) {
        (Err(error), Some(helper)) if error.kind() == io::ErrorKind::PermissionDenied => {
            helper.handed(&Question::Read(path.to_owned())).map(File::from)
        }
        (result, _) => result,
    }
}

impl Helper {
    /// Starts this program once more, as it is on the disk or was when this process began.
    ///
    /// # Errors
    /// When no process can be made.
    pub fn start(duty: &Duty) -> io::Result<Self> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        // A group of its own, so that Ctrl-C reaches the agent alone. It is never waited for: it outlives the agent by a moment.
        Command::new("/proc/self/exe")
            .arg0("posternd")
            .arg(WORD)
            .stdin(Stdio::from(theirs))
            .process_group(0)
            .spawn()?;
        wire::send(ours.as_fd(), duty, None)?;
        Ok(Self(Arc::new(Mutex::new(Talk { socket: ours, known: Known::default() }))))
    }

    fn talk(&self) -> MutexGuard<'_, Talk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, question: &Question, fd: Option<BorrowedFd<'_>>) -> (Answer, Option<OwnedFd>) {
        self.talk().ask(question, fd)
    }

    /// As [`Self::ask`], for what changes the directory of pins.
    fn change(&self, question: &Question, fd: Option<BorrowedFd<'_>>) -> Answer {
        let mut talk = self.talk();
        talk.known.forget();
        talk.ask(question, fd).0
    }

    fn done(&self, question: &Question, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        match self.change(question, fd) {
            Answer::Done => Ok(()),
            Answer::Failed(failed) => Err(failed.into()),
            other => gone(&format_args!("{other:?}")),
        }
    }

    fn handed(&self, question: &Question) -> io::Result<OwnedFd> {
        match self.ask(question, None) {
            (Answer::Done, Some(fd)) => Ok(fd),
            (Answer::Done, None) => Err(no_room()),
            (Answer::Failed(failed), _) => Err(failed.into()),
            (other, _) => gone(&format_args!("{other:?}")),
        }
    }

    fn of_directory(&self, question: &Question) -> Result<(), EnforcerError> {
        match self.change(question, None) {
            Answer::Done => Ok(()),
            Answer::InUse(path) => Err(EnforcerError::InUse(path)),
            Answer::Pins { what, cause } => Err(EnforcerError::Kernel { what, cause, advice: ADVICE_PINS }),
            Answer::Failed(failed) => {
                Err(EnforcerError::kernel("keep the pins", &io::Error::from(failed), ADVICE_PINS))
            }
            other => gone(&format_args!("{other:?}")),
        }
    }

    /// The Unix socket, bound and listening, and what is wrong with it, in words.
    ///
    /// # Errors
    /// Where there is none, as at the configured path.
    pub fn listen(&self) -> io::Result<(OwnedFd, Option<String>)> {
        match self.ask(&Question::Listen, None) {
            (Answer::Listens(why), Some(fd)) => Ok((fd, why)),
            (Answer::Listens(_), None) => Err(no_room()),
            (Answer::Failed(failed), _) => Err(failed.into()),
            (other, _) => gone(&format_args!("{other:?}")),
        }
    }

    /// Has the last good copies brought up to date.
    ///
    /// # Errors
    /// What could not be written, in words.
    pub fn keep_copies(&self) -> Result<(), String> {
        self.done(&Question::Copy, None).map_err(|error| error.to_string())
    }

    /// What the SSH host keys that are on the disk now sign of `payload`. It has to be the same text each time.
    ///
    /// # Errors
    /// Where it is another text, or too long.
    pub(crate) fn host_keys(&self, payload: &str) -> io::Result<proof::Found> {
        let question = Question::HostKeys(payload.to_owned());
        if !wire::fits(&question) {
            return Err(io::Error::other("the names of this host are too long to be signed"));
        }
        match self.ask(&question, None).0 {
            Answer::HostKeys(found) => Ok(found),
            Answer::Failed(failed) => Err(failed.into()),
            other => gone(&format_args!("{other:?}")),
        }
    }

    pub(crate) fn open_pins(&self) -> Result<(), EnforcerError> {
        self.of_directory(&Question::Open)
    }

    pub(crate) fn is_pinned(&self) -> bool {
        matches!(self.ask(&Question::IsPinned, None).0, Answer::Known(true))
    }

    pub(crate) fn state(&self) -> DirState {
        let mut talk = self.talk();
        talk.watch();
        if talk.known.is_fine() {
            return DirState::Fine;
        }
        match talk.ask(&Question::State, None).0 {
            Answer::State(DirState::Fine) => {
                talk.known.set_fine();
                DirState::Fine
            }
            answer => {
                talk.known.forget();
                if let Answer::State(state) = answer { state } else { DirState::Gone }
            }
        }
    }

    pub(crate) fn heal(&self) -> Result<(), EnforcerError> {
        self.of_directory(&Question::Heal)
    }

    pub(crate) fn knows(&self, tag: &str) -> bool {
        matches!(self.ask(&Question::Knows(tag.to_owned()), None).0, Answer::Known(true))
    }

    pub(crate) fn expect(&self, tags: Vec<String>) -> Result<(), EnforcerError> {
        self.of_directory(&Question::Expect(tags))
    }

    pub(crate) fn settle(&self, tags: Vec<String>) -> Result<(), EnforcerError> {
        self.of_directory(&Question::Settle(tags))
    }

    pub(crate) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        loop {
            match self.ask(&Question::Names { from: names.len() }, None).0 {
                Answer::Names(more) => {
                    let last = more.len() < NAMES;
                    names.extend(more);
                    if last {
                        return Ok(names);
                    }
                }
                Answer::Failed(failed) => return Err(failed.into()),
                other => gone(&format_args!("{other:?}")),
            }
        }
    }

    pub(crate) fn find(&self, name: &str) -> io::Result<Pinned> {
        let mut talk = self.talk();
        if let Some(kept) = talk.known.pin(name) {
            return kept;
        }
        let found = match talk.ask(&Question::Find(name.to_owned()), None) {
            (Answer::Found(Found::Link), Some(link)) => Ok(Pinned::Link(link)),
            (Answer::Found(Found::Map), Some(map)) => Ok(Pinned::Map(map)),
            (Answer::Found(Found::Link | Found::Map), None) => Err(no_room()),
            (Answer::Found(Found::Nothing), _) => Ok(Pinned::Absent),
            (Answer::Found(Found::Foreign(what)), _) => Ok(Pinned::Foreign(what)),
            (Answer::Failed(failed), _) => Err(failed.into()),
            (other, _) => gone(&format_args!("{other:?}")),
        };
        talk.known.keep(name, &found);
        found
    }

    pub(crate) fn pin(&self, name: &str, link: BorrowedFd<'_>) -> io::Result<()> {
        self.done(&Question::Pin(name.to_owned()), Some(link))
    }

    pub(crate) fn remove(&self, name: &str) -> io::Result<()> {
        self.done(&Question::Remove(name.to_owned()), None)
    }
}

/// Whether the helper has closed its end. One system call, which does not wait.
fn has_ended(socket: &OwnedFd) -> bool {
    let mut wanted = [PollFd::new(socket, PollFlags::empty())];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut wanted, Some(&at_once)).is_ok() && wanted[0].revents().contains(PollFlags::HUP)
}

/// The helper sent a descriptor, and this process had no free number for it: the kernel dropped it. Peers that open connections can
/// bring that about for a moment, so it is no reason to end.
fn no_room() -> io::Error {
    rustix::io::Errno::MFILE.into()
}

/// Nobody could be kept out for longer than this process lives if something were detached now. The service manager starts another one.
fn gone(why: &dyn std::fmt::Display) -> ! {
    tracing::error!(%why, "the part of posternd that stays root is gone; posternd ends, and what is pinned stays in force");
    std::process::abort();
}
