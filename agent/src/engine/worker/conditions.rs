//! The conditions of the host, and when each began. Others decide what to do about a condition.

use std::collections::BTreeMap;

use jiff::Timestamp;
use postern_core::condition::Condition;
use postern_core::time::{BootNanos, Now};

use super::{Worker, trial};
use crate::enforcer::Loss;
use crate::engine::{ConditionView, ModeView};

#[derive(Default)]
pub(super) struct Conditions {
    /// The reason of each reported condition. Losses, the mode, the clock and tunnels are checked anew each time.
    reported: BTreeMap<Condition, String>,
    since: Since,
}

/// When each condition began, on the boot clock, which no step of the wall clock moves.
#[derive(Default)]
struct Since(BTreeMap<Condition, BootNanos>);

impl Conditions {
    /// Notes that `condition` holds for the reason `why`, or holds no longer (`None`).
    pub(super) fn set(&mut self, condition: Condition, why: Option<String>) {
        match why {
            Some(why) => drop(self.reported.insert(condition, why)),
            None => drop(self.reported.remove(&condition)),
        }
    }

    /// As [`Conditions::set`], and logs a reason that is new.
    pub(super) fn set_and_log(&mut self, condition: Condition, why: Option<String>) {
        if let Some(why) = why.as_ref().filter(|why| self.why(condition) != Some(why)) {
            tracing::error!(condition = condition.code(), "{why}");
        }
        self.set(condition, why);
    }

    pub(super) fn why(&self, condition: Condition) -> Option<&String> {
        self.reported.get(&condition)
    }
}

impl Since {
    /// Notes the present conditions. A condition that was present before keeps its time.
    fn note(&mut self, present: &[(Condition, String)], now: BootNanos) {
        self.0.retain(|condition, _| present.iter().any(|(there, _)| there == condition));
        for (condition, _) in present {
            self.0.entry(*condition).or_insert(now);
        }
    }

    fn of(&self, condition: Condition, now: &Now) -> Timestamp {
        self.0.get(&condition).map_or(now.wall, |since| now.wall_at(*since))
    }
}

impl Worker {
    /// Notes when conditions begin and end, at each check of the layers.
    pub(super) fn follow_conditions(&mut self, losses: &[Loss], now: &Now) {
        let present = self.present(losses, &trial::view(&self.state.ledger, now), now);
        self.state.conditions.since.note(&present, now.boot);
    }

    /// Every condition, the gravest first.
    pub(super) fn conditions(&mut self, now: &Now) -> Vec<ConditionView> {
        let mode = trial::view(&self.state.ledger, now);
        let present = self.present(&self.state.kernel.enforcer.losses(), &mode, now);
        let since = &mut self.state.conditions.since;
        since.note(&present, now.boot);
        let view = |(condition, detail)| {
            let of_mode = match condition {
                Condition::Observing | Condition::OnTrial => mode.since,
                _ => None,
            };
            ConditionView { condition, detail, since: of_mode.unwrap_or_else(|| since.of(condition, now)) }
        };
        let shared = &self.engine.0;
        let aside = shared.journal.left_aside().into_iter().map(|(since, detail)| ConditionView {
            condition: Condition::JournalAside,
            detail,
            since: since.unwrap_or(shared.started),
        });
        let mut all: Vec<_> = present.into_iter().map(view).chain(aside).collect();
        all.sort_by_key(|view| view.condition);
        all
    }

    /// Every condition except a journal that was set aside: this check runs often, and must not read the disk.
    fn present(&self, losses: &[Loss], mode: &ModeView, now: &Now) -> Vec<(Condition, String)> {
        let kernel = &self.state.kernel;
        let open = kernel.enforcer.is_open().then(|| {
            let why = "OPEN: neither the lock nor the cut is attached, so the protected ports are open to everybody; posternd tries \
                       again twice a second";
            (Condition::Open, why.to_owned())
        });
        let untrusted = (!now.clock.is_trusted()).then(|| {
            let why = format!(
                "the wall clock is not trusted: {}. Messages need a challenge, and ends and starts by the wall clock are refused",
                now.clock.sentence()
            );
            (Condition::ClockUntrusted, why)
        });
        let reported = self.state.conditions.reported.iter();
        open.into_iter()
            .chain(trial::condition(mode))
            .chain(losses.iter().map(|loss| (loss.condition(), loss.sentence())))
            .chain(self.tunnels.conditions(kernel))
            .chain(reported.map(|(&condition, why)| (condition, why.clone())))
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
