//! Reports: requests and grants of each port in a period, and unused grants. Owns the counting: [`Gather`] adds up the records of a
//! period. It never reads the journal; the caller passes the records and the live grants.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use jiff::Timestamp;
use uuid::Uuid;

use crate::grant::{Grant, PortSpec, Use};
use crate::ledger::{Action, Event, Record};
use crate::policy::PortRule;
use crate::request::{EndCause, Ending, Request, State};

/// The most unused grants in a report.
pub const MOST_UNUSED: usize = 100;
/// The most unprotected ports in a report: people may ask for any port.
pub const MOST_OTHER_PORTS: usize = 100;

/// The counts of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortLine {
    /// The port as in the policy, or as in the request.
    pub port: PortSpec,
    /// The name in the policy; may be empty.
    pub name: String,
    /// Requests in the period, with root's break-glass grants.
    pub requests: u32,
    /// Grants made in the period.
    pub granted: u32,
    /// Requests refused in the period: by the host, by people, or for lack of approvals in time.
    pub refused: u32,
    /// Requests that wait now.
    pub pending: u32,
    /// Grants that are live now.
    pub live: u32,
    /// The latest packet of a grant for this port. The kernel counts a grant's packets together, so a grant for two ports counts for both.
    pub last_access: Option<Timestamp>,
    /// The user of that grant; empty if there is none.
    pub last_user: String,
}

/// A grant that was made in the period, was open, and ended without a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unused {
    /// The number of the record of its end.
    pub seq: u64,
    /// The grant.
    pub grant: Grant,
    /// The end.
    pub ending: Ending,
}

/// A request or grant that has not ended.
#[derive(Clone, Copy, Debug)]
pub struct Living<'a> {
    /// The request or grant.
    pub life: &'a Request,
    /// The state.
    pub state: State,
    /// The traffic so far.
    pub usage: Use,
}

/// The sums of a period.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The protected ports in the policy's order, then at most [`MOST_OTHER_PORTS`] other requested ports, the most requested first.
    pub ports: Vec<PortLine>,
    /// The latest ends first, at most [`MOST_UNUSED`].
    pub unused: Vec<Unused>,
}

/// Adds up records.
#[derive(Clone, Debug)]
pub struct Gather {
    since: Timestamp,
    rules: Vec<PortRule>,
    lines: BTreeMap<PortSpec, PortLine>,
    lives: HashMap<Uuid, Request>,
    unused: VecDeque<Unused>,
}

impl Gather {
    /// Starts a report from `since` on, for a host with these rules.
    #[must_use]
    pub fn new(since: Timestamp, rules: &[PortRule]) -> Self {
        let lines = rules.iter().map(|rule| (rule.port, blank(rule.port, &rule.name))).collect();
        Self { since, rules: rules.to_vec(), lines, lives: HashMap::new(), unused: VecDeque::new() }
    }

    /// Adds the next record. Records from before the period explain later ones and count for nothing.
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

    /// Adds the live requests and grants, and returns the sums.
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
        // An extension continues its predecessor. The kernel never opened an undone grant.
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

    /// A protected port covers its protocols.
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
