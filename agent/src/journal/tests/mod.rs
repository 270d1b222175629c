//! Small journals: crashes, a full disk, and changes by hand.

use super::*;

mod append_failure;
mod files;
mod migration;
mod retention;
mod snapshot;
use jiff::Timestamp;
use postern_core::ledger::{Event, Room};
use postern_core::time::BootNanos;
use uuid::Uuid;

fn record(seq: u64) -> Record {
    let event = Event::Unverified { counts: [("KEY_UNKNOWN".to_owned(), seq)].into() };
    Record { seq, time: Timestamp::UNIX_EPOCH, boot: BootNanos(seq), boot_id: Uuid::nil(), message: None, event }
}

const FIRST: &str = "00000000000000000001.jsonl";

fn open(dir: &tempfile::TempDir) -> Result<Opened, JournalError> {
    Journal::open(dir.path(), Settings::default())
}

fn file(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join(segments::DIR).join(FIRST)
}

fn head_file(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join(segments::DIR).join(head::FILE)
}

fn filled(lines: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = open(&dir).unwrap().journal;
    journal.append(&(1..=lines).map(record).collect::<Vec<_>>()).unwrap();
    dir
}

#[test]
fn what_was_appended_is_read_again() {
    let dir = filled(3);
    let mut opened = open(&dir).unwrap();
    assert_eq!((opened.ledger.last_seq(), opened.torn), (3, 0));
    opened.journal.append(&[record(4)]).unwrap();
    let head = opened.journal.head().to_owned();
    let again = open(&dir).unwrap();
    assert_eq!((again.ledger.last_seq(), again.journal.head()), (4, &head[..]));
}

#[test]
fn a_torn_last_line_is_cut_off_wherever_it_was_torn() {
    let dir = filled(1);
    let path = file(&dir);
    let first = std::fs::read(&path).unwrap().len();
    let head = std::fs::read(head_file(&dir)).unwrap();
    open(&dir).unwrap().journal.append(&[record(2)]).unwrap();
    let whole = std::fs::read(&path).unwrap();
    for cut in first + 1..whole.len() {
        // The crash comes before the sync, so before the head is written.
        std::fs::write(&path, &whole[..cut]).unwrap();
        std::fs::write(head_file(&dir), &head).unwrap();
        let opened = open(&dir).unwrap();
        assert_eq!((opened.ledger.last_seq(), opened.torn), (1, (cut - first) as u64));
        assert_eq!(std::fs::read(&path).unwrap(), &whole[..first]);
    }
}

/// The file and the line of the damage that opening finds.
fn damage(dir: &tempfile::TempDir) -> Option<(String, u64)> {
    match open(dir) {
        Err(JournalError::Damaged { path, line, .. }) => {
            Some((path.file_name().unwrap().to_str().unwrap().to_owned(), line))
        }
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    }
}

#[test]
fn lines_cut_off_the_end_are_missed_at_every_boundary() {
    const LINES: u64 = 20;
    let dir = filled(LINES);
    let path = file(&dir);
    let whole = std::fs::read(&path).unwrap();
    let ends = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1);
    let boundaries: Vec<usize> = [0].into_iter().chain(ends).collect();
    for (left, cut) in boundaries[..boundaries.len() - 1].iter().enumerate() {
        for torn in [0, 1] {
            std::fs::write(&path, &whole[..cut + torn]).unwrap();
            assert_eq!(damage(&dir), Some((FIRST.to_owned(), left as u64 + 1)), "{left} lines and {torn} bytes");
            assert_eq!(std::fs::read(&path).unwrap(), &whole[..cut + torn], "the evidence is left as it is");
        }
    }
    std::fs::remove_file(&path).unwrap();
    assert_eq!(damage(&dir), Some((FIRST.to_owned(), 1)), "the whole journal is gone");
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(damage(&dir), None, "nothing was written in between");
}

#[test]
fn a_head_that_lags_behind_is_caught_up_with() {
    let dir = filled(1);
    let old = std::fs::read(head_file(&dir)).unwrap();
    open(&dir).unwrap().journal.append(&[record(2), record(3)]).unwrap();
    std::fs::write(head_file(&dir), &old).unwrap();
    assert_eq!(open(&dir).unwrap().ledger.last_seq(), 3);
    let caught_up = HeadFile::open(&dir.path().join(segments::DIR)).unwrap().read().unwrap();
    assert_eq!(caught_up.map(|head| head.seq), Some(3));
}

#[test]
fn any_other_head_is_found() {
    let dir = filled(2);
    let path = head_file(&dir);
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        std::fs::write(&path, &changed).unwrap();
        // A changed number may name an earlier line, but that line has another hash.
        assert!(damage(&dir).is_some(), "byte {at}");
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(damage(&dir).is_some(), "{at} bytes");
    }
    std::fs::remove_file(&path).unwrap();
    assert!(damage(&dir).is_some(), "gone");
}

#[test]
fn a_full_disk_leaves_the_journal_as_it_was() {
    let dir = filled(1);
    let mut journal = open(&dir).unwrap().journal;
    journal.files.as_mut().unwrap().newest.file = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    assert!(journal.append(&[record(2)]).is_err());
    assert_eq!(open(&dir).unwrap().ledger.last_seq(), 1);
}
