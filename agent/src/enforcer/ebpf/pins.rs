//! The directory of pins: taken for one agent alone, and believed only as far as it was checked.
//!
//! Owns the directory, its lock and its record of layout and program tags. What else lies under one of our names is never
//! used: it is replaced. It attaches nothing.

use std::{
    collections::BTreeSet,
    fs::{self, File, Metadata, Permissions, TryLockError},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, symlink},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use postern_core::key::LAYOUT_VERSION;
use rustix::fs::{Mode, OFlags, openat};
use serde::{Deserialize, Serialize};

use super::{
    error::EnforcerError,
    sys::{self, Kind},
};

/// Where bpffs belongs, and where it is mounted if nobody did.
const BPFFS: &str = "/sys/fs/bpf";
/// A symbolic link in the pin directory whose target says `VERSION:TAG,TAG…`: the layout's version, and the tags of the
/// programs that run under the pinned links.
const LAYOUT: &str = "layout";
/// How long whoever held the directory may take to let go of it.
const LET_GO: Duration = Duration::from_secs(2);
/// What is put behind the name of a directory that is moved out of the way.
const ASIDE: &str = "not-posterns";

/// What to do when the directory cannot be used.
pub const ADVICE_PINS: &str = "give `pin_dir` a directory on a writable bpf file system that belongs to root \
                           (`mount -t bpf bpf /sys/fs/bpf` makes one)";

/// What lies under one of our names.
pub enum Pinned {
    /// Nothing.
    Absent,
    /// A link, in a file that root alone can use. What it does is not known yet.
    Link(OwnedFd),
    /// As `Link`, a map. What it holds is not known yet.
    Map(OwnedFd),
    /// Something that is not to be used, and why.
    Foreign(String),
}

/// How the directory stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirState {
    /// As it has to be.
    Fine,
    /// It is gone, or another directory or file system lies over it.
    Gone,
    /// Others than root may use it.
    Exposed,
}

/// The directory of pins, held by this process alone.
pub struct PinDir {
    path: PathBuf,
    /// The directory itself. Its lock ends with the process, however it ends.
    held: File,
    /// Tags of programs that a link under one of our names may run.
    tags: BTreeSet<String>,
}

impl PinDir {
    /// Makes the directory if need be, checks whose it is, and takes it. One that belongs to somebody else is moved out of
    /// the way, with all that is in it.
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

    /// Takes a directory that exists.
    pub fn take(path: &Path) -> Result<Self, EnforcerError> {
        let failed = |e: io::Error| failed(path, &e);
        let held = open_directory(path).map_err(failed)?;
        // The helper of a dead agent holds the lock until it has noticed.
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

    /// Whoever can write here can open the host, so the directory is root's alone.
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

    /// How the directory stands now.
    pub fn state(&self) -> DirState {
        let (Ok(held), Ok(found)) = (self.held.metadata(), fs::symlink_metadata(&self.path)) else {
            return DirState::Gone;
        };
        match () {
            () if (held.dev(), held.ino()) != (found.dev(), found.ino()) => DirState::Gone,
            () if found.uid() != 0 || found.mode() & 0o7777 != 0o700 => DirState::Exposed,
            () => DirState::Fine,
        }
    }

    /// Brings the directory back after [`Self::state`] said that something is wrong. What was pinned in it has to be pinned anew.
    pub fn heal(&mut self) -> Result<(), EnforcerError> {
        let mut fresh = if self.state() == DirState::Exposed && self.narrow().is_ok() {
            return Ok(());
        } else {
            Self::open(&self.path)?
        };
        fresh.tags.clone_from(&self.tags);
        fresh.write_layout().map_err(|e| failed(&self.path, &e))?;
        *self = fresh;
        Ok(())
    }

    /// Whether a program with this tag was made by an agent that held this directory.
    pub fn knows(&self, tag: &str) -> bool {
        self.tags.contains(tag)
    }

    /// Notes that links may run programs with these tags too. To be done before the first of them does.
    pub fn expect(&mut self, tags: impl IntoIterator<Item = String>) -> Result<(), EnforcerError> {
        self.tags.extend(tags);
        self.write_layout().map_err(|e| failed(&self.path, &e))
    }

    /// Notes that links run programs with these tags alone.
    pub fn settle(&mut self, tags: impl IntoIterator<Item = String>) -> Result<(), EnforcerError> {
        self.tags = tags.into_iter().collect();
        self.write_layout().map_err(|e| failed(&self.path, &e))
    }

    fn write_layout(&self) -> io::Result<()> {
        let tags: Vec<_> = self.tags.iter().map(String::as_str).collect();
        let fresh = self.path.join(format!("{LAYOUT}-new"));
        remove(&fresh)?;
        symlink(format!("{LAYOUT_VERSION}:{}", tags.join(",")), &fresh)?;
        self.put(&fresh, LAYOUT)
    }

    /// What lies under `name`.
    pub fn find(&self, name: &str) -> io::Result<Pinned> {
        let path = self.path.join(name);
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Pinned::Absent),
            Err(e) => return Err(e),
        };
        let foreign = match () {
            () if found.is_symlink() => Some("a symbolic link"),
            () if !found.is_file() => Some("no pin"),
            () if found.uid() != 0 => Some("a pin of another user's"),
            () if found.mode() & 0o077 != 0 => Some("a pin that others may use"),
            () => None,
        };
        if let Some(what) = foreign {
            return Ok(Pinned::Foreign(what.to_owned()));
        }
        let fd = sys::open_pinned(&path)?;
        Ok(match sys::kind(fd.as_fd())? {
            Kind::Link => Pinned::Link(fd),
            Kind::Map => Pinned::Map(fd),
            Kind::Other => Pinned::Foreign("a program".to_owned()),
        })
    }

    /// Pins `link` (a link or a map) as `name`, in the place of whatever lies there, without a moment in which neither is pinned.
    pub fn pin(&self, name: &str, link: impl AsFd) -> io::Result<()> {
        let fresh = self.path.join(format!("{name}-new"));
        remove(&fresh)?;
        sys::pin(link.as_fd(), &fresh)?;
        self.put(&fresh, name)
    }

    /// Gives `fresh` its name. Only a directory has to go first.
    fn put(&self, fresh: &Path, name: &str) -> io::Result<()> {
        let path = self.path.join(name);
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_dir()) {
            remove(&path)?;
        }
        fs::rename(fresh, path)
    }

    /// Takes the pin away and detaches its link at once, whoever else holds it. What is not ours is taken away and left as it is.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        if let Ok(Pinned::Link(link)) = self.find(name)
            && sys::program_tag(link.as_fd()).is_ok_and(|tag| self.knows(&tag))
        {
            // One whose device or namespace is gone is detached already; the pin's removal is what counts.
            let _ = sys::detach_link(link.as_fd());
        }
        remove(&self.path.join(name))
    }

    /// The names of all pins.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| entry.map(|e| e.file_name()));
        let names = names.collect::<io::Result<Vec<_>>>()?;
        Ok(names.into_iter().filter_map(|n| n.into_string().ok()).filter(|n| n != LAYOUT).collect())
    }

    /// Takes everything away, and the directory.
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

