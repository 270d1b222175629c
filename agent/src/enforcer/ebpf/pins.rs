//! The pin directory: one agent takes it, and uses only objects that it has checked.
//!
//! Owns the directory, its lock and its record of program tags. It replaces foreign objects under Postern's names. It attaches nothing.

use std::{
    collections::BTreeSet,
    fs::{self, File, Metadata, Permissions, TryLockError},
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use postern_core::key::LAYOUT_VERSION;
use rustix::fs::{Mode, OFlags, openat};

use super::{
    is_pinned_in,
    pin_store::{DirState, NAMES, PinReply, PinRequest, PinResult, PinStore},
    sys::{self, Kind},
};
use crate::enforcer::EnforcerError;

/// The mount point of bpffs. posternd mounts bpffs there if it is missing.
const BPFFS: &str = "/sys/fs/bpf";
/// A symbolic link whose target is `VERSION:TAG,TAG…`: the layout's version, and the tags of the programs under the pinned links.
const LAYOUT: &str = "layout";
/// How long a process that held the directory may take to release it.
const LET_GO: Duration = Duration::from_secs(2);
/// Part of the new name of a directory that posternd moves aside.
const ASIDE: &str = "not-posterns";

/// The remedy if the directory cannot be used.
pub const ADVICE_PINS: &str = "give `pin_dir` a directory on a writable bpf file system that belongs to root \
                           (`mount -t bpf bpf /sys/fs/bpf` makes one)";

/// The store of pins in a directory that this process opens itself.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// `None` until the directory can be taken. Until then nothing is pinned.
    taken: Mutex<Option<PinDir>>,
}

impl Directory {
    /// The store in the directory `path`. [`PinRequest::Open`] takes the directory.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), taken: Mutex::new(None) }
    }
}

impl PinStore for Directory {
    fn ask(&self, request: PinRequest, object: Option<BorrowedFd<'_>>) -> PinResult {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        match (&mut *taken, request) {
            (_, PinRequest::IsPinned) => Ok((PinReply::Is(is_pinned_in(&self.path)), None)),
            (taken, PinRequest::Open) | (taken @ None, PinRequest::Heal) => {
                // The lock must be free.
                *taken = None;
                *taken = Some(PinDir::open(&self.path)?);
                Ok((PinReply::Done, None))
            }
            (Some(pins), request) => pins.answer(request, object),
            (None, PinRequest::State) => Ok((PinReply::State(DirState::Gone), None)),
            (None, PinRequest::Knows(_)) => Ok((PinReply::Is(false), None)),
            (None, PinRequest::Names { .. }) => Ok((PinReply::Names(Vec::new()), None)),
            (None, PinRequest::Find(_)) => Ok((PinReply::Absent, None)),
            (None, _) => {
                let error = io::Error::new(io::ErrorKind::NotFound, "the directory of pins cannot be used");
                Err(failed(&self.path, &error).into())
            }
        }
    }
}

