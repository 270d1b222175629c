//! The folder of the client's files, and safe reads of these files. [`crate::trust`] and [`crate::dialled`] decide what follows from an
//! unreadable file.

use std::{
    ffi::OsString,
    fs::{DirBuilder, File, Metadata, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use nix::unistd::{Uid, User};
use rustix::fs::OFlags;

use crate::console::Console;

/// Both files of the client stay below this size, so another program wrote a longer one.
const MOST_BYTES: u64 = 1024 * 1024;

/// The folder of the client's files, and the folder of older versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Folder {
    path: Option<PathBuf>,
    /// The client reads these files too, and changes them only to forget an entry.
    older: Option<PathBuf>,
    /// The home directory above the folder. The client never creates it.
    home: Option<PathBuf>,
}

impl Folder {
    /// The folder of the user of this process: `$XDG_STATE_HOME/postern`, else `~/.local/state/postern`. Older versions used
    /// `$XDG_CONFIG_HOME/postern`, else `~/.config/postern`. `~` is `HOME`, else the home directory in the user database. Relative paths in
    /// these variables are ignored, as the XDG specification demands.
    #[must_use]
    pub fn of_user() -> Self {
        let listed = || User::from_uid(Uid::effective()).ok().flatten().map(|user| user.dir);
        Self::from(|name| std::env::var_os(name), listed)
    }

    fn from(variable: impl Fn(&str) -> Option<OsString>, listed: impl Fn() -> Option<PathBuf>) -> Self {
        let absolute = |name| variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = absolute("HOME").or_else(listed).filter(|home| home.is_absolute());
        let in_home = |below: &str| home.as_ref().map(|home| home.join(below));
        let named = absolute("XDG_STATE_HOME");
        let needs_home = named.is_none();
        let postern = |folder: PathBuf| folder.join("postern");
        Self {
            path: named.or_else(|| in_home(".local/state")).map(postern),
            older: absolute("XDG_CONFIG_HOME").or_else(|| in_home(".config")).map(postern),
            home: home.filter(|_| needs_home),
        }
    }

    /// Exactly this folder.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: Some(path.to_owned()), older: None, home: None }
    }

    #[cfg(test)]
    pub(crate) fn with_older(path: &Path, older: &Path) -> Self {
        Self { older: Some(older.to_owned()), ..Self::at(path) }
    }

    /// The path of a file, which need not exist. None if the user has no home directory.
    #[must_use]
    pub fn file(&self, name: &str) -> Option<PathBuf> {
        self.path.as_ref().map(|path| path.join(name))
    }

    /// The path of the same file of older versions.
    #[must_use]
    pub fn older(&self, name: &str) -> Option<PathBuf> {
        self.older.as_ref().map(|path| path.join(name))
    }

    /// Creates the folder if it is missing, and returns the path of the file.
    ///
    /// # Errors
    /// Fails if the client has no folder or cannot create it, or if another user owns it.
    pub fn to_write(&self, name: &str) -> io::Result<PathBuf> {
        let Some(path) = &self.path else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "there is no home directory; set XDG_STATE_HOME"));
        };
        if let Some(home) = self.home.as_ref().filter(|home| !home.is_dir()) {
            let error = format!("the home directory {} does not exist; set XDG_STATE_HOME", home.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, error));
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        check_owner(path, &path.metadata()?)?;
        Ok(path.join(name))
    }
}

/// Whether the user database has the user of this process. ssh does not start for other users.
#[must_use]
pub fn user_is_listed() -> bool {
    !matches!(User::from_uid(Uid::current()), Ok(None))
}

/// The text of a file; none if it does not exist.
///
/// # Errors
/// Fails if the file is unreadable, not plain or too long, or if another user could have created it.
pub fn read(path: &Path) -> io::Result<Option<String>> {
    let opened = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path);
    let file: File = match opened {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        opened => opened?,
    };
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no plain file"));
    }
    check_owner(path, &metadata)?;
    if let Some(folder) = path.parent() {
        check_owner(folder, &folder.metadata()?)?;
    }
    let mut text = String::new();
    file.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is longer than {MOST_BYTES} bytes")));
    }
    Ok(Some(text))
}

