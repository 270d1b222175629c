//! Reports of hand-made records.

use super::*;
use crate::grant::{AccessRequest, End, Header};
use crate::ledger::Seen;
use crate::request::Pending;
use crate::signer::Signer;
use crate::time::{BootNanos, Seconds};

const BOOT: Uuid = Uuid::from_u128(1);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn signer(principal: &str) -> Signer {
    Signer { principal: principal.into(), fingerprint: "SHA256:x".into(), certificate: None }
}

fn ports(names: &[&str]) -> Vec<PortSpec> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn grant(id: u128, who: &str, on: &[&str], created: i64) -> Grant {
    Grant {
        ports: ports(on),
        sources: vec!["192.0.2.7/32".parse().unwrap()],
        starts_boot: BootNanos(1),
        expires: at(created + 60),
        expires_boot: BootNanos(u64::MAX),
        ..Grant::of_nothing(Uuid::from_u128(id), signer(who), at(created), BOOT)
    }
}

fn pending(id: u128, who: &str, on: &[&str]) -> Pending {
    let header = Header { id: Uuid::from_u128(id), audience: Vec::new(), not_after: at(0), challenge: None };
    let request = AccessRequest {
        header,
        ports: ports(on),
        sources: vec!["192.0.2.7/32".parse().unwrap()],
        end: End::After(Seconds(60)),
        not_before: None,
        supersedes: None,
        justification: String::new(),
        ticket: String::new(),
    };
    Pending {
        signer: signer(who),
        approvers: Vec::new(),
        request,
        payload: String::new(),
        created: at(0),
        lapses: at(60),
        lapses_boot: BootNanos(9),
        boot_id: BOOT,
        missing: 1,
    }
}

fn refused(action: Action, on: &[&str]) -> Event {
    Event::Refused {
        signer: signer("mallory"),
        action,
        reason: "NOT_PERMITTED".into(),
        sentence: String::new(),
        rule: String::new(),
        ports: ports(on),
        sources: Vec::new(),
    }
}

fn used(last: i64) -> Use {
    Use { packets_in: 3, last: Some(at(last)), ..Use::default() }
}

fn ended(id: u128, cause: EndCause, usage: Use) -> Event {
    Event::Ended { grant: Uuid::from_u128(id), ending: Ending::by_itself(at(0), cause), usage }
}

/// Adds events at these seconds; the period begins with second 0.
fn gather(events: &[(i64, Event)]) -> Gather {
    let rules: Vec<_> = [("22/any", "ssh"), ("3389/tcp", "rdp")]
        .map(|(port, name)| PortRule { name: name.into(), ..PortRule::new(port.parse().unwrap()) })
        .into();
    let mut gather = Gather::new(at(0), &rules);
    for (nth, (second, event)) in events.iter().enumerate() {
        let message = Some(Seen { id: Uuid::nil(), not_after: at(0) });
        let (seq, event) = (nth as u64 + 1, event.clone());
        gather.take(&Record { seq, time: at(*second), boot: BootNanos(5), boot_id: BOOT, message, event });
    }
    gather
}

fn report(events: &[(i64, Event)]) -> Report {
    gather(events).finish([])
}

/// (requests, granted, refused) of a port.
fn counts(report: &Report, port: &str) -> (u32, u32, u32) {
    let port = port.parse().unwrap();
    report.ports.iter().find(|line| line.port == port).map_or((0, 0, 0), |l| (l.requests, l.granted, l.refused))
}

fn unused(report: &Report) -> Vec<u128> {
    report.unused.iter().map(|unused| unused.grant.id.as_u128()).collect()
}

#[test]
fn every_protected_port_is_there_and_others_only_when_asked_for() {
    let names = |report: &Report| report.ports.iter().map(|l| l.port.to_string()).collect::<Vec<_>>();
    assert_eq!(names(&report(&[])), ["22/any", "3389/tcp"]);
    let asked = [(1, refused(Action::Request, &["80/tcp"])), (2, refused(Action::Approve, &["81/tcp"]))];
    let report = report(&asked);
    assert_eq!(names(&report), ["22/any", "3389/tcp", "80/tcp"]);
    assert_eq!((counts(&report, "80/tcp"), counts(&report, "22/any")), ((1, 0, 1), (0, 0, 0)));
    assert_eq!((&*report.ports[0].name, &*report.ports[2].name), ("ssh", ""));
}

#[test]
fn a_request_counts_once_whatever_it_goes_through() {
    let waiting = Event::Requested { pending: pending(1, "alice", &["22/tcp"]) };
    let granted = Event::Granted { grant: grant(1, "alice", &["22/tcp"], 2) };
    let declined = |cause| (3, ended(1, cause, Use::default()));
    for (events, wanted) in [
        (vec![(1, granted.clone())], (1, 1, 0)),
        (vec![(1, waiting.clone())], (1, 0, 0)),
        (vec![(1, waiting.clone()), (2, granted.clone())], (1, 1, 0)),
        (vec![(-1, waiting.clone()), (2, granted.clone())], (0, 1, 0)),
        (vec![(-1, granted.clone()), (2, ended(1, EndCause::Expired, used(1)))], (0, 0, 0)),
        (vec![(1, waiting.clone()), declined(EndCause::Declined)], (1, 0, 1)),
        (vec![(1, waiting.clone()), declined(EndCause::Lapsed)], (1, 0, 1)),
        (vec![(1, waiting.clone()), declined(EndCause::GivenBack)], (1, 0, 0)),
        (vec![(1, Event::BreakGlass { grant: grant(1, "root", &["22/tcp", "22/udp"], 1) })], (1, 1, 0)),
    ] {
        assert_eq!(counts(&report(&events), "22/any"), wanted, "{events:?}");
    }
}

