//! Finds the terminals of sessions from an address (utmp and logind, docs/decisions/0035-warnings.md), and writes to them as `wall` does.
//!
//! Honours `mesg n`, never waits for a terminal, and works on a thread of its own, so that no terminal delays a decision. Best effort.

mod logind;
mod utmp;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags, fstat, major, open};

/// The lines to write, by the address from which the sessions came.
pub type Words = BTreeMap<IpAddr, Vec<String>>;

/// Rounds that may wait for the thread; further ones are dropped.
const BACKLOG: usize = 16;
const MOST_TERMINALS: usize = 256;
/// The most lines for one terminal in one round.
const MOST_LINES: usize = 24;
/// The least time between two texts on one terminal: one person's grants must not flood another's terminal.
const PAUSE: Duration = Duration::from_secs(1);
/// How long [`Terminals::tell_now`] waits.
const PATIENCE: Duration = Duration::from_millis(250);
/// The kernel's major numbers of `/dev/pts/*`.
const PTS_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

struct Round {
    words: Words,
    /// Receives the number of terminals that took the words.
    done: Option<Sender<usize>>,
}

/// The handle of the thread that writes.
pub struct Terminals {
    rounds: SyncSender<Round>,
}

impl Terminals {
    /// Starts the thread. `noted` receives why terminals cannot be written to, or `None` after a success.
    ///
    /// # Errors
    /// Fails if the thread cannot be created.
    pub fn start(noted: impl Fn(Option<String>) + Send + 'static) -> io::Result<Self> {
        let (rounds, work) = sync_channel(BACKLOG);
        thread::Builder::new().name("terminals".into()).spawn(move || write_rounds(&work, noted))?;
        Ok(Self { rounds })
    }

    /// Has `words` written soon.
    pub fn tell(&self, words: Words) {
        if self.rounds.try_send(Round { words, done: None }).is_err() {
            tracing::warn!("warnings were not written to terminals: too many at once");
        }
    }

    /// As [`Self::tell`], and waits a moment. Returns how many terminals are known to have taken the words.
    #[must_use]
    pub fn tell_now(&self, words: Words) -> usize {
        let (done, told) = channel();
        match self.rounds.try_send(Round { words, done: Some(done) }) {
            Ok(()) => told.recv_timeout(PATIENCE).unwrap_or(0),
            Err(_) => 0,
        }
    }
}

fn write_rounds(rounds: &Receiver<Round>, noted: impl Fn(Option<String>)) {
    let mut latest = BTreeMap::new();
    for Round { words, done } in rounds {
        let outcome = write_round(&words, &mut latest);
        if let Some(done) = done {
            // The caller may have stopped waiting.
            let _ = done.send(outcome.written);
        }
        match outcome.failure {
            Some(why) => noted(Some(why)),
            None if outcome.written > 0 => noted(None),
            None => {}
        }
    }
}

#[derive(Default)]
struct Outcome {
    written: usize,
    /// Why a terminal that accepts messages could not be written to.
    failure: Option<String>,
}

fn write_round(words: &Words, latest: &mut BTreeMap<u32, Instant>) -> Outcome {
    let now = Instant::now();
    latest.retain(|_, written| now.duration_since(*written) < PAUSE);
    let mut outcome = Outcome::default();
    for (terminal, from) in logins().into_iter().take(MOST_TERMINALS) {
        let Some(lines) = words.get(&from) else { continue };
        if latest.contains_key(&terminal) {
            continue;
        }
        let path = format!("/dev/pts/{terminal}");
        match write(Path::new(&path), lines) {
            Ok(true) => {
                latest.insert(terminal, now);
                outcome.written += 1;
            }
            // The terminal accepts no messages, or none just now.
            Ok(false) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let hint = "posternd has to be in the group tty (SupplementaryGroups=tty)";
                outcome.failure = Some(format!("people could not be warned: {path}: {error}; {hint}"));
            }
            Err(error) => tracing::debug!(%error, %path, "a terminal could not be written to"),
        }
    }
    outcome
}

