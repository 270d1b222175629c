//! The ledger and the compiled table against twins that are too simple to be wrong, and the judge rule by rule (its twin: `judge`).

mod support;

use std::collections::BTreeSet;

use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use postern_core::grant::{AccessRequest, End, Grant, PortSpec, Protocol, Use};
use postern_core::key::{GrantKey, max_prefix};
use postern_core::ledger::{Action, Capacity, Event, Ledger, Record, Seen};
use postern_core::message::MAX_MESSAGE_LIFE;
use postern_core::policy::{Asking, Justification, Policy, PortRule, Role, RoleRule};
use postern_core::refusal::Reason;
use postern_core::request::{EndCause, Ending};
use postern_core::table::{Table, compile};
use postern_core::time::{BootNanos, Now, Seconds};
use postern_core::wall::ClockState;
use proptest::prelude::*;
use uuid::Uuid;

use support::{CAPACITY, S, header, now, request, signer};

fn rule(port: &str, allowed: Option<&[&str]>) -> PortRule {
    PortRule {
        max_duration: Seconds(600),
        allowed_sources: allowed.map(|a| a.iter().map(|s| s.parse().unwrap()).collect()),
        ..PortRule::new(port.parse().unwrap())
    }
}

fn policy() -> Policy {
    let roles = vec![
        RoleRule::new(Role::Requester, vec!["alice".into(), "bob".into()]),
        RoleRule::new(Role::Admin, vec!["root".into()]),
    ];
    let ports = vec![rule("22/tcp", Some(&["10.0.0.0/8", "2001:db8::/32"])), rule("53/any", None)];
    Policy { ports, roles, ..Policy::default() }
}

/// Keeps a ledger as the engine does.
struct Story {
    ledger: Ledger,
    policy: Policy,
    records: Vec<Record>,
}

impl Story {
    fn new() -> Self {
        Self { ledger: Ledger::default(), policy: policy(), records: Vec::new() }
    }

    fn push(&mut self, now: &Now, message: Option<Seen>, event: Event) {
        let seq = self.ledger.last_seq() + 1;
        let record = Record { seq, time: now.wall, boot: now.boot, boot_id: now.boot_id, message, event };
        self.ledger.apply(&record);
        self.records.push(record);
    }

    fn ask(&mut self, who: &str, request: &AccessRequest, now: &Now) -> Result<Grant, Reason> {
        self.ledger.check_unseen(request.header.id).map_err(|r| r.reason)?;
        let judgement = self.policy.judge(who, request, &self.ledger, now).map_err(|r| r.reason)?;
        let grant = self.ledger.admit(&[signer(who)], request, &judgement, CAPACITY, now).map_err(|r| r.reason)?;
        self.push(now, Some(Seen::from(&request.header)), Event::Granted { grant: grant.clone() });
        Ok(grant)
    }

    /// As the engine does: a refusal is a record too.
    fn ask_and_record(&mut self, who: &str, request: &AccessRequest, now: &Now) {
        if let Err(reason) = self.ask(who, request, now) {
            let (reason, sentence) = (reason.code().to_owned(), reason.sentence().to_owned());
            let event = Event::Refused {
                signer: signer(who),
                action: Action::Request,
                reason,
                sentence,
                rule: "x".into(),
                ports: request.ports.clone(),
                sources: request.sources.clone(),
            };
            self.push(now, Some(Seen::from(&request.header)), event);
        }
    }

    fn end(&mut self, id: Uuid, cause: EndCause, now: &Now) {
        let ending = Ending::by_itself(now.wall, cause);
        self.push(now, None, Event::Ended { grant: id, ending, usage: Use::default() });
    }
}

