//! Scans of small journals, and of a long one.

use std::time::{Duration, Instant};

use postern_core::envelope::Signer;
use postern_core::grant::{Grant, Use};
use postern_core::request::EndCause;
use postern_core::time::BootNanos;

use super::*;
use crate::journal::Settings;
use crate::journal::{Journal, segments};

fn id(seq: u64) -> Uuid {
    Uuid::from_u128(seq.into())
}

fn grant(seq: u64, who: &str, port: &str, source: &str) -> Event {
    let signer = |principal: String, fingerprint: &str| Signer {
        principal,
        fingerprint: fingerprint.to_owned(),
        certificate: None,
    };
    let grant = Grant {
        approvers: vec![signer(format!("{who}'s boss"), "SHA256:y")],
        ports: vec![port.parse().unwrap()],
        sources: vec![source.parse().unwrap()],
        expires: at(seq + 60),
        expires_boot: BootNanos(seq),
        justification: "a test".to_owned(),
        ..Grant::of_nothing(id(seq), signer(who.to_owned(), "SHA256:x"), at(seq), Uuid::nil())
    };
    Event::Granted { grant }
}

fn end(seq: u64, by: &str) -> Event {
    let ending = Ending { at: at(seq), cause: EndCause::Revoked, by: by.to_owned(), reason: "done".to_owned() };
    Event::Ended { grant: id(seq), ending, usage: Use::default() }
}

fn at(seq: u64) -> Timestamp {
    Timestamp::from_second(seq.cast_signed()).unwrap()
}

/// Line `n` is `events[n - 1]`, decided in second `n`.
fn journal(events: Vec<Event>) -> (tempfile::TempDir, Journal) {
    segmented(events, Settings::default().segment_bytes)
}

/// With a new segment at `segment_bytes`.
fn segmented(events: Vec<Event>, segment_bytes: u64) -> (tempfile::TempDir, Journal) {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings { segment_bytes, ..Settings::default() };
    let mut journal = Journal::open(dir.path(), settings).unwrap().journal;
    let record = |(n, event)| {
        let seq = n as u64 + 1;
        Record { seq, time: at(seq), boot: BootNanos(seq), boot_id: Uuid::nil(), message: None, event }
    };
    let records: Vec<_> = events.into_iter().enumerate().map(record).collect();
    // Small segments get one line each.
    for batch in records.chunks(if segment_bytes < 4096 { 1 } else { 256 }) {
        journal.append(batch).unwrap();
    }
    (dir, journal)
}

fn text(dir: &tempfile::TempDir) -> String {
    let dir = dir.path().join(segments::DIR);
    let firsts = segments::list(&dir).unwrap();
    firsts.iter().map(|first| std::fs::read_to_string(segments::path(&dir, *first)).unwrap()).collect()
}

fn few() -> (tempfile::TempDir, Journal) {
    journal(events())
}

fn events() -> Vec<Event> {
    vec![
        grant(1, "alice", "22/tcp", "10.1.0.0/24"),
        grant(2, "bob", "53/any", "fd00::7/128"),
        Event::Unlocked,
        end(1, "root"),
        end(2, ""),
        grant(6, "alice", "3389/tcp", "10.2.0.7/32"),
    ]
}

/// The same lines in one segment, and in one segment each.
fn both() -> [(tempfile::TempDir, Journal); 2] {
    let each = segmented(events(), 1);
    assert_eq!(segments::list(&each.0.path().join(segments::DIR)).unwrap().len(), 6);
    [few(), each]
}

fn all() -> Filter {
    Filter { limit: 1000, ..Filter::default() }
}

fn lines(journal: &Journal, filter: &Filter) -> Vec<u64> {
    let page = journal.reader().scan(filter).unwrap();
    assert_eq!((page.damage, &page.head[..]), (None, journal.head()));
    page.entries.iter().map(|entry| entry.seq).collect()
}

