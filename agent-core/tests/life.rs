//! The life of a request in the ledger: waiting, scheduled, extended, unused; and a random walk against a twin that remembers
//! everything.

mod support;

use std::collections::{BTreeSet, HashMap};

use jiff::SignedDuration;
use postern_core::grant::{AccessRequest, End, Grant, Header, Use};
use postern_core::ledger::{Event, Ledger, Record, Room, lapse};
use postern_core::policy::{Asking, MAX_LEAD, Policy, PortRule, Role, RoleRule};
use postern_core::refusal::Reason;
use postern_core::request::{EndCause, Ending, Pending, State};
use postern_core::table::compile;
use postern_core::time::{BootNanos, Now, Seconds};
use postern_core::wall::ClockState;
use proptest::prelude::*;
use uuid::Uuid;

use support::{CAPACITY, S, now, signer};

fn request(id: u128, seconds: u64) -> AccessRequest {
    AccessRequest {
        header: Header { id: Uuid::from_u128(id), audience: vec![], not_after: now(900).wall, challenge: None },
        ports: vec!["22/tcp".parse().unwrap()],
        sources: vec!["10.0.0.1/32".parse().unwrap()],
        end: End::After(Seconds(seconds)),
        not_before: None,
        supersedes: None,
        justification: "why".into(),
        ticket: String::new(),
    }
}

fn policy(approvals: u32) -> Policy {
    let mut rule = PortRule { max_duration: Seconds(600), ..PortRule::new("22/tcp".parse().unwrap()) };
    rule.approvals.count = approvals;
    let roles = vec![
        RoleRule::new(Role::Requester, vec!["alice".into(), "bob".into()]),
        RoleRule::new(Role::Approver, vec!["carol".into(), "dan".into(), "alice".into()]),
    ];
    Policy { ports: vec![rule], roles, ..Policy::default() }
}

/// A ledger and its journal, kept as the engine keeps them.
#[derive(Default)]
struct Story {
    ledger: Ledger,
    records: Vec<Record>,
}

impl Story {
    fn push(&mut self, now: &Now, event: Event) {
        let seq = self.ledger.last_seq() + 1;
        let record = Record { seq, time: now.wall, boot: now.boot, boot_id: now.boot_id, message: None, event };
        self.ledger.apply(&record);
        self.records.push(record);
    }

    fn ask(&mut self, policy: &Policy, who: &str, request: &AccessRequest, now: &Now) -> Result<(), Reason> {
        let judgement = policy.judge(who, request, &self.ledger, now).map_err(|r| r.reason)?;
        if let Some(missing) = judgement.missing {
            self.ledger.check_room_to_wait(who, 0).map_err(|r| r.reason)?;
            let lapses_boot = lapse(now, policy.pending_ttl.unwrap());
            let pending = Pending {
                signer: signer(who),
                approvers: vec![],
                request: request.clone(),
                payload: String::new(),
                created: now.wall,
                lapses: now.wall_at(lapses_boot),
                lapses_boot,
                boot_id: now.boot_id,
                missing: missing.count,
            };
            self.push(now, Event::Requested { pending });
            return Ok(());
        }
        let grant = self.ledger.admit(&[signer(who)], request, &judgement, CAPACITY, now).map_err(|r| r.reason)?;
        self.push(now, Event::Granted { grant });
        self.keep_house(now);
        Ok(())
    }

    fn approve(&mut self, policy: &Policy, who: &str, id: u128, now: &Now) {
        let id = Uuid::from_u128(id);
        let pending = self.ledger.get(&id).unwrap().request.pending().unwrap().clone();
        let mut signers = vec![pending.signer.clone()];
        signers.extend(pending.approvers.clone());
        signers.push(signer(who));
        let asking = Asking { principal: &signers[0].principal, approvers: &signers[1..] };
        let judgement = policy.judge(asking, &pending.request, &self.ledger, now).unwrap();
        let missing = judgement.missing.as_ref().map_or(0, |m| m.count);
        self.push(now, Event::Approved { grant: id, signer: signer(who), missing });
        if missing == 0 {
            let grant = self.ledger.admit(&signers, &pending.request, &judgement, CAPACITY, now).unwrap();
            self.push(now, Event::Granted { grant });
        }
    }

    fn keep_house(&mut self, now: &Now) {
        for (id, cause) in self.ledger.overdue(now) {
            self.end(id, cause, now);
        }
        for grant in self.ledger.due_to_open(now) {
            self.push(now, Event::Activated { grant });
        }
    }

    fn end(&mut self, grant: Uuid, cause: EndCause, now: &Now) {
        let ending = Ending::by_itself(now.wall, cause);
        self.push(now, Event::Ended { grant, ending, usage: Use::default() });
    }