#[test]
fn a_grant_for_two_ports_counts_for_both() {
    let report = report(&[(1, Event::Granted { grant: grant(1, "alice", &["22/tcp", "3389/tcp"], 1) })]);
    assert_eq!((counts(&report, "22/any"), counts(&report, "3389/tcp")), ((1, 1, 0), (1, 1, 0)));
}

#[test]
fn the_latest_packet_of_all_grants_tells_who_was_there_last() {
    let by = |id, who| Event::Granted { grant: grant(id, who, &["22/tcp"], 1) };
    let three = [(1, by(1, "alice")), (1, by(2, "bob")), (-1, by(3, "carol"))];
    let last = |more: &[(i64, Event)], living: &[(u128, &str, Use)]| {
        let lives: Vec<_> =
            living.iter().map(|(id, who, _)| Request::Granted(grant(*id, who, &["22/tcp"], 1))).collect();
        let live = lives.iter().zip(living).map(|(life, l)| Living { life, state: State::Active, usage: l.2 });
        let line = gather(&[&three[..], more].concat()).finish(live).ports[0].clone();
        (line.last_user, line.last_access.map(|t| t.as_second() - 1_000_000), line.live)
    };
    let end = |id, second| (9, ended(id, EndCause::Expired, used(second)));
    assert_eq!(last(&[], &[]), (String::new(), None, 0));
    assert_eq!(last(&[end(1, 5), end(2, 4)], &[]), ("alice".into(), Some(5), 0));
    assert_eq!(last(&[end(3, 7), end(1, 5)], &[]), ("carol".into(), Some(7), 0));
    assert_eq!(last(&[end(1, 5)], &[(2, "bob", used(6)), (4, "dan", Use::default())]), ("bob".into(), Some(6), 2));
    let noted = Event::Stopped { usage: [(Uuid::from_u128(2), used(8))].into() };
    assert_eq!(last(&[(9, noted), end(1, 5)], &[]), ("bob".into(), Some(8), 0));
}

#[test]
fn unused_is_what_was_open_in_the_period_and_saw_no_packet() {
    let made = |id, second| (second, Event::Granted { grant: grant(id, "alice", &["22/tcp"], second) });
    let over = |id, cause| (9, ended(id, cause, Use::default()));
    let mut later = grant(6, "alice", &["22/tcp"], 1);
    later.starts_boot = BootNanos(6);
    let mut other_boot = grant(7, "alice", &["22/tcp"], 1);
    other_boot.boot_id = Uuid::from_u128(2);
    let report = report(&[
        made(1, 1),
        made(2, 2),
        made(3, -1),
        made(4, 3),
        made(5, 3),
        (1, Event::Granted { grant: later }),
        (1, Event::Granted { grant: other_boot }),
        made(8, 4),
        over(1, EndCause::Expired),
        over(2, EndCause::Unused),
        over(3, EndCause::Expired),
        over(4, EndCause::Superseded),
        (9, ended(5, EndCause::Expired, Use { packets_out: 1, ..Use::default() })),
        over(6, EndCause::GivenBack),
        over(7, EndCause::Rebooted),
    ]);
    assert_eq!(unused(&report), [2, 1]);
    assert_eq!(report.unused[0].ending.cause, EndCause::Unused);
}

#[test]
fn both_lists_have_an_end() {
    let mut events = Vec::new();
    for n in 1..=150_u16 {
        let id = u128::from(n);
        events.push((1, Event::Granted { grant: grant(id, "alice", &["22/tcp"], 1) }));
        events.push((2, ended(id, EndCause::Expired, Use::default())));
        events.push((3, refused(Action::Request, &[&format!("{}/tcp", 10_000 + n)])));
    }
    events.push((3, refused(Action::Request, &["10150/tcp"])));
    let report = report(&events);
    assert_eq!(unused(&report), (51..=150).rev().collect::<Vec<_>>());
    assert_eq!(report.ports.len(), 2 + MOST_OTHER_PORTS);
    assert_eq!(counts(&report, "10150/tcp"), (2, 0, 2), "the most wanted first");
}

#[test]
fn what_waits_is_counted_where_it_waits() {
    let (waiting, open) =
        (Request::Pending(pending(1, "a", &["22/tcp"])), Request::Granted(grant(2, "b", &["3389/tcp"], 1)));
    let living = [(&waiting, State::Pending), (&open, State::Active), (&open, State::Scheduled)];
    let report = gather(&[]).finish(living.map(|(life, state)| Living { life, state, usage: Use::default() }));
    let now: Vec<_> = report.ports.iter().map(|line| (line.pending, line.live)).collect();
    assert_eq!(now, [(1, 0), (0, 1)]);
}
