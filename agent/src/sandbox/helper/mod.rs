//! The helper: a small process that stays root. It pins, binds the Unix socket and reads root's files (docs/decisions/0031).
//!
//! Owns the pin directory while an agent runs. It has no capability, decides nothing and never sees a grant. It takes requests only from
//! its parent, over an inherited socket pair, and ends when that closes.

mod client;
mod watch;
mod wire;

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::client::Helper;
use self::wire::{Answer, Question};
use crate::config::Config;
use crate::config::effective::Copies;
use crate::enforcer::ebpf::{self, Directory, PinRequest, PinStore as _};
use crate::enforcer::ignore_signals;
use crate::proof::Prover;
use crate::sandbox::privilege::{self, Confinement, User};
use crate::system::translations::LEGACY;
use crate::system::{files, sockets};

/// The paths that a helper serves, and no others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Duty {
    /// The directory of pins.
    pub pin_dir: PathBuf,
    /// The Unix socket of the API.
    pub socket: PathBuf,
    /// The configuration.
    pub config: PathBuf,
    /// The files that a reload reads.
    pub files: Vec<PathBuf>,
    /// The directory of the SSH host keys.
    pub host_keys: PathBuf,
}

impl Duty {
    /// The paths in the configuration at `path`.
    #[must_use]
    pub fn of(path: &Path, config: &Config) -> Self {
        let files = [path].into_iter().chain([&*config.trust_file]).chain(config.revoked_keys.as_deref());
        Self {
            pin_dir: config.pin_dir.clone(),
            socket: config.api.unix.clone(),
            config: path.to_owned(),
            files: files.map(Path::to_owned).collect(),
            host_keys: config.ssh_host_keys.clone(),
        }
    }
}

/// Changes the calling process to the configured user, after it has given that user the state directory and started a helper. Root must
/// call this before any thread starts. `None` if posternd is to stay root, or is not root.
///
/// # Errors
/// Why posternd stays root, in words. The state directory belongs to root again.
pub fn step_down(path: &Path, config: &Config) -> Result<Option<Helper>, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    // A confined process cannot make a folder above the socket. If this fails, listening also fails and reports the reason.
    let _ = config.api.unix.parent().map(fs::create_dir_all);
    // If this fails, copying also fails and reports the reason.
    let _ = Copies::of(path).prepare();
    let stay = |why: String| {
        let _ = User::ROOT.own(&config.state_dir);
        format!("posternd runs as root: {why}")
    };
    let user = User::named(&config.user).map_err(stay)?;
    if user == User::ROOT {
        let _ = user.own(&config.state_dir);
        return Ok(None);
    }
    let become_it = || {
        user.own(&config.state_dir)?;
        user.reaches(&config.state_dir)?;
        let helper =
            Helper::start(&Duty::of(path, config)).map_err(|e| format!("its helper could not be started: {e}"))?;
        user.become_it()?;
        Ok(helper)
    };
    become_it().map(Some).map_err(stay)
}

/// Answers the agent at standard input until the agent ends.
///
/// # Errors
/// Standard input is no such socket.
pub fn serve() -> io::Result<()> {
    // The agent obeys these signals, and the helper ends with the agent.
    ignore_signals();
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let Some((duty, _)) = wire::receive::<Duty>(socket.as_fd())? else { return Ok(()) };
    let mut serving = Serving::new(duty);
    while let Some((question, fd)) = wire::receive(socket.as_fd())? {
        let (answer, fd) = serving.answer(question, fd.as_ref().map(OwnedFd::as_fd));
        wire::send(socket.as_fd(), &answer, fd.as_ref().map(OwnedFd::as_fd))?;
    }
    Ok(())
}

struct Serving {
    pins: Directory,
    duty: Duty,
    /// Signs one text only: the first that the agent sent.
    prover: Option<Prover>,
    confined: bool,
}

type Reply = (Answer, Option<OwnedFd>);

impl Serving {
    fn new(duty: Duty) -> Self {
        Self { pins: Directory::new(&duty.pin_dir), duty, prover: None, confined: false }
    }

    fn answer(&mut self, question: Question, fd: Option<BorrowedFd<'_>>) -> Reply {
        match question {
            Question::Pins(request) => self.ask_pins(request, fd),
            Question::Listen => self.listen(),
            Question::Watch => handed(watch::watch(&self.duty.pin_dir)),
            Question::Read(path) => handed(self.read(&path)),
            Question::Copy => (self.copy(), None),
            Question::HostKeys(payload) => (self.prove(payload), None),
        }
    }

    /// Confines the helper after the first attempt to take the directory. All later work needs only root's user id.
    fn ask_pins(&mut self, request: PinRequest, object: Option<BorrowedFd<'_>>) -> Reply {
        let takes = matches!(request, PinRequest::Open | PinRequest::Heal);
        let reply = self.pins.ask(request, object);
        if takes && !std::mem::replace(&mut self.confined, true) {
            for why in Confinement::of_helper(&self.duty).apply(ebpf::can_open_pins) {
                tracing::warn!(%why, "the helper keeps more rights than it needs");
            }
        }
        match reply {
            Ok((reply, fd)) => (Answer::Pins(Ok(reply)), fd),
            Err(error) => (Answer::Pins(Err(error)), None),
        }
    }

    /// Forbids system calls afterwards, because the agent asks once and the helper binds nothing else.
    fn listen(&self) -> Reply {
        match sockets::unix(&self.duty.socket) {
            Err(error) => (failed(error), None),
            Ok((socket, why)) => {
                if let Err(why) = privilege::forbid_calls() {
                    tracing::warn!(%why, "the helper keeps more rights than it needs");
                }
                (Answer::Listens(why), Some(socket))
            }
        }
    }

    fn read(&self, path: &Path) -> io::Result<OwnedFd> {
        let lists = LEGACY.iter().any(|list| Path::new(list) == path);
        if !lists && !self.duty.files.iter().any(|file| file == path) {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        files::open(path).map(OwnedFd::from)
    }

    /// Signs only the text that the agent sent before any peer could reach it, so an attacker in the agent gets no proof for another key.
    fn prove(&mut self, payload: String) -> Answer {
        let prover = self.prover.get_or_insert_with(|| Prover::new(&self.duty.host_keys, payload.clone()));
        if prover.payload() != payload {
            return failed(io::ErrorKind::PermissionDenied.into());
        }
        let answer = Answer::HostKeys(prover.look());
        if wire::fits(&answer) { answer } else { failed(io::Error::other("the names of the key files are too long")) }
    }

    fn copy(&self) -> Answer {
        match Copies::of(&self.duty.config).update(&self.duty.config) {
            Ok(()) => Answer::Done,
            Err(why) => failed(io::Error::other(why)),
        }
    }
}

fn handed(result: io::Result<OwnedFd>) -> Reply {
    match result {
        Ok(fd) => (Answer::Done, Some(fd)),
        Err(error) => (failed(error), None),
    }
}

fn failed(error: io::Error) -> Answer {
    Answer::Failed(error.into())
}

#[cfg(test)]
mod tests;
