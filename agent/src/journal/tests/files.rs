//! Journals of several segments: rotation, and changes in any of the files.

use std::fs;

use super::*;

/// Two lines in each segment.
const SMALL: Settings = Settings { segment_bytes: 300, keep_days: None, keep_bytes: u64::MAX, room: Room::DEFAULT };

fn small(dir: &tempfile::TempDir) -> Result<Opened, JournalError> {
    Journal::open(dir.path(), SMALL)
}

/// A journal of `lines` lines, each with an append of its own.
fn lines(lines: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = small(&dir).unwrap().journal;
    for seq in 1..=lines {
        journal.append(&[record(seq)]).unwrap();
    }
    dir
}

fn segments_of(dir: &tempfile::TempDir) -> Vec<(u64, PathBuf)> {
    let dir = dir.path().join(segments::DIR);
    segments::list(&dir).unwrap().into_iter().map(|first| (first, segments::path(&dir, first))).collect()
}

/// The number of the damaged line that opening finds.
fn found(dir: &tempfile::TempDir) -> Option<u64> {
    match small(dir) {
        Err(JournalError::Damaged { line, .. }) => Some(line),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    }
}

#[test]
fn a_journal_of_segments_is_one_chain() {
    let dir = lines(7);
    let segments = segments_of(&dir);
    assert_eq!(segments.iter().map(|(first, _)| *first).collect::<Vec<_>>(), [1, 3, 5, 7]);
    let text: String = segments.iter().map(|(_, path)| fs::read_to_string(path).unwrap()).collect();
    let mut prev = GENESIS.to_owned();
    for line in text.lines() {
        assert_eq!(serde_json::from_str::<serde_json::Value>(line).unwrap()["prev"], prev);
        prev = chain::hash(line.as_bytes());
    }
    let mut opened = small(&dir).unwrap();
    assert_eq!((opened.ledger.last_seq(), opened.lines, opened.journal.head()), (7, 7, &prev[..]));
    opened.journal.append(&[record(8), record(9), record(10)]).unwrap();
    assert_eq!(segments_of(&dir).len(), 4, "a batch is never divided");
    assert_eq!(small(&dir).unwrap().ledger.last_seq(), 10);
}

#[test]
fn a_crash_in_the_middle_of_a_rotation_loses_nothing() {
    let dir = lines(4);
    let next = segments::path(&dir.path().join(segments::DIR), 5);
    for left in ["", "{\"schema\":3,\"seq\":5"] {
        fs::write(&next, left).unwrap();
        let mut opened = small(&dir).unwrap();
        assert_eq!((opened.ledger.last_seq(), opened.torn), (4, left.len() as u64));
        let page = opened.journal.reader().scan(&scan::Filter { limit: 9, ..scan::Filter::default() }).unwrap();
        assert_eq!((page.entries.len(), page.damage), (4, None));
        if !left.is_empty() {
            opened.journal.append(&[record(5)]).unwrap();
        }
    }
    assert_eq!(segments_of(&dir).last().map(|(first, _)| *first), Some(5));
    assert_eq!(small(&dir).unwrap().ledger.last_seq(), 5);
}

#[test]
fn any_changed_byte_of_any_segment_is_found_in_its_line_or_the_next() {
    let dir = lines(5);
    for (first, path) in segments_of(&dir) {
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            for bit in [1, 0x80] {
                let mut changed = whole.clone();
                changed[at] ^= bit;
                fs::write(&path, &changed).unwrap();
                let line = first + whole[..at].iter().filter(|b| **b == b'\n').count() as u64;
                let found = found(&dir).unwrap_or_else(|| panic!("byte {at} of line {line}"));
                assert!(found == line || found == line + 1, "byte {at} of line {line}: {found}");
                assert_eq!(fs::read(&path).unwrap(), changed, "the evidence is left as it is");
            }
        }
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(found(&dir), None);
}

#[test]
fn a_segment_that_is_missing_cut_short_or_twice_there_is_found() {
    let dir = lines(7);
    let journal = small(&dir).unwrap().journal;
    let scanned = || journal.reader().scan(&scan::Filter::default()).unwrap().damage;
    assert_eq!(scanned(), None);
    for (first, path) in segments_of(&dir) {
        let whole = fs::read(&path).unwrap();
        let second = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for (cut, line) in [(0, first), (second / 2, first), (second, first + 1)] {
            if cut == whole.len() {
                continue;
            }
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(found(&dir), Some(line), "{first} cut to {cut} bytes");
            let said = scanned().unwrap();
            assert!(said.starts_with(&format!("line {line} ")), "{first} cut to {cut} bytes: {said}");
        }
        fs::remove_file(&path).unwrap();
        let (opened, said) = (found(&dir), scanned().unwrap());
        // If the oldest segments are gone, no record proves that retention removed them.
        let line = if first == 1 { 3 } else { first };
        assert_eq!(opened, Some(line), "{first} is gone");
        assert!(said.starts_with(&format!("line {line} ")), "{first} is gone: {said}");
        fs::write(&path, &whole).unwrap();
    }
    let copy = segments::path(&dir.path().join(segments::DIR), 8);
    fs::copy(&segments_of(&dir)[3].1, &copy).unwrap();
    assert!(found(&dir).is_some());
    fs::remove_file(copy).unwrap();
    assert_eq!((found(&dir), scanned()), (None, None));
}

#[test]
fn a_newer_schema_is_told_apart_from_damage() {
    let dir = lines(2);
    let path = file(&dir);
    let text = fs::read_to_string(&path).unwrap();
    let first = text.lines().next().unwrap().replacen("\"schema\":3", "\"schema\":4", 1).replacen(
        "\"event\":",
        "\"event\":\"never heard of\",\"kind\":",
        1,
    );
    let second = text.lines().nth(1).unwrap();
    let prev = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["prev"].to_string();
    let second = second.replacen(&prev(second), &format!("\"{}\"", chain::hash(first.as_bytes())), 1);
    let head = Head { seq: 2, hash: chain::hash(second.as_bytes()) };
    fs::write(&path, format!("{first}\n{second}\n")).unwrap();
    HeadFile::open(&dir.path().join(segments::DIR)).unwrap().write(&head).unwrap();
    match small(&dir).err().unwrap() {
        error @ JournalError::Newer { line: 1, schema: 4, known: 3, .. } => {
            assert!(error.to_string().contains("Install that version again"), "{error}");
        }
        other => panic!("{other}"),
    }
    // The schema's number proves nothing: a changed line is damage.
    fs::write(&path, text.replacen("\"schema\":3", "\"schema\":4", 1)).unwrap();
    assert_eq!(found(&dir), Some(2));
}
