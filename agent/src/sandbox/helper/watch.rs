//! Cached replies of the helper about pins.
//!
//! Owns the cache and the events that clear it. It saves eight questions at each check of the layers, twice a second. It caches no loss.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::client::no_room;
use crate::enforcer::ebpf::{DirState, PinReply, PinRequest, PinResult};

/// poll(2) reports a change of this process's mounts here (proc_pid_mountinfo(5)).
const MOUNTS: &str = "/proc/self/mountinfo";

/// Watches the pin directory for every change in it, and each directory above it for moves.
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

#[derive(Debug, Default)]
pub(super) struct Known {
    /// `None` while no reply may be cached.
    sources: Option<Sources>,
    is_fine: bool,
    links: BTreeMap<String, OwnedFd>,
    maps: BTreeMap<String, OwnedFd>,
}

#[derive(Debug)]
struct Sources {
    events: OwnedFd,
    mounts: File,
}

impl Known {
    /// An empty cache that may be filled. `events` comes from [`watch`].
    pub(super) fn under(events: OwnedFd) -> Self {
        let sources = File::open(MOUNTS).ok().map(|mounts| Sources { events, mounts });
        Self { sources, ..Self::default() }
    }

    /// Whether the cache still holds. If not, it is cleared.
    pub(super) fn holds(&mut self) -> bool {
        let holds = self.sources.as_ref().is_some_and(Sources::are_quiet);
        if !holds {
            self.forget();
        }
        holds
    }

    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    pub(super) fn is_fine(&mut self) -> bool {
        self.holds() && self.is_fine
    }

    /// The cached reply about this name, if it still holds.
    pub(super) fn pin(&mut self, name: &str) -> Option<PinResult> {
        if !self.holds() {
            return None;
        }
        let (reply, kept) = match self.links.get(name) {
            Some(link) => (PinReply::Link, link),
            None => (PinReply::Map, self.maps.get(name)?),
        };
        // fcntl(2) returns EINVAL instead of EMFILE if the limit leaves no number that it could return.
        Some(kept.try_clone().map(|fd| (reply, Some(fd))).map_err(|_| no_room().into()))
    }

    /// Caches a good state of the directory, and pinned links and maps. Any other reply about state or pin clears the cache.
    pub(super) fn note(&mut self, request: &PinRequest, result: &PinResult) {
        if self.sources.is_none() {
            return;
        }
        match (request, result) {
            (PinRequest::State, Ok((PinReply::State(DirState::Fine), _))) => self.is_fine = true,
            (PinRequest::Find(name), Ok((reply @ (PinReply::Link | PinReply::Map), Some(fd)))) => {
                let kept = if matches!(reply, PinReply::Link) { &mut self.links } else { &mut self.maps };
                // Without a free descriptor the agent asks again.
                kept.extend(fd.try_clone().ok().map(|fd| (name.clone(), fd)));
            }
            (PinRequest::State | PinRequest::Find(_), _) => self.forget(),
            _ => {}
        }
    }
}

impl Sources {
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

    fn fine() -> PinResult {
        Ok((PinReply::State(DirState::Fine), None))
    }

    fn find() -> PinRequest {
        PinRequest::Find("lock".to_owned())
    }

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
            known.note(&PinRequest::State, &fine());
            let link = File::open(pins.join("lock")).unwrap();
            known.note(&find(), &Ok((PinReply::Link, Some(link.into()))));
            // Mounts of other programs also clear the cache. Then this round proves nothing.
            if !known.is_fine() || !matches!(known.pin("lock"), Some(Ok((PinReply::Link, _)))) {
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
        known.note(&PinRequest::State, &fine());
        known.note(&find(), &Ok((PinReply::Absent, None)));
        assert!(known.pin("lock").is_none() && !known.is_fine());
    }

    #[test]
    fn without_a_watch_nothing_is_kept() {
        let mut known = Known::default();
        known.note(&PinRequest::State, &fine());
        let link = tempfile::tempfile().unwrap();
        known.note(&find(), &Ok((PinReply::Link, Some(link.into()))));
        assert!(known.pin("lock").is_none() && !known.is_fine());
    }
}
