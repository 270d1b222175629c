//! What happened to each port lately, and which grants nobody used.
//!
//! Owns the counting: [`Gather`] takes the records of a period, one by one, and adds them up. It never reads the journal, and what
//! is live it is told.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use jiff::Timestamp;
use uuid::Uuid;

use crate::grant::{Grant, PortSpec, Use};
use crate::ledger::{Action, Event, Record};
use crate::policy::PortRule;
use crate::request::{EndCause, Ending, Request, State};

/// Unused grants that a report names.
pub const MOST_UNUSED: usize = 100;
/// Ports in a report that are not protected: people may ask for any, and a report is for people.
pub const MOST_OTHER_PORTS: usize = 100;

/// What happened to one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortLine {
    /// As the policy names it, or as it was asked for.
    pub port: PortSpec,
    /// As the policy names it; may be empty.
    pub name: String,
    /// Requests that were made in the period; root's own openings too.
    pub requests: u32,
    /// Grants that were made in the period.
    pub granted: u32,
    /// Requests that were refused in the period: by the host, by people, or because too few people approved in time.
    pub refused: u32,
    /// Requests that wait now.
    pub pending: u32,
    /// Grants that are open now.
    pub live: u32,
    /// The latest packet of a grant for it, as far as the period's records or live grants tell. A grant's packets are counted
    /// together, so one for two ports counts for both.
    pub last_access: Option<Timestamp>,
    /// Whose grant that was; empty when there was none.
    pub last_user: String,
}

/// A grant that was made in the period, open, and over without a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    /// The record of its end.
    pub seq: u64,
    /// What it was.
    pub grant: Grant,
    /// How it ended.
    pub ending: Ending,
}

/// Something that has not ended.
#[derive(Clone, Copy, Debug)]
pub struct Living<'a> {
    /// What it is.
    pub life: &'a Request,
    /// Where it is in its life.
    pub state: State,
    /// What its packets have added up to so far.
    pub usage: Use,
}

/// A period, added up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Every protected port in the policy's order, then others that were asked for, the most wanted first, at most
    /// [`MOST_OTHER_PORTS`].
    pub ports: Vec<PortLine>,
    /// Those that ended last first, at most [`MOST_UNUSED`].
    pub unused: Vec<Unused>,
}

/// Adds records up.
#[derive(Clone, Debug)]
pub struct Gather {
    since: Timestamp,
    rules: Vec<PortRule>,
    lines: BTreeMap<PortSpec, PortLine>,
    /// What was asked for and did not end, as far as records told.
    lives: HashMap<Uuid, Request>,
    unused: VecDeque<Unused>,
}

impl Gather {
    /// A report from `since` on, for a host with these rules.
    #[must_use]
    pub fn new(since: Timestamp, rules: &[PortRule]) -> Self {
        let lines = rules.iter().map(|rule| (rule.port, blank(rule.port, &rule.name))).collect();
        Self { since, rules: rules.to_vec(), lines, lives: HashMap::new(), unused: VecDeque::new() }
    }

    /// Takes in the next record. Those from before the period may be shown too, so that later ones can be understood; they count
    /// for nothing.
    pub fn take(&mut self, record: &Record) {
        let counts = record.time >= self.since;
        match &record.event {
            Event::Requested { pending } => {
                if counts {
                    self.count(&pending.request.ports, |line| line.requests += 1);
                }
                self.lives.insert(pending.request.header.id, Request::Pending(pending.clone()));
            }
            Event::Granted { grant } | Event::BreakGlass { grant } => {
                let waited = self.lives.insert(grant.id, Request::Granted(grant.clone())).is_some();
                if counts {
                    self.count(&grant.ports, |line| {
                        line.requests += u32::from(!waited);
                        line.granted += 1;
                    });
                }
            }
            Event::Refused { action: Action::Request, ports, .. } if counts => self.count(ports, |line| {
                line.requests += 1;
                line.refused += 1;
            }),
            Event::Ended { grant, ending, usage } => match self.lives.remove(grant) {
                Some(Request::Granted(grant)) if counts => self.end(record, grant, ending, usage),
                Some(Request::Pending(pending)) if counts && ending.cause != EndCause::GivenBack => {
                    self.count(&pending.request.ports, |line| line.refused += 1);
                }
                _ => {}
            },
            Event::Stopped { usage } if counts => {
                for (id, used) in usage {
                    if let Some(Request::Granted(grant)) = self.lives.get(id) {
                        let (ports, user) = (grant.ports.clone(), grant.signer.principal.clone());
                        self.access(&ports, &user, used.last);
                    }
                }
            }
            _ => {}
        }
    }