#[test]
fn every_filter_finds_its_lines_and_no_others() {
    let journals = both();
    let port = |text: &str| Filter { port: Some(text.parse().unwrap()), ..all() };
    let source = |text: &str| Filter { source: Some(text.parse().unwrap()), ..all() };
    let who = |text: &str| Filter { principal: Some(text.to_owned()), ..all() };
    for (filter, wanted) in [
        (all(), vec![6, 5, 4, 3, 2, 1]),
        (who("alice"), vec![6, 4, 1]),
        (who("root"), vec![4]),
        (who("bob's boss"), vec![5, 2]),
        (who("ali"), vec![]),
        (port("22/tcp"), vec![4, 1]),
        (port("22/udp"), vec![]),
        (port("53/udp"), vec![5, 2]),
        (source("10.1.0.9/32"), vec![4, 1]),
        (source("10.0.0.0/8"), vec![6, 4, 1]),
        (source("10.2.0.8/32"), vec![]),
        (source("fd00::/8"), vec![5, 2]),
        (Filter { since: Some(at(5)), ..all() }, vec![6, 5]),
        (Filter { until: Some(at(3)), ..all() }, vec![2, 1]),
        (Filter { kinds: vec!["ended", "unlocked"], ..all() }, vec![5, 4, 3]),
        (Filter { kinds: vec!["ended"], since: Some(at(5)), ..all() }, vec![5]),
        (Filter { before: Some(3), ..all() }, vec![2, 1]),
    ] {
        for (_dir, journal) in &journals {
            assert_eq!(lines(journal, &filter), wanted, "{filter:?}");
        }
    }
}

#[test]
fn a_line_says_whom_it_is_about_and_why_and_is_shown_as_it_is() {
    let (dir, journal) = segmented(events(), 1);
    let page = journal.reader().scan(&all()).unwrap();
    let text = text(&dir);
    assert!(page.entries.iter().rev().map(|entry| &entry.line[..]).eq(text.lines()));
    for entry in &page.entries {
        let json: serde_json::Value = serde_json::from_str(&entry.line).unwrap();
        assert_eq!(json["event"], entry.kind, "one spelling");
        assert!(Event::KINDS.contains(&entry.kind));
    }
    let ended = &page.entries[2];
    assert_eq!((ended.kind, &ended.principal[..], ended.grant), ("ended", "alice", Some(id(1))));
    assert_eq!(ended.reason, "it was revoked by root: done");
}

#[test]
fn pages_add_up_to_the_whole() {
    for (limit, (_dir, journal)) in (1..=7).flat_map(|limit| both().map(|journal| (limit, journal))) {
        let mut filter = Filter { limit, ..all() };
        let mut found = Vec::new();
        loop {
            let page = journal.reader().scan(&filter).unwrap();
            found.extend(page.entries.iter().map(|entry| entry.seq));
            if !page.more {
                break;
            }
            filter.before = found.last().copied();
        }
        assert_eq!(found, [6, 5, 4, 3, 2, 1], "pages of {limit}");
    }
}

#[test]
fn what_is_changed_while_the_agent_runs_is_found_and_located() {
    for (dir, journal) in both() {
        let dir = dir.path().join(segments::DIR);
        for first in segments::list(&dir).unwrap() {
            let path = segments::path(&dir, first);
            let whole = std::fs::read(&path).unwrap();
            let damage = |bytes: &[u8]| {
                std::fs::write(&path, bytes).unwrap();
                journal.reader().scan(&all()).unwrap().damage
            };
            for at in 0..whole.len() {
                let mut changed = whole.clone();
                changed[at] ^= 1;
                let line = first + whole[..at].iter().filter(|b| **b == b'\n').count() as u64;
                let said = damage(&changed).unwrap_or_else(|| panic!("byte {at} of line {line}"));
                let near = [line, line + 1].iter().any(|line| said.starts_with(&format!("line {line} ")));
                assert!(near, "byte {at} of line {line}: {said}");
            }
            for (at, _) in whole.iter().enumerate().filter(|(_, b)| **b == b'\n') {
                if at + 1 < whole.len() {
                    assert!(damage(&whole[..=at]).is_some_and(|said| said.ends_with("is missing")), "cut at {at}");
                }
            }
            assert_eq!(damage(&whole), None);
        }
    }
}

