//! The judge against a twin that is too simple to be wrong, on random policies, hosts and requests.
//!
//! The twin lists everything that is wrong with a request, in no order. The judge has to say yes exactly when the list is empty, and
//! otherwise to name something from it.

mod random;
mod twin;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use postern_core::policy::Asking;
use postern_core::refusal::Reason;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use random::Case;

/// Policies, and requests to each.
const POLICIES: u32 = 4_000;
const REQUESTS: usize = 30;

/// Every way in which the judge says no. Missing approvals are a yes that waits, on hosts where it may.
const ALL: &[Reason] = &[
    Reason::ClockUntrusted,
    Reason::NotPermitted,
    Reason::PortNotProtected,
    Reason::SourceNotAllowed,
    Reason::DurationTooShort,
    Reason::DurationTooLong,
    Reason::StartTooFar,
    Reason::ExtensionMismatch,
    Reason::WouldShorten,
    Reason::JustificationRequired,
    Reason::ApprovalsMissing,
    Reason::TooManyGrants,
    Reason::GrantNotFound,
    Reason::GrantEnded,
];

/// How often each outcome came about, by the rule that refused without its indices.
#[derive(Default)]
struct Tally {
    pairs: usize,
    granted: usize,
    reasons: BTreeSet<Reason>,
    rules: BTreeMap<String, usize>,
}

impl Tally {
    fn note(&mut self, reason: Reason, rule: &str) {
        self.reasons.insert(reason);
        let plain = rule.chars().filter(|c| !c.is_ascii_digit()).collect::<String>().replace("[]", "");
        *self.rules.entry(plain).or_default() += 1;
    }
}

fn agree(case: &Case, tally: &mut Tally) -> Result<(), TestCaseError> {
    let Case { policy, asked, host, now } = case;
    let asking = Asking { principal: &asked.who, approvers: &asked.approvers };
    let judged = policy.judge(asking, &asked.request, host, now);
    let twin = twin::judge(case);
    tally.pairs += 1;
    match &judged {
        Err(refusal) => {
            prop_assert!(twin.wrong.contains(&refusal.reason), "{refusal:?}, and the twin finds {twin:?}");
            tally.note(refusal.reason, &refusal.rule);
        }
        Ok(judgement) => {
            prop_assert!(twin.wrong.is_empty(), "granted, and the twin finds {twin:?}");
            let missing = judgement.missing.as_ref().map_or(0, |missing| missing.count);
            prop_assert_eq!(missing, twin.missing);
            let span = (i128::from(judgement.starts_boot.0), i128::from(judgement.expires_boot.0));
            prop_assert_eq!(span, (twin.starts, twin.expires));
            prop_assert_eq!(judgement.first_use_within.map(|s| s.0), twin.first_use_within);
            prop_assert_eq!(judgement.idle_timeout.map(|s| s.0), twin.idle_timeout);
            match &judgement.missing {
                Some(missing) => tally.note(missing.refusal.reason, &missing.refusal.rule),
                None => tally.granted += 1,
            }
        }
    }
    Ok(())
}

#[test]
fn the_judge_agrees_with_its_naive_twin_and_every_refusal_is_reached() {
    let tally = RefCell::new(Tally::default());
    let config = Config { cases: POLICIES, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    let story = (random::policy(), random::host(), prop::collection::vec(random::asked(), REQUESTS));
    let run = TestRunner::new(config).run(&story, |(policy, host, asked)| {
        asked.into_iter().try_for_each(|(asked, now)| {
            let case = Case { asked: asked.about(&host), policy: policy.clone(), host: host.clone(), now };
            agree(&case, &mut tally.borrow_mut()).map_err(|error| TestCaseError::fail(format!("{error}\n{case:?}")))
        })
    });
    if let Err(failure) = run {
        // The reason has the one request of many that matters.
        panic!("{}", if let TestError::Fail(reason, _) = &failure { reason.to_string() } else { failure.to_string() });
    }
    let Tally { pairs, granted, reasons, rules } = tally.into_inner();
    println!("{pairs} pairs, {granted} granted; refused by {rules:#?}");
    assert!(pairs >= 100_000, "{pairs}");
    assert_eq!(reasons, ALL.iter().copied().collect(), "each way of saying no, and no other");
    for rule in [
        "role",
        "role.ports",
        "role.sources",
        "role.max_duration",
        "port",
        "port.allowed_sources",
        "port.max_duration",
        "port.justification",
        "port.max_grants",
        "port.approvals",
        "max_duration",
        "duration",
        "not_before",
        "end",
        "supersedes",
    ] {
        assert!(rules.get(rule).is_some_and(|times| *times >= 10), "{rule} refused too seldom: {rules:?}");
    }
    // A twin that agrees only because everything is refused shows nothing.
    assert!(granted > pairs / 50, "{granted} of {pairs}");
}
