//! Tests of warnings: which are due, who gets them, and their words.

use jiff::Timestamp;

use super::*;
use crate::ledger::{Event, Record};
use crate::policy::PortRule;
use crate::request::EndCause;

const S: u64 = 1_000_000_000;
const BOOT: Uuid = Uuid::from_u128(7);

fn now(seconds: u64) -> Now {
    let wall = Timestamp::from_second(1_800_000_000 + seconds.cast_signed()).unwrap();
    Now { boot: BootNanos(seconds * S), wall, clock: crate::time::ClockState::Synchronised, boot_id: BOOT }
}

fn at(seconds: u64) -> BootNanos {
    BootNanos(seconds * S)
}

/// Grant `id` from `starts` to `ends`, in seconds since the boot.
fn grant(id: u128, ports: &[&str], sources: &[&str], (starts, ends): (u64, u64)) -> Grant {
    serde_json::from_value(serde_json::json!({
        "id": Uuid::from_u128(id), "signer": { "principal": "ann", "fingerprint": "SHA256:k" }, "ports": ports,
        "sources": sources, "created": "2026-01-01T00:00:00Z", "expires": "2026-01-01T01:00:00Z",
        "starts_boot": starts * S, "expires_boot": ends * S, "boot_id": BOOT, "slot": 0,
    }))
    .unwrap()
}

fn rule(port: &str, on_expiry: OnExpiry, before: &[u64]) -> PortRule {
    let warn_before = before.iter().map(|seconds| Seconds(*seconds)).collect();
    PortRule { on_expiry, warn_before, ..PortRule::new(port.parse().unwrap()) }
}

/// Port 22 warns 300 s and 60 s before, port 23 600 s before, port 24 never.
fn policy() -> Policy {
    let ports = vec![
        rule("22/tcp", OnExpiry::Cut, &[300, 60]),
        rule("23/any", OnExpiry::Drain(Seconds(1000)), &[600]),
        rule("24/tcp", OnExpiry::Keep, &[]),
    ];
    Policy { ports, ..Policy::default() }
}

fn ledger(events: impl IntoIterator<Item = (u64, Event)>) -> Ledger {
    let mut ledger = Ledger::default();
    for (seconds, event) in events {
        let record = Record::next(&ledger, None, event, &now(seconds));
        ledger.apply(&record);
    }
    ledger
}

fn granted(grants: &[Grant]) -> Ledger {
    ledger(grants.iter().map(|grant| (grant.starts_boot.0 / S, Event::Granted { grant: grant.clone() })))
}

fn session(cookie: u64, port: u16, peer: &str) -> Session {
    Session { cookie, protocol: 6, port, peer: peer.parse().unwrap() }
}

fn ended(id: u128, seconds: u64, cause: EndCause) -> (u64, Event) {
    let ending = Ending::by_itself(now(seconds).wall, cause);
    (seconds, Event::Ended { grant: Uuid::from_u128(id), ending, usage: crate::grant::Use::default() })
}

fn told(ledger: &Ledger, since: u64, seconds: u64) -> Vec<(u128, String, u64)> {
    let due = due(&policy(), ledger, at(since), &now(seconds));
    due.into_iter().map(|warning| (warning.grant.as_u128(), listed(warning.ports), warning.left.0)).collect()
}

fn one(ports: &str, left: u64) -> Vec<(u128, String, u64)> {
    vec![(1, ports.to_owned(), left)]
}

#[test]
fn each_moment_comes_once() {
    let ledger = granted(&[grant(1, &["22/tcp"], &["192.0.2.7/32"], (0, 1000))]);
    assert_eq!(told(&ledger, 0, 699), []);
    assert_eq!(told(&ledger, 699, 700), one("22/tcp", 300));
    assert_eq!(told(&ledger, 700, 939), []);
    assert_eq!(told(&ledger, 900, 941), one("22/tcp", 59));
    assert_eq!(told(&ledger, 941, 999), []);
    // No warning comes after the end, or for an end during suspend.
    assert_eq!(told(&ledger, 0, 1000), []);
    // Both moments were missed, for example in a suspend: one warning comes.
    assert_eq!(told(&ledger, 0, 999), one("22/tcp", 1));
}

#[test]
fn what_is_left_is_said_in_seconds_that_have_begun() {
    let ledger = granted(&[grant(1, &["22/tcp"], &["192.0.2.7/32"], (0, 1000))]);
    let late = Now { boot: BootNanos(700 * S + S / 2), ..now(700) };
    assert_eq!(due(&policy(), &ledger, at(699), &late)[0].left, Seconds(300));
}

#[test]
fn a_grant_shorter_than_a_warning_is_not_warned_of_at_its_start() {
    let ledger = granted(&[grant(1, &["22/tcp"], &["192.0.2.7/32"], (100, 400))]);
    assert_eq!(told(&ledger, 99, 100), []);
    assert_eq!(told(&ledger, 100, 340), one("22/tcp", 60));
    let short = granted(&[grant(1, &["22/tcp"], &["192.0.2.7/32"], (100, 130))]);
    assert!((100..140).all(|second| told(&short, second - 1, second).is_empty()));
}

