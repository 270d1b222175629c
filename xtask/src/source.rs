//! The checkout's own files, as `tidy` reads them.

use crate::sh::{self, Result};
use std::path::{Path, PathBuf};

/// One text file of the checkout.
pub struct File {
    /// Path from the top of the checkout.
    pub path: PathBuf,
    pub text: String,
}

impl File {
    /// Whether it is Rust.
    pub fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "rs")
    }

    /// Whether it holds nothing but tests.
    pub fn is_test(&self) -> bool {
        self.path.ends_with("tests.rs") || self.path.components().any(|part| part.as_os_str() == "tests")
    }
}

/// Every text file that belongs to the repository: not what is built, and not what version control keeps.
pub fn files() -> Result<Vec<File>> {
    let top = sh::root();
    let mut found = Vec::new();
    walk(&top, &top, &mut found)?;
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(top: &Path, folder: &Path, found: &mut Vec<File>) -> Result<()> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in std::fs::read_dir(folder).map_err(told)? {
        let path = entry.map_err(told)?.path();
        let name = path.file_name().unwrap_or_default();
        if name == "target" || name == ".git" || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            walk(top, &path, found)?;
        } else if let Ok(text) = std::fs::read_to_string(&path) {
            let path = path.strip_prefix(top).unwrap_or(&path).to_path_buf();
            found.push(File { path, text });
        }
    }
    Ok(())
}
