//! Appends while the disk takes no line, and after it recovers.

use super::*;

fn look(dir: &tempfile::TempDir) -> Opened {
    Journal::look(dir.path(), Settings::default()).unwrap()
}

fn found(outcome: Result<Vec<u8>, AppendFailure>) -> Opened {
    match outcome {
        Err(AppendFailure::Found(opened)) => *opened,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_can_only_be_read_counts_as_far_as_it_was_durable() {
    let dir = filled(2);
    let head = std::fs::read(head_file(&dir)).unwrap();
    open(&dir).unwrap().journal.append(&[record(3)]).unwrap();
    assert_eq!(look(&dir).ledger.last_seq(), 3);
    // The state after a crash before the sync of the line.
    std::fs::write(head_file(&dir), head).unwrap();
    let mut seen = look(&dir);
    assert_eq!((seen.ledger.last_seq(), seen.torn), (2, 0));
    // The disk works again, and the line is there. It counts now, but the decision without it does not.
    let opened = found(seen.journal.append(&[record(3)]));
    assert_eq!((opened.ledger.last_seq(), seen.journal.reader().head()), (3, opened.journal.head().to_owned()));
    let mut journal = opened.journal;
    journal.append(&[record(4)]).unwrap();
    assert_eq!(open(&dir).unwrap().ledger.last_seq(), 4);
}

#[test]
fn it_is_opened_by_the_first_line_that_the_disk_takes() {
    let dir = filled(2);
    let mut journal = look(&dir).journal;
    let reader = journal.reader();
    journal.append(&[record(3)]).unwrap();
    assert_eq!(reader.head(), journal.head());
    assert!(reader.verify().unwrap().is_none());
    assert_eq!(open(&dir).unwrap().ledger.last_seq(), 3);
}

#[test]
fn what_nobody_could_read_is_taken_in_when_it_can_be_and_set_aside_if_it_is_damaged() {
    let dir = filled(2);
    let mut journal = Journal::unread(dir.path(), Settings::default()).journal;
    assert_eq!(found(journal.append(&[record(1)])).ledger.last_seq(), 2);
    let whole = std::fs::read(file(&dir)).unwrap();
    std::fs::write(file(&dir), &whole[1..]).unwrap();
    let opened = found(journal.append(&[record(1)]));
    assert_eq!((opened.ledger.last_seq(), opened.set_aside.map(|aside| aside.line)), (0, Some(1)));
}

#[test]
fn a_failed_sync_is_put_right_before_the_next_line() {
    let dir = filled(2);
    let mut journal = open(&dir).unwrap().journal;
    let good = std::fs::read(file(&dir)).unwrap();
    // A failed sync may leave a part of lines that posternd never reported.
    std::fs::write(file(&dir), [&good[..], b"{\"seq\":3"].concat()).unwrap();
    journal.broken = true;
    journal.append(&[record(3)]).unwrap();
    assert!(!journal.broken && std::fs::read(file(&dir)).unwrap().starts_with(&good));
    assert_eq!(open(&dir).unwrap().ledger.last_seq(), 3);
    // posternd appends nothing after changed lines that count.
    let mut journal = open(&dir).unwrap().journal;
    let mut bad = std::fs::read(file(&dir)).unwrap();
    let at = bad.len() - 10;
    bad[at] ^= 1;
    std::fs::write(file(&dir), bad).unwrap();
    journal.broken = true;
    assert!(journal.append(&[record(4)]).is_err() && journal.broken);
}

#[test]
fn lines_that_do_not_follow_are_not_written() {
    let dir = filled(2);
    let mut journal = open(&dir).unwrap().journal;
    assert!(journal.append(&[record(4)]).is_err());
    journal.append(&[record(3)]).unwrap();
    assert_eq!(open(&dir).unwrap().ledger.last_seq(), 3);
}
