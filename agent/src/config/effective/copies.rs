//! The last good copies of the files that a start needs.
//!
//! Owns their directory, which belongs to root and is closed to the agent's user. The parent module decides which files are in force.

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use postern_core::trust::{Remains, Revocations, Trust};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, openat, renameat, unlinkat};

use super::{Last, is_noise, says_nothing};
use crate::config::Config;
use crate::system::files::{self, Contents, Opener};

/// The directory of the copies for the package's configuration file.
const PLACE: &str = "/var/lib/postern.last-good";
const CONFIG: &str = "/etc/postern/postern.toml";

const CONFIGURATION: &str = "configuration";
const SIGNERS: &str = "allowed_signers";
const REVOKED: &str = "revoked_keys";
/// A list of revoked keys that could not be read whole. Its readable lines count in addition to the copy.
const BROKEN: &str = "revoked_keys.broken";

/// The largest file that is copied, in bytes.
const MOST: u64 = 4 << 20;

/// How this process reaches root's files: directly, or through the helper.
#[derive(Clone)]
pub struct RootFiles {
    /// Opens the files that a reload reads.
    pub opener: Opener,
    copy: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

impl RootFiles {
    /// `opener` opens the files, and `copy` updates the last good copies.
    pub fn new(opener: Opener, copy: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        Self { opener, copy: Arc::new(copy) }
    }

    /// For the configuration file at `path`, which this process opens and copies itself.
    #[must_use]
    pub fn own(path: &Path) -> Self {
        let path = path.to_owned();
        Self::new(Opener::default(), move || Copies::of(&path).update(&path))
    }

