//! A single-file journal of schema 1, made by the version that wrote it.

use std::fs;

use super::*;

const TEXT: &str = include_str!("../fixtures/schema-1.jsonl");
const HEAD: &str = include_str!("../fixtures/schema-1.head");
const LINES: u64 = 8;

fn old() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("journal.jsonl"), TEXT).unwrap();
    fs::write(dir.path().join("journal.head"), HEAD).unwrap();
    dir
}

#[test]
fn a_single_file_becomes_the_first_segment_and_goes_on() {
    let dir = old();
    let mut opened = open(&dir).unwrap();
    assert_eq!((opened.ledger.last_seq(), opened.lines), (LINES, LINES));
    let held = opened.ledger.newest_before(u64::MAX).next().unwrap();
    assert_eq!((held.seq, &held.grant().unwrap().ticket[..], held.usage.packets_in), (3, "OPS-7", 7));
    assert!(held.ending.is_some());
    opened.journal.append(&[record(LINES + 1)]).unwrap();
    let text = fs::read_to_string(file(&dir)).unwrap();
    assert!(text.starts_with(TEXT), "not one byte of the old lines is another");
    assert!(text[TEXT.len()..].starts_with("{\"schema\":3,"));
    let mut left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [segments::DIR]);
    assert_eq!(open(&dir).unwrap().ledger.last_seq(), LINES + 1);
}

#[test]
fn an_interrupted_move_goes_on() {
    for moved in 0..=2 {
        let dir = old();
        let moving = dir.path().join("journal.moving");
        fs::create_dir(&moving).unwrap();
        for (from, to) in [("journal.jsonl", FIRST), ("journal.head", "head")].into_iter().take(moved) {
            fs::rename(dir.path().join(from), moving.join(to)).unwrap();
        }
        assert_eq!(open(&dir).unwrap().ledger.last_seq(), LINES, "after {moved} files");
    }
}

#[test]
fn damage_is_found_as_before() {
    let dir = old();
    fs::write(dir.path().join("journal.jsonl"), &TEXT[..TEXT.trim_end().rfind('\n').unwrap() + 1]).unwrap();
    assert_eq!(damage(&dir), Some((FIRST.to_owned(), LINES)));
}

#[test]
fn a_single_file_beside_the_directory_is_not_passed_over() {
    let dir = filled(2);
    fs::write(dir.path().join("journal.jsonl"), TEXT).unwrap();
    assert!(matches!(open(&dir), Err(JournalError::Two { .. })));
}
