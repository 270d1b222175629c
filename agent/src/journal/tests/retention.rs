//! Old segments are removed, and the rest still proves that nothing else is missing.

use std::fs;

use jiff::SignedDuration;
use postern_core::time::Now;
use postern_core::wall::ClockState;

use super::*;

const LINES: u64 = 20;
const DAY: i64 = 24 * 3600;

fn settings(keep_days: Option<u32>, keep_bytes: u64) -> Settings {
    Settings { segment_bytes: 300, keep_days, keep_bytes, room: Room::DEFAULT }
}

/// Two lines in each segment, one line each day, long ago and in another boot.
fn days() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path(), settings(None, u64::MAX)).unwrap().journal;
    for seq in 1..=LINES {
        let time = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seq.cast_signed() * DAY);
        journal.append(&[Record { time, ..record(seq) }]).unwrap();
    }
    dir
}

fn now(day: i64) -> Now {
    let wall = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(day * DAY);
    Now { boot: BootNanos(1), wall, clock: ClockState::Synchronised, boot_id: Uuid::from_u128(1) }
}

fn firsts(dir: &tempfile::TempDir) -> Vec<u64> {
    segments::list(&dir.path().join(segments::DIR)).unwrap()
}

fn through(events: &[Event]) -> Vec<u64> {
    let through =
        |event: &Event| if let Event::Pruned { through, .. } = event { *through } else { panic!("{event:?}") };
    events.iter().map(through).collect()
}

fn journal(dir: &tempfile::TempDir, settings: Settings) -> Journal {
    let journal = Journal::open(dir.path(), settings).unwrap().journal;
    assert_eq!(journal.reader().verify().unwrap(), None);
    journal
}

/// Records the removals without removing a segment.
fn record_outdated(journal: &mut Journal, needed: u64, day: i64) -> Vec<u64> {
    let events = journal.outdated(needed, &now(day));
    let seq = journal.head.seq + 1;
    let record = |(seq, event)| Record { event, time: now(day).wall, ..record(seq) };
    journal.append(&(seq..).zip(events.clone()).map(record).collect::<Vec<_>>()).unwrap();
    through(&events)
}

#[test]
fn what_is_too_old_or_too_much_goes_and_no_more() {
    let dir = days();
    let outdated = |settings, needed, day| through(&journal(&dir, settings).outdated(needed, &now(day)));
    let by_age = settings(Some(10), u64::MAX);
    assert_eq!(outdated(by_age, u64::MAX, 20), [2, 4, 6, 8], "older than ten days, whole segments only");
    assert_eq!(outdated(by_age, 6, 20), [2, 4], "what a start still needs stays");
    assert_eq!(outdated(by_age, u64::MAX, 1000).last(), Some(&18), "the newest stays");
    let bytes: u64 = firsts(&dir)
        .iter()
        .map(|first| fs::metadata(segments::path(&dir.path().join(segments::DIR), *first)).unwrap().len())
        .sum();
    assert!(outdated(settings(None, bytes), u64::MAX, 21).is_empty());
    assert_eq!(outdated(settings(None, bytes - 1), u64::MAX, 21), [2]);
    let untrusted = Now { clock: ClockState::Unsynchronised, ..now(1000) };
    assert_eq!(
        journal(&dir, by_age).outdated(u64::MAX, &untrusted),
        [],
        "a clock that nobody believes removes nothing"
    );
    let same_boot = Now { boot_id: Uuid::nil(), boot: BootNanos(3_600_000_000_000), ..now(1000) };
    assert_eq!(journal(&dir, by_age).outdated(u64::MAX, &same_boot), [], "what is of this hour stays");
    let unverified = Journal::open(dir.path(), by_age).unwrap().journal;
    assert_eq!(unverified.outdated(u64::MAX, &now(1000)), [], "nothing goes before it was verified");
    let path = segments::path(&dir.path().join(segments::DIR), 5);
    let damaged = journal(&dir, by_age);
    fs::write(&path, fs::read_to_string(&path).unwrap().replacen("KEY", "KEX", 1)).unwrap();
    assert!(damaged.reader().verify().unwrap().is_some());
    assert_eq!(damaged.outdated(u64::MAX, &now(1000)), [], "evidence stays");
}

#[test]
fn a_pruned_journal_is_whole_wherever_the_removal_was_interrupted() {
    for removed in 0..=4 {
        let dir = days();
        let mut opened = journal(&dir, settings(Some(10), u64::MAX));
        assert_eq!(record_outdated(&mut opened, u64::MAX, 20), [2, 4, 6, 8]);
        opened.remove(removed * 2).unwrap();
        let first = removed * 2 + 1;
        assert_eq!(firsts(&dir)[0], first);
        let mut again = journal(&dir, settings(Some(10), u64::MAX));
        let page = again.reader().scan(&scan::Filter { limit: 100, ..scan::Filter::default() }).unwrap();
        assert_eq!((page.first, page.damage, page.entries.len() as u64), (first, None, LINES + 4 - first + 1));
        // Again, even after the record of the first removal is removed.
        for day in [25, 30, 1000] {
            let through = record_outdated(&mut again, u64::MAX, day).into_iter().max();
            again.remove(through.unwrap_or(0)).unwrap();
            again = journal(&dir, settings(Some(10), u64::MAX));
        }
        assert!(firsts(&dir)[0] > LINES - 2);
    }
}

#[test]
fn whoever_removes_more_or_changes_what_is_left_is_found() {
    let dir = days();
    let mut opened = journal(&dir, settings(Some(10), u64::MAX));
    record_outdated(&mut opened, u64::MAX, 20);
    opened.remove(8).unwrap();
    let reader = opened.reader();
    let damage = || match Journal::open(dir.path(), settings(None, u64::MAX)) {
        Err(JournalError::Damaged { line, .. }) => Some(line),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    };
    assert_eq!(damage(), None);
    for &first in &firsts(&dir) {
        let path = segments::path(&dir.path().join(segments::DIR), first);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&path, &changed).unwrap();
            let line = first + whole[..at].iter().filter(|b| **b == b'\n').count() as u64;
            // A changed hash in the oldest line looks like missing lines before it.
            let found = damage().unwrap_or_else(|| panic!("byte {at} of line {line}"));
            assert!(found == line || found == line + 1, "byte {at} of line {line}: {found}");
            assert!(at % 16 != 0 || reader.verify().unwrap().is_some(), "byte {at} of line {line}");
        }
        fs::remove_file(&path).unwrap();
        let next = if first == 9 { 11 } else { first };
        assert_eq!(damage(), Some(next), "{first} is gone");
        assert!(reader.verify().unwrap().unwrap().starts_with(&format!("line {next} ")), "{first} is gone");
        fs::write(&path, &whole).unwrap();
    }
    assert_eq!((damage(), reader.verify().unwrap()), (None, None));
}
