//! Clocks: what is stepped, slewed, suspended, restored or shared by nobody changes nothing that runs, opens nothing, and locks nobody
//! out. The engine and the kernel are real, the clocks are the test's, since the machine's own belong to everybody.

mod host;
mod program;

use host::{Fake, Host};
use postern_core::refusal::Reason;
use postern_core::request::State;
use postern_core::wall::ClockState;

const DAY: i64 = 86_400;
const YEAR: i64 = 365 * DAY;

#[test]
fn a_step_changes_nothing_that_runs_and_a_challenge_still_opens() {
    let host = Host::start(Fake::new(), "challenge");
    assert_eq!(host.look(), ClockState::Synchronised);
    let running = host.wish("");
    let end = host.ask(&running).expect("no challenge is needed").life.grant().expect("a grant").expires_boot;
    for by in [DAY, -DAY, YEAR, -YEAR] {
        let unused = host.wish("");
        host.clocks.step(by);
        let doubt = if by > 0 { ClockState::Stepped } else { ClockState::WentBack };
        assert_eq!(host.look(), doubt, "{by}");
        let grant = host.grant(&running.id);
        assert_eq!(grant.life.grant().map(|grant| grant.expires_boot), Some(end), "{by}");
        assert!(grant.state == State::Active && host.is_open(), "{by}");
        assert!(!host.engine().who_am_i().clock_trusted);
        // What was signed before, and what is signed now: without a challenge neither is known to be new.
        assert_eq!(host.refusal(&unused), Some(Reason::ClockUntrusted), "{by}");
        assert_eq!(host.refusal(&host.wish("")), Some(Reason::ClockUntrusted), "{by}");
        let planned = postern_tests::request::Access { not_before: host.after(60), ..host.wish(&host.challenge()) };
        assert_eq!(host.refusal(&planned), Some(Reason::ClockUntrusted), "{by}: the clock does not show when that is");
        host.ask(&host.wish(&host.challenge())).expect("a challenge is enough");
        host.clocks.step(-by);
        assert_eq!(host.look(), ClockState::Synchronised, "{by}: set back");
        host.ask(&host.wish("")).expect("as before");
    }
    let each = ["synchronised", "stepped", "synchronised", "went-back"];
    assert_eq!(host.recorded(), [&each[..], &each, &each[..1]].concat());
}

#[test]
fn a_planned_grant_opens_by_the_boot_clock_however_the_wall_clock_is_set() {
    let host = Host::start(Fake::new(), "challenge");
    let plan = |seconds| {
        let access = postern_tests::request::Access { not_before: host.after(seconds), ..host.wish("") };
        host.ask(&access).expect("a planned grant");
        access.id
    };
    let (soon, later) = (plan(3), plan(3600));
    host.clocks.step(-YEAR);
    assert_eq!(host.look(), ClockState::WentBack);
    host.wait_for(&soon, State::Active);
    assert!(host.is_open());
    host.clocks.step(2 * YEAR);
    assert_eq!(host.look(), ClockState::Stepped);
    assert_eq!(host.grant(&later).state, State::Scheduled, "an hour of the boot clock has not passed");
}

#[test]
fn a_slewed_clock_is_trusted() {
    for ppm in [500, -500] {
        let clocks = Fake::new();
        clocks.change(|d| d.ppm = ppm);
        let host = Host::start(clocks, "challenge");
        assert_eq!(host.look(), ClockState::Synchronised);
        host.ask(&host.wish("")).expect("no challenge is needed");
        assert!(host.is_open());
        assert_eq!(host.recorded(), ["synchronised"], "{ppm}");
    }
}

#[test]
fn an_unsynchronised_clock_requires_challenges_until_it_is_synchronised() {
    let clocks = Fake::new();
    clocks.change(|d| d.max_error = None);
    let mut host = Host::start(clocks.clone(), "challenge");
    assert_eq!(host.look(), ClockState::Unsynchronised);
    assert_eq!(host.refusal(&host.wish("")), Some(Reason::ClockUntrusted));
    host.ask(&host.wish(&host.challenge())).expect("a challenge is enough");
    assert!(host.is_open());
    clocks.change(|d| d.max_error = Some(10));
    assert_eq!(host.look(), ClockState::Synchronised);
    host.ask(&host.wish("")).expect("no challenge is needed");
    // The time server goes away, and the agent is restarted: the clock has not jumped.
    clocks.change(|d| d.max_error = None);
    host.restart();
    assert_eq!(host.look(), ClockState::Synchronised);
    // It jumps while the agent does not run.
    host.clocks.step(DAY);
    host.restart();
    assert_eq!(host.look(), ClockState::Stepped);
    assert!(host.is_open(), "what runs is not touched");
    let trusting = Host::start(clocks, "trust");
    assert_eq!(trusting.look(), ClockState::Assumed);
    trusting.ask(&trusting.wish("")).expect("no challenge is needed");
}