#[test]
fn each_rule_of_the_judge_refuses_by_its_own_name() {
    let mut story = Story::new();
    story.policy.ports.push(PortRule { justification: Justification::Required, ..rule("80/tcp", None) });
    story.policy.ports.push(PortRule { max_grants: Some(1), ..rule("81/tcp", None) });
    story.ask("alice", &request(1, &["81/tcp"], &["10.0.0.1/32"], 60), &now(0)).unwrap();
    let cases: &[(&str, AccessRequest, Reason, &str)] = &[
        ("eve", request(2, &["22/tcp"], &["10.0.0.1/32"], 60), Reason::NotPermitted, "role"),
        ("root", request(2, &["22/tcp"], &["10.0.0.1/32"], 60), Reason::NotPermitted, "role"),
        ("alice", request(2, &["23/tcp"], &["10.0.0.1/32"], 60), Reason::PortNotProtected, "port"),
        ("alice", request(2, &["22/udp"], &["10.0.0.1/32"], 60), Reason::PortNotProtected, "port"),
        ("alice", request(2, &["22/any"], &["10.0.0.1/32"], 60), Reason::PortNotProtected, "port"),
        ("alice", request(2, &["22/tcp"], &["11.0.0.1/32"], 60), Reason::SourceNotAllowed, "port[0].allowed_sources"),
        ("alice", request(2, &["22/tcp"], &["0.0.0.0/0"], 60), Reason::SourceNotAllowed, "port[0].allowed_sources"),
        ("alice", request(2, &["22/tcp"], &["8.0.0.0/5"], 60), Reason::SourceNotAllowed, "port[0].allowed_sources"),
        (
            "alice",
            request(2, &["22/tcp"], &["10.0.0.1/32", "2002::/16"], 60),
            Reason::SourceNotAllowed,
            "port[0].allowed_sources",
        ),
        ("alice", request(2, &["53/udp"], &["0.0.0.0/0"], 60), Reason::SourceNotAllowed, "port[1].allowed_sources"),
        ("alice", request(2, &["53/udp"], &["::/0"], 60), Reason::SourceNotAllowed, "port[1].allowed_sources"),
        ("alice", request(2, &["22/tcp"], &["10.0.0.1/32"], 0), Reason::DurationTooShort, "duration"),
        ("alice", request(2, &["22/tcp"], &["10.0.0.1/32"], 601), Reason::DurationTooLong, "port[0].max_duration"),
        ("alice", request(2, &["22/tcp"], &["10.0.0.1/32"], u64::MAX), Reason::DurationTooLong, "port[0].max_duration"),
        ("alice", request(2, &["22/tcp", "23/tcp"], &["10.0.0.1/32"], 60), Reason::PortNotProtected, "port"),
        (
            "alice",
            request(2, &["80/tcp"], &["10.0.0.1/32"], 60),
            Reason::JustificationRequired,
            "port[2].justification",
        ),
        ("alice", request(2, &["81/tcp"], &["10.0.0.1/32"], 60), Reason::TooManyGrants, "port[3].max_grants"),
    ];
    for (who, request, reason, rule) in cases {
        let refusal = story.policy.judge(*who, request, &story.ledger, &now(1)).unwrap_err();
        assert_eq!((refusal.reason, &refusal.rule[..]), (*reason, *rule), "{request:?}");
    }
    for good in [request(2, &["22/tcp"], &["10.0.0.0/8"], 600), request(2, &["22/tcp", "53/any"], &["10.1.0.0/16"], 1)]
    {
        let judgement = story.policy.judge("bob", &good, &story.ledger, &now(1)).unwrap();
        let End::After(seconds) = good.end else { panic!() };
        assert_eq!(judgement.expires_boot, BootNanos((1 + seconds.0) * S));
    }
}

