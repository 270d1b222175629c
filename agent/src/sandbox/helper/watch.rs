//! Answers of the helper about pins, kept until something changes in the directory of pins.
//!
//! Owns the answers and the events that end them. Without it an idle agent would ask the helper some eight questions at each look at
//! the layers, twice a second. It never keeps a loss: what is not as it has to be is asked again each time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use crate::enforcer::Pinned;

/// Its state changes when a mount of this process's mount namespace changes (proc_pid_mountinfo(5)).
const MOUNTS: &str = "/proc/self/mountinfo";

/// Has the kernel note every change in the directory of pins, and each move of a directory on the way to it.
///
/// # Errors
/// A directory cannot be watched, or the user has too many watches.
pub(super) fn watch(pins: &Path) -> io::Result<OwnedFd> {
    let events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let own = WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF | WatchFlags::ONLYDIR | WatchFlags::DONT_FOLLOW;
    let entries = WatchFlags::CREATE | WatchFlags::DELETE | WatchFlags::MOVE | WatchFlags::ATTRIB;
    inotify::add_watch(&events, pins, own | entries)?;
    for above in pins.ancestors().skip(1) {
        inotify::add_watch(&events, above, own)?;
    }
    Ok(events)
}

/// What is known of the directory of pins.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// `None` where nothing may be kept.
    sources: Option<Sources>,
    is_fine: bool,
    pins: BTreeMap<String, Kept>,
}

/// Where the kernel shows a change.
#[derive(Debug)]
struct Sources {
    events: OwnedFd,
    mounts: File,
}

#[derive(Debug)]
enum Kept {
    Link(OwnedFd),
    Map(OwnedFd),
}

impl Known {
    /// Nothing is known yet; from now on, answers may be kept. `events` comes from [`watch`].
    pub(super) fn under(events: OwnedFd) -> Self {
        let sources = File::open(MOUNTS).ok().map(|mounts| Sources { events, mounts });
        Self { sources, ..Self::default() }
    }

    /// Whether the kept answers still hold. If not, they are forgotten.
    pub(super) fn holds(&mut self) -> bool {
        let holds = self.sources.as_ref().is_some_and(Sources::are_quiet);
        if !holds {
            self.forget();
        }
        holds
    }

    /// Forgets all answers, and keeps none until the next watch.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether the directory was as it has to be, and nothing has changed since.
    pub(super) fn is_fine(&mut self) -> bool {
        self.holds() && self.is_fine
    }

    /// Keeps the answer that the directory is as it has to be.
    pub(super) fn set_fine(&mut self) {
        self.is_fine = self.sources.is_some();
    }

    /// The pin of this name, if the answer is kept and still holds.
    pub(super) fn pin(&mut self, name: &str) -> Option<io::Result<Pinned>> {
        if !self.holds() {
            return None;
        }
        self.pins.get(name).map(|kept| match kept {
            Kept::Link(fd) => fd.try_clone().map(Pinned::Link),
            Kept::Map(fd) => fd.try_clone().map(Pinned::Map),
        })
    }

    /// Keeps what was found under this name, if that is a link or a map.
    pub(super) fn keep(&mut self, name: &str, found: &io::Result<Pinned>) {
        if self.sources.is_none() {
            return;
        }
        let kept = match found {
            Ok(Pinned::Link(fd)) => fd.try_clone().map(Kept::Link),
            Ok(Pinned::Map(fd)) => fd.try_clone().map(Kept::Map),
            Ok(Pinned::Absent | Pinned::Foreign(_)) | Err(_) => return self.forget(),
        };
        // Without a free descriptor the question is asked again.
        if let Ok(kept) = kept {
            self.pins.insert(name.to_owned(), kept);
        }
    }
}

impl Sources {
    /// One system call, which does not wait.
    fn are_quiet(&self) -> bool {
        let mut wanted = [PollFd::new(&self.events, PollFlags::IN), PollFd::new(&self.mounts, PollFlags::PRI)];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut wanted, Some(&at_once)).is_ok_and(|ready| ready == 0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    type Change = fn(&Path);

    #[test]
    fn every_change_in_the_directory_ends_what_is_known() {
        let changes: [(&str, Change); 7] = [
            ("a new file", |pins| drop(File::create(pins.join("other")).unwrap())),
            ("a removed file", |pins| fs::remove_file(pins.join("lock")).unwrap()),
            ("a replaced file", |pins| fs::rename(pins.join("spare"), pins.join("lock")).unwrap()),
            ("another mode of a file", |pins| {
                fs::set_permissions(pins.join("lock"), Permissions::from_mode(0o666)).unwrap()
            }),
            ("another mode of the directory", |pins| fs::set_permissions(pins, Permissions::from_mode(0o777)).unwrap()),
            ("another name of the directory", |pins| fs::rename(pins, pins.with_file_name("elsewhere")).unwrap()),
            ("another name of a directory above", |pins| {
                let above = pins.parent().unwrap();
                fs::rename(above, above.with_file_name("elsewhere")).unwrap();
            }),
        ];
        for (what, change) in changes {
            let directory = tempfile::tempdir().unwrap();
            let pins = directory.path().join("above/pins");
            fs::create_dir_all(&pins).unwrap();
            for name in ["lock", "spare"] {
                File::create(pins.join(name)).unwrap();
            }
            let mut known = Known::under(watch(&pins).unwrap());
            known.set_fine();
            let link = File::open(pins.join("lock")).unwrap();
            known.keep("lock", &Ok(Pinned::Link(link.into())));
            // Mounts of other programs end it too, so quiet is not asserted: it is waited for.
            if !known.is_fine() || !matches!(known.pin("lock"), Some(Ok(Pinned::Link(_)))) {
                continue;
            }
            change(&pins);
            assert!(known.pin("lock").is_none() && !known.is_fine(), "{what}");
        }
    }

    #[test]
    fn a_loss_is_never_kept() {
        let directory = tempfile::tempdir().unwrap();
        let mut known = Known::under(watch(directory.path()).unwrap());
        known.set_fine();
        known.keep("lock", &Ok(Pinned::Absent));
        assert!(known.pin("lock").is_none() && !known.is_fine());
    }

    #[test]
    fn without_a_watch_nothing_is_kept() {
        let mut known = Known::default();
        known.set_fine();
        let link = tempfile::tempfile().unwrap();
        known.keep("lock", &Ok(Pinned::Link(link.into())));
        assert!(known.pin("lock").is_none() && !known.is_fine());
    }
}
