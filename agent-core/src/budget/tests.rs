//! Tests of budgets: no principal spends what another has.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::time::ClockState;

fn now(seconds: u64) -> Now {
    let wall = Timestamp::from_second(1_800_000_000 + seconds.cast_signed()).unwrap();
    Now { boot: BootNanos(seconds * SECOND), wall, clock: ClockState::Synchronised, boot_id: Uuid::from_u128(1) }
}

fn budgets() -> Budgets {
    let mut budgets = Budgets::new(Rates::default());
    budgets.track(["alice", "bob"]);
    budgets
}

/// How many of many messages begin at this second, each ended at once.
fn passed(budgets: &mut Budgets, who: &str, class: Class, second: u64) -> usize {
    let mut passed = 0;
    while budgets.begin(who, class, 100, now(second).boot).is_ok() {
        budgets.end(who, class, false);
        passed += 1;
    }
    passed
}

#[test]
fn each_principal_and_each_class_has_a_bucket_of_its_own() {
    let mut budgets = budgets();
    assert_eq!(passed(&mut budgets, "alice", Class::Request, 0), 30);
    assert_eq!(passed(&mut budgets, "alice", Class::Request, 0), 0);
    assert_eq!(passed(&mut budgets, "alice", Class::GiveBack, 0), 60);
    assert_eq!(passed(&mut budgets, "alice", Class::Read, 0), 600);
    assert_eq!(passed(&mut budgets, "bob", Class::Request, 0), 30);
    assert_eq!(passed(&mut budgets, "alice", Class::Request, 4), 2, "one every two seconds");
    assert_eq!(passed(&mut budgets, "alice", Class::Request, 64), 30);
}

#[test]
fn names_without_a_role_share_one_account_and_take_nothing_from_those_with_one() {
    let mut budgets = budgets();
    let all: usize = (0..1000).map(|n| passed(&mut budgets, &format!("stranger-{n}"), Class::Request, 0)).sum();
    assert_eq!(all, 30);
    assert_eq!(budgets.people.len(), 2);
    assert_eq!(passed(&mut budgets, "alice", Class::Request, 0), 30);
}

#[test]
fn a_refusal_says_how_many_which_setting_and_when() {
    let mut budgets = budgets();
    passed(&mut budgets, "alice", Class::Request, 0);
    let refusal = budgets.begin("alice", Class::Request, 1, now(1).boot).unwrap_err();
    assert_eq!((refusal.reason, &refusal.rule[..]), (Reason::RateLimited, "limits.requests_per_minute"));
    let said = "alice may send 30 requests a minute ([limits] requests_per_minute); try again in 1 s";
    assert_eq!(refusal.detail, said);
    assert!(budgets.begin("alice", Class::Request, 1, now(2).boot).is_ok());
}

#[test]
fn a_large_request_costs_more_and_one_that_is_refused_costs_nothing() {
    let mut budgets = budgets();
    let begin = |budgets: &mut Budgets, bytes| budgets.begin("alice", Class::Request, bytes, now(0).boot).is_ok();
    // Eight tokens each.
    assert_eq!((0..9).filter(|_| begin(&mut budgets, 32 * 1024)).count(), 3);
    assert_eq!((0..9).filter(|_| begin(&mut budgets, 1)).count(), 6);
    let mut few = Budgets::new(Rates { requests_per_minute: 2, ..Rates::default() });
    few.track(["alice"]);
    assert!(begin(&mut few, 32 * 1024) && !begin(&mut few, 1), "the largest message passes a full bucket");
}

#[test]
fn a_day_has_a_limit_too() {
    let mut budgets = budgets();
    let day: usize = (0..24 * 60).map(|minute| passed(&mut budgets, "alice", Class::Request, minute * 60)).sum();
    assert!((3990..=4000).contains(&day), "a full bucket and a day's refill: {day}");
}