#[test]
fn approvals_count_other_people_in_the_approver_role() {
    let mut policy = policy();
    policy.ports[0].approvals.count = 2;
    let approve = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    policy.roles.push(RoleRule::new(Role::Approver, approve(&["alice", "carol", "dan"])));
    let asked = request(1, &["22/tcp"], &["10.0.0.1/32"], 60);
    for (approvers, want) in [
        (&[][..], Some(Reason::ApprovalsMissing)),
        (&["carol"], Some(Reason::ApprovalsMissing)),
        (&["carol", "alice"], Some(Reason::ApprovalsMissing)),
        (&["carol", "bob"], Some(Reason::ApprovalsMissing)),
        (&["carol", "dan"], None),
    ] {
        let approvers: Vec<_> = approvers.iter().map(|name| signer(name)).collect();
        let asking = Asking { principal: "alice", approvers: &approvers };
        let judged = policy.judge(asking, &asked, &Ledger::default(), &now(0)).unwrap();
        assert_eq!(judged.missing.map(|missing| missing.refusal.reason), want, "{approvers:?}");
    }
    let free = request(1, &["53/udp"], &["10.0.0.1/32"], 60);
    assert!(policy.judge("alice", &free, &Ledger::default(), &now(0)).is_ok());
}

#[test]
fn an_absolute_end_is_turned_into_boot_time_and_needs_a_clock() {
    let policy = policy();
    let at = |wall: Timestamp| AccessRequest { end: End::At(wall), ..request(1, &["22/tcp"], &["10.0.0.1/32"], 0) };
    let judge = |request: &AccessRequest, now: &Now| policy.judge("alice", request, &Ledger::default(), now);
    let soon = at(now(100).wall);
    assert_eq!(judge(&soon, &now(40)).unwrap().expires_boot, BootNanos(100 * S));
    assert_eq!(judge(&soon, &now(100)).unwrap_err().reason, Reason::DurationTooShort);
    assert_eq!(judge(&soon, &now(5000)).unwrap_err().reason, Reason::DurationTooShort);
    assert_eq!(judge(&at(Timestamp::MAX), &now(0)).unwrap_err().reason, Reason::DurationTooLong);
    assert_eq!(judge(&at(Timestamp::MIN), &now(0)).unwrap_err().reason, Reason::DurationTooShort);
    let blind = Now { clock: ClockState::Unsynchronised, ..now(40) };
    assert_eq!(judge(&soon, &blind).unwrap_err().reason, Reason::ClockUntrusted);
}

#[test]
fn an_id_is_accepted_once_until_both_clocks_have_passed() {
    let mut story = Story::new();
    let first = request(7, &["22/tcp"], &["10.0.0.1/32"], 1);
    story.ask("alice", &first, &now(0)).unwrap();
    story.end(first.header.id, EndCause::Revoked, &now(0));
    for t in [0, 1, 61, 3600, 1_000_000] {
        assert_eq!(story.ask("alice", &first, &now(t)), Err(Reason::Replayed), "{t}: the grant's own id");
    }
    // A refusal burns its id too, and is forgotten when its message cannot be fresh any more.
    let refused = |who: &str, action| Event::Refused {
        signer: signer(who),
        action,
        reason: String::new(),
        sentence: String::new(),
        rule: String::new(),
        ports: vec![],
        sources: vec![],
    };
    let fill = |story: &mut Story, who: &str, action, from: u128, count: usize, at: &Now| {
        for n in 0..count as u128 {
            let seen = Seen { id: Uuid::from_u128(from + n), not_after: now(60).wall };
            story.push(at, Some(seen), refused(who, action));
        }
    };
    let seen = |story: &Story| story.ledger.check_unseen(Uuid::from_u128(8)).is_err();
    let room =
        |story: &Story, who: &str, now: &Now| story.ledger.check_room_to_remember(who, now).map_err(|r| r.reason);
    story.push(&now(0), Some(Seen::from(&header(8))), refused("alice", Action::Request));
    assert!(seen(&story));
    // One principal fills a share, and has no room left. The others have.
    let share = 100_000 * 3 / 4 / 16;
    fill(&mut story, "alice", Action::Request, 1000, share, &now(1));
    assert_eq!(room(&story, "alice", &now(2)), Err(Reason::ReplayMemoryFull));
    assert_eq!(room(&story, "bob", &now(2)), Ok(()));
    for who in ["alice", "bob"] {
        assert!(story.ledger.has_room_for_refused(who, Action::Revoke, &now(2)), "{who}: a part of its own");
    }
    // Nor does a full share forget while the wall clock is a year ahead, so nothing is new again when it is set back.
    let ahead = Now { wall: now(31_536_000).wall, ..now(2) };
    assert!(room(&story, "alice", &ahead).is_err());
    fill(&mut story, "alice", Action::Request, 900_000, 1, &ahead);
    assert!(seen(&story));
    // A full memory refuses everybody, and still takes what ends something.
    for n in 0..15 {
        fill(&mut story, &format!("person-{n}"), Action::Request, 1_000_000 + n * 10_000, share, &now(1));
    }
    fill(&mut story, "another", Action::Request, 2_000_000, 8, &now(1));
    assert_eq!(room(&story, "bob", &now(2)), Err(Reason::ReplayMemoryFull));
    assert!(story.ledger.has_room_for_refused("bob", Action::Revoke, &now(2)));
    // Stale, they make room.
    assert!(seen(&story));
    assert_eq!(room(&story, "alice", &now(2000)), Ok(()));
    fill(&mut story, "alice", Action::Request, 5, 1, &now(2000));
    assert!(!seen(&story) && story.ledger.check_unseen(Uuid::from_u128(5)).is_err());
}