#[test]
fn each_port_has_its_own_moments() {
    let ledger = granted(&[grant(1, &["22/tcp", "23/tcp", "24/tcp", "25/tcp"], &["192.0.2.7/32"], (0, 1000))]);
    assert_eq!(told(&ledger, 0, 400), one("23/tcp", 600));
    assert_eq!(told(&ledger, 400, 700), one("22/tcp", 300));
    assert_eq!(told(&ledger, 0, 700), one("22/tcp, 23/tcp", 300));
}

#[test]
fn what_is_not_open_is_not_warned_of() {
    let later = grant(1, &["22/tcp"], &["192.0.2.7/32"], (600, 1000));
    let scheduled = ledger([(0, Event::Granted { grant: later })]);
    assert_eq!(told(&scheduled, 0, 700), []);
    let other_boot = Grant { boot_id: Uuid::nil(), ..grant(1, &["22/tcp"], &["192.0.2.7/32"], (0, 1000)) };
    assert_eq!(told(&granted(&[other_boot]), 0, 700), []);
    // An extension replaces the grant.
    let first = grant(1, &["22/tcp"], &["192.0.2.7/32"], (0, 1000));
    let more = Grant { supersedes: Some(first.id), ..grant(2, &["22/tcp"], &["192.0.2.7/32"], (500, 2000)) };
    let events = [(0, Event::Granted { grant: first }), (500, Event::Granted { grant: more })];
    let extended = ledger(events.into_iter().chain([ended(1, 500, EndCause::Superseded)]));
    assert_eq!(told(&extended, 0, 999), []);
    assert_eq!(told(&extended, 999, 1700), [(2, "22/tcp".to_owned(), 300)]);
}

