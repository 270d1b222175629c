//! The journal as files on the disk, read without posternd: tests look at what a crash has left before the next start.
//!
//! Knows only what docs/security.md tells auditors: JSON lines with `seq` and `prev` somewhere in the state directory. It never writes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Every whole line below `state`, by its number. A torn last line is passed over, as posternd cuts it off.
///
/// # Panics
/// Where two lines of one number differ, or one is missing in between.
#[must_use]
pub fn lines(state: &Path) -> Vec<Value> {
    let mut found = BTreeMap::new();
    files(state).iter().for_each(|file| gather(file, &mut found));
    let numbers: Vec<u64> = found.keys().copied().collect();
    let gap = numbers.windows(2).find(|pair| pair[1] != pair[0] + 1);
    assert_eq!(gap, None, "lines are missing in {}", state.display());
    found.into_values().collect()
}

/// Every file below `state`.
#[must_use]
pub fn files(state: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(state).into_iter().flatten().flatten().map(|entry| entry.path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn gather(path: &Path, found: &mut BTreeMap<u64, Value>) {
    let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let Ok(value) = serde_json::from_str::<Value>(line) else { continue };
        let is_line = value["event"].is_string() && value["prev"].is_string();
        let (Some(seq), true) = (value["seq"].as_u64(), is_line) else { continue };
        let other = found.insert(seq, value.clone());
        assert!(other.is_none_or(|other| other == value), "two lines {seq}");
    }
}