#[test]
fn a_full_table_refuses_and_evicts_nobody() {
    let mut story = Story::new();
    let ask = |story: &mut Story, id: u128, sources: &[&str], capacity: Capacity| {
        let request = request(id, &["22/tcp", "53/any"], sources, 60);
        let judgement = story.policy.judge("alice", &request, &story.ledger, &now(0)).unwrap();
        let grant = story.ledger.admit(&[signer("alice")], &request, &judgement, capacity, &now(0))?;
        story.push(&now(0), None, Event::Granted { grant });
        Ok::<_, postern_core::refusal::Refusal>(())
    };
    let small = Capacity { entries: 6, slots: 3 };
    ask(&mut story, 1, &["10.0.0.1/32"], small).unwrap();
    ask(&mut story, 2, &["10.0.0.1/32"], small).unwrap();
    assert_eq!(ask(&mut story, 3, &["10.0.0.2/32", "10.0.0.3/32"], small).unwrap_err().reason, Reason::TableFull);
    ask(&mut story, 4, &["10.0.0.2/32"], small).unwrap();
    assert_eq!(ask(&mut story, 5, &["10.0.0.1/32"], small).unwrap_err().reason, Reason::TableFull);
    assert_eq!(story.ledger.live().map(|g| g.slot).collect::<Vec<_>>(), [0, 1, 2]);
    story.end(Uuid::from_u128(2), EndCause::Revoked, &now(1));
    ask(&mut story, 6, &["10.0.0.1/32"], small).unwrap();
    assert_eq!(story.ledger.live().map(|g| g.slot).collect::<BTreeSet<_>>(), [0, 1, 2].into());
}

#[test]
fn what_is_over_is_due_and_another_boot_never_reopens() {
    let mut story = Story::new();
    story.ask("alice", &request(1, &["22/tcp"], &["10.0.0.1/32"], 10), &now(0)).unwrap();
    story.ask("bob", &request(2, &["22/tcp"], &["10.0.0.1/32"], 20), &now(0)).unwrap();
    assert_eq!(story.ledger.next_due(), Some(BootNanos(10 * S)));
    assert_eq!(story.ledger.overdue(&now(9)), []);
    assert_eq!(story.ledger.overdue(&now(10)), [(Uuid::from_u128(1), EndCause::Expired)]);
    let rebooted = Now { boot_id: Uuid::from_u128(2), ..now(1) };
    assert_eq!(story.ledger.overdue(&rebooted).len(), 2);
    assert!(story.ledger.overdue(&rebooted).iter().all(|(_, cause)| *cause == EndCause::Rebooted));
}