/// Checks that `name` is a plain name, which cannot lead out of the directory.
fn plain(name: &str) -> io::Result<&str> {
    let is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    is_plain.then_some(name).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

#[derive(Debug)]
pub struct PinDir {
    path: PathBuf,
    /// The open directory. Its lock ends with the process.
    held: File,
    /// The tags of the programs that links under Postern's names may run.
    tags: BTreeSet<String>,
}

impl PinDir {
    /// Makes the directory if it is missing, checks its owner, and takes it. Moves another user's directory aside.
    pub fn open(path: &Path) -> Result<Self, EnforcerError> {
        let failed = |e: io::Error| failed(path, &e);
        ensure_bpffs(path).map_err(failed)?;
        check_above(path).map_err(failed)?;
        match fs::symlink_metadata(path) {
            Ok(found) if !found.is_dir() || found.uid() != 0 => move_aside(path, &found).map_err(failed)?,
            _ => {}
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        let pins = Self::take(path)?;
        pins.narrow().map_err(failed)?;
        Ok(pins)
    }

    pub fn take(path: &Path) -> Result<Self, EnforcerError> {
        let failed = |e: io::Error| failed(path, &e);
        let held = open_directory(path).map_err(failed)?;
        // The helper of a dead agent holds the lock until it notices the death.
        let deadline = Instant::now() + LET_GO;
        loop {
            match held.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(Duration::from_millis(5)),
                Err(TryLockError::WouldBlock) => return Err(EnforcerError::InUse(path.display().to_string())),
                Err(TryLockError::Error(e)) => return Err(failed(e)),
            }
        }
        let tags = read_tags(&path.join(LAYOUT));
        Ok(Self { path: path.to_owned(), held, tags })
    }

    fn answer(&mut self, request: PinRequest, object: Option<BorrowedFd<'_>>) -> PinResult {
        let reply = match request {
            PinRequest::Find(name) => return Ok(self.find(plain(&name)?)?),
            PinRequest::Names { from } => {
                let mut names = self.names()?;
                names.sort();
                PinReply::Names(names.into_iter().skip(from).take(NAMES).collect())
            }
            PinRequest::State => PinReply::State(self.state()),
            PinRequest::Knows(tag) => PinReply::Is(self.tags.contains(&tag)),
            PinRequest::Heal => self.heal().map(|()| PinReply::Done)?,
            PinRequest::Expect(tags) => {
                self.tags.extend(tags);
                self.record().map(|()| PinReply::Done)?
            }
            PinRequest::Settle(tags) => {
                self.tags = tags.into_iter().collect();
                self.record().map(|()| PinReply::Done)?
            }
            PinRequest::Pin(name) => {
                self.pin(plain(&name)?, object.ok_or(io::Error::from(io::ErrorKind::InvalidInput))?)?;
                PinReply::Done
            }
            PinRequest::Remove(name) => {
                self.remove(plain(&name)?)?;
                PinReply::Done
            }
            PinRequest::Open | PinRequest::IsPinned => return Err(io::Error::from(io::ErrorKind::InvalidInput).into()),
        };
        Ok((reply, None))
    }

    /// Restricts the directory to root: every other user who can write there can open the host.
    fn narrow(&self) -> io::Result<()> {
        let found = self.held.metadata()?;
        if found.uid() != 0 {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not a directory of root's"));
        }
        if found.mode() & 0o7777 != 0o700 {
            tracing::warn!(path = %self.path.display(), mode = format!("{:o}", found.mode() & 0o7777), "the pin directory was open to others");
            self.held.set_permissions(Permissions::from_mode(0o700))?;
        }
        Ok(())
    }

    fn state(&self) -> DirState {
        let (Ok(held), Ok(found)) = (self.held.metadata(), fs::symlink_metadata(&self.path)) else {
            return DirState::Gone;
        };
        match () {
            () if (held.dev(), held.ino()) != (found.dev(), found.ino()) => DirState::Gone,
            () if found.uid() != 0 || found.mode() & 0o7777 != 0o700 => DirState::Exposed,
            () => DirState::Fine,
        }
    }

    fn heal(&mut self) -> Result<(), EnforcerError> {
        let mut fresh = if self.state() == DirState::Exposed && self.narrow().is_ok() {
            return Ok(());
        } else {
            Self::open(&self.path)?
        };
        fresh.tags.clone_from(&self.tags);
        fresh.record()?;
        *self = fresh;
        Ok(())
    }

    fn record(&self) -> Result<(), EnforcerError> {
        self.write_layout().map_err(|e| failed(&self.path, &e))
    }

    fn write_layout(&self) -> io::Result<()> {
        let tags: Vec<_> = self.tags.iter().map(String::as_str).collect();
        let fresh = self.path.join(format!("{LAYOUT}-new"));
        remove(&fresh)?;
        symlink(format!("{LAYOUT_VERSION}:{}", tags.join(",")), &fresh)?;
        self.put(&fresh, LAYOUT)
    }

    fn find(&self, name: &str) -> io::Result<(PinReply, Option<OwnedFd>)> {
        let path = self.path.join(name);
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok((PinReply::Absent, None)),
            Err(e) => return Err(e),
        };
        let foreign = match () {
            () if found.is_symlink() => Some("a symbolic link"),
            () if !found.is_file() => Some("no pin"),
            () if found.uid() != 0 => Some("a pin of another user"),
            () if found.mode() & 0o077 != 0 => Some("a pin that others may use"),
            () => None,
        };
        if let Some(what) = foreign {
            return Ok((PinReply::Foreign(what.to_owned()), None));
        }
        let fd = sys::open_pinned(&path)?;
        Ok(match sys::kind(fd.as_fd())? {
            Kind::Link => (PinReply::Link, Some(fd)),
            Kind::Map => (PinReply::Map, Some(fd)),
            Kind::Other => (PinReply::Foreign("a program".to_owned()), None),
        })
    }

    fn pin(&self, name: &str, object: BorrowedFd<'_>) -> io::Result<()> {
        let fresh = self.path.join(format!("{name}-new"));
        remove(&fresh)?;
        sys::pin(object, &fresh)?;
        self.put(&fresh, name)
    }

    /// Renames `fresh` to `name`. A rename replaces everything except a directory.
    fn put(&self, fresh: &Path, name: &str) -> io::Result<()> {
        let path = self.path.join(name);
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
            remove(&path)?;
        }
        fs::rename(fresh, path)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        if let Ok((PinReply::Link, Some(link))) = self.find(name)
            && sys::program_tag(link.as_fd()).is_ok_and(|tag| self.tags.contains(&tag))
        {
            // This fails if the device or namespace is gone. Then the link is detached already.
            let _ = sys::detach_link(link.as_fd());
        }
        remove(&self.path.join(name))
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| entry.map(|e| e.file_name()));
        let names = names.collect::<io::Result<Vec<_>>>()?;
        Ok(names.into_iter().filter_map(|n| n.into_string().ok()).filter(|n| n != LAYOUT).collect())
    }

    pub fn clear(self) -> io::Result<()> {
        for name in self.names()? {
            self.remove(&name)?;
        }
        remove(&self.path.join(LAYOUT))?;
        absent_is_fine(fs::remove_dir(&self.path))
    }
}