    /// Brings the last good copies up to date.
    ///
    /// # Errors
    /// Fails if a copy cannot be written. The error says why.
    pub fn update_copies(&self) -> Result<(), String> {
        (self.copy)()
    }
}

/// The directory of the copies.
#[derive(Clone, Debug)]
pub struct Copies(PathBuf);

impl Copies {
    /// The directory that belongs to the configuration file at `path`: beside that file, except for the package's own.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        if path == Path::new(CONFIG) {
            return Self(PLACE.into());
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".last-good");
        Self(path.with_file_name(name))
    }

    /// The path of the directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Makes the directory (0700) if it is missing.
    ///
    /// # Errors
    /// Fails if the directory cannot be made, or if others than root can change it.
    pub fn prepare(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        self.directory().map(drop)
    }

    /// The content of the copies.
    #[must_use]
    pub fn last(&self) -> Last {
        let words = |at: Timestamp| format!("the last good copy, of {}", at.strftime("%Y-%m-%dT%H:%M:%SZ"));
        let config = self
            .read(CONFIGURATION)
            .and_then(|(bytes, at)| Some((Config::parse_copy(&String::from_utf8(bytes).ok()?).ok()?, words(at))));
        let (signers, revoked, broken) = (self.read(SIGNERS), self.read(REVOKED), self.read(BROKEN));
        let seal = [&signers, &revoked, &broken].into_iter().flatten().flat_map(|(bytes, _)| bytes.clone()).collect();
        let revoked_at = revoked.as_ref().map(|(_, at)| words(*at));
        // A configuration without a list of revoked keys revoked nobody. That is known too.
        let without = config.as_ref().filter(|(config, _)| config.revoked_keys.is_none());
        let revoked_at = revoked_at.or_else(|| without.map(|(_, words)| words.clone()));
        let list =
            |found: Option<(Vec<u8>, Timestamp)>| Revocations::of(&found.map(|(bytes, _)| bytes).unwrap_or_default());
        let trust = signers.map(|(bytes, at)| {
            let trust = Trust::of(Remains::of(&bytes, Some(&TimeZone::system())), list(revoked));
            (trust.also_revoking(list(broken)), words(at))
        });
        Last { config, trust, revoked: revoked_at, seal }
    }

    /// Copies the files that are good. Removes from the copies the keys that a broken file no longer lists. Must run as root.
    ///
    /// # Errors
    /// Fails if the directory or a copy cannot be written. The error says why.
    pub fn update(&self, path: &Path) -> Result<(), String> {
        self.prepare().and_then(|()| self.update_all(path)).map_err(|e| {
            format!("posternd cannot keep last good copies in {}: {e}. A start with a broken file then trusts nobody, or goes by older copies. Repair the directory and \
                 reload posternd (systemctl reload posternd)", self.0.display())
        })
    }

    fn update_all(&self, path: &Path) -> io::Result<()> {
        let at = |path: &Path| Contents::of(files::open(path));
        let found = at(path);
        let nobody_was_revoked = self.last().config.is_some_and(|(config, _)| config.revoked_keys.is_none());
        // A file without a setting must not replace a copy.
        let loaded = Config::of(path, &found).ok().filter(|_| !says_nothing(&found));
        if loaded.is_some()
            && let Some(bytes) = &found.bytes
        {
            self.write(CONFIGURATION, bytes)?;
        }
        let Some(config) = loaded.or_else(|| self.last().config.map(|(config, _)| config)) else { return Ok(()) };
        self.update_signers(&at(&config.trust_file))?;
        match &config.revoked_keys {
            Some(path) => {
                if nobody_was_revoked {
                    self.write(REVOKED, b"")?;
                }
                self.update_revoked(&at(path))
            }
            None => self.remove(REVOKED).and_then(|()| self.remove(BROKEN)),
        }
    }

    fn update_signers(&self, found: &Contents) -> io::Result<()> {
        let Some(bytes) = &found.bytes else { return Ok(()) };
        let zone = TimeZone::system();
        let remains = Remains::of(bytes, Some(&zone));
        if found.wrong.is_none() && remains.errors().is_empty() {
            return self.write(SIGNERS, bytes);
        }
        let Some(good) = self.read(SIGNERS).and_then(|(bytes, _)| String::from_utf8(bytes).ok()) else { return Ok(()) };
        let before = Trust::of(Remains::of(good.as_bytes(), Some(&zone)), Revocations::default());
        if is_noise(bytes, &remains, &before) {
            return Ok(());
        }
        self.write(SIGNERS, remains.keep(&good, Some(&zone)).as_bytes())
    }

    fn update_revoked(&self, found: &Contents) -> io::Result<()> {
        let Some(bytes) = &found.bytes else { return Ok(()) };
        if found.wrong.is_none() && Revocations::of(bytes).error().is_none() {
            return self.write(REVOKED, bytes).and_then(|()| self.remove(BROKEN));
        }
        self.write(BROKEN, bytes)
    }

    fn directory(&self) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = File::from(openat(CWD, &self.0, flags, Mode::empty())?);
        let found = directory.metadata()?;
        if found.uid() != 0 || found.mode() & 0o022 != 0 {
            return Err(io::Error::other("is not root's alone (chown root, chmod 0700)"));
        }
        Ok(directory)
    }

    fn read(&self, name: &str) -> Option<(Vec<u8>, Timestamp)> {
        let directory = self.directory().ok()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(directory, name, flags, Mode::empty()).ok()?);
        let found = file.metadata().ok()?;
        if !found.is_file() || found.uid() != 0 || found.mode() & 0o022 != 0 {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes).ok()?;
        Some((bytes, Timestamp::from_second(found.mtime()).ok()?))
    }

    /// Replaces the copy atomically and durably. An equal copy keeps its time.
    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if self.read(name).is_some_and(|(known, _)| known == bytes) {
            return Ok(());
        }
        let directory = self.directory()?;
        let fresh = format!("{name}.new");
        let _ = unlinkat(&directory, &fresh, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&directory, &fresh, flags, Mode::from_raw_mode(0o600))?);
        file.write_all(bytes)?;
        file.sync_all()?;
        renameat(&directory, &fresh, &directory, name)?;
        directory.sync_all()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(self.directory()?, name, AtFlags::empty()) {
            Err(error) if error != rustix::io::Errno::NOENT => Err(error.into()),
            _ => Ok(()),
        }
    }
}