/// Another user may have created a record of trust, for example if `HOME` is `/tmp`. Root under sudo uses the files of the user who called
/// sudo.
fn check_owner(path: &Path, metadata: &Metadata) -> io::Result<()> {
    let own = Uid::effective();
    let caller = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse::<u32>().ok()).filter(|_| own.is_root());
    if is_trusted(metadata.uid(), own.as_raw(), caller) {
        return Ok(());
    }
    let error = format!("{} belongs to another user (uid {})", path.display(), metadata.uid());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, error))
}

fn is_trusted(owner: u32, own: u32, caller: Option<u32>) -> bool {
    owner == 0 || owner == own || Some(owner) == caller
}

/// Notes that nothing can be remembered. Only the first failure of a command is noted, because later files fail for the same reason.
pub fn not_remembered(console: Console, path: Option<&Path>, why: impl std::fmt::Display) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if !SAID.swap(true, Ordering::Relaxed) {
        let place = path.map(|path| format!(" in {}", path.display())).unwrap_or_default();
        console.note(format!("cannot remember anything{place}: {why}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)], listed: Option<&str>) -> (Option<String>, Option<String>) {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
        let folder = Folder::from(find, || listed.map(PathBuf::from));
        let text = |path: Option<PathBuf>| path.map(|path| path.display().to_string());
        (text(folder.file("f")), text(folder.older("f")))
    }

    #[test]
    fn the_state_folder_is_that_of_the_xdg_specification() {
        for (variables, listed, now, older) in [
            (&[("HOME", "/h")][..], Some("/p"), Some("/h/.local/state/postern/f"), Some("/h/.config/postern/f")),
            (&[], Some("/p"), Some("/p/.local/state/postern/f"), Some("/p/.config/postern/f")),
            (&[("HOME", "")], Some("/p"), Some("/p/.local/state/postern/f"), Some("/p/.config/postern/f")),
            (&[("HOME", "h")], None, None, None),
            (&[], None, None, None),
            (&[("XDG_STATE_HOME", "/s")], None, Some("/s/postern/f"), None),
            (
                &[("XDG_STATE_HOME", "s"), ("HOME", "/h")],
                None,
                Some("/h/.local/state/postern/f"),
                Some("/h/.config/postern/f"),
            ),
            (&[("XDG_STATE_HOME", "/s"), ("XDG_CONFIG_HOME", "/c")], None, Some("/s/postern/f"), Some("/c/postern/f")),
            (&[("HOME", "/")], None, Some("/.local/state/postern/f"), Some("/.config/postern/f")),
        ] {
            assert_eq!(of(variables, listed), (now.map(str::to_owned), older.map(str::to_owned)), "{variables:?}");
        }
    }

    #[test]
    fn a_home_that_is_not_there_is_not_made() {
        let directory = tempfile::tempdir().unwrap();
        let home = directory.path().join("gone");
        let folder = Folder::from(|name| (name == "HOME").then(|| home.clone().into()), || None);
        assert!(folder.to_write("f").is_err() && !home.exists());
        std::fs::create_dir(&home).unwrap();
        assert_eq!(folder.to_write("f").unwrap(), home.join(".local/state/postern/f"));
    }

    #[test]
    fn only_files_of_ones_own_count() {
        for (owner, own, caller, trusted) in [
            (1000, 1000, None, true),
            (0, 1000, None, true),
            (1001, 1000, None, false),
            (1000, 0, None, false),
            (1000, 0, Some(1000), true),
            (1001, 0, Some(1000), false),
        ] {
            assert_eq!(is_trusted(owner, own, caller), trusted, "{owner} {own} {caller:?}");
        }
    }

    #[test]
    fn what_is_no_plain_file_is_an_error_and_no_hang() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        assert!(read(&fifo).is_err() && read(directory.path()).is_err());
        assert_eq!(read(&directory.path().join("none")).unwrap(), None);
        std::fs::write(directory.path().join("long"), vec![b'#'; 2 << 20]).unwrap();
        assert!(read(&directory.path().join("long")).is_err());
    }
}
