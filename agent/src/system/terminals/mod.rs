//! The terminals of login sessions, and writing to them.
//!
//! Owns finding the terminals whose sessions came from an address (utmp and logind, docs/decisions/0035-warnings.md), and writing a few
//! lines to them, as `wall` does. It honours `mesg n`, never waits for a terminal, and works on a thread of its own: nothing that
//! is odd about a terminal delays a decision. It guarantees nothing.

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

/// What people at the terminals of sessions from an address are told, in lines.
pub type Words = BTreeMap<IpAddr, Vec<String>>;

/// Rounds that may wait for the thread; further ones are dropped.
const BACKLOG: usize = 16;
/// The most terminals that one round writes to.
const MOST_TERMINALS: usize = 256;
/// The most lines for one terminal at once.
const MOST_LINES: usize = 24;
/// Between two texts on one terminal at least: nobody is to be flooded by somebody else's grants.
const PAUSE: Duration = Duration::from_secs(1);
/// How long last words may take to be written before nobody waits for them any more.
const PATIENCE: Duration = Duration::from_millis(250);
/// The kernel's major numbers of `/dev/pts/*`.
const PTS_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// One round of writing.
struct Round {
    words: Words,
    /// Who waits for the number of terminals that took it.
    done: Option<Sender<usize>>,
}

/// The handle of the thread that writes.
pub struct Terminals {
    rounds: SyncSender<Round>,
}

impl Terminals {
    /// Starts the thread. `noted` hears why terminals could not be written to, or that they could.
    ///
    /// # Errors
    /// No thread could be made.
    pub fn start(noted: impl Fn(Option<String>) + Send + 'static) -> io::Result<Self> {
        let (rounds, work) = sync_channel(BACKLOG);
        thread::Builder::new().name("terminals".into()).spawn(move || write_rounds(&work, noted))?;
        Ok(Self { rounds })
    }

    /// Has `words` written some time soon.
    pub fn tell(&self, words: Words) {
        if self.rounds.try_send(Round { words, done: None }).is_err() {
            tracing::warn!("warnings were not written to terminals: too many at once");
        }
    }

    /// The same, and waits until it is done, but not for long. How many terminals are known to have taken it.
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
            // Who waits may have lost patience.
            let _ = done.send(outcome.written);
        }
        match outcome.failure {
            Some(why) => noted(Some(why)),
            None if outcome.written > 0 => noted(None),
            None => {}
        }
    }
}

/// What came of one round.
#[derive(Default)]
struct Outcome {
    written: usize,
    /// Why a terminal that is willing could not be written to.
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
            // It wants none, or takes none just now.
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

/// The numbers of the terminals below `/dev/pts` that belong to sessions from elsewhere, and where those came from.
fn logins() -> BTreeMap<u32, IpAddr> {
    let mut logins: BTreeMap<_, _> = utmp::logins(Path::new("/run/utmp")).collect();
    // logind knows which processes are alive; utmp may hold what nobody has taken out.
    logins.extend(logind::logins(Path::new("/run/systemd/sessions")));
    logins
}

/// Writes to the terminal at `path` without waiting for it. False where it wants no messages, or can take none just now.
fn write(path: &Path, lines: &[String]) -> io::Result<bool> {
    let flags = OFlags::WRONLY | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let terminal = File::from(open(path, flags, Mode::empty())?);
    let stat = fstat(&terminal)?;
    let is_terminal =
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && PTS_MAJORS.contains(&major(stat.st_rdev));
    // What `mesg n` takes away; root's own terminals could be written to without it.
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

/// The number of a terminal that is called `pts/NUMBER`.
fn number_of(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("pts/")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// What the kernel tells of a process below `/proc`.
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

    /// A terminal of our own, and the side on which a person would read.
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
        // Nobody reads: it fills up.
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
