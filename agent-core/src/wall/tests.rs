//! Tests of the wall clock's state against a model of the kernel's clock: setting the clock makes it unsynchronised, slewing does not.

use super::*;

const S: u64 = 1_000_000_000;
const DAY: i64 = 86_400;
const YEAR: i64 = 365 * DAY;

#[derive(Clone)]
struct Machine {
    boot: u64,
    wall: i128,
    max_error: Option<u64>,
    restores: u64,
}

impl Machine {
    fn new() -> Self {
        Self { boot: 1000 * S, wall: 1_800_000_000 * i128::from(S), max_error: None, restores: 0 }
    }

    fn synchronised() -> Self {
        Self { max_error: Some(500), ..Self::new() }
    }

    /// Lets time pass; the wall clock is faster by `ppm` millionths.
    fn run(&mut self, seconds: u64, ppm: i128) {
        self.boot += seconds * S;
        let nanos = i128::from(seconds * S);
        self.wall += nanos + nanos * ppm / 1_000_000;
        self.max_error = self.max_error.map(|e| e + seconds * 500);
    }

    /// As `date -s` or a stepping daemon: the kernel drops the synchronised state.
    fn set(&mut self, by: i64) {
        self.wall += i128::from(by) * i128::from(S);
        self.max_error = None;
    }

    fn reading(&self) -> Reading {
        let wall = Timestamp::from_nanosecond(self.wall).unwrap();
        Reading { boot: BootNanos(self.boot), wall, max_error: self.max_error, restores: self.restores }
    }

    fn wall(&self) -> Timestamp {
        self.reading().wall
    }
}

fn fresh(unsynchronised: Unsynchronised) -> WallClock {
    WallClock::new(unsynchronised, High::default(), None)
}

#[test]
fn nobody_vouches_until_somebody_does_and_from_then_on_it_is_believed() {
    let (mut clock, mut machine) = (fresh(Unsynchronised::Challenge), Machine::new());
    assert_eq!(clock.look(&machine.reading()), ClockState::Unsynchronised);
    machine.run(10, 0);
    machine.max_error = Some(900);
    assert_eq!(clock.look(&machine.reading()), ClockState::Synchronised);
    // The time server is gone for a month: the kernel drops the synchronised state, but the clock only drifted.
    machine.run(30 * 86_400, 0);
    machine.max_error = None;
    assert_eq!(clock.look(&machine.reading()), ClockState::Synchronised);
    let mut trusting = fresh(Unsynchronised::Trust);
    assert_eq!(trusting.look(&Machine::new().reading()), ClockState::Assumed);
    assert_eq!(trusting.look(&Machine::synchronised().reading()), ClockState::Synchronised);
}

#[test]
fn every_jump_is_noticed_and_setting_it_back_undoes_it() {
    for by in [3, -3, DAY, -DAY, YEAR, -YEAR] {
        let (mut clock, mut machine) = (fresh(Unsynchronised::Challenge), Machine::synchronised());
        assert_eq!(clock.look(&machine.reading()), ClockState::Synchronised);
        machine.run(5, 0);
        machine.set(by);
        assert_eq!(clock.look(&machine.reading()), ClockState::Stepped, "{by}");
        machine.run(60, 0);
        assert_eq!(clock.look(&machine.reading()), ClockState::Stepped, "{by}: it stays");
        machine.set(-by);
        assert_eq!(clock.look(&machine.reading()), ClockState::Synchronised, "{by}: as it was");
    }
}

#[test]
fn a_jump_is_settled_by_whoever_synchronises_or_by_time() {
    for (policy, later) in
        [(Unsynchronised::Challenge, ClockState::Unsynchronised), (Unsynchronised::Trust, ClockState::Assumed)]
    {
        let (mut clock, mut machine) = (fresh(policy), Machine::synchronised());
        clock.look(&machine.reading());
        machine.set(YEAR);
        assert_eq!(clock.look(&machine.reading()), ClockState::Stepped);
        let mut synchronised = (clock.clone(), machine.clone());
        synchronised.1.max_error = Some(100);
        assert_eq!(synchronised.0.look(&synchronised.1.reading()), ClockState::Synchronised);
        machine.run(MAX_MESSAGE_LIFE.0, 0);
        assert_eq!(clock.look(&machine.reading()), ClockState::Stepped);
        machine.run(1, 0);
        assert_eq!(clock.look(&machine.reading()), later, "what was fresh by the other time is stale");
    }
}

#[test]
fn slewing_suspend_and_a_leap_second_are_no_jumps() {
    for ppm in [500, -500] {
        let (mut clock, mut machine) = (fresh(Unsynchronised::Challenge), Machine::synchronised());
        for _ in 0..1000 {
            machine.run(60, ppm);
            assert_eq!(clock.look(&machine.reading()), ClockState::Synchronised, "{ppm}");
        }
        // Both clocks run during suspend.
        machine.run(9 * 3600, 0);
        assert_eq!(clock.look(&machine.reading()), ClockState::Synchronised);
        machine.wall -= i128::from(S);
        assert_eq!(clock.look(&machine.reading()), ClockState::Synchronised);
    }
}

