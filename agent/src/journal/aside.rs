//! A damaged journal, set aside so that the host can go on without it.
//!
//! Owns the names of these directories and the rename. It never changes their contents, and never judges whether a journal is damaged.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use jiff::{Timestamp, tz::TimeZone};
use postern_core::ledger::Event;

use super::{JournalError, segments};

/// The prefix of their names, before the time.
const PREFIX: &str = "journal.damaged-";

/// The format of that time.
const FORMAT: &str = "%Y%m%dT%H%M%SZ";

/// A damaged journal that was set aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Its present path.
    pub path: String,
    /// The first damaged line; 0 if it is unknown.
    pub line: u64,
    /// What is wrong with that line.
    pub reason: String,
}

impl SetAside {
    /// Its record.
    #[must_use]
    pub fn event(self) -> Event {
        let Self { path, line, reason } = self;
        Event::SetAside { path, line, reason }
    }
}

/// Durably renames the journal, so that a new one can begin. The caller closes all ports first, because the journal's grants are lost.
///
/// # Errors
/// The error `why` if it is not damage, or an error of the disk.
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

/// The newest one, for a journal without lines: the start that set it aside was interrupted.
pub(super) fn unrecorded(state: &Path) -> io::Result<Option<SetAside>> {
    let newest = list(state)?.pop();
    let reason = "was not as it should be; the start that found it was interrupted".to_owned();
    Ok(newest.map(|path| SetAside { path: path.display().to_string(), line: 0, reason }))
}

/// The time of each, and a sentence with what to do.
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

/// The time in a name by [`set_aside`].
fn moment(path: &Path) -> Option<Timestamp> {
    let name = path.file_name()?.to_str()?.strip_prefix(PREFIX)?;
    // The second journal of a second has a number at the end: "-2".
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