    fn state(&self, id: u128) -> State {
        self.ledger.get(&Uuid::from_u128(id)).unwrap().state()
    }

    fn grant(&self, id: u128) -> &Grant {
        self.ledger.get(&Uuid::from_u128(id)).unwrap().grant().unwrap()
    }

    /// What the kernel would hold.
    fn is_open(&self, policy: &Policy, now: &Now) -> bool {
        !compile(policy, self.ledger.active(), now.boot).grants.is_empty()
    }
}

#[test]
fn a_request_waits_until_enough_other_people_have_approved() {
    let (mut story, policy) = (Story::default(), policy(2));
    story.ask(&policy, "alice", &request(1, 60), &now(0)).unwrap();
    assert_eq!((story.state(1), story.is_open(&policy, &now(0))), (State::Pending, false));
    assert_eq!(story.ledger.next_due(), Some(BootNanos(3600 * S)));
    // In the approver role, and yet one's own does not count.
    let may = |who| policy.may_approve(who, &request(1, 60), &now(0));
    assert!(may("carol") && !may("bob"));
    story.approve(&policy, "carol", 1, &now(10));
    assert_eq!((story.state(1), story.is_open(&policy, &now(10))), (State::Pending, false));
    story.approve(&policy, "dan", 1, &now(20));
    assert_eq!((story.state(1), story.is_open(&policy, &now(20))), (State::Active, true));
    // Its time begins with the last approval.
    assert_eq!(story.grant(1).expires_boot, BootNanos(80 * S));
    let approvers: Vec<_> = story.grant(1).approvers.iter().map(|s| s.principal.as_str()).collect();
    assert_eq!(approvers, ["carol", "dan"]);
    let steps = &story.ledger.get(&Uuid::from_u128(1)).unwrap().steps;
    let told: Vec<_> = steps.iter().map(|s| (s.state, s.by.as_str())).collect();
    let waits = State::Pending;
    assert_eq!(told, [(waits, "alice"), (waits, "carol"), (waits, "dan"), (State::Active, "")]);
}

#[test]
fn nobody_waits_for_ever_and_nobody_crowds_out_the_others() {
    let (mut story, policy) = (Story::default(), policy(1));
    let each = u128::try_from(Room::default().pending_each).unwrap();
    for id in 0..each {
        story.ask(&policy, "alice", &request(id, 60), &now(0)).unwrap();
    }
    assert_eq!(story.ask(&policy, "alice", &request(99, 60), &now(0)), Err(Reason::TooManyPending));
    story.ask(&policy, "bob", &request(100, 60), &now(1)).unwrap();
    story.keep_house(&now(3599));
    assert_eq!(story.state(0), State::Pending);
    story.keep_house(&now(3600));
    assert_eq!((story.state(0), story.state(100)), (State::Expired, State::Pending));
    story.ask(&policy, "alice", &request(101, 60), &now(3600)).unwrap();
    story.end(Uuid::from_u128(101), EndCause::Declined, &now(3601));
    story.end(Uuid::from_u128(100), EndCause::GivenBack, &now(3601));
    assert_eq!((story.state(101), story.state(100)), (State::Refused, State::Withdrawn));
    let rebooted = Now { boot_id: Uuid::from_u128(2), ..now(5) };
    story.ask(&policy, "bob", &request(102, 60), &now(3602)).unwrap();
    story.keep_house(&rebooted);
    assert_eq!(story.state(102), State::Expired);
    assert!(each < Room::default().pending as u128);
}