    /// Adds what is live, and sums up.
    #[must_use]
    pub fn finish<'a>(mut self, living: impl IntoIterator<Item = Living<'a>>) -> Report {
        for Living { life, state, usage } in living {
            match state {
                State::Pending => self.count(life.ports(), |line| line.pending += 1),
                State::Active => self.count(life.ports(), |line| line.live += 1),
                _ => {}
            }
            self.access(life.ports(), &life.signer().principal, usage.last);
        }
        let mut ports: Vec<_> = self.rules.iter().filter_map(|rule| self.lines.remove(&rule.port)).collect();
        let mut others: Vec<_> = self.lines.into_values().collect();
        others.sort_by_key(|line| (std::cmp::Reverse(line.requests), line.port));
        ports.extend(others.into_iter().take(MOST_OTHER_PORTS));
        Report { ports, unused: self.unused.into_iter().rev().collect() }
    }

    fn end(&mut self, record: &Record, grant: Grant, ending: &Ending, usage: &Use) {
        self.access(&grant.ports, &grant.signer.principal, usage.last);
        let opened = grant.boot_id == record.boot_id && grant.starts_boot <= record.boot;
        let silent = usage.packets_in == 0 && usage.packets_out == 0;
        // An extension goes on with what it extends. What the kernel did not take was never open.
        let over = !matches!(ending.cause, EndCause::Superseded | EndCause::Undone);
        if opened && silent && over && grant.created >= self.since {
            self.unused.push_back(Unused { seq: record.seq, grant, ending: ending.clone() });
            if self.unused.len() > MOST_UNUSED {
                self.unused.pop_front();
            }
        }
    }

    fn access(&mut self, ports: &[PortSpec], user: &str, last: Option<Timestamp>) {
        let Some(last) = last else { return };
        for port in self.rows(ports) {
            let line = self.line(port);
            if line.last_access.is_none_or(|known| known <= last) {
                (line.last_access, line.last_user) = (Some(last), user.to_owned());
            }
        }
    }

    fn count(&mut self, ports: &[PortSpec], mut add: impl FnMut(&mut PortLine)) {
        for port in self.rows(ports) {
            add(self.line(port));
        }
    }

    /// The lines that `ports` count for, each once: a protected port takes in what it covers.
    fn rows(&self, ports: &[PortSpec]) -> BTreeSet<PortSpec> {
        let covers =
            |rule: &PortSpec, port: &PortSpec| rule.number == port.number && rule.protocol.covers(port.protocol);
        let row = |port: &PortSpec| self.rules.iter().map(|rule| rule.port).find(|rule| covers(rule, port));
        ports.iter().map(|port| row(port).unwrap_or(*port)).collect()
    }

    fn line(&mut self, port: PortSpec) -> &mut PortLine {
        self.lines.entry(port).or_insert_with(|| blank(port, ""))
    }
}

fn blank(port: PortSpec, name: &str) -> PortLine {
    PortLine {
        port,
        name: name.to_owned(),
        requests: 0,
        granted: 0,
        refused: 0,
        pending: 0,
        live: 0,
        last_access: None,
        last_user: String::new(),
    }
}

#[cfg(test)]
mod tests;
