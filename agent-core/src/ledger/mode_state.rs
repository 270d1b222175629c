//! The host's mode on record. Owns [`ModeState`] and the moment from which the kernel only observes ([`observe_from`]). The kernel
//! compares this moment, so an unconfirmed trial ends on time without the agent (docs/decisions/0032-observe-and-confirm.md).

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::event::{Event, Record, Trial};
use crate::policy::Mode;
use crate::time::{BootNanos, Now};

/// The state of the last trial.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enabling {
    /// There was no trial, or it was confirmed: the configured mode holds.
    #[default]
    None,
    /// The trial waits for a confirmation. It is over after its time, even without a record.
    Trial(Trial),
    /// The trial was not confirmed: the host observes until somebody begins a new one, the configuration is reloaded, or the host reboots.
    RolledBack(Trial),
}

/// The host's mode, since when, and who set it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModeState {
    /// The mode in the configuration at its last reading.
    #[serde(default)]
    pub file: Mode,
    /// The state of the last trial.
    #[serde(default)]
    pub enabling: Enabling,
    /// Since when; unset without a record.
    #[serde(default)]
    pub since: Option<Timestamp>,
    /// Who; empty for the configuration and for the clock.
    #[serde(default)]
    pub by: String,
}

/// The moment from which the kernel only observes, with `file` in the configuration; 0: never, so the host enforces.
#[must_use]
pub fn observe_from(file: Mode, enabling: &Enabling, boot_id: Uuid) -> u64 {
    match enabling {
        // A trial of another boot opens nothing.
        Enabling::Trial(trial) | Enabling::RolledBack(trial) if trial.boot_id == boot_id => trial.until_boot.0.max(1),
        _ if file == Mode::Observe => 1,
        _ => 0,
    }
}

impl ModeState {
    /// Whether the host only observes at `now`.
    #[must_use]
    pub fn observes(&self, now: &Now) -> bool {
        is_observing(self.file, &self.enabling, now)
    }

    /// The running trial at `now`.
    #[must_use]
    pub fn trial(&self, now: &Now) -> Option<&Trial> {
        self.unsettled(now).filter(|trial| now.boot < trial.until_boot)
    }

    /// The trial whose time was up before `now` without a record of it.
    #[must_use]
    pub fn lapsed(&self, now: &Now) -> Option<&Trial> {
        self.unsettled(now).filter(|trial| trial.until_boot <= now.boot)
    }

    fn unsettled(&self, now: &Now) -> Option<&Trial> {
        match &self.enabling {
            Enabling::Trial(trial) if trial.boot_id == now.boot_id => Some(trial),
            _ => None,
        }
    }

    /// The unconfirmed trial of this boot, until somebody begins a new one.
    #[must_use]
    pub fn failed(&self, now: &Now) -> Option<&Trial> {
        match &self.enabling {
            Enabling::RolledBack(trial) if trial.boot_id == now.boot_id => Some(trial),
            _ => None,
        }
    }

    /// The end of an unsettled trial.
    #[must_use]
    pub fn due(&self) -> Option<BootNanos> {
        match &self.enabling {
            Enabling::Trial(trial) => Some(trial.until_boot),
            Enabling::None | Enabling::RolledBack(_) => None,
        }
    }

    /// The state of the trial after a reload: a running trial goes on, and a failed one is forgotten.
    #[must_use]
    pub fn enabling_after_reload(&self) -> Enabling {
        match &self.enabling {
            Enabling::RolledBack(_) => Enabling::None,
            other => other.clone(),
        }
    }

    pub(crate) fn apply(&mut self, record: &Record) {
        match &record.event {
            Event::Started { mode, .. } => self.started(*mode, record),
            Event::PolicyLoaded { mode, .. } => {
                self.becomes(*mode, self.enabling_after_reload(), "", record.time, record);
            }
            Event::Enabled { trial, by } => {
                self.becomes(self.file, Enabling::Trial(trial.clone()), by, record.time, record);
            }
            Event::Confirmed { by, .. } => self.confirmed(by, record),
            Event::RolledBack { at, by } => self.rolled_back(*at, by, record),
            Event::Unlocked => *self = Self::default(),
            _ => {}
        }
    }

