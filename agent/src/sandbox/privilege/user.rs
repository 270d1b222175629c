//! The user that posternd becomes.
//!
//! Owns finding this user, giving it the state directory, and the change of user. It never reads a file in that directory.

use std::ffi::CStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use capctl::caps::{Cap, CapSet, CapState, cap_set_ids};
use rustix::fs::{Access, AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Uid, accessat, chownat, fstat, openat};
use rustix::io::Errno;

use crate::system::guarded;

/// The lists of users and groups. posternd does not use NSS, which may need the network before the network is up.
const USERS: &str = "/etc/passwd";
const GROUPS: &str = "/etc/group";
/// The group that may write to users' terminals.
const TERMINALS: &str = "tty";
/// The deepest level of directories. The state directory has two levels.
const DEEPEST: u32 = 8;

/// The capabilities that a start needs after the change of user, if the process had them. `Confinement` later gives up most of them.
const STARTING: [Cap; 7] = [
    Cap::BPF,
    Cap::PERFMON,
    Cap::NET_ADMIN,
    Cap::NET_BIND_SERVICE,
    Cap::SYS_RESOURCE,
    Cap::SETPCAP,
    // To mount cgroup v2 for this process alone if it is not mounted.
    Cap::SYS_ADMIN,
];

/// A user and its primary group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    uid: Uid,
    gid: Gid,
}

impl User {
    /// Root.
    pub const ROOT: Self = Self { uid: Uid::ROOT, gid: Gid::ROOT };

    /// The user with these numbers. This host's list need not have it.
    #[must_use]
    pub fn new(uid: u32, gid: u32) -> Self {
        Self { uid: Uid::from_raw(uid), gid: Gid::from_raw(gid) }
    }

    /// The user of this name in the host's list.
    ///
    /// # Errors
    /// There is none, in words.
    pub fn named(name: &str) -> Result<Self, String> {
        let users = fs::read_to_string(USERS).map_err(|e| format!("{USERS}: {e}"))?;
        let [uid, gid] = numbers(&users, name)
            .ok_or_else(|| format!("there is no user {name:?} (systemd-sysusers makes it; else set `user`)"))?;
        Ok(Self::new(uid, gid))
    }

    /// Makes this user the owner of the files in `state`. Makes the directory (0700) if it is missing.
    ///
    /// If root did not own the directory, an attacker inside the agent may have linked one of root's files into it. So a file changes its
    /// owner only if it has one name and the directory's old owner had it. A file of root's changes only if the kernel forbids others to
    /// link root's files, because an old name may be gone.
    ///
    /// # Errors
    /// In words, why the directory itself still belongs to another user. A failure for a file in it is only logged.
    pub fn own(&self, state: &Path) -> Result<(), String> {
        let failed = |e: io::Error| format!("{} could not become its: {e}", state.display());
        DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(failed)?;
        // The administrator may have put a symbolic link here. Below it posternd follows none.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = openat(CWD, state, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let owner = fstat(&directory).map_err(|e| failed(e.into()))?.st_uid;
        let hand = HandOver { to: *self, owner, roots_too: owner == 0 || guarded::links_are_protected() };
        hand.below(&directory, DEEPEST).unwrap_or_else(
            |error| tracing::warn!(%error, path = %state.display(), "not all of it could change hands"),
        );
        self.take(&directory).map_err(failed)
    }

    fn take(&self, fd: impl AsFd) -> io::Result<()> {
        let found = fstat(&fd)?;
        if (found.st_uid, found.st_gid) == (self.uid.as_raw(), self.gid.as_raw()) {
            return Ok(());
        }
        Ok(chownat(&fd, c"", Some(self.uid), Some(self.gid), AtFlags::EMPTY_PATH)?)
    }

    /// Tries whether this user can work in `state`: a directory above may be closed to it. On a read-only disk it need not write.
    ///
    /// # Errors
    /// It cannot, in words.
    pub fn reaches(&self, state: &Path) -> Result<(), String> {
        let tried = guarded::with_rights(self.uid, self.gid, || {
            let (read, write) = (Access::READ_OK | Access::EXEC_OK, Access::WRITE_OK);
            match accessat(CWD, state, read | write, AtFlags::EACCESS) {
                Err(Errno::ROFS) => accessat(CWD, state, read, AtFlags::EACCESS),
                other => other,
            }
        });
        tried.and_then(|tried| tried).map_err(|e| format!("its user cannot use {}: {e}", state.display()))
    }

    /// Becomes this user for ever, with the capabilities of a start, for the calling thread and the threads that it starts.
    ///
    /// # Errors
    /// The kernel refused, in words.
    pub fn become_it(&self) -> Result<(), String> {
        let failed = |e: capctl::Error| format!("the user could not be changed: {e}");
        let groups: Vec<u32> = fs::read_to_string(GROUPS)
            .ok()
            .and_then(|text| numbers(&text, TERMINALS))
            .into_iter()
            .map(|[gid]| gid)
            .collect();
        let outcome = cap_set_ids(Some(self.uid.as_raw()), Some(self.gid.as_raw()), Some(&groups)).map_err(failed);
        let mut state = CapState::get_current().map_err(failed)?;
        if outcome.is_ok() {
            state.permitted &= STARTING.into_iter().collect::<CapSet>();
        }
        // After a failure the process stays root with all its capabilities.
        state.effective = state.permitted;
        state.set_current().map_err(failed)?;
        outcome
    }
}