fn failed(path: &Path, error: &io::Error) -> EnforcerError {
    EnforcerError::kernel(format!("use {}", path.display()), error, ADVICE_PINS)
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes a file, a directory or a symbolic link. Never follows a symbolic link.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => absent_is_fine(fs::remove_file(path)),
        Err(e) => absent_is_fine(Err(e)),
    }
}

/// Moves another user's file or directory aside. Otherwise that user could keep the host open.
fn move_aside(path: &Path, found: &Metadata) -> io::Result<()> {
    tracing::warn!(path = %path.display(), owner = found.uid(), "the path of the pin directory was in use by another user or by no directory; what was there was moved aside");
    for number in 0..100 {
        // bpffs allows no dots in names.
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!("-{ASIDE}-{number}"));
        if fs::symlink_metadata(&aside).is_err() {
            return fs::rename(path, aside);
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "a hundred directories were moved aside already; remove them"))
}

/// Opens a directory whose path has no symbolic link, because the link's owner could redirect posternd. Opens each part by itself, because
/// systemd forbids `openat2` with `RestrictSUIDSGID=`.
fn open_directory(path: &Path) -> io::Result<File> {
    if !path.is_absolute() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not an absolute path"));
    }
    // O_PATH needs no right to read.
    let flags = |last: bool| {
        let read = if last { OFlags::RDONLY } else { OFlags::PATH };
        read | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
    };
    let mut at: OwnedFd = rustix::fs::open("/", flags(false), Mode::empty())?;
    let mut parts = path.components().skip(1).peekable();
    while let Some(part) = parts.next() {
        at = match openat(&at, part.as_os_str(), flags(parts.peek().is_none()), Mode::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
                let (what, why) = symbolic(path).map_or((path, "no directory"), |link| (link, "a symbolic link"));
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} is {why}", what.display())));
            }
            Err(error) => return Err(error.into()),
        };
    }
    Ok(at.into())
}