#[test]
fn those_hear_it_whose_sessions_end() {
    let short = grant(1, &["22/tcp", "23/any"], &["192.0.2.0/24", "2001:db8::/32"], (0, 1000));
    let longer = grant(2, &["22/tcp"], &["192.0.2.8/32"], (0, 1001));
    let equal = grant(3, &["22/tcp"], &["192.0.2.9/32"], (0, 1000));
    let ledger = granted(&[short, longer, equal]);
    let established = [
        session(1, 22, "192.0.2.7"),
        session(2, 22, "2001:db8::7"),
        session(3, 22, "192.0.2.9"),
        // Another grant covers the session; no such port; no such source; not due yet.
        session(4, 22, "192.0.2.8"),
        session(5, 24, "192.0.2.7"),
        session(6, 22, "192.0.3.7"),
        session(7, 23, "192.0.2.7"),
    ];
    let [warning, _] = &due(&policy(), &ledger, at(699), &now(700))[..] else { panic!("two are due") };
    assert_eq!((warning.grant, &warning.ports[..]), (Uuid::from_u128(1), &["22/tcp".parse().unwrap()][..]));
    let hear = losing(&ledger, warning, &established, &now(700));
    assert_eq!(hear.iter().map(|session| session.cookie).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn sessions_that_outlive_a_grant_are_warned_of_their_own_end() {
    let grant = grant(1, &["23/tcp"], &["192.0.2.7/32"], (0, 1000));
    let (here, elsewhere) = (session(1, 23, "192.0.2.7"), session(2, 23, "192.0.2.7"));
    let kept = RetainedSession::new(&here, at(2000)).unwrap();
    let kept = Event::SessionsKept { grant: grant.id, kept: vec![kept] };
    let drained = |ended_as: Option<EndCause>| {
        let end = ended_as.map(|cause| ended(1, 1000, cause));
        ledger([(0, Event::Granted { grant: grant.clone() }), (998, kept.clone())].into_iter().chain(end))
    };
    // 600 s before the grant's end, the warning is for the grant.
    assert_eq!(told(&drained(None), 399, 999), one("23/tcp", 1));
    let after = drained(Some(EndCause::Expired));
    assert_eq!(told(&after, 999, 1399), []);
    let warning = &due(&policy(), &after, at(1399), &now(1400))[..];
    let [warning] = warning else { panic!("{warning:?}") };
    assert_eq!((warning.ends, warning.left), (Ends::Sessions, Seconds(600)));
    assert_eq!(losing(&after, warning, &[here, elsewhere], &now(1400)), [here]);
    assert_eq!(told(&drained(Some(EndCause::Revoked)), 1399, 1400), []);
    // While the grant lives, sessions that may outlive it get no warning.
    let grants = Warning { ends: Ends::Grant, end: at(1000), ..warning.clone() };
    assert_eq!(losing(&drained(None), &grants, &[here, elsewhere], &now(999)), [elsewhere]);
}

#[test]
fn whose_grant_is_ended_hears_it_unless_something_else_carries_them() {
    let (gone, other) = (
        grant(1, &["22/tcp", "24/tcp"], &["192.0.2.0/24"], (0, 1000)),
        grant(2, &["22/tcp"], &["192.0.2.8/32"], (0, 500)),
    );
    let granted = [&gone, &other].map(|grant| (0, Event::Granted { grant: grant.clone() }));
    let ledger = ledger(granted.into_iter().chain([ended(1, 100, EndCause::Revoked)]));
    // Port 24 never warns.
    let established = [session(1, 22, "192.0.2.7"), session(2, 22, "192.0.2.8"), session(3, 24, "192.0.2.7")];
    assert_eq!(lost(&ledger, &policy(), &gone, &established, &now(100)), established[..1]);
}

#[test]
fn the_words_say_what_when_and_how_to_stay() {
    let grant = grant(1, &["22/tcp", "23/tcp"], &["192.0.2.7/32"], (0, 1000));
    let ledger = granted(std::slice::from_ref(&grant));
    let peer = "192.0.2.7".parse().unwrap();
    let say = |since, seconds, sessions: &[Session], host| {
        let due = due(&policy(), &ledger, at(since), &now(seconds));
        words(&policy(), &grant, &due[0], sessions, peer, host, &now(seconds))
    };
    let first = [session(1, 22, "192.0.2.7"), session(2, 23, "192.0.2.99")];
    assert_eq!(
        say(0, 700, &first, "vm1.example.com"),
        [
            "postern: access to 22/tcp from 192.0.2.7 (ann) ends in 5m, at 08:16:40 UTC.",
            "         Sessions are cut then.",
            "         To stay: postern extend vm1.example.com --for 1h",
        ]
    );
    let second = [session(2, 23, "192.0.2.7")];
    assert_eq!(
        say(0, 400, &second, "")[1..],
        ["         Sessions go on for 16m 40s after that.", "         To stay: postern extend HOST --for 1h",]
    );
    assert_eq!(fate(OnExpiry::Keep), "Sessions go on for up to 24h after that.");
    let sessions = Warning {
        ends: Ends::Sessions,
        ..Warning::new(grant.id, Ends::Grant, grant.ports.clone(), at(1000), &now(940))
    };
    assert_eq!(
        words(&policy(), &grant, &sessions, &first, peer, "vm1", &now(940)),
        [
            "postern: this session to 22/tcp from 192.0.2.7 is cut in 1m, at 08:16:40 UTC.",
            "         To stay: postern request vm1 --port 22/tcp --port 23/tcp --for 1h",
        ]
    );
}

#[test]
fn the_last_words_say_who_ended_it_and_why() {
    let grant = grant(1, &["22/tcp"], &["192.0.2.7/32"], (0, 1000));
    let peer = "192.0.2.7".parse().unwrap();
    let say = |cause, by: &str, reason: &str| {
        let ending = Ending { by: by.into(), reason: reason.into(), ..Ending::by_itself(now(1).wall, cause) };
        last_words(&policy(), &grant, &ending, &[session(1, 22, "192.0.2.7")], peer).remove(0)
    };
    let start = "postern: access to 22/tcp from 192.0.2.7 (ann) ends now: ";
    assert_eq!(say(EndCause::Revoked, "bob", "done"), format!("{start}it was revoked (by bob: done)."));
    assert_eq!(say(EndCause::GivenBack, "ann", ""), format!("{start}it was given back (by ann)."));
    assert_eq!(say(EndCause::Idle, "", ""), format!("{start}it was idle for too long."));
}

#[test]
fn nothing_that_somebody_wrote_commands_a_terminal() {
    assert_eq!(plain("bob@example.com: done, thanks!"), "bob@example.com: done, thanks!");
    assert_eq!(plain("\x1b[2J\r\n\t\x7f\u{9b}"), "\\u{1b}[2J\\u{d}\\u{a}\\u{9}\\u{7f}\\u{9b}");
    // In UTF-8 this character ends in the byte 0x9b, which begins a command on 8-bit terminals.
    assert_eq!(plain("ś\u{202e}"), "\\u{15b}\\u{202e}");
    assert_eq!(plain(&"x".repeat(1000)), format!("{}\\[900 more]", "x".repeat(100)));
    let nasty = "\x1b]0;\u{7}\u{9b}2J\n";
    let mut grant = grant(1, &["22/tcp"], &["192.0.2.7/32"], (0, 1000));
    grant.signer.principal = nasty.into();
    let peer = "192.0.2.7".parse().unwrap();
    let ending = Ending { by: nasty.into(), reason: nasty.into(), ..Ending::by_itself(now(1).wall, EndCause::Revoked) };
    let warning = Warning::new(grant.id, Ends::Grant, grant.ports.clone(), at(1000), &now(940));
    let sessions = [session(1, 22, "192.0.2.7")];
    let lines = [
        words(&policy(), &grant, &warning, &sessions, peer, nasty, &now(940)),
        last_words(&policy(), &grant, &ending, &sessions, peer),
    ];
    assert!(lines.concat().iter().all(|line| line.bytes().all(|byte| (b' '..=b'~').contains(&byte))), "{lines:?}");
}
