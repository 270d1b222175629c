//! The part of posternd that stays root: it pins, opens the Unix socket and reads root's files for the agent, which is a user of its own
//! (docs/decisions/0031-privileges.md).
//!
//! Owns the directory of pins while an agent runs. It has no capability, decides nothing, never hears of a grant, and takes
//! no word from anybody but the agent that started it: over a socket that the two were born with. When that closes, it ends.

mod client;
mod watch;
mod wire;

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::client::{Helper, open};
use self::wire::{Answer, Failed, Found, Question};
use crate::config::effective::Copies;
use crate::config::{self, Config};
use crate::enforcer::{self, DirState, PinDir, Pinned};
use crate::grpc::listen;
use crate::proof::Prover;
use crate::sandbox::privilege::{self, Confinement, User};
use crate::system::translations::LEGACY;

/// Names in one answer: the rest is asked for again, so that none is too long for the socket.
const NAMES: usize = 1000;

/// What a helper is for. It does none of this for anything else.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Duty {
    /// The directory of pins.
    pub pin_dir: PathBuf,
    /// The Unix socket that the API listens on.
    pub socket: PathBuf,
    /// The configuration.
    pub config: PathBuf,
    /// What a reload reads.
    pub files: Vec<PathBuf>,
    /// Where the SSH host keys are.
    pub host_keys: PathBuf,
}

impl Duty {
    /// As the configuration at `path` has it.
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

/// Makes the calling process one of the configuration's user, after it has handed that user the state directory and started a helper. To
/// be called as root, before there are threads. No helper where posternd is to stay root, or is not root.
///
/// # Errors
/// Why posternd goes on as root, in words. Then the state directory is root's again.
pub fn step_down(path: &Path, config: &Config) -> Result<Option<Helper>, String> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    // Who is confined can make nothing above it. Where this fails, listening does, and says why.
    let _ = config.api.unix.parent().map(fs::create_dir_all);
    // Where this fails, copying does, and says why.
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
            Helper::start(&Duty::of(path, config)).map_err(|e| format!("it could not be started twice: {e}"))?;
        user.become_it()?;
        Ok(helper)
    };
    become_it().map(Some).map_err(stay)
}

/// Keeps what the agent at the other end of standard input asks for, until it is gone.
///
/// # Errors
/// Standard input is no such socket.
pub fn serve() -> io::Result<()> {
    // The agent obeys these, and this ends with it.
    enforcer::ignore_signals();
    let socket = std::io::stdin().as_fd().try_clone_to_owned()?;
    let Some((duty, _)) = wire::receive::<Duty>(socket.as_fd())? else { return Ok(()) };
    let mut serving = Serving { duty, pins: None, prover: None, confined: false };
    while let Some((question, fd)) = wire::receive(socket.as_fd())? {
        let (answer, fd) = serving.answer(question, fd.as_ref().map(OwnedFd::as_fd));
        wire::send(socket.as_fd(), &answer, fd.as_ref().map(OwnedFd::as_fd))?;
    }
    Ok(())
}

struct Serving {
    duty: Duty,
    pins: Option<PinDir>,
    /// With the one text that the host keys sign: the first that was asked for.
    prover: Option<Prover>,
    confined: bool,
}

type Reply = (Answer, Option<OwnedFd>);

impl Serving {
    fn answer(&mut self, question: Question, fd: Option<BorrowedFd<'_>>) -> Reply {
        match question {
            Question::Open => (self.open(), None),
            Question::IsPinned => (Answer::Known(enforcer::is_pinned_in(&self.duty.pin_dir)), None),
            Question::Listen => self.listen(),
            Question::Read(path) => handed(self.read(&path)),
            Question::Copy => (self.copy(), None),
            Question::HostKeys(payload) => (self.prove(payload), None),
            Question::Heal if self.pins.is_none() => (self.open(), None),
            Question::Watch if self.pins.is_some() => handed(watch::watch(&self.duty.pin_dir)),
            of_pins => match self.pins.as_mut().map(|pins| ask(pins, &of_pins, fd)) {
                None => (without_pins(&of_pins), None),
                Some(Ok(reply)) => reply,
                Some(Err(error)) => (failed(&error), None),
            },
        }
    }