    /// A start changes the mode only on another boot, on which the configuration alone counts.
    fn started(&mut self, file: Mode, record: &Record) {
        let enabling = match &self.enabling {
            Enabling::Trial(trial) | Enabling::RolledBack(trial) if trial.boot_id == record.boot_id => {
                self.enabling.clone()
            }
            _ => Enabling::None,
        };
        self.becomes(file, enabling, "", record.time, record);
    }

    /// posternd confirms a trial only if the configuration says `enforce`.
    fn confirmed(&mut self, by: &str, record: &Record) {
        *self = Self { file: Mode::Enforce, enabling: Enabling::None, by: by.to_owned(), ..self.clone() };
        self.since.get_or_insert(record.time);
    }

    fn rolled_back(&mut self, at: Timestamp, by: &str, record: &Record) {
        if let Enabling::Trial(trial) = &self.enabling {
            let until_boot = trial.until_boot.min(record.boot);
            let over = Trial { until_boot, until: at, boot_id: trial.boot_id };
            *self = Self { file: self.file, enabling: Enabling::RolledBack(over), since: Some(at), by: by.to_owned() };
        }
    }

    /// Sets the new state. `since` and `by` describe the last change of the kernel's mode.
    fn becomes(&mut self, file: Mode, enabling: Enabling, by: &str, at: Timestamp, record: &Record) {
        let observes =
            |file, enabling: &Enabling| (1..=record.boot.0).contains(&observe_from(file, enabling, record.boot_id));
        let changes = observes(self.file, &self.enabling) != observes(file, &enabling);
        if changes || self.since.is_none() {
            (self.since, self.by) = (Some(at), by.to_owned());
        }
        (self.file, self.enabling) = (file, enabling);
    }
}

/// Whether a host in this state only observes at `now`.
#[must_use]
pub fn is_observing(file: Mode, enabling: &Enabling, now: &Now) -> bool {
    (1..=now.boot.0).contains(&observe_from(file, enabling, now.boot_id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::ClockState;

    const BOOT: Uuid = Uuid::from_u128(9);

    fn now(boot: u64) -> Now {
        Now { boot: BootNanos(boot), wall: Timestamp::UNIX_EPOCH, clock: ClockState::Synchronised, boot_id: BOOT }
    }

    fn state(file: Mode, enabling: Enabling) -> ModeState {
        ModeState { file, enabling, ..ModeState::default() }
    }

    fn trial(boot_id: Uuid) -> Trial {
        Trial { until_boot: BootNanos(10), until: Timestamp::UNIX_EPOCH, boot_id }
    }

    #[test]
    fn without_a_trial_the_file_says_it() {
        assert_eq!(observe_from(Mode::Enforce, &Enabling::None, BOOT), 0);
        assert_eq!(observe_from(Mode::Observe, &Enabling::None, BOOT), 1);
        assert!(!ModeState::default().observes(&now(u64::MAX)), "nothing known is closed");
    }

    #[test]
    fn a_trial_closes_until_its_end_whatever_the_file_says() {
        for file in [Mode::Enforce, Mode::Observe] {
            let trial = state(file, Enabling::Trial(trial(BOOT)));
            assert_eq!([9, 10, 11].map(|at| trial.observes(&now(at))), [false, true, true], "{file:?}");
            assert_eq!([9, 10].map(|at| trial.trial(&now(at)).is_some()), [true, false]);
            assert_eq!([9, 10].map(|at| trial.lapsed(&now(at)).is_some()), [false, true]);
        }
        let back = state(Mode::Enforce, Enabling::RolledBack(trial(BOOT)));
        assert!(back.observes(&now(11)) && back.failed(&now(11)).is_some());
        assert_eq!(back.enabling_after_reload(), Enabling::None);
    }

    #[test]
    fn a_trial_of_another_boot_is_nothing() {
        for other in [Enabling::Trial(trial(Uuid::nil())), Enabling::RolledBack(trial(Uuid::nil()))] {
            let closed = state(Mode::Enforce, other.clone());
            assert!(
                !closed.observes(&now(11)) && closed.lapsed(&now(11)).is_none() && closed.failed(&now(11)).is_none()
            );
            assert!(state(Mode::Observe, other).observes(&now(1)));
        }
    }

    #[test]
    fn a_trial_that_ends_at_the_first_moment_of_a_boot_is_over() {
        let first = Trial { until_boot: BootNanos(0), ..trial(BOOT) };
        assert_eq!(observe_from(Mode::Enforce, &Enabling::Trial(first), BOOT), 1);
    }
}