/// Removes whatever it is; a symbolic link is never followed.
fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => absent_is_fine(fs::remove_file(path)),
        Err(e) => absent_is_fine(Err(e)),
    }
}

/// Moves what is not ours out of the way. Where nobody can make the directory, the host would stay open.
fn move_aside(path: &Path, found: &Metadata) -> io::Result<()> {
    let kind = if found.is_dir() { "a directory" } else { "no directory" };
    tracing::warn!(path = %path.display(), owner = found.uid(), "{kind} of somebody else's lay where the pins belong; it was moved aside");
    for number in 0..100 {
        // bpffs takes no dots.
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!("-{ASIDE}-{number}"));
        if fs::symlink_metadata(&aside).is_err() {
            return fs::rename(path, aside);
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "somebody else's directories lie there"))
}

/// Opens a directory that is reached without any symbolic link, since whoever can set one could show us another place. Step
/// by step: `openat2`, which could do it at once, is what systemd takes away with `RestrictSUIDSGID=`.
fn open_directory(path: &Path) -> io::Result<File> {
    if !path.is_absolute() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not an absolute path"));
    }
    // On the way O_PATH, for which no right to read is needed.
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

/// The first part of `path` that is a symbolic link.
fn symbolic(path: &Path) -> Option<&Path> {
    path.ancestors().filter(|part| part.is_symlink()).last()
}

/// What lies above the directory: nobody but root may swap it.
fn check_above(path: &Path) -> io::Result<()> {
    let denied = |why: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    // Also a symbolic link that leads nowhere yet.
    let above: Vec<_> = path.ancestors().skip(1).filter(|part| fs::symlink_metadata(part).is_ok()).collect();
    if let Some(link) = above.iter().find(|part| part.is_symlink()) {
        return denied(format!("{} is a symbolic link", link.display()));
    }
    // Where the sticky bit is set, others cannot rename or remove what is root's.
    let open = |found: &Metadata| found.uid() != 0 || (found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0);
    match above.first().map(|part| (part, fs::symlink_metadata(part))) {
        Some((part, Ok(found))) if open(&found) => {
            denied(format!("others than root may write in {} (chown root, chmod go-w)", part.display()))
        }
        Some((_, Err(error))) => Err(error),
        _ => Ok(()),
    }
}

/// The tags in the record of the layout; none where there is no record of ours.
fn read_tags(record: &Path) -> BTreeSet<String> {
    let is_ours = |found: Metadata| found.is_symlink() && found.uid() == 0;
    if !fs::symlink_metadata(record).is_ok_and(is_ours) {
        return BTreeSet::new();
    }
    let text = fs::read_link(record).ok().and_then(|path| path.into_os_string().into_string().ok());
    let tags = text.as_deref().and_then(|text| text.split_once(':')).map_or("", |(_, tags)| tags);
    tags.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
}

/// Mounts bpffs at its usual place if `path` belongs there and nobody did, and refuses any other file system: a pin
/// elsewhere is not possible, and a directory that looks right is a host that stays open.
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