#[test]
fn what_ends_something_costs_nothing() {
    let mut budgets = budgets();
    for _ in 0..10_000 {
        budgets.begin("alice", Class::Revoke, 1, now(0).boot).unwrap();
        budgets.end("alice", Class::Revoke, true);
    }
    assert_eq!(passed(&mut budgets, "alice", Class::Revoke, 0), 60);
}

#[test]
fn only_so_much_is_under_way_at_once() {
    let mut budgets = budgets();
    let begin = |budgets: &mut Budgets, who, class| budgets.begin(who, class, 1, now(0).boot).is_ok();
    for class in [Class::Read, Class::Audit, Class::Watch] {
        let most = class.at_once() as usize;
        assert_eq!((0..100).filter(|_| begin(&mut budgets, "alice", class)).count(), most);
        assert!(begin(&mut budgets, "bob", class));
        budgets.end("alice", class, false);
        assert!(begin(&mut budgets, "alice", class));
    }
}

#[test]
fn refusals_beyond_some_are_summed_up_once_a_minute() {
    let mut budgets = budgets();
    let refuse = |budgets: &mut Budgets, at| budgets.gets_a_line("alice", Reason::DurationTooLong, &now(at));
    let lines = (0..5000).filter(|n| refuse(&mut budgets, n / 100)).count();
    assert_eq!(lines, 11, "ten at once and one after half a minute");
    assert!(budgets.gets_a_line("bob", Reason::DurationTooLong, &now(0)));
    let due = budgets.take_summaries(now(50).boot, false);
    let [(who, summed)] = &due[..] else { panic!("{due:?}") };
    assert_eq!((&who[..], summed.counts["DURATION_TOO_LONG"]), ("alice", 5000 - 11));
    assert_eq!((summed.first, summed.last), (now(0).wall, now(49).wall));
    budgets.count("alice", Reason::RateLimited, &now(51));
    assert!(budgets.take_summaries(now(51).boot, false).is_empty() && budgets.is_summary_due());
    assert_eq!(budgets.take_summaries(now(110).boot, false).len(), 1);
    budgets.count("alice", Reason::RateLimited, &now(111));
    assert_eq!(budgets.take_summaries(now(111).boot, true).len(), 1, "at a stop");
}

#[test]
fn a_summary_that_could_not_be_written_is_kept_also_when_the_role_is_gone() {
    let mut budgets = budgets();
    budgets.count("alice", Reason::RateLimited, &now(0));
    let (who, summed) = budgets.take_summaries(now(0).boot, false).remove(0);
    budgets.put_back(&who, summed);
    budgets.count("alice", Reason::RateLimited, &now(1));
    budgets.track(["bob"]);
    let (who, summed) = budgets.take_summaries(now(1).boot, false).remove(0);
    assert_eq!((&who[..], summed.counts["RATE_LIMITED"]), ("", 2));
}

proptest! {
    /// No principal's actions change the budgets of others.
    #[test]
    fn nobody_spends_anothers_budget(
        steps in prop::collection::vec((0..7usize, 0..40_000usize, 0..3u64, any::<bool>()), 0..400),
    ) {
        const ALL: [Class; CLASSES] = [
            Class::Request, Class::Approve, Class::GiveBack, Class::Revoke, Class::Read, Class::Audit, Class::Watch,
        ];
        let mut budgets = budgets();
        let mut second = 0;
        for (class, bytes, pause, ends) in steps {
            second += pause;
            let begun = budgets.begin("alice", ALL[class], bytes, now(second).boot).is_ok();
            if begun && ends {
                budgets.end("alice", ALL[class], false);
            }
            budgets.count("alice", Reason::RateLimited, &now(second));
        }
        for (class, most) in [(Class::Request, 30), (Class::Approve, 60), (Class::Revoke, 60), (Class::Read, 600)] {
            prop_assert_eq!(passed(&mut budgets, "bob", class, second), most);
        }
    }
}
