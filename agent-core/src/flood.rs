//! The begin and the end of a flood. Owns the rule for when the agent attaches and detaches the prefilter. It reads no counter or clock.

use crate::time::BootNanos;

/// Refused new connections a second at which a flood begins. At 5 microseconds each (docs/decisions/0050) they cost half a percent of one
/// core. A person's failed tries and a port scan have a much lower rate.
pub const BEGINS_AT: u64 = 1_000;
/// Refused new connections a second below which no flood lasts.
pub const ENDS_BELOW: u64 = 250;
/// A flood is over after this time below [`ENDS_BELOW`], so that a flood in bursts does not attach and detach all the time.
pub const LASTS_NS: u64 = 5_000_000_000;
/// The least time between two counts that give a rate.
const LEAST_NS: u64 = 100_000_000;

const SECOND: u64 = 1_000_000_000;

/// The state of a flood.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flood {
    last: Option<(u64, BootNanos)>,
    /// The end of the flood if nothing more comes.
    until: Option<BootNanos>,
}

impl Flood {
    /// Takes the total of refusals until `now`, and returns whether a flood lasts. A count below the last one starts anew.
    pub fn look(&mut self, refused: u64, now: BootNanos) -> bool {
        let Some((before, then)) = self.last else {
            self.last = Some((refused, now));
            return false;
        };
        let passed = then.until(now);
        if passed >= LEAST_NS {
            self.last = Some((refused, now));
            let fresh = u128::from(refused.saturating_sub(before)) * u128::from(SECOND);
            let at_least = |rate: u64| fresh >= u128::from(rate) * u128::from(passed);
            if at_least(if self.until.is_some() { ENDS_BELOW } else { BEGINS_AT }) {
                self.until = Some(now.plus_nanos(LASTS_NS));
            }
        }
        self.until = self.until.filter(|until| now < *until);
        self.until.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HALF: u64 = SECOND / 2;

    /// The answers after each half second with these numbers of refusals.
    fn said(counts: &[u64]) -> Vec<bool> {
        let (mut flood, mut total, mut now) = (Flood::default(), 7, SECOND);
        flood.look(total, BootNanos(now));
        let say = |count: &u64| {
            (total, now) = (total + count, now + HALF);
            flood.look(total, BootNanos(now))
        };
        counts.iter().map(say).collect()
    }

    #[test]
    fn it_begins_at_its_rate_and_ends_a_while_after_it_fell() {
        assert_eq!(said(&[0, 499, 0, 499]), [false; 4]);
        assert_eq!(said(&[500]), [true]);
        let mut quiet = vec![500];
        quiet.extend([124; 12]);
        let lasts: Vec<bool> = (0..13).map(|half| half < 10).collect();
        assert_eq!(said(&quiet), lasts, "five seconds are ten halves");
        let mut slow = vec![500];
        slow.extend([125; 40]);
        assert_eq!(said(&slow), [true; 41], "it goes on at a lower rate than it began at");
    }

    #[test]
    fn the_first_count_is_no_flood_and_a_count_that_begins_anew_is_none() {
        let mut flood = Flood::default();
        assert!(!flood.look(u64::MAX, BootNanos(SECOND)));
        assert!(!flood.look(5, BootNanos(2 * SECOND)), "the programs were loaded again");
        assert!(flood.look(2005, BootNanos(3 * SECOND)));
    }

    #[test]
    fn counts_close_together_are_taken_as_one() {
        let mut flood = Flood::default();
        flood.look(0, BootNanos(SECOND));
        assert!(!flood.look(100, BootNanos(SECOND + 1)), "a hundred in a nanosecond");
        assert!(flood.look(600, BootNanos(SECOND + HALF)));
    }

    proptest! {
        #[test]
        fn no_counts_and_no_clock_upset_it(looks in prop::collection::vec((any::<u64>(), any::<u64>()), 0..40)) {
            let mut flood = Flood::default();
            for (refused, now) in looks {
                flood.look(refused, BootNanos(now));
            }
        }
    }
}
