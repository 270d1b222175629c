//! The guest's root: one archive in memory (cpio, as the kernel unpacks it) of this build's programs and this machine's.
//!
//! Owns what goes in and the archive's form. Programs bring the libraries that the loader would find for them here.

use super::kernel::Kernel;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const DIRECTORY: u32 = 0o040_755;
const LINK: u32 = 0o120_777;

/// Files by their path without the first slash. Sorted, so a folder comes before what is in it.
#[derive(Debug, Default)]
pub struct Image {
    entries: BTreeMap<String, (u32, Vec<u8>)>,
}

impl Image {
    /// A file with these bytes and mode, and the folders above it.
    #[must_use]
    pub fn file(mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        self.add(path, 0o100_000 | mode, bytes.into());
        self
    }

    /// Empty folders.
    #[must_use]
    pub fn folders(mut self, paths: &[&str]) -> Self {
        paths.iter().for_each(|path| self.add(path, DIRECTORY, Vec::new()));
        self
    }

    /// A symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, to: &str) -> Self {
        self.add(path, LINK, to.as_bytes().to_vec());
        self
    }

    /// One of this machine's programs at its own place, with its libraries.
    ///
    /// # Panics
    /// Where it is not there.
    #[must_use]
    pub fn host_program(mut self, path: &Path) -> Self {
        let bytes = fs::read(path)
            .unwrap_or_else(|error| panic!("{}: {error} (cargo xtask setup installs it)", path.display()));
        self.add(&path.display().to_string(), 0o100_755, bytes);
        self.libraries(path);
        self
    }

    /// A program of this build in the guest's folder `/t`, without what only debuggers read, and its libraries.
    ///
    /// # Panics
    /// Where it is not there, or `strip` fails.
    #[must_use]
    pub fn built(mut self, path: &Path) -> Self {
        let stripped = tempfile::NamedTempFile::new().expect("a file");
        let done = Command::new("strip").arg("-o").arg(stripped.path()).arg(path).status().expect("strip");
        assert!(done.success(), "strip {}: {done}", path.display());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.add(&format!("t/{name}"), 0o100_755, fs::read(stripped.path()).expect("a program"));
        self.libraries(path);
        self
    }

    /// Kernel modules that the guest loads in this order.
    #[must_use]
    pub fn modules(mut self, kernel: &Kernel, names: &[&str]) -> Self {
        for (number, (name, bytes)) in kernel.load_order(names).into_iter().enumerate() {
            self.add(&format!("modules/{number:03}-{name}.ko"), 0o100_644, bytes);
        }
        self
    }

    fn libraries(&mut self, program: &Path) {
        let output = Command::new("ldd").arg(program).output().expect("ldd");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        for path in text.split_whitespace().filter(|word| word.starts_with('/')) {
            let bytes = fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"));
            self.add(path, 0o100_755, bytes);
        }
    }

    fn add(&mut self, path: &str, mode: u32, bytes: Vec<u8>) {
        let path = path.trim_start_matches('/');
        for folder in Path::new(path).ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            self.entries.entry(folder.display().to_string()).or_insert((DIRECTORY, Vec::new()));
        }
        self.entries.insert(path.to_owned(), (mode, bytes));
    }

    /// Writes the archive into `folder` and says where it is.
    ///
    /// # Panics
    /// Where the disk refuses.
    #[must_use]
    pub fn write(&self, folder: &Path) -> PathBuf {
        let mut archive = Vec::new();
        for (number, (path, (mode, bytes))) in self.entries.iter().enumerate() {
            member(&mut archive, number + 1, path, *mode, bytes);
        }
        member(&mut archive, 0, "TRAILER!!!", 0, &[]);
        let path = folder.join("root.cpio");
        fs::write(&path, archive).expect("the archive");
        path
    }
}

/// One member in the form "newc" (cpio(5)): numbers as eight hexadecimal digits, name and data padded to four bytes.
fn member(archive: &mut Vec<u8>, inode: usize, path: &str, mode: u32, bytes: &[u8]) {
    let (links, name) = (if mode & 0o170_000 == DIRECTORY & 0o170_000 { 2 } else { 1 }, path.len() + 1);
    let fields = [inode, mode as usize, 0, 0, links, 0, bytes.len(), 0, 0, 0, 0, name, 0];
    archive.extend_from_slice(b"070701");
    fields.iter().for_each(|field| archive.extend_from_slice(format!("{field:08X}").as_bytes()));
    archive.extend_from_slice(path.as_bytes());
    archive.push(0);
    pad(archive);
    archive.extend_from_slice(bytes);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}