struct HandOver {
    to: User,
    /// The directory's old owner.
    owner: u32,
    /// Whether root's files change their owner too.
    roots_too: bool,
}

impl HandOver {
    /// Returns the first failure after trying everything. Checks and changes use one descriptor, so no file can be swapped in between.
    fn below(&self, directory: &OwnedFd, deepest: u32) -> io::Result<()> {
        let mut outcome = Ok(());
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            if ![&b"."[..], b".."].contains(&entry.file_name().to_bytes()) {
                outcome = outcome.and(self.entry(directory, entry.file_name(), deepest));
            }
        }
        outcome
    }

    fn entry(&self, directory: &OwnedFd, name: &CStr, deepest: u32) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = openat(directory, name, flags, Mode::empty())?;
        let found = fstat(&fd)?;
        let changes = match found.st_uid {
            0 => self.roots_too,
            // In a directory of root's, only root can have put a third user's file.
            user => user == self.owner || self.owner == 0,
        };
        match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory if deepest > 0 && changes => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = openat(directory, name, flags, Mode::empty())?;
                // If another directory took its place meanwhile, that one was not checked.
                let same = fstat(&below).map(|now| (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino))?;
                if same { self.below(&below, deepest - 1).and(self.to.take(&below)) } else { Ok(()) }
            }
            // A file with a second name may belong elsewhere.
            FileType::RegularFile if found.st_nlink == 1 && changes => self.to.take(&fd),
            FileType::RegularFile if found.st_uid != self.to.uid.as_raw() => Err(io::Error::other(format!(
                "{} belongs to user {} and has {} names: remove it or chown it yourself",
                name.to_string_lossy(),
                found.st_uid,
                found.st_nlink
            ))),
            _ => Ok(()),
        }
    }
}

/// The numbers of `name` in a text with lines `NAME:PASSWORD:NUMBER…`.
fn numbers<const N: usize>(text: &str, name: &str) -> Option<[u32; N]> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let found: Vec<u32> = line.split(':').skip(1).take(N).map(str::parse).collect::<Result<_, _>>().ok()?;
    found.try_into().ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};

    use super::*;

    #[test]
    fn numbers_are_those_of_the_whole_name() {
        let text = "root:x:0:0:root:/root:/bin/sh\npostern-x:x:1:2::/:\npostern:x:997:996::/:\nbad:x:y:1::/:\n";
        assert_eq!(numbers::<2>(text, "postern"), Some([997, 996]));
        assert_eq!(numbers::<1>("tty:x:5:\n", "tty"), Some([5]));
        for name in ["bad", "post", "nobody", ""] {
            assert_eq!(numbers::<2>(text, name), None, "{name}");
        }
        assert_eq!(User::named("root"), Ok(User::ROOT));
        assert!(User::named("no such user").unwrap_err().contains("systemd-sysusers"));
    }

    #[test]
    fn a_directory_changes_hands_and_nothing_outside_does() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: needs root");
        }
        let dir = tempfile::tempdir().unwrap();
        let (state, outside) = (dir.path().join("state"), dir.path().join("outside"));
        let user = User { uid: Uid::from_raw(12345), gid: Gid::from_raw(23456) };
        user.own(&state).unwrap();
        fs::create_dir(state.join("tls")).unwrap();
        fs::write(state.join("tls/key"), "").unwrap();
        fs::write(&outside, "").unwrap();
        symlink(&outside, state.join("symbolic")).unwrap();
        fs::hard_link(&outside, state.join("hard")).unwrap();
        user.own(&state).unwrap();
        let owner = |path: &Path| fs::symlink_metadata(path).map(|m| (m.uid(), m.gid())).unwrap();
        for path in ["", "tls", "tls/key"] {
            assert_eq!(owner(&state.join(path)), (12345, 23456), "{path}");
        }
        assert_eq!(owner(&outside), (0, 0));
        // A file that root has made meanwhile, below the user's directory.
        chown(state.join("tls/key"), Some(0), Some(0)).unwrap();
        user.own(&state).unwrap();
        assert_eq!(owner(&state.join("tls/key")), (12345, 23456));
        User::ROOT.own(&state).unwrap();
        assert_eq!(owner(&state.join("tls")), (0, 0));
        // A directory of another user, on a kernel that lets others link root's files.
        let directory = File::open(&state).unwrap().into();
        fs::write(state.join("theirs"), "").unwrap();
        chown(state.join("theirs"), Some(54321), None).unwrap();
        let hand = HandOver { to: user, owner: 54321, roots_too: false };
        hand.below(&directory, DEEPEST).unwrap_err();
        assert_eq!(owner(&state.join("theirs")), (12345, 23456), "the one before hands its own over");
        assert_eq!(owner(&state.join("tls/key")), (0, 0), "and nothing of root's");
    }

    #[test]
    fn it_is_tried_whether_the_user_gets_there() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: needs root");
        }
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let user = User { uid: Uid::from_raw(12345), gid: Gid::from_raw(23456) };
        user.own(&state).unwrap();
        let permit = |mode| fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
        permit(0o700);
        assert!(user.reaches(&state).unwrap_err().contains("cannot use"));
        permit(0o711);
        user.reaches(&state).unwrap();
        User::ROOT.own(&state).unwrap();
        assert!(user.reaches(&state).is_err());
        assert!(rustix::process::geteuid().is_root() && fs::read("/etc/shadow").is_ok(), "it is root as before");
    }
}
