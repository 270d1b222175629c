//! Counts of refused unverified messages, one counter for each [`Reason`]. The worker writes a summary a few times a minute (DESIGN 4).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use postern_core::refusal::Reason;

pub(super) struct Tally {
    total: Vec<AtomicU64>,
    fresh: Vec<AtomicU64>,
    pending: AtomicBool,
}

impl Tally {
    pub(super) fn new() -> Self {
        let zeros = || Reason::ALL.iter().map(|_| AtomicU64::new(0)).collect();
        Self { total: zeros(), fresh: zeros(), pending: AtomicBool::new(false) }
    }

    /// Counts one message. Returns true for the first since the last summary: then the caller requests a summary.
    pub(super) fn count(&self, reason: Reason) -> bool {
        let index = reason as usize;
        self.total[index].fetch_add(1, Ordering::Relaxed);
        self.fresh[index].fetch_add(1, Ordering::Relaxed);
        !self.pending.swap(true, Ordering::AcqRel)
    }

    /// Lets the next count ask again, because the request for a summary found no room.
    pub(super) fn ask_again(&self) {
        self.pending.store(false, Ordering::Release);
    }

    /// The counts since the last call.
    pub(super) fn take(&self) -> BTreeMap<String, u64> {
        self.pending.store(false, Ordering::Release);
        let fresh =
            Reason::ALL.iter().zip(&self.fresh).map(|(r, n)| (r.code().to_owned(), n.swap(0, Ordering::Relaxed)));
        fresh.filter(|(_, n)| *n > 0).collect()
    }

    /// Takes back counts that could not be recorded.
    pub(super) fn put_back(&self, counts: &BTreeMap<String, u64>) {
        for (reason, fresh) in Reason::ALL.iter().zip(&self.fresh) {
            fresh.fetch_add(counts.get(reason.code()).copied().unwrap_or_default(), Ordering::Relaxed);
        }
    }

    /// The counts since the start.
    pub(super) fn totals(&self) -> Vec<(&'static str, u64)> {
        let totals = Reason::ALL.iter().zip(&self.total).map(|(r, n)| (r, n.load(Ordering::Relaxed)));
        totals.filter(|(_, n)| *n > 0).map(|(r, n)| (r.code(), n)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_count_after_a_summary_calls_for_one() {
        let tally = Tally::new();
        assert!(tally.count(Reason::KeyUnknown));
        assert!(!tally.count(Reason::KeyUnknown));
        assert_eq!(tally.take(), [("KEY_UNKNOWN".to_owned(), 2)].into());
        assert!(tally.take().is_empty());
        assert!(tally.count(Reason::Unsigned));
        tally.put_back(&[("KEY_UNKNOWN".to_owned(), 2)].into());
        assert_eq!(tally.take(), [("KEY_UNKNOWN".to_owned(), 2), ("UNSIGNED".to_owned(), 1)].into());
        assert!(tally.totals().contains(&("KEY_UNKNOWN", 2)));
    }
}