#[test]
fn the_later_of_two_grants_with_one_key_wins() {
    let mut story = Story::new();
    story.ask("alice", &request(1, &["22/tcp"], &["10.0.0.1/32"], 20), &now(0)).unwrap();
    story.ask("bob", &request(2, &["22/tcp"], &["10.0.0.1/32"], 10), &now(0)).unwrap();
    let table = compile(&story.policy, story.ledger.live(), BootNanos(0));
    let ends: Vec<_> = table.grants.values().map(|e| (e.expires_boot_ns, e.slot)).collect();
    assert_eq!(ends, [(20 * S, 0)]);
    // A port that the policy no longer names has no entries.
    story.policy.ports.remove(0);
    assert!(compile(&story.policy, story.ledger.live(), BootNanos(0)).grants.is_empty());
}

fn port() -> impl Strategy<Value = PortSpec> {
    let protocol = prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp), Just(Protocol::Any)];
    (21..25u16, protocol).prop_map(|(number, protocol)| PortSpec { number, protocol })
}

fn net() -> impl Strategy<Value = IpNet> {
    let v4 = (0..4u8, 0..4u8, prop_oneof![Just(0u8), Just(8), Just(16), Just(30), Just(32)])
        .prop_map(|(a, b, len)| IpNet::new([10, a, 0, b].into(), len).unwrap());
    let v6 = (0..4u16, prop_oneof![Just(0u8), Just(32), Just(64), Just(128)])
        .prop_map(|(a, len)| IpNet::new([0x2001, a, 0, 0, 0, 0, 0, 9].into(), len).unwrap());
    prop_oneof![v4, v6].prop_map(|net| net.trunc())
}

fn some_policy() -> impl Strategy<Value = Policy> {
    let rule = (
        port(),
        prop::option::of(prop::collection::vec(net(), 0..3)),
        1..20u64,
        any::<bool>(),
        prop::option::of(1..3u32),
    );
    prop::collection::vec(rule, 0..4).prop_map(|rules| {
        let mut seen = BTreeSet::new();
        let ports = rules
            .into_iter()
            .filter(|(port, ..)| port.protocol.numbers().iter().all(|p| seen.insert((*p, port.number))))
            .map(|(port, allowed_sources, max, wants_reason, max_grants)| PortRule {
                max_duration: Seconds(max),
                allowed_sources,
                justification: if wants_reason { Justification::Required } else { Justification::Optional },
                max_grants,
                ..PortRule::new(port)
            });
        Policy { ports: ports.collect(), ..policy() }
    })
}

/// Whether the table lets a packet through, asking each grant instead.
fn naive_open(
    policy: &Policy,
    grants: &[Grant],
    protocol: u8,
    number: u16,
    address: std::net::IpAddr,
    now: BootNanos,
) -> bool {
    let protected =
        policy.ports.iter().any(|r| r.port.number == number && r.port.protocol.numbers().contains(&protocol));
    let opens = |g: &Grant| {
        now < g.expires_boot
            && g.ports.iter().any(|p| p.number == number && p.protocol.numbers().contains(&protocol))
            && g.sources.iter().any(|s| s.net().contains(&address))
    };
    !protected || grants.iter().any(opens)
}