#[test]
fn a_suspend_shortens_grants_and_ends_challenges() {
    let host = Host::start(Fake::new(), "challenge");
    let (running, challenge) = (host.wish(""), host.challenge());
    host.ask(&running).expect("a grant");
    let planned = postern_tests::request::Access { not_before: host.after(1200), ..host.wish("") };
    host.ask(&planned).expect("a planned grant");
    assert!(host.is_open());
    // Three hours asleep: both clocks count them.
    host.clocks.change(|d| (d.boot, d.wall) = (d.boot + 3 * 3600, d.wall + 3 * 3600));
    assert_eq!(host.look(), ClockState::Synchronised);
    assert!(!host.is_open(), "its time was up in the night");
    assert_eq!(host.grant(&running.id).state, State::Expired);
    assert_eq!(host.grant(&planned.id).state, State::Expired, "both its start and its end were in the night");
    assert!(host.grant(&planned.id).steps.iter().all(|step| step.state != State::Active));
    assert_eq!(host.refusal(&host.wish(&challenge)), Some(Reason::ChallengeExpired));
    host.ask(&host.wish("")).expect("a new day");
}

#[test]
fn after_a_restore_everything_is_closed_and_only_new_challenges_count() {
    let mut host = Host::start(Fake::new(), "challenge");
    let (running, challenge) = (host.wish(""), host.challenge());
    let planned = postern_tests::request::Access { not_before: host.after(600), ..host.wish("") };
    let (captured, held_back) = (host.seal(&host.wish(&challenge)), host.seal(&host.wish("")));
    for access in [&running, &planned] {
        host.ask(access).expect("a grant");
    }
    assert!(host.is_open());
    host.engine().restored(&[99; 32]);
    assert_eq!(host.look(), ClockState::Restored);
    assert!(!host.is_open());
    for id in [&running.id, &planned.id] {
        let grant = host.grant(id);
        assert_eq!(grant.state, State::Revoked);
        assert_eq!(grant.ending.expect("an end").cause.code(), "restored");
    }
    let reason = |refused: Result<_, postern_core::refusal::Refusal>| refused.err().map(|refusal| refusal.reason);
    assert_eq!(reason(host.show(captured)), Some(Reason::ChallengeInvalid), "a challenge of before");
    assert_eq!(reason(host.show(held_back)), Some(Reason::ClockUntrusted), "none");
    host.ask(&host.wish(&host.challenge())).expect("a new one is enough");
    assert!(host.is_open());
    // Somebody corrects the clock. Messages of before may still be fresh, and their use forgotten: on this boot a challenge it stays.
    host.clocks.change(|d| d.max_error = Some(1));
    assert_eq!(host.look(), ClockState::Synchronised);
    assert_eq!(host.refusal(&host.wish("")), Some(Reason::ClockUntrusted));
    host.restart();
    assert!(host.is_open(), "what was granted since is as good as any grant");
    assert_eq!(host.refusal(&host.wish("")), Some(Reason::ClockUntrusted));
    assert!(host.status().clock.forgetful);
    // Restored once more, with a grant that is as old as that.
    host.engine().restored(&[98; 32]);
    assert_eq!(host.look(), ClockState::Restored);
    assert!(!host.is_open());
    assert_eq!(host.recorded(), ["synchronised", "restored", "synchronised", "restored"]);
}

#[test]
fn another_boot_opens_nothing_and_requires_challenges_at_first() {
    let mut host = Host::start(Fake::new(), "challenge");
    let running = host.wish("");
    host.ask(&running).expect("a grant");
    assert!(host.is_open());
    host.reboot(60);
    assert!(!host.is_open());
    assert_eq!(host.grant(&running.id).ending.expect("an end").cause.code(), "rebooted");
    assert_eq!(host.look(), ClockState::Synchronised);
    assert!(!host.engine().who_am_i().clock_trusted);
    assert_eq!(host.refusal(&host.wish("")), Some(Reason::ClockUntrusted), "the disk may be an older one");
    host.ask(&host.wish(&host.challenge())).expect("a challenge is enough");
    host.restart();
    assert_eq!(host.refusal(&host.wish("")), Some(Reason::ClockUntrusted), "a restart does not shorten that");
    host.clocks.change(|d| (d.boot, d.wall) = (d.boot + 900, d.wall + 900));
    host.ask(&host.wish("")).expect("what was used before this boot is stale by now");
}

#[test]
fn a_clock_behind_the_record_is_trusted_on_no_boot() {
    let mut host = Host::start(Fake::new(), "trust");
    host.ask(&host.wish("")).expect("a grant");
    host.clocks.step(-DAY);
    host.reboot(3600);
    assert_eq!(host.look(), ClockState::WentBack);
    assert_eq!(host.refusal(&host.wish("")), Some(Reason::ClockUntrusted));
    host.ask(&host.wish(&host.challenge())).expect("a challenge is enough");
    host.clocks.step(DAY);
    host.clocks.change(|d| d.max_error = Some(10));
    assert_eq!(host.look(), ClockState::Synchronised);
}
