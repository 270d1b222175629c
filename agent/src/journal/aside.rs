//! A damaged journal, set aside so that the host can go on without it.
//!
//! Owns the names of these directories and the rename that makes them. It never changes or removes anything in them, and never
//! judges whether a journal is damaged.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::{Timestamp, tz::TimeZone};
use postern_core::ledger::Event;

use super::{JournalError, segments};

/// The prefix of their names; the time follows.
const PREFIX: &str = "journal.damaged-";

/// The time in these names.
const FORMAT: &str = "%Y%m%dT%H%M%SZ";

/// A damaged journal that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Where it is now.
    pub path: String,
    /// The first damaged line; 0 when it is not known any more.
    pub line: u64,
    /// What is wrong with the line.
    pub reason: String,
}

impl SetAside {
    /// The record of it.
    #[must_use]
    pub fn event(self) -> Event {
        let Self { path, line, reason } = self;
        Event::SetAside { path, line, reason }
    }
}

/// Renames the journal of the state directory, so that a new one can begin. The caller closes everything first, because the
/// grants in the journal are lost. Durable before it returns.
///
/// # Errors
/// The error of the argument, when that is not damage; or the disk's.
pub fn set_aside(state: &Path, why: JournalError, now: Timestamp) -> Result<SetAside, JournalError> {
    let JournalError::Damaged { path: file, line, reason } = why else { return Err(why) };
    let name = format!("{PREFIX}{}", now.to_zoned(TimeZone::UTC).strftime(FORMAT));
    let mut path = state.join(&name);
    for again in 2.. {
        if !path.exists() {
            break;
        }
        path = state.join(format!("{name}-{again}"));
    }
    let moved = fs::rename(state.join(segments::DIR), &path).and_then(|()| segments::sync_dir(state));
    moved.map_err(|source| JournalError::Io { path: path.clone(), source })?;
    let file = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(SetAside { path: path.display().to_string(), line, reason: format!("of {file} {reason}") })
}

/// The newest one, where no line of the present journal records it: the start that set it aside was interrupted.
pub(super) fn unrecorded(state: &Path) -> io::Result<Option<SetAside>> {
    let newest = list(state)?.pop();
    let reason = "was not as it should be; the start that found it was interrupted".to_owned();
    Ok(newest.map(|path| SetAside { path: path.display().to_string(), line: 0, reason }))
}

/// One sentence for each, with what to do.
pub(super) fn reminders(state: &Path) -> Vec<(Option<Timestamp>, String)> {
    let remind = |path: PathBuf| {
        let why = format!(
            "{}: the journal was damaged and lies there as it was found; the grants in it were closed. Find out what happened \
             (its lines are JSON, the event \"set-aside\" in the present journal says which was wrong), then move it to where you \
             keep evidence",
            path.display()
        );
        (moment(&path), why)
    };
    list(state).unwrap_or_default().into_iter().map(remind).collect()
}

/// The time in a name that [`set_aside`] made.
fn moment(path: &Path) -> Option<Timestamp> {
    let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    // A second journal of the same second has a number at the end: "-2".
    let text = name.split('-').next()?;
    jiff::civil::DateTime::strptime(FORMAT, text).ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// The oldest first.
fn list(state: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(state)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