#[test]
fn behind_the_record_is_believed_by_nobody_unless_the_record_was_in_doubt() {
    let machine = Machine::synchronised();
    let high = |trusted: i64, any: i64| {
        let at = |seconds: i64| machine.wall() + jiff::SignedDuration::from_secs(seconds);
        High { trusted: at(trusted), any: at(any) }
    };
    for (high, synchronised, not) in [
        (high(5, 5), ClockState::Synchronised, ClockState::Unsynchronised),
        (high(6, 6), ClockState::WentBack, ClockState::WentBack),
        (high(YEAR, YEAR), ClockState::WentBack, ClockState::WentBack),
        // Before its synchronisation the clock was a year ahead, and so are the records of that time.
        (high(-YEAR, YEAR), ClockState::Synchronised, ClockState::WentBack),
    ] {
        for (max_error, want) in [(Some(1), synchronised), (None, not)] {
            let reading = Reading { max_error, ..machine.reading() };
            let mut clock = WallClock::new(Unsynchronised::Challenge, high, None);
            assert_eq!(clock.look(&reading), want, "{high:?}");
            let mut later = fresh(Unsynchronised::Challenge);
            later.look(&reading);
            later.recorded(high);
            assert_eq!(later.look(&reading), want, "{high:?}");
        }
    }
}

#[test]
fn after_a_restore_only_news_of_the_clock_counts() {
    let (mut clock, mut machine) = (fresh(Unsynchronised::Challenge), Machine::synchronised());
    clock.look(&machine.reading());
    machine.run(100, 0);
    machine.restores = 1;
    assert_eq!(clock.look(&machine.reading()), ClockState::Restored);
    machine.run(100, 0);
    assert_eq!(clock.look(&machine.reading()), ClockState::Restored, "what the kernel says is as old as the snapshot");
    let mut stepped = (clock.clone(), machine.clone());
    machine.max_error = Some(machine.max_error.unwrap() - 1);
    assert_eq!(clock.look(&machine.reading()), ClockState::Synchronised, "somebody has corrected it since");
    machine.restores = 2;
    assert_eq!(clock.look(&machine.reading()), ClockState::Restored, "and again");
    stepped.1.set(DAY);
    assert_eq!(stepped.0.look(&stepped.1.reading()), ClockState::Restored);
    stepped.1.max_error = Some(1_000_000);
    assert_eq!(stepped.0.look(&stepped.1.reading()), ClockState::Synchronised);
    let mut trusting = fresh(Unsynchronised::Trust);
    trusting.look(&Machine::new().reading());
    assert_eq!(trusting.look(&Reading { restores: 1, ..Machine::new().reading() }), ClockState::Restored);
}

#[test]
fn a_start_goes_on_from_what_is_on_record() {
    let machine = Machine::new();
    let seen = |state, by: i64| Seen {
        boot: BootNanos(machine.boot - 60 * S),
        wall: machine.wall() - jiff::SignedDuration::from_secs(60 + by),
        boot_id: Uuid::nil(),
        state,
    };
    let at_start =
        |seen| WallClock::new(Unsynchronised::Challenge, High::default(), Some(seen)).look(&machine.reading());
    assert_eq!(at_start(seen(ClockState::Synchronised, 0)), ClockState::Synchronised, "it was, and has not jumped");
    assert_eq!(at_start(seen(ClockState::Assumed, 0)), ClockState::Unsynchronised);
    for state in ClockState::ALL {
        if *state != ClockState::Restored {
            assert_eq!(at_start(seen(*state, DAY)), ClockState::Stepped, "{state:?}: it jumped while nobody looked");
        }
    }
    assert_eq!(at_start(seen(ClockState::Stepped, 0)), ClockState::Stepped);
    let mut restored = WallClock::new(Unsynchronised::Trust, High::default(), Some(seen(ClockState::Restored, 0)));
    let reading = Reading { max_error: Some(7), ..machine.reading() };
    assert_eq!(restored.look(&reading), ClockState::Restored, "that may be as old as the snapshot");
    assert_eq!(restored.look(&Reading { max_error: Some(6), ..reading }), ClockState::Synchronised);
}

#[test]
fn codes_and_sentences() {
    let codes: std::collections::BTreeSet<_> = ClockState::ALL.iter().map(|state| state.code()).collect();
    assert_eq!(codes.len(), ClockState::ALL.len());
    for state in ClockState::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.code());
        assert!(!state.sentence().ends_with('.'));
        assert!(!state.is_trusted() || state.knows_windows());
    }
}
