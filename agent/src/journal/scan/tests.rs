//! Scans of small journals, and of a long one.

use std::time::{Duration, Instant};

use postern_core::envelope::Signer;
use postern_core::grant::{Grant, Use};
use postern_core::life::EndCause;
use postern_core::time::BootNanos;

use super::*;
use crate::journal::{FILE, Journal};

fn id(seq: u64) -> Uuid {
    Uuid::from_u128(seq.into())
}

fn grant(seq: u64, who: &str, port: &str, source: &str) -> Event {
    let grant = Grant {
        id: id(seq),
        signer: Signer { principal: who.to_owned(), fingerprint: "SHA256:x".to_owned(), certificate: None },
        approvers: vec![Signer {
            principal: format!("{who}'s boss"),
            fingerprint: "SHA256:y".to_owned(),
            certificate: None,
        }],
        ports: vec![port.parse().unwrap()],
        sources: vec![source.parse().unwrap()],
        created: at(seq),
        expires: at(seq + 60),
        not_before: None,
        starts_boot: BootNanos(0),
        supersedes: None,
        chain_boot: None,
        first_use_within: None,
        idle_timeout: None,
        break_glass: false,
        expires_boot: BootNanos(seq),
        boot_id: Uuid::nil(),
        slot: 0,
        justification: "a test".to_owned(),
        ticket: String::new(),
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
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(dir.path()).unwrap().journal;
    let record = |(n, event)| {
        let seq = n as u64 + 1;
        Record { seq, time: at(seq), boot: BootNanos(seq), boot_id: Uuid::nil(), message: None, event }
    };
    journal.append(&events.into_iter().enumerate().map(record).collect::<Vec<_>>()).unwrap();
    (dir, journal)
}

fn few() -> (tempfile::TempDir, Journal) {
    journal(vec![
        grant(1, "alice", "22/tcp", "10.1.0.0/24"),
        grant(2, "bob", "53/any", "fd00::7/128"),
        Event::Unlocked,
        end(1, "root"),
        end(2, ""),
        grant(6, "alice", "3389/tcp", "10.2.0.7/32"),
    ])
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
    let (_dir, journal) = few();
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
        assert_eq!(lines(&journal, &filter), wanted, "{filter:?}");
    }
}

#[test]
fn a_line_says_whom_it_is_about_and_why_and_is_shown_as_it_is() {
    let (dir, journal) = few();
    let page = journal.reader().scan(&all()).unwrap();
    let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
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
    let (_dir, journal) = few();
    for limit in 1..=7 {
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
    let (dir, journal) = few();
    let path = dir.path().join(FILE);
    let whole = std::fs::read(&path).unwrap();
    let damage = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        journal.reader().scan(&all()).unwrap().damage
    };
    for at in 0..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        let line = 1 + whole[..at].iter().filter(|b| **b == b'\n').count();
        let said = damage(&changed).unwrap_or_else(|| panic!("byte {at} of line {line}"));
        let near = [line, line + 1].iter().any(|line| said.starts_with(&format!("line {line} ")));
        assert!(near, "byte {at} of line {line}: {said}");
    }
    for (at, _) in whole.iter().enumerate().filter(|(_, b)| **b == b'\n') {
        if at + 1 < whole.len() {
            assert!(damage(&whole[..=at]).is_some_and(|said| said.ends_with("is missing")), "cut after byte {at}");
        }
    }
    assert_eq!(damage(&whole), None);
}

/// How long a scan of `lines` lines takes that finds a full page.
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
    let (short, long) = (scan_time(10_000), scan_time(100_000));
    println!("100,000 lines in {long:?}");
    // Ten times when linear, a hundred when quadratic; the rest is left to a busy machine.
    assert!(long < short * 50, "{short:?}, {long:?}");
}