fn table_open(table: &Table, protocol: u8, number: u16, address: std::net::IpAddr, now: BootNanos) -> bool {
    let source = postern_core::grant::kernel_address(address);
    let live = |len| {
        table.grants.get(&GrantKey::new(source, len, protocol, number)).is_some_and(|e| now.0 < e.expires_boot_ns)
    };
    !table.protected.contains(&(protocol, number)) || (0..=max_prefix(source.family)).any(live)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn the_table_opens_what_the_grants_open(
        policy in some_policy(),
        asked in prop::collection::vec((prop::collection::vec(port(), 1..3), prop::collection::vec(net(), 1..3), 1..9u64), 0..8),
        probes in prop::collection::vec((any::<bool>(), 21..25u16, net(), 0..10u64), 30),
    ) {
        let grant = |(slot, (ports, nets, end)): (usize, (Vec<PortSpec>, Vec<IpNet>, u64))| Grant {
            ports,
            sources: nets.iter().map(|n| n.to_string().parse().unwrap()).collect(),
            expires: now(end).wall,
            expires_boot: BootNanos(end),
            slot: u32::try_from(slot).unwrap(),
            ..Grant::of_nothing(Uuid::from_u128(slot as u128), signer("alice"), now(0).wall, now(0).boot_id)
        };
        let grants: Vec<_> = asked.into_iter().enumerate().map(grant).collect();
        let table = compile(&policy, grants.iter(), BootNanos(0));
        for (tcp, number, net, at) in probes {
            let protocol = if tcp { 6 } else { 17 };
            for address in [net.network(), net.broadcast()] {
                prop_assert_eq!(
                    table_open(&table, protocol, number, address, BootNanos(at)),
                    naive_open(&policy, &grants, protocol, number, address, BootNanos(at))
                );
            }
        }
    }

    #[test]
    fn folding_the_journal_again_gives_the_same_ledger(steps in prop::collection::vec((0..4u8, 0..6u128, 0..40u64), 0..60)) {
        let mut story = Story::new();
        let mut clock = 0;
        for (step, id, more) in steps {
            clock += more / 8;
            let now = now(clock);
            match step {
                0 | 1 => story.ask_and_record(if step == 0 { "alice" } else { "eve" }, &request(id, &["22/tcp"], &["10.0.0.1/32"], 1 + more), &now),
                2 => story.end(Uuid::from_u128(id), EndCause::Revoked, &now),
                _ => for (id, cause) in story.ledger.overdue(&now) {
                    story.end(id, cause, &now);
                },
            }
            let live = story.ledger.live().count();
            prop_assert_eq!(live, story.ledger.live().map(|g| g.slot).collect::<BTreeSet<_>>().len());
        }
        let mut again = Ledger::default();
        for record in &story.records {
            let line = serde_json::to_string(record).unwrap();
            again.apply(&serde_json::from_str(&line).unwrap());
        }
        prop_assert_eq!(again, story.ledger);
    }
}

#[test]
fn a_message_may_not_be_forgotten_before_it_is_stale() {
    let mut story = Story::new();
    let far = now(0).wall + SignedDuration::from_hours(24);
    let long = Seen { id: Uuid::from_u128(9), not_after: far };
    story.push(&now(0), Some(long), Event::Stopped { usage: [].into() });
    assert!(story.ledger.check_unseen(long.id).is_err());
}

/// While nobody knows which messages were used, and not a moment longer.
#[test]
fn a_lost_journal_is_doubted_for_a_messages_life_on_whatever_boot() {
    let life = MAX_MESSAGE_LIFE.0 * 1_000_000_000;
    let (this, next) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let record = |seq, boot: u64, boot_id, event| Record {
        seq,
        time: Timestamp::UNIX_EPOCH,
        boot: BootNanos(boot),
        boot_id,
        message: None,
        event,
    };
    let set_aside = Event::SetAside { path: String::new(), line: 1, reason: String::new() };
    let lost = 7_000_000_000;
    let fold = |later: &[(u64, Uuid)]| {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.unsure_until(this), BootNanos(0));
        ledger.apply(&record(1, lost, this, set_aside.clone()));
        for (seq, &(boot, boot_id)) in (2..).zip(later) {
            ledger.apply(&record(seq, boot, boot_id, Event::Unlocked));
        }
        (ledger.unsure_until(this).0, ledger.unsure_until(next).0)
    };
    let doubted = (lost + life, life);
    assert_eq!(fold(&[]), doubted, "another boot knows only its own clock");
    assert_eq!(fold(&[(lost + life - 1, this)]), doubted);
    assert_eq!(fold(&[(lost + life - 1, this), (life - 1, next)]), (life, life));
    assert_eq!(fold(&[(lost + life, this)]), (0, life), "each boot doubts for that long");
    assert_eq!(fold(&[(life, next)]), (life, 0));
}