#[test]
fn a_scheduled_grant_opens_at_its_start_and_not_before() {
    let (mut story, policy) = (Story::default(), policy(0));
    let later = AccessRequest { not_before: Some(now(100).wall), ..request(1, 60) };
    story.ask(&policy, "alice", &later, &now(0)).unwrap();
    assert_eq!((story.state(1), story.ledger.next_due()), (State::Scheduled, Some(BootNanos(100 * S))));
    for at in [0, 99, 100, 120] {
        assert!(!story.is_open(&policy, &now(at)), "nothing opens before its record");
    }
    story.keep_house(&now(99));
    assert_eq!(story.state(1), State::Scheduled);
    story.keep_house(&now(100));
    assert_eq!((story.state(1), story.is_open(&policy, &now(100))), (State::Active, true));
    assert_eq!(story.grant(1).expires_boot, BootNanos(160 * S));
    // A start that passed while nobody looked.
    let missed = AccessRequest { not_before: Some(now(300).wall), ..request(2, 60) };
    story.ask(&policy, "alice", &missed, &now(200)).unwrap();
    story.keep_house(&now(400));
    assert_eq!((story.state(2), story.is_open(&policy, &now(400))), (State::Expired, false));
    let far = |seconds| now(0).wall + SignedDuration::from_secs(seconds);
    let judge = |r: &AccessRequest, now: &Now| policy.judge("alice", r, &Ledger::default(), now).map_err(|r| r.reason);
    let at = |seconds| AccessRequest { not_before: Some(far(seconds)), ..request(3, 60) };
    assert!(judge(&at(MAX_LEAD.0.cast_signed()), &now(0)).is_ok());
    assert_eq!(judge(&at(MAX_LEAD.0.cast_signed() + 1), &now(0)), Err(Reason::StartTooFar));
    assert_eq!(judge(&at(10), &Now { clock: ClockState::Unsynchronised, ..now(0) }), Err(Reason::ClockUntrusted));
    assert_eq!(judge(&at(-10), &now(0)).unwrap().starts_boot, BootNanos(0), "a start that has passed is now");
    let until = AccessRequest { end: End::At(far(50)), ..at(40) };
    assert_eq!(judge(&until, &now(0)).unwrap().expires_boot, BootNanos(50 * S));
    assert_eq!(judge(&AccessRequest { end: End::At(far(40)), ..at(40) }, &now(0)), Err(Reason::DurationTooShort));
}

#[test]
fn an_extension_takes_the_place_of_what_it_extends_and_stays_below_the_cap() {
    let (mut story, policy) = (Story::default(), policy(0));
    story.ask(&policy, "alice", &request(1, 300), &now(0)).unwrap();
    let extend = |id, old, seconds| AccessRequest { supersedes: Some(Uuid::from_u128(old)), ..request(id, seconds) };
    let refused: &[(&str, AccessRequest, Reason)] = &[
        ("bob", extend(2, 1, 400), Reason::GrantNotFound),
        ("alice", extend(2, 7, 400), Reason::GrantNotFound),
        ("alice", extend(2, 1, 200), Reason::WouldShorten),
        ("alice", extend(2, 1, 501), Reason::DurationTooLong),
        (
            "alice",
            AccessRequest { sources: vec!["10.0.0.2/32".parse().unwrap()], ..extend(2, 1, 400) },
            Reason::ExtensionMismatch,
        ),
        ("alice", AccessRequest { not_before: Some(now(200).wall), ..extend(2, 1, 400) }, Reason::ExtensionMismatch),
    ];
    for (who, request, reason) in refused {
        assert_eq!(story.ask(&policy, who, request, &now(100)), Err(*reason), "{request:?}");
    }
    story.ask(&policy, "alice", &extend(2, 1, 500), &now(100)).unwrap();
    assert_eq!((story.state(1), story.state(2)), (State::Superseded, State::Active));
    assert_eq!(story.ledger.get(&Uuid::from_u128(1)).unwrap().superseded_by, Some(Uuid::from_u128(2)));
    assert_eq!((story.grant(2).expires_boot, story.grant(2).chain_start()), (BootNanos(600 * S), BootNanos(0)));
    // However often: the cap counts from the first.
    assert_eq!(story.ask(&policy, "alice", &extend(3, 2, 420), &now(200)), Err(Reason::DurationTooLong));
    assert_eq!(story.ask(&policy, "alice", &extend(3, 1, 420), &now(200)), Err(Reason::GrantEnded));
    // One live grant at once, and yet it may be extended.
    let mut one = policy.clone();
    one.ports[0].max_grants = Some(1);
    let mut story = Story::default();
    story.ask(&one, "alice", &request(1, 300), &now(0)).unwrap();
    assert_eq!(story.ask(&one, "alice", &request(2, 300), &now(1)), Err(Reason::TooManyGrants));
    story.ask(&one, "alice", &extend(3, 1, 400), &now(1)).unwrap();
}

