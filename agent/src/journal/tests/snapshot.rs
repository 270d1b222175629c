//! Starts from snapshots: the lines that they save, and snapshots that do not fit.

use std::fs;
use std::time::Instant;

use postern_core::ledger::Seen;

use super::*;
use crate::journal::snapshot as kept;

const SEGMENTS: Settings = Settings { segment_bytes: 4096, keep_days: None, keep_bytes: u64::MAX, room: Room::DEFAULT };

fn start(dir: &tempfile::TempDir) -> Opened {
    Journal::open(dir.path(), SEGMENTS).unwrap()
}

/// A record that changes the ledger.
fn noted(seq: u64) -> Record {
    let message = Seen { id: Uuid::from_u128(seq.into()), not_after: Timestamp::from_second(900).unwrap() };
    Record { message: Some(message), ..record(seq) }
}

/// Appends lines `from..=to` and folds them.
fn add(opened: &mut Opened, from: u64, to: u64) {
    for batch in (from..=to).map(noted).collect::<Vec<_>>().chunks(256) {
        opened.journal.append(batch).unwrap();
        batch.iter().for_each(|record| opened.ledger.apply(record));
    }
}

fn snapshots(dir: &tempfile::TempDir) -> Vec<PathBuf> {
    kept::list(&dir.path().join(segments::DIR)).unwrap()
}

/// Forty lines, a snapshot at 20 and one at 30.
fn filled_twice() -> (tempfile::TempDir, Ledger) {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = start(&dir);
    for (from, to) in [(1, 20), (21, 30)] {
        add(&mut opened, from, to);
        opened.journal.snapshot(opened.ledger.clone()).unwrap().write().unwrap();
    }
    add(&mut opened, 31, 40);
    (dir, opened.ledger)
}

#[test]
fn a_start_reads_only_the_lines_after_the_newest_snapshot() {
    let (dir, ledger) = filled_twice();
    let opened = start(&dir);
    assert_eq!((opened.lines, opened.passed_over.len()), (10, 0));
    assert_eq!(opened.ledger, ledger);
    for path in snapshots(&dir) {
        fs::remove_file(path).unwrap();
    }
    let slow = start(&dir);
    assert_eq!((slow.lines, slow.ledger == ledger, slow.journal.head()), (40, true, opened.journal.head()));
}

#[test]
fn a_snapshot_at_the_last_line_of_a_segment_is_as_good_and_only_two_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = start(&dir);
    for line in 1..=60 {
        add(&mut opened, line, line);
        opened.journal.snapshot(opened.ledger.clone()).unwrap().write().unwrap();
        let again = start(&dir);
        assert_eq!((again.lines, again.ledger == opened.ledger, again.passed_over.len()), (0, true, 0), "{line}");
        // Later lines go to the journal that was opened again.
        opened = again;
        assert!(snapshots(&dir).len() <= 2);
    }
    assert!(opened.journal.files.as_ref().unwrap().newest.first > 1);
}

#[test]
fn any_changed_byte_of_a_snapshot_is_found_and_the_one_before_is_used() {
    let (dir, ledger) = filled_twice();
    let [older, newer] = &snapshots(&dir)[..] else { panic!() };
    let whole = fs::read(newer).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        for (bytes, step) in [(&changed[..], 1), (&whole[..at], 7)] {
            if at % step == 0 {
                fs::write(newer, bytes).unwrap();
                let (origin, passed_over) = kept::newest(newer.parent().unwrap()).unwrap();
                assert_eq!((origin.unwrap().head.seq, passed_over.len()), (20, 1), "byte {at}");
                assert!(passed_over[0].contains(newer.to_str().unwrap()), "{passed_over:?}");
            }
        }
    }
    let opened = start(&dir);
    assert_eq!((opened.lines, opened.ledger == ledger), (20, true));
    fs::write(older, "").unwrap();
    let opened = start(&dir);
    assert_eq!((opened.lines, opened.ledger == ledger, opened.passed_over.len()), (40, true, 2));
}

#[test]
fn a_snapshot_of_another_journal_is_passed_over() {
    let (dir, ledger) = filled_twice();
    let other = tempfile::tempdir().unwrap();
    let mut opened = start(&other);
    opened.journal.append(&[record(1)]).unwrap();
    add(&mut opened, 2, 35);
    opened.journal.snapshot(opened.ledger.clone()).unwrap().write().unwrap();
    let foreign = snapshots(&other).remove(0);
    fs::copy(&foreign, dir.path().join(segments::DIR).join(foreign.file_name().unwrap())).unwrap();
    let opened = start(&dir);
    assert_eq!((opened.lines, opened.ledger == ledger), (10, true));
    assert!(opened.passed_over[0].contains("does not fit this journal at line 35"), "{:?}", opened.passed_over);
}

#[test]
fn damage_before_a_snapshot_is_found_by_the_verification_and_after_it_at_start() {
    let (dir, ledger) = filled_twice();
    let segments: Vec<u64> = segments::list(&dir.path().join(segments::DIR)).unwrap();
    for &first in &segments {
        let path = segments::path(&dir.path().join(segments::DIR), first);
        let whole = fs::read(&path).unwrap();
        let mut line = first;
        for at in 0..whole.len() {
            if at % 41 == 0 {
                let mut changed = whole.clone();
                changed[at] ^= 1;
                fs::write(&path, &changed).unwrap();
                match Journal::open(dir.path(), SEGMENTS) {
                    Err(JournalError::Damaged { line: found, .. }) => {
                        assert!(found == line || found == line + 1, "{line}: {found}");
                    }
                    Err(other) => panic!("{other}"),
                    Ok(opened) => {
                        assert!(line <= 30 && opened.ledger == ledger, "line {line} passed");
                        let said = opened.journal.reader().verify().unwrap().unwrap();
                        let near = [line, line + 1].iter().any(|line| said.starts_with(&format!("line {line} ")));
                        assert!(near, "{line}: {said}");
                    }
                }
            }
            line += u64::from(whole[at] == b'\n');
        }
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!(start(&dir).journal.reader().verify().unwrap(), None);
}

#[test]
fn a_start_after_a_hundred_thousand_decisions_reads_next_to_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut opened = Journal::open(dir.path(), Settings::default()).unwrap();
    add(&mut opened, 1, 100_000);
    opened.journal.snapshot(opened.ledger.clone()).unwrap().write().unwrap();
    add(&mut opened, 100_001, 100_010);
    let began = Instant::now();
    let again = Journal::open(dir.path(), Settings::default()).unwrap();
    println!("a start after 100,010 decisions: {} lines read in {:?}", again.lines, began.elapsed());
    assert_eq!((again.lines, again.ledger.last_seq(), again.ledger == opened.ledger), (10, 100_010, true));
}
