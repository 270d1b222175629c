//! Which conditions the host has, and since when.
//!
//! Owns the list that `GetStatus` answers and the time at which each condition began. It never decides what to do about a condition.

use std::collections::BTreeMap;

use postern_core::condition::Condition;
use postern_core::time::{BootNanos, Now};

use super::{Worker, mode};
use crate::enforcer::Loss;
use crate::engine::{ConditionView, ModeView};

/// Since when each condition is there, on the boot clock, so that a step of the wall clock moves nothing.
#[derive(Default)]
pub(super) struct Since(BTreeMap<Condition, BootNanos>);

impl Since {
    /// Notes which conditions are there now. A condition that was there before keeps its time.
    fn note(&mut self, present: &[(Condition, String)], now: BootNanos) {
        self.0.retain(|condition, _| present.iter().any(|(there, _)| there == condition));
        for (condition, _) in present {
            self.0.entry(*condition).or_insert(now);
        }
    }

    fn of(&self, condition: Condition, now: &Now) -> jiff::Timestamp {
        self.0.get(&condition).map_or(now.wall, |since| now.wall_at(*since))
    }
}

impl Worker {
    /// Notes when conditions begin and end. The guard calls this twice a second, with the losses that it has found.
    pub(super) fn follow_conditions(&mut self, losses: &[Loss], now: &Now) {
        let present = self.present(losses, &self.mode(now));
        self.since.note(&present, now.boot);
    }

    /// Every condition, the gravest first.
    pub(super) fn conditions(&mut self, mode: &ModeView, now: &Now) -> Vec<ConditionView> {
        let present = self.present(&self.enforcer.losses(), mode);
        self.since.note(&present, now.boot);
        let view = |(condition, detail)| {
            let since = match condition {
                Condition::Observing | Condition::OnTrial => mode.since,
                _ => None,
            };
            ConditionView { condition, detail, since: since.unwrap_or_else(|| self.since.of(condition, now)) }
        };
        let aside = self.shared().journal.left_aside().into_iter().map(|(since, detail)| ConditionView {
            condition: Condition::JournalAside,
            detail,
            since: since.unwrap_or(self.started),
        });
        let mut all: Vec<_> = present.into_iter().map(view).chain(aside).collect();
        all.sort_by_key(|view| view.condition);
        all
    }

    /// Every condition but a journal that was set aside: to see that takes the disk, for which the guard must not wait.
    fn present(&self, losses: &[Loss], mode: &ModeView) -> Vec<(Condition, String)> {
        let open = self.enforcer.is_open().then(|| {
            let why = "OPEN: neither the lock nor the cut is attached, so the protected ports are open to everybody; posternd tries \
                       again twice a second";
            (Condition::Open, why.to_owned())
        });
        let clock = self.clock_view().state;
        let untrusted = (!clock.is_trusted()).then(|| {
            let why = format!(
                "the wall clock is not trusted: {}. Messages need a challenge, and ends and starts by the wall clock are refused",
                clock.sentence()
            );
            (Condition::ClockUntrusted, why)
        });
        open.into_iter()
            .chain(mode::condition(mode))
            .chain(losses.iter().map(|loss| (loss.condition(), loss.sentence())))
            .chain(self.tunnel_conditions())
            .chain(self.degraded.iter().map(|(&condition, why)| (condition, why.clone())))
            .chain(untrusted)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_keeps_its_time_until_it_ends() {
        let (mut since, at) = (Since::default(), |seconds: u64| BootNanos(seconds * 1_000_000_000));
        let lost = (Condition::LockLost, String::new());
        since.note(std::slice::from_ref(&lost), at(1));
        since.note(&[lost.clone(), (Condition::CutLost, String::new())], at(2));
        assert_eq!(since.0, [(Condition::LockLost, at(1)), (Condition::CutLost, at(2))].into());
        since.note(&[], at(3));
        since.note(&[lost], at(4));
        assert_eq!(since.0, [(Condition::LockLost, at(4))].into());
    }
}