fn symbolic(path: &Path) -> Option<&Path> {
    path.ancestors().filter(|part| part.is_symlink()).last()
}

/// Checks that only root can replace a directory above the pin directory.
fn check_above(path: &Path) -> io::Result<()> {
    let denied = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    // A symbolic link counts even if its target is missing.
    let above: Vec<_> = path.ancestors().skip(1).filter(|part| fs::symlink_metadata(part).is_ok()).collect();
    if let Some(link) = above.iter().find(|part| part.is_symlink()) {
        return denied(format!("{} is a symbolic link", link.display()));
    }
    // With the sticky bit others cannot rename or remove root's files.
    let open = |found: &Metadata| found.uid() != 0 || (found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0);
    match above.first().map(|part| (part, fs::symlink_metadata(part))) {
        Some((part, Ok(found))) if open(&found) => {
            denied(format!("others than root may write in {} (chown root, chmod go-w)", part.display()))
        }
        Some((_, Err(error))) => Err(error),
        _ => Ok(()),
    }
}

/// The tags in the record of the layout. None if root wrote no record.
fn read_tags(record: &Path) -> BTreeSet<String> {
    let is_ours = |found: Metadata| found.is_symlink() && found.uid() == 0;
    if !fs::symlink_metadata(record).is_ok_and(is_ours) {
        return BTreeSet::new();
    }
    let text = fs::read_link(record).ok().and_then(|path| path.into_os_string().into_string().ok());
    let tags = text.as_deref().and_then(|text| text.split_once(':')).map_or("", |(_, tags)| tags);
    tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

/// Checks that `path` lies on bpffs, because nothing can be pinned elsewhere. Mounts bpffs at its usual place if it is missing.
fn ensure_bpffs(path: &Path) -> io::Result<()> {
    let existing = path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    if sys::is_bpffs(existing)? {
        return Ok(());
    }
    let bpffs = Path::new(BPFFS);
    if path.starts_with(bpffs) && bpffs.is_dir() && !sys::is_bpffs(bpffs)? {
        return sys::mount_bpffs(bpffs);
    }
    Err(io::Error::new(io::ErrorKind::Unsupported, "it does not lie on a bpf file system"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_outside_bpffs_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let error = PinDir::open(&directory.path().join("pins")).err().unwrap().to_string();
        assert!(error.contains("bpf file system"), "{error}");
    }

    #[test]
    fn a_name_leads_nowhere_else() {
        for good in ["lock", "cut-ingress", "shed-generic-12"] {
            assert_eq!(plain(good).unwrap(), good);
        }
        for bad in ["", ".", "..", "../x", "/etc/passwd", "a/b", "Lock", "a b", "lock\0", "l\u{f6}ck", "layout\n"] {
            assert!(plain(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn no_symbolic_link_leads_to_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        fs::create_dir_all(real.join("pins")).unwrap();
        symlink(&real, &link).unwrap();
        assert!(open_directory(&real.join("pins")).is_ok());
        for path in [link.join("pins"), link.clone()] {
            let error = open_directory(&path).unwrap_err().to_string();
            assert_eq!(error, format!("{} is a symbolic link", link.display()));
        }
        assert!(check_above(&link.join("pins")).unwrap_err().to_string().contains("symbolic link"));
        fs::set_permissions(&real, Permissions::from_mode(0o777)).unwrap();
        assert!(check_above(&real.join("pins")).unwrap_err().to_string().contains("others than root"));
    }

    #[test]
    fn only_our_own_record_says_which_tags_are_ours() {
        let directory = tempfile::tempdir().unwrap();
        let record = directory.path().join(LAYOUT);
        assert!(read_tags(&record).is_empty());
        symlink("3:0123,4567", &record).unwrap();
        assert_eq!(read_tags(&record), ["0123".to_owned(), "4567".to_owned()].into());
        fs::remove_file(&record).unwrap();
        fs::write(&record, "3:0123").unwrap();
        assert!(read_tags(&record).is_empty());
    }
}
