//! The lines of `known_hosts` files.
//!
//! Owns reading them as ssh does: markers, and what is passed over. It never decides which host a line is about.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ssh_key::{
    PublicKey,
    known_hosts::{Entry, HostPatterns, Marker},
};

use crate::failure::{Failure, Kind, Result};

/// What a line says about its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// The host has it.
    Known,
    /// It signs certificates of hosts (`@cert-authority`).
    Authority,
    /// Whoever shows it, or a certificate by it, is refused (`@revoked`).
    Revoked,
}

/// A line that names the host.
#[derive(Clone, Debug)]
pub struct Line {
    /// The file.
    pub file: PathBuf,
    /// From 1.
    pub number: usize,
    /// What it says.
    pub says: Says,
    /// The key.
    pub key: PublicKey,
}

/// All lines of these files, with whom they name. What cannot be read as a line is passed over, as ssh does.
///
/// # Errors
/// When a file is there but cannot be read.
pub fn all(files: &[PathBuf]) -> Result<Vec<(HostPatterns, Line)>> {
    let mut lines = Vec::new();
    for file in files {
        let text = read(file)?;
        lines.extend(text.split('\n').enumerate().filter_map(|(at, line)| parse(file, at + 1, line)));
    }
    Ok(lines)
}

fn read(file: &Path) -> Result<String> {
    match fs::read(file) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(String::new())
        }
        Err(error) => Err(Failure::new(Kind::Local, format!("cannot read {}: {error}", file.display()))
            .next("correct the file or its mode; until then it is not known which host keys you trust")),
    }
}

fn parse(file: &Path, number: usize, line: &str) -> Option<(HostPatterns, Line)> {
    // ssh takes any run of blanks between fields, the parser only one space.
    let line = line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let entry: Entry = line.parse().ok()?;
    let says = match entry.marker() {
        None => Says::Known,
        Some(Marker::CertAuthority) => Says::Authority,
        Some(Marker::Revoked) => Says::Revoked,
    };
    let line = Line { file: file.to_owned(), number, says, key: entry.public_key().clone() };
    Some((entry.host_patterns().clone(), line))
}
