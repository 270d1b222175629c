//! Reads files that users name on the command line.

use std::{
    fs,
    io::{self, Read as _},
    path::Path,
};

use crate::failure::{Failure, Kind, Result};

/// The whole file, or standard input for `-`. [`Kind::Usage`] if it is larger than `most` bytes.
pub(super) fn read(path: &Path, most: u64) -> Result<Vec<u8>> {
    let bytes = bounded(path, most + 1);
    let bytes = bytes.map_err(|error| Failure::new(Kind::Local, format!("{}: {error}", path.display())))?;
    if bytes.len() as u64 > most {
        let size = most / 1024;
        return Err(Failure::usage(format!("{} is larger than a host reads ({size} KiB)", path.display())));
    }
    Ok(bytes)
}

fn bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        io::stdin().take(limit).read_to_end(&mut bytes)?;
    } else {
        fs::File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}