/// The terminals below `/dev/pts` of remote sessions, by number, with the remote address.
fn logins() -> BTreeMap<u32, IpAddr> {
    let mut logins: BTreeMap<_, _> = utmp::logins(Path::new("/run/utmp")).collect();
    // logind knows which processes are alive; utmp may have stale entries.
    logins.extend(logind::logins(Path::new("/run/systemd/sessions")));
    logins
}

/// Writes to the terminal at `path` without waiting. False if the terminal accepts no messages, or none just now.
fn write(path: &Path, lines: &[String]) -> io::Result<bool> {
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let terminal = File::from(open(path, flags, Mode::empty())?);
    let stat = fstat(&terminal)?;
    let is_terminal =
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && PTS_MAJORS.contains(&major(stat.st_rdev));
    // `mesg n` removes this bit. As root, posternd could write to root's own terminals without it.
    if !is_terminal || !Mode::from_raw_mode(stat.st_mode).contains(Mode::WGRP) {
        return Ok(false);
    }
    let shown = lines.iter().take(MOST_LINES).map(String::as_str).collect::<Vec<_>>().join("\r\n");
    match (&terminal).write(format!("\x07\r\n{shown}\r\n").as_bytes()) {
        Ok(length) => Ok(length > 0),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error),
    }
}

/// `NUMBER` of a terminal that is named `pts/NUMBER`.
fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("pts/")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn process(pid: u32, file: &str) -> Option<String> {
    std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/{file}"))).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::PermissionsExt as _;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{Action, tcflow};

    use super::*;

    /// A terminal, and the side on which a person would read.
    fn terminal() -> (PathBuf, File) {
        let person = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&person).expect("to own it");
        unlockpt(&person).expect("to unlock it");
        let path = ptsname(&person, Vec::new()).expect("its name").into_string().expect("a plain name");
        (path.into(), File::from(person))
    }

    fn permit(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("a mode");
    }

    #[test]
    fn a_terminal_is_written_to_once_where_it_wants_messages() {
        let (path, mut person) = terminal();
        let words = ["one".to_owned(), "two".to_owned()];
        permit(&path, 0o600);
        assert!(!write(&path, &words).unwrap(), "mesg n");
        permit(&path, 0o620);
        assert!(write(&path, &words).unwrap());
        let mut seen = [0; 100];
        let length = person.read(&mut seen).expect("what was written");
        // The terminal itself may add a carriage return.
        let seen = String::from_utf8_lossy(&seen[..length]).replace("\r\r", "\r");
        assert_eq!(seen, "\x07\r\none\r\ntwo\r\n");
    }

    #[test]
    fn a_stopped_or_full_terminal_is_not_waited_for() {
        let (path, _person) = terminal();
        permit(&path, 0o620);
        let own = File::options().read(true).write(true).open(&path).expect("the terminal");
        tcflow(own.as_fd(), Action::OOff).expect("^S");
        assert!(!write(&path, &["one".to_owned()]).unwrap());
        tcflow(own.as_fd(), Action::OOn).expect("^Q");
        let long = ["x".repeat(1 << 16)];
        // Nobody reads, so it fills up.
        while write(&path, &long).unwrap() {}
    }

    #[test]
    fn only_a_terminal_is_written_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "").expect("a file");
        permit(&file, 0o666);
        assert!(!write(&file, &["one".to_owned()]).unwrap());
        assert!(!write(Path::new("/dev/null"), &["one".to_owned()]).unwrap());
        std::os::unix::fs::symlink("/dev/null", folder.path().join("link")).expect("a link");
        assert!(write(&folder.path().join("link"), &["one".to_owned()]).is_err());
        assert_eq!(std::fs::read(&file).expect("the file"), b"");
    }

    #[test]
    fn names_of_terminals_are_numbers_and_nothing_else() {
        assert_eq!(number_of("pts/17"), Some(17));
        for name in ["pts/", "pts/+1", "pts/1/../2", "pts/-1", "tty1", ":0", "pts/99999999999", ""] {
            assert_eq!(number_of(name), None, "{name}");
        }
    }
}
