//! Files in a directory of a less trusted user: the state directory, which the agent's user owns.
//!
//! Owns the only way in which posternd opens files there. Refuses a link, a FIFO, a device and a file with a second name; root acts with
//! that user's rights (docs/decisions/0049-root-in-the-agents-directory.md). Never interprets a file.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, fcntl_setfl, fstat, openat, statat};
use rustix::io::Errno;
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// For [`open`]: reads an existing file.
pub const READ: OFlags = OFlags::RDONLY;
/// For [`open`]: reads and writes a file, made (0600) if it is missing.
pub const WRITE: OFlags = OFlags::RDWR.union(OFlags::CREATE);
/// For [`open`]: reads a file and appends to it, made (0600) if it is missing.
pub const APPEND: OFlags = WRITE.union(OFlags::APPEND);
/// For [`open`]: writes an existing file.
pub const REWRITE: OFlags = OFlags::WRONLY;
/// For [`open`]: writes a file that must not exist yet.
pub const NEW: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL);

/// Flags for a directory on the way.
const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// The longest text that posternd keeps there, in bytes. A sparse file takes no room on the disk, but would fill the memory.
const MOST_TEXT: u64 = 1 << 20;
const NOT_PLAIN: &str = "it is not a plain file";

/// Opens the plain file at `path`. Its last `levels` names are in a less trusted user's directory: none may be a link or lead out of the
/// directory. The names before them may be links, which the administrator made. Never waits for a FIFO or a device.
///
/// Each name is opened below the one before it, because systemd's `RestrictSUIDSGID=` blocks `openat2`.
///
/// # Errors
/// The kernel's; or, in words: no plain file, a third user's file, or root would write to a file with a second name.
pub fn open(path: &Path, levels: usize, how: OFlags) -> io::Result<File> {
    let base = path.ancestors().nth(levels).filter(|base| !base.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.strip_prefix(base).unwrap_or(path);
    let directory = openat(CWD, base, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())?;
    let fd = beneath(&directory, name, how).map_err(|errno| match errno {
        Errno::LOOP => refused("a symbolic link is in its place, and posternd follows none in its state directory"),
        // A FIFO without a reader gives this error.
        Errno::NXIO => refused(NOT_PLAIN),
        other => other.into(),
    })?;
    check(&directory, &fd, how)?;
    // Only the opening must not wait.
    fcntl_setfl(&fd, how & OFlags::APPEND)?;
    Ok(fd.into())
}

/// Makes the names in a directory durable. Never waits for a FIFO in its place.
///
/// # Errors
/// Fails as `open(2)` and `fsync(2)` do.
pub fn sync_dir(directory: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    File::from(openat(CWD, directory, flags, Mode::empty())?).sync_all()
}

/// The text of a file, opened as by [`open`] and read as by [`text`].
///
/// # Errors
/// Fails as [`open`] and [`text`] do.
pub fn read_to_string(path: &Path, levels: usize) -> io::Result<String> {
    text(&open(path, levels, READ)?)
}

/// The text of a file that [`open`] has opened.
///
/// # Errors
/// Fails if the file cannot be read, or if the text is not UTF-8 or longer than 1 MiB.
pub fn text(file: &File) -> io::Result<String> {
    let text = io::read_to_string(file.take(MOST_TEXT + 1))?;
    if text.len() as u64 > MOST_TEXT {
        return Err(refused(&format!("it is longer than {MOST_TEXT} bytes")));
    }
    Ok(text)
}

fn beneath(directory: &OwnedFd, name: &Path, how: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = how | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mode = if how.contains(OFlags::CREATE) { Mode::RUSR | Mode::WUSR } else { Mode::empty() };
    let mut above: Option<OwnedFd> = None;
    let mut names = name.components().peekable();
    while let Some(name) = names.next() {
        // Neither `..` nor an absolute path.
        let Component::Normal(name) = name else { return Err(Errno::INVAL) };
        let at = above.as_ref().unwrap_or(directory);
        if names.peek().is_none() {
            return openat(at, name, flags, mode);
        }
        above = Some(openat(at, name, DIRECTORY, Mode::empty()).map_err(|errno| link_or(at, name, errno))?);
    }
    Err(Errno::INVAL)
}

/// For a link in a directory's place, the kernel reports `ENOTDIR`, not `ELOOP`.
fn link_or(at: &OwnedFd, name: &OsStr, errno: Errno) -> Errno {
    let is_link = |found: rustix::fs::Stat| FileType::from_raw_mode(found.st_mode) == FileType::Symlink;
    let found = statat(at, name, AtFlags::SYMLINK_NOFOLLOW);
    if errno == Errno::NOTDIR && found.is_ok_and(is_link) { Errno::LOOP } else { errno }
}

/// Checks descriptors, not paths: the file that is checked is the file that is used.
fn check(directory: &OwnedFd, fd: &OwnedFd, how: OFlags) -> io::Result<()> {
    let (found, above) = (fstat(fd)?, fstat(directory)?);
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile {
        return Err(refused(NOT_PLAIN));
    }
    let own = rustix::process::geteuid();
    if ![0, above.st_uid, own.as_raw()].contains(&found.st_uid) {
        return Err(refused(&format!("it belongs to user {}, not to user {}", found.st_uid, above.st_uid)));
    }
    // A file with a second name may be any file of the host, and root may write to all of them.
    if how.intersects(OFlags::WRONLY | OFlags::RDWR) && own.is_root() && found.st_nlink != 1 {
        return Err(refused(&format!(
            "it has {} names (hard links); root writes only to a file with one",
            found.st_nlink
        )));
    }
    Ok(())
}

fn refused(why: &str) -> io::Error {
    io::Error::other(why.to_owned())
}

/// Runs `work` with the rights to files of `directory`'s owner, if root calls this and the owner is another user. Then no name in the
/// directory leads to a file that this user could not use anyway. Changes the calling thread only, and until this returns.
///
/// # Errors
/// The directory cannot be examined, or the kernel refuses the change of rights. Then `work` was not run.
pub fn as_owner<T>(directory: &Path, work: impl FnOnce() -> T) -> io::Result<T> {
    if !rustix::process::geteuid().is_root() {
        return Ok(work());
    }
    let found = match fs::metadata(directory) {
        // Nobody can have planted anything in a missing directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(work()),
        found => found?,
    };
    if found.uid() == 0 {
        return Ok(work());
    }
    Ok(with_rights(Uid::from_raw(found.uid()), Gid::from_raw(found.gid()), work)?)
}

/// Runs `work` with another user's rights to files, in the calling thread. The real user stays root, so no other user can send signals to
/// this process or trace it meanwhile.
///
/// # Errors
/// The kernel refused the change, and `work` was not run.
///
/// # Panics
/// Aborts the process if the kernel does not restore the thread's own rights: continuing is not safe.
pub fn with_rights<T>(uid: Uid, gid: Gid, work: impl FnOnce() -> T) -> rustix::io::Result<T> {
    let groups = rustix::process::getgroups()?;
    let own = rustix::process::getegid();
    let back = || {
        set_thread_res_uid(None, Uid::ROOT, None)?;
        set_thread_res_gid(None, own, None)?;
        set_thread_groups(&groups)
    };
    let lent = set_thread_groups(&[])
        .and_then(|()| set_thread_res_gid(None, gid, None))
        .and_then(|()| set_thread_res_uid(None, uid, None));
    let outcome = lent.map(|()| work());
    if let Err(error) = back() {
        tracing::error!(%error, "the thread did not get root's rights back; posternd ends");
        std::process::abort();
    }
    outcome
}

/// Whether the kernel forbids hard links to other users' files (`fs.protected_hardlinks`).
#[must_use]
pub fn links_are_protected() -> bool {
    fs::read_to_string("/proc/sys/fs/protected_hardlinks").is_ok_and(|text| text.trim() == "1")
}

#[cfg(test)]
mod tests;