/// A changed file is read again even if it was verified and its size and time look the same.
#[test]
fn a_verified_segment_is_read_again_when_it_was_changed() {
    let (dir, journal) = segmented(events(), 1);
    let scanned = || journal.reader().scan(&Filter { before: Some(1), ..all() }).unwrap();
    let settled = || {
        let end = Instant::now() + Duration::from_secs(120);
        while scanned().lines > 1 {
            assert!(Instant::now() < end, "what did not change is not read again, but for the newest segment");
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    settled();
    let path = segments::path(&dir.path().join(segments::DIR), 2);
    let (whole, meta) = (std::fs::read(&path).unwrap(), std::fs::metadata(&path).unwrap());
    let mut changed = whole.clone();
    changed[40] ^= 1;
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &changed, 0).unwrap();
    file.set_modified(meta.modified().unwrap()).unwrap();
    let page = scanned();
    assert!(page.damage.is_some_and(|said| said.starts_with("line 2 ") || said.starts_with("line 3 ")));
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(scanned().damage, None);
}

#[test]
fn a_page_reads_only_the_segments_that_it_may_need() {
    let event = |n| if n % 2 == 1 { grant(n, "alice", "22/tcp", "10.1.0.0/24") } else { end(n - 1, "root") };
    let (dir, journal) = segmented((1..=20_000).map(event).collect(), 64 << 10);
    let count = segments::list(&dir.path().join(segments::DIR)).unwrap().len() as u64;
    assert!(count > 50, "{count}");
    let a_segment = 20_000 / count * 2;
    let scan = |filter: Filter| {
        let page = journal.reader().scan(&filter).unwrap();
        assert_eq!((page.damage, page.first, page.seq), (None, 1, 20_000));
        (page.entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(), page.lines)
    };
    // The index reads files younger than two seconds each time.
    let end = Instant::now() + Duration::from_secs(120);
    while scan(Filter { limit: 1, ..all() }).1 > 3 * a_segment {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(50));
    }
    for (filter, first) in [
        (Filter { limit: 10, ..all() }, 20_000),
        (Filter { limit: 10, before: Some(5_001), ..all() }, 5_000),
        (Filter { limit: 10, until: Some(at(9_000)), ..all() }, 8_999),
        (Filter { limit: 10, since: Some(at(3_000)), until: Some(at(3_100)), ..all() }, 3_099),
        (Filter { limit: 10, principal: Some("alice".into()), before: Some(7_001), ..all() }, 7_000),
    ] {
        let (found, lines) = scan(filter.clone());
        assert!(found.into_iter().eq((first - 9..=first).rev()), "{filter:?}");
        assert!(lines <= 3 * a_segment, "{filter:?}: {lines} lines");
    }
}

#[test]
fn an_end_is_told_apart_however_far_away_its_grant_was_made() {
    let mut events = vec![grant(1, "alice", "22/tcp", "10.1.0.0/24"), grant(2, "bob", "22/tcp", "10.2.0.0/24")];
    events.extend((3..=60).map(|_| Event::Unlocked));
    events.push(end(2, "root"));
    events.push(end(1, "root"));
    let (_dir, journal) = segmented(events, 1000);
    let who = |who: &str| Filter { principal: Some(who.to_owned()), ..all() };
    assert_eq!(lines(&journal, &who("alice")), [62, 1]);
    assert_eq!(lines(&journal, &who("bob")), [61, 2]);
    assert_eq!(lines(&journal, &Filter { source: Some("10.2.0.1/32".parse().unwrap()), ..all() }), [61, 2]);
}

/// The time of a scan of `lines` lines that finds a full page.
fn scan_time(lines: u64) -> Duration {
    let event = |n| if n % 2 == 1 { grant(n, "alice", "22/tcp", "10.1.0.0/24") } else { end(n - 1, "root") };
    let (_dir, journal) = journal((1..=lines).map(event).collect());
    let filter = Filter { principal: Some("alice".to_owned()), ..all() };
    let began = Instant::now();
    let page = journal.reader().scan(&filter).unwrap();
    let took = began.elapsed();
    assert_eq!((page.entries.len(), page.entries[0].seq, page.more, page.damage), (1000, lines, true, None));
    took
}

#[test]
fn the_time_of_a_scan_grows_with_the_journal_and_not_faster() {
    let (short, long) = (scan_time(4_000), scan_time(40_000));
    println!("40,000 lines in {long:?}");
    // A linear scan takes ten times as long, a quadratic one a hundred times. The rest is room for a busy machine.
    assert!(long < short * 50, "{short:?}, {long:?}");
}
