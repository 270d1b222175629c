//! Reads the lines of `known_hosts` files as ssh does. Never decides which host a line is about.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use ssh_key::{
    PublicKey,
    known_hosts::{Entry, HostPatterns, Marker},
};

use crate::failure::{Failure, Kind, Result};

/// The marker of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// None: the host has this key.
    Known,
    /// `@cert-authority`: the key signs certificates of hosts.
    Authority,
    /// `@revoked`: ssh refuses the key and its certificates.
    Revoked,
}

/// A line with its place.
#[derive(Clone, Debug)]
pub struct Line {
    /// The file.
    pub file: PathBuf,
    /// The line number, from 1.
    pub number: usize,
    /// The marker.
    pub says: Says,
    /// The key.
    pub key: PublicKey,
}

/// All lines of these files, each with its host patterns. Skips malformed lines, as ssh does.
///
/// # Errors
/// Fails if an existing file is unreadable.
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
    // ssh accepts any run of blanks between fields, the parser only one space.
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
