//! Whether the host enforces, as the journal adds it up.

mod support;

use postern_core::grant::Grant;
use postern_core::ledger::{Event, Ledger, Record};
use postern_core::mode::{Mode, Trial, observe_from, way_in};
use postern_core::retained::{RetainedSession, Session};
use postern_core::time::{BootNanos, Now};
use support::{S, now, signer};
use uuid::Uuid;

fn apply(ledger: &mut Ledger, event: Event, at: &Now) {
    let record = Record::next(ledger, None, event, at);
    ledger.apply(&record);
}

fn loaded(mode: Mode) -> Event {
    Event::PolicyLoaded { rules: String::new(), protected: Vec::new(), mode }
}

fn started(mode: Mode) -> Event {
    let (version, rules) = (String::new(), String::new());
    Event::Started { version, host_id: Uuid::nil(), protected: Vec::new(), rules, mode }
}

/// For ten seconds from `at` on.
fn enabled(at: &Now) -> Event {
    let until_boot = at.boot.plus_nanos(10 * S);
    Event::Enabled {
        trial: Trial { until_boot, until: at.wall_at(until_boot), boot_id: at.boot_id },
        by: "root".into(),
    }
}

/// An observing host that began a trial at second 5.
fn on_trial() -> Ledger {
    let mut ledger = Ledger::default();
    apply(&mut ledger, started(Mode::Observe), &now(1));
    assert_eq!(ledger.mode_state().since, Some(now(1).wall));
    apply(&mut ledger, enabled(&now(5)), &now(5));
    ledger
}

fn observes(ledger: &Ledger, at: u64) -> bool {
    ledger.mode_state().observes(&now(at))
}

#[test]
fn a_trial_ends_by_the_clock_and_its_record_only_says_so() {
    let mut ledger = on_trial();
    assert_eq!([5, 14, 15, 16].map(|at| observes(&ledger, at)), [false, false, true, true]);
    assert_eq!((&*ledger.mode_state().by, ledger.mode_state().since), ("root", Some(now(5).wall)));
    assert_eq!(ledger.next_due(), Some(BootNanos(15 * S)));
    apply(&mut ledger, Event::RolledBack { at: now(15).wall, by: String::new() }, &now(40));
    assert_eq!((&*ledger.mode_state().by, ledger.mode_state().since), ("", Some(now(15).wall)));
    assert!(observes(&ledger, 41) && ledger.mode_state().failed(&now(41)).is_some() && ledger.next_due().is_none());
    // A start is not asked, a reload is.
    apply(&mut ledger, started(Mode::Enforce), &now(50));
    assert!(observes(&ledger, 51));
    apply(&mut ledger, loaded(Mode::Enforce), &now(60));
    assert!(!observes(&ledger, 61) && ledger.mode_state().since == Some(now(60).wall));
}

#[test]
fn a_trial_outlasts_starts_and_reloads_but_no_boot() {
    let mut ledger = on_trial();
    for event in [started(Mode::Enforce), loaded(Mode::Enforce), loaded(Mode::Observe), started(Mode::Observe)] {
        apply(&mut ledger, event, &now(6));
        assert_eq!([7, 15].map(|at| observes(&ledger, at)), [false, true]);
        assert_eq!(ledger.mode_state().since, Some(now(5).wall));
    }
    for (file, other) in [(Mode::Observe, true), (Mode::Enforce, false)] {
        let mut ledger = on_trial();
        let next = Now { boot_id: Uuid::from_u128(2), ..now(7) };
        assert_eq!(observe_from(file, &ledger.mode_state().enabling, next.boot_id), u64::from(other));
        apply(&mut ledger, started(file), &next);
        assert_eq!(ledger.mode_state().observes(&next), other);
    }
}

#[test]
fn a_trial_given_up_is_over_at_once_and_a_confirmed_one_never() {
    let mut ledger = on_trial();
    apply(&mut ledger, Event::RolledBack { at: now(8).wall, by: "root".into() }, &now(8));
    assert!(observes(&ledger, 8) && ledger.mode_state().by == "root");
    let mut ledger = on_trial();
    apply(&mut ledger, Event::Confirmed { by: "root".into(), grant: None }, &now(8));
    assert!([8, 15, 16, 1_000_000].iter().all(|&at| !observes(&ledger, at)));
    assert_eq!((ledger.mode_state().file, ledger.mode_state().since), (Mode::Enforce, Some(now(5).wall)));
    apply(&mut ledger, Event::RolledBack { at: now(20).wall, by: String::new() }, &now(20));
    assert!(!observes(&ledger, 21), "there is nothing to roll back");
    apply(&mut ledger, loaded(Mode::Observe), &now(30));
    assert!(observes(&ledger, 31));
    apply(&mut ledger, Event::Unlocked, &now(32));
    assert!(!observes(&ledger, 33), "what is not known is closed");
}

#[test]
fn only_a_new_session_under_a_live_signed_grant_proves_a_way_in() {
    let at = now(6);
    let mut ledger = on_trial();
    let grant = |id: u128, who: &str, source: &str| Grant {
        ports: vec!["22/tcp".parse().unwrap()],
        sources: vec![source.parse().unwrap()],
        expires_boot: BootNanos(100 * S),
        ..Grant::of_nothing(Uuid::from_u128(id), signer(who), at.wall, at.boot_id)
    };
    let session = |cookie, port, peer: &str| Session { cookie, protocol: 6, port, peer: peer.parse().unwrap() };
    let unsigned = grant(1, "bootstrap", "192.0.2.1/32");
    let unsigned =
        Grant { signer: postern_core::envelope::Signer { fingerprint: String::new(), ..unsigned.signer }, ..unsigned };
    let glass = Grant { break_glass: true, ..grant(2, "root", "192.0.2.2/32") };
    for grant in [unsigned, glass, grant(3, "alice", "192.0.2.3/32")] {
        apply(&mut ledger, Event::Granted { grant }, &at);
    }
    let before = session(7, 22, "192.0.2.3");
    let kept = vec![RetainedSession::new(&before, BootNanos(1000 * S)).unwrap()];
    apply(&mut ledger, Event::SessionsKept { grant: Uuid::from_u128(1), kept }, &at);
    let others = [
        before,
        session(8, 22, "192.0.2.1"),
        session(9, 22, "192.0.2.2"),
        session(10, 23, "192.0.2.3"),
        session(11, 22, "192.0.2.4"),
    ];
    assert_eq!(way_in(&ledger, &others, &at), None);
    let new = session(12, 22, "192.0.2.3");
    assert_eq!(way_in(&ledger, &[others[0], new], &at), Some(Uuid::from_u128(3)));
    assert_eq!(way_in(&ledger, &[new], &now(100)), None, "its end");
    assert_eq!(way_in(&ledger, &[new], &Now { boot_id: Uuid::nil(), ..at }), None, "another boot");
}

#[test]
fn a_snapshot_keeps_the_field_names_of_older_versions() {
    let snapshot = serde_json::to_value(Ledger::default()).unwrap();
    for name in ["held", "by_id", "live", "seen", "ended", "keeping", "standing"] {
        assert!(snapshot.get(name).is_some(), "{name}: {snapshot}");
    }
}