#[test]
fn what_nobody_uses_closes() {
    let mut story = Story::default();
    let mut policy = policy(0);
    policy.ports[0].first_use_within = Some(Seconds(10));
    policy.ports[0].idle_timeout = Some(Seconds(30));
    story.ask(&policy, "alice", &request(1, 600), &now(100)).unwrap();
    let grant = story.grant(1);
    let (never, boot) = (BootNanos(0), |s: u64| BootNanos(s * S));
    for (last, used_before, started, want) in [
        (never, false, boot(0), Some((boot(110), EndCause::Unused))),
        (boot(105), false, boot(0), Some((boot(135), EndCause::Idle))),
        (boot(200), false, boot(0), Some((boot(230), EndCause::Idle))),
        (never, true, boot(150), Some((boot(180), EndCause::Idle))),
        (never, false, boot(150), Some((boot(160), EndCause::Unused))),
    ] {
        assert_eq!(grant.use_by(last, used_before, started), want);
    }
    let unlimited = Grant { first_use_within: None, idle_timeout: None, ..grant.clone() };
    assert_eq!(unlimited.use_by(never, false, never), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// A thousand operations, with the journal folded anew at any moment, and with reboots.
    #[test]
    fn a_long_life_holds_its_promises(steps in prop::collection::vec((0..9u8, 0..40u128, 1..200u64), 1000)) {
        let mut story = Story::default();
        let (mut clock, mut boot) = (1, 1u128);
        let mut policy = policy(1);
        policy.ports[0].max_grants = Some(4);
        let free = Policy { ports: vec![PortRule { approvals: Default::default(), ..policy.ports[0].clone() }], ..policy.clone() };
        for (serial, (step, id, more)) in (1000..).zip(steps) {
            clock += more / 16;
            let now = Now { boot_id: Uuid::from_u128(boot), ..now(clock) };
            let pick = |story: &Story, wanted: State| {
                let held = story.ledger.living().filter(|h| h.state() == wanted).map(|h| h.request.id().as_u128());
                let all: Vec<_> = held.collect();
                (!all.is_empty()).then(|| all[usize::try_from(id).unwrap() % all.len()])
            };
            story.keep_house(&now);
            match step {
                0 => drop(story.ask(&free, "alice", &request(serial, more), &now).ok()),
                1 => drop(story.ask(&policy, "bob", &request(serial, more), &now).ok()),
                2 => {
                    let start = now.wall + SignedDuration::from_secs(30);
                    let _ = story.ask(&free, "bob", &AccessRequest { not_before: Some(start), ..request(serial, more) }, &now);
                }
                3 => if let Some(old) = pick(&story, State::Active) {
                    let who = story.ledger.get(&Uuid::from_u128(old)).unwrap().request.signer().principal.clone();
                    let extension = AccessRequest { supersedes: Some(Uuid::from_u128(old)), ..request(serial, more * 3) };
                    let _ = story.ask(&free, &who, &extension, &now);
                },
                4 => if let Some(id) = pick(&story, State::Pending)
                    && free.judge("bob", &story.ledger.get(&Uuid::from_u128(id)).unwrap().request.pending().unwrap().request, &story.ledger, &now).is_ok()
                {
                    story.approve(&policy, "carol", id, &now);
                },
                5 => if let Some(id) = pick(&story, State::Active) {
                    story.end(Uuid::from_u128(id), EndCause::Revoked, &now);
                },
                6 => if let Some(id) = pick(&story, State::Scheduled) {
                    story.end(Uuid::from_u128(id), EndCause::GivenBack, &now);
                },
                7 if more > 190 => boot += 1,
                _ if id == 0 => {
                    // The agent was killed: it knows what the journal says and nothing else.
                    let mut again = Ledger::default();
                    for record in &story.records {
                        again.apply(record);
                    }
                    prop_assert_eq!(&again, &story.ledger);
                    let text = serde_json::to_string(&story.ledger).unwrap();
                    prop_assert_eq!(&serde_json::from_str::<Ledger>(&text).unwrap(), &story.ledger);
                }
                _ => {}
            }
            if serial % 16 == 0 {
                check(&story, &now)?;
            }
        }
    }
}

/// What has to hold at every moment, asked of the journal's text alone.
fn check(story: &Story, now: &Now) -> Result<(), TestCaseError> {
    let (mut opened, mut ended) = (HashMap::new(), HashMap::new());
    for record in &story.records {
        let Some(id) = record.event.subject() else { continue };
        match &record.event {
            Event::Granted { grant } => *opened.entry(id).or_insert(0) += usize::from(grant.starts_boot <= record.boot),
            Event::Activated { .. } => *opened.entry(id).or_insert(0) += 1,
            Event::Ended { .. } => *ended.entry(id).or_insert(0) += 1,
            _ => {}
        }
    }
    let mut slots = BTreeSet::new();
    for grant in story.ledger.active() {
        prop_assert_eq!(opened.get(&grant.id), Some(&1), "nothing is active without a line that opens it");
        prop_assert_eq!(ended.get(&grant.id), None);
    }
    for grant in story.ledger.live() {
        prop_assert!(slots.insert(grant.slot), "two grants count in one slot");
        prop_assert!(grant.chain_start().until(grant.expires_boot) <= 600 * S, "no chain is longer than the cap");
    }
    prop_assert!(story.ledger.live().filter(|g| g.boot_id == now.boot_id).count() <= 4);
    prop_assert!(ended.values().all(|times| *times == 1), "nothing ends twice");
    Ok(())
}
