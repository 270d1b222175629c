//! Each principal's part in what the ledger holds: remembered ids, history, the kernel's table.

mod support;

use postern_core::envelope::Signer;
use postern_core::grant::{AccessRequest, Grant, Use};
use postern_core::ledger::{Capacity, Event, Ledger, Record, Room, Seen};
use postern_core::policy::{Policy, PortRule, Role, RoleRule};
use postern_core::refusal::Reason;
use postern_core::request::{EndCause, Ending};
use postern_core::time::{Now, Seconds};
use uuid::Uuid;

use support::{CAPACITY, now, request, signer};

/// Keeps a ledger as the engine does.
struct Story {
    ledger: Ledger,
    policy: Policy,
    records: Vec<Record>,
}

impl Story {
    fn new() -> Self {
        let people = vec!["alice".into(), "bob".into()];
        let rule = PortRule { max_duration: Seconds(600), ..PortRule::new("22/tcp".parse().unwrap()) };
        let roles = vec![RoleRule::new(Role::Requester, people)];
        let policy = Policy { ports: vec![rule], roles, ..Policy::default() };
        Self { ledger: Ledger::default(), policy, records: Vec::new() }
    }

    fn push(&mut self, now: &Now, message: Option<Seen>, event: Event) {
        let record = Record::next(&self.ledger, message, event, now);
        self.ledger.apply(&record);
        self.records.push(record);
    }

    fn ask(&mut self, who: &str, request: &AccessRequest, now: &Now) -> Result<Grant, Reason> {
        let judgement = self.policy.judge(who, request, &self.ledger, now).map_err(|r| r.reason)?;
        let admitted = self.ledger.admit(&[signer(who)], request, &judgement, CAPACITY, now);
        let grant = admitted.map_err(|r| r.reason)?;
        self.push(now, Some(Seen::from(&request.header)), Event::Granted { grant: grant.clone() });
        Ok(grant)
    }

    fn end(&mut self, grant: Uuid, cause: EndCause, now: &Now) {
        let ending = Ending::by_itself(now.wall, cause);
        self.push(now, None, Event::Ended { grant, ending, usage: Use::default() });
    }
}

#[test]
fn shares_are_counted_again_from_the_record() {
    let mut story = Story::new();
    let small = Room { ids: 64, ..Room::default() };
    story.ledger.set_room(small);
    for id in 1..=3 {
        story.ask("alice", &request(id, &["22/tcp"], &["10.0.0.1/32"], 1), &now(0)).unwrap();
    }
    let mut again = Ledger::default();
    again.set_room(small);
    story.records.iter().for_each(|record| again.apply(record));
    for ledger in [&story.ledger, &again] {
        let refusal = ledger.check_room_to_remember("alice", &now(1)).unwrap_err();
        assert_eq!((refusal.reason, &refusal.rule[..]), (Reason::ReplayMemoryFull, "limits.replay_memory"));
        assert!(ledger.check_room_to_remember("bob", &now(1)).is_ok());
    }
}

#[test]
fn history_that_is_too_long_loses_the_oldest_of_who_has_most() {
    let mut story = Story::new();
    story.ledger.set_room(Room { history: 10, ..Room::default() });
    for id in 1..=3 {
        story.ask("bob", &request(id, &["22/tcp"], &["10.0.0.1/32"], 1), &now(0)).unwrap();
        story.end(Uuid::from_u128(id), EndCause::GivenBack, &now(0));
    }
    for id in 100..200 {
        story.ask("alice", &request(id, &["22/tcp"], &["10.0.0.1/32"], 1), &now(0)).unwrap();
        story.end(Uuid::from_u128(id), EndCause::GivenBack, &now(0));
    }
    let kept = |story: &Story| {
        story.ledger.newest_before(u64::MAX).map(|held| held.request.id().as_u128()).collect::<Vec<_>>()
    };
    assert_eq!(kept(&story), [199, 198, 197, 196, 195, 194, 193, 3, 2, 1]);
    // Bytes count as well.
    story.ledger.set_room(Room { history_bytes: 5000, ..Room::default() });
    assert!(kept(&story).len() < 5 && kept(&story).contains(&3), "{:?}", kept(&story));
}

#[test]
fn one_principal_fills_a_share_of_the_table_and_root_has_a_reserve() {
    let mut story = Story::new();
    story.ledger.set_room(Room { grants_each: 2, entries_each: 8, ..Room::default() });
    let capacity = Capacity { entries: 32, slots: 16 };
    let ask = |story: &mut Story, id: u128, who: Signer, sources: &[&str]| {
        let request = request(id, &["22/tcp"], sources, 60);
        let judgement = story.policy.judge("alice", &request, &story.ledger, &now(0)).unwrap();
        let grant = story.ledger.admit(&[who], &request, &judgement, capacity, &now(0)).map_err(|r| r.rule)?;
        story.push(&now(0), None, Event::Granted { grant });
        Ok::<_, String>(())
    };
    let many: Vec<String> = (0..9).map(|n| format!("10.0.1.{n}/32")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(ask(&mut story, 1, signer("alice"), &many), Err("limits.entries_each".to_owned()));
    ask(&mut story, 1, signer("alice"), &many[..8]).unwrap();
    assert_eq!(ask(&mut story, 2, signer("alice"), &["10.0.0.2/32"]), Err("limits.entries_each".to_owned()));
    ask(&mut story, 3, signer("alice"), &many[..1]).unwrap();
    assert_eq!(ask(&mut story, 4, signer("alice"), &many[..1]), Err("limits.grants_each".to_owned()));
    for n in 0..13 {
        ask(&mut story, 10 + n, signer(&format!("person-{n}")), &many[..1]).unwrap();
    }
    assert_eq!(ask(&mut story, 50, signer("bob"), &many[..1]), Err(String::new()), "the last one is for root");
    let root = Signer { fingerprint: String::new(), ..signer("root") };
    ask(&mut story, 51, root, &many[..1]).unwrap();
}