    /// Takes the directory anew. Once it is there, nothing more is needed than being root.
    fn open(&mut self) -> Answer {
        // Its lock has to be free.
        self.pins = None;
        let answer = match PinDir::open(&self.duty.pin_dir) {
            Ok(pins) => {
                self.pins = Some(pins);
                Answer::Done
            }
            Err(error) => error.into(),
        };
        if !std::mem::replace(&mut self.confined, true) {
            for why in Confinement::of_helper(&self.duty).apply(enforcer::can_open_pins) {
                tracing::warn!(%why, "the part of posternd that stays root keeps more than it needs");
            }
        }
        answer
    }

    /// The agent listens once.
    fn listen(&self) -> Reply {
        match listen::bound_somewhere(&self.duty.socket) {
            Err(error) => (failed(&error), None),
            Ok((socket, why)) => {
                if let Err(why) = privilege::forbid_calls() {
                    tracing::warn!(%why, "the part of posternd that stays root keeps more than it needs");
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
        config::open(path).map(OwnedFd::from)
    }

    /// Signs with the host keys, and only what the agent wanted signed before anybody could reach it: an agent that was taken over gets no
    /// proof for a TLS key of somebody else.
    fn prove(&mut self, payload: String) -> Answer {
        let prover = self.prover.get_or_insert_with(|| Prover::new(&self.duty.host_keys, payload.clone()));
        if prover.payload() != payload {
            return failed(&io::ErrorKind::PermissionDenied.into());
        }
        let answer = Answer::HostKeys(prover.look());
        if wire::fits(&answer) { answer } else { failed(&io::Error::other("the names of the key files are too long")) }
    }

    fn copy(&self) -> Answer {
        match Copies::of(&self.duty.config).update(&self.duty.config) {
            Ok(()) => Answer::Done,
            Err(why) => failed(&io::Error::other(why)),
        }
    }
}

/// What to say as long as the directory of pins could not be taken: nothing is pinned.
fn without_pins(question: &Question) -> Answer {
    match question {
        Question::State => Answer::State(DirState::Gone),
        Question::Knows(_) => Answer::Known(false),
        Question::Names { .. } => Answer::Names(Vec::new()),
        Question::Find(_) => Answer::Found(Found::Nothing),
        _ => failed(&io::Error::new(io::ErrorKind::NotFound, "the directory of pins cannot be used")),
    }
}

fn ask(pins: &mut PinDir, question: &Question, fd: Option<BorrowedFd<'_>>) -> io::Result<Reply> {
    let done = |result: Result<(), enforcer::EnforcerError>| result.map_or_else(Answer::from, |()| Answer::Done);
    let answer = match question {
        Question::State => Answer::State(pins.state()),
        Question::Heal => done(pins.heal()),
        Question::Knows(tag) => Answer::Known(pins.knows(tag)),
        Question::Expect(tags) => done(pins.expect(tags.iter().cloned())),
        Question::Settle(tags) => done(pins.settle(tags.iter().cloned())),
        Question::Names { from } => {
            let mut names = pins.names()?;
            names.sort();
            Answer::Names(names.into_iter().skip(*from).take(NAMES).collect())
        }
        Question::Find(name) => match pins.find(plain(name)?)? {
            Pinned::Absent => Answer::Found(Found::Nothing),
            Pinned::Foreign(what) => Answer::Found(Found::Foreign(what)),
            Pinned::Link(link) => return Ok((Answer::Found(Found::Link), Some(link))),
            Pinned::Map(map) => return Ok((Answer::Found(Found::Map), Some(map))),
        },
        Question::Pin(name) => {
            pins.pin(plain(name)?, fd.ok_or(io::ErrorKind::InvalidInput)?)?;
            Answer::Done
        }
        Question::Remove(name) => {
            pins.remove(plain(name)?)?;
            Answer::Done
        }
        Question::Open
        | Question::IsPinned
        | Question::Watch
        | Question::Listen
        | Question::Read(_)
        | Question::Copy
        | Question::HostKeys(_) => return Err(io::ErrorKind::InvalidInput.into()),
    };
    Ok((answer, None))
}

/// A name in the directory, and nothing that leads out of it.
fn plain(name: &str) -> io::Result<&str> {
    let is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    is_plain.then_some(name).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn handed(result: io::Result<OwnedFd>) -> Reply {
    match result {
        Ok(fd) => (Answer::Done, Some(fd)),
        Err(error) => (failed(&error), None),
    }
}

fn failed(error: &io::Error) -> Answer {
    Answer::Failed(Failed::from(error))
}

#[cfg(test)]
mod tests;
