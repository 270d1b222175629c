//! Limits of the whole host: the longest grant, how long requests wait, how many entries the kernel's tables have.

use postern_core::budget::Rates;
use postern_core::ledger::Room;
use postern_core::policy::{DEFAULT_PENDING_TTL, MAX_DURATION_RANGE, MAX_PENDING_TTL};
use postern_core::time::Seconds;
use postern_core::warn::MOST_WARNINGS;

use super::keys;
use super::value::{Section, Value};

/// A larger number of messages in a minute or a day is no limit.
const MOST_MESSAGES: u32 = 100_000_000;
/// The size of the largest payload, in bytes.
const LEAST_PAYLOADS: u32 = 32 * 1024;
/// Room for some of the largest grants, in bytes.
const LEAST_HISTORY: u32 = 1 << 20;

/// The `[limits]` section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The most live grants.
    pub grants: u32,
    /// The most entries in the kernel's table: a grant takes one for each combination of port, protocol and source.
    pub entries: u32,
    /// How many messages one principal may send.
    pub rates: Rates,
    /// How much the ledger holds.
    pub room: Room,
}

impl Default for Limits {
    fn default() -> Self {
        Self { grants: 4096, entries: 16_384, rates: Rates::default(), room: Room::default() }
    }
}

pub(super) fn read(value: &Value<'_>) -> Limits {
    let own = Limits::default();
    let Some(section) = value.section(keys::LIMITS) else { return own };
    let number = |key, default| {
        let value = section.get(key);
        (value.as_ref().and_then(|value| value.number(1..=u32::MAX)).unwrap_or(default), value)
    };
    let ((grants, grants_at), (entries, entries_at)) = (number("grants", own.grants), number("entries", own.entries));
    if entries < grants
        && let Some(at) = entries_at.or(grants_at)
    {
        at.wrong(format!("{entries} entries are too few for {grants} grants, each of which takes one at least"));
    }
    // By default, one principal may use a quarter.
    let (grants_each, _) = number("grants_each", (grants / 4).max(1));
    let (entries_each, _) = number("entries_each", (entries / 4).max(1));
    let room = Room { grants_each: grants_each as usize, entries_each: entries_each as usize, ..room(&section) };
    Limits { grants, entries, rates: rates(&section), room }
}

fn rates(section: &Section<'_>) -> Rates {
    let own = Rates::default();
    let number = |key, default| section.get(key).and_then(|value| value.number(1..=MOST_MESSAGES)).unwrap_or(default);
    Rates {
        requests_per_minute: number("requests_per_minute", own.requests_per_minute),
        requests_per_day: number("requests_per_day", own.requests_per_day),
        approvals_per_minute: number("approvals_per_minute", own.approvals_per_minute),
        endings_per_minute: number("endings_per_minute", own.endings_per_minute),
        reads_per_minute: number("reads_per_minute", own.reads_per_minute),
    }
}

fn room(section: &Section<'_>) -> Room {
    let own = Room::default();
    let number = |key, least, most, default| {
        let value = section.get(key).and_then(|value| value.number(least..=most));
        value.map_or(default, |value| value as usize)
    };
    Room {
        ids: number("replay_memory", 64, 10_000_000, own.ids),
        pending: number("pending", 1, 10_000, own.pending),
        pending_each: number("pending_each", 1, 10_000, own.pending_each),
        pending_bytes: number("pending_bytes", LEAST_PAYLOADS, 64 << 20, own.pending_bytes),
        history: number("history", 1, 1_000_000, own.history),
        history_bytes: number("history_bytes", LEAST_HISTORY, 1 << 30, own.history_bytes),
        ..own
    }
}

/// The longest grant on this host.
pub(super) struct Cap {
    pub(super) most: Seconds,
    /// The line of `max_duration` in the file.
    line: Option<usize>,
}

impl Cap {
    /// From `max_duration` above the first section.
    pub(super) fn of(top: &Section<'_>) -> Self {
        let (least, most) = MAX_DURATION_RANGE;
        let none = Self { most, line: None };
        let Some(value) = top.get("max_duration") else { return none };
        let Some(own) = value.duration() else { return none };
        if own < least || own > most {
            value.wrong(format!("{own} is not from {least} to {most}"));
            return none;
        }
        Self { most: own, line: Some(value.line()) }
    }

    /// The `max_duration` of a port or a role.
    pub(super) fn duration(&self, value: &Value<'_>) -> Option<Seconds> {
        let (least, most) = MAX_DURATION_RANGE;
        let duration = value.duration()?;
        match self.line {
            _ if duration < least || duration > most => {
                value.wrong(format!("{duration} is not from {least} to {most}"))
            }
            Some(line) if duration > self.most => {
                let cap = self.most;
                value.wrong(format!(
                    "{duration} is longer than the host's own max_duration in line {line}, which is {cap}"
                ));
            }
            _ => {}
        }
        Some(duration)
    }
}

/// `pending_ttl`: how long a request waits for approvals. `None` for `"0s"`: requests do not wait.
pub(super) fn pending_ttl(top: &Section<'_>) -> Option<Seconds> {
    let Some(value) = top.get("pending_ttl") else { return Some(DEFAULT_PENDING_TTL) };
    let duration = value.duration()?;
    if duration > MAX_PENDING_TTL {
        value.wrong(format!("{duration} is longer than {MAX_PENDING_TTL}"));
    }
    Some(duration).filter(|duration| *duration > Seconds(0))
}

/// `warn_before`, of the host or of a port: how long before an end people are warned. `[]`: no warnings; `None`: not in the file.
pub(super) fn warn_before(section: &Section<'_>) -> Option<Vec<Seconds>> {
    let value = section.get("warn_before")?;
    let mut moments = value.list(|item| {
        let before = item.duration()?;
        if before < Seconds(1) || before > MAX_DURATION_RANGE.1 {
            item.wrong(format!("{before} is not from 1s to {}", MAX_DURATION_RANGE.1));
        }
        Some(before)
    })?;
    if moments.len() > MOST_WARNINGS {
        value.wrong(format!("{} warnings before one end; {MOST_WARNINGS} are the most", moments.len()));
    }
    moments.sort_unstable_by(|a, b| b.cmp(a));
    moments.dedup();
    Some(moments)
}

#[cfg(test)]
mod tests {
    use postern_core::policy::DEFAULT_WARN_BEFORE;

    use super::*;
    use crate::config::Config;

    #[test]
    fn a_port_is_warned_of_as_the_host_says_where_it_says_nothing_itself() {
        let before = |text: &str| {
            let policy = Config::parse(text).unwrap().policy();
            policy.ports.into_iter().map(|rule| rule.warn_before)
        };
        let host =
            |top: &str| before(&format!("{top}\n[[port]]\nnumber = 22\n[[port]]\nnumber = 23\nwarn_before = ['1m']"));
        assert!(host("").eq([DEFAULT_WARN_BEFORE.to_vec(), vec![Seconds(60)]]));
        assert!(host("warn_before = ['2m']").eq([vec![Seconds(120)], vec![Seconds(60)]]));
        assert!(host("warn_before = []").eq([vec![], vec![Seconds(60)]]));
        assert!(host("warn_before = ['30s', '10m', '30s']").next() == Some(vec![Seconds(600), Seconds(30)]));
        // The default ports too.
        assert!(before("warn_before = []").all(|moments| moments.is_empty()));
        assert!(before("").all(|moments| moments == DEFAULT_WARN_BEFORE));
    }

    #[test]
    fn what_one_principal_may_use_is_read_and_has_bounds() {
        let limits = |text: &str| Config::parse(&format!("[limits]\n{text}")).map(|config| config.limits);
        let said = limits(
            "grants = 10\nentries = 100\nrequests_per_minute = 3\nrequests_per_day = 400\napprovals_per_minute = 5\n\
             endings_per_minute = 6\nreads_per_minute = 7\nreplay_memory = 800\npending = 9\npending_each = 2\n\
             pending_bytes = 40_000\nhistory = 11\nhistory_bytes = 2_000_000",
        );
        let rates = Rates {
            requests_per_minute: 3,
            requests_per_day: 400,
            approvals_per_minute: 5,
            endings_per_minute: 6,
            reads_per_minute: 7,
        };
        let (pending, pending_each, pending_bytes) = (9, 2, 40_000);
        let (history, history_bytes, grants_each, entries_each) = (11, 2_000_000, 2, 25);
        let ids = 800;
        let room =
            Room { ids, pending, pending_each, pending_bytes, history, history_bytes, grants_each, entries_each };
        assert_eq!(said.unwrap(), Limits { grants: 10, entries: 100, rates, room });
        let shares = limits("grants_each = 7\nentries_each = 8").unwrap().room;
        assert_eq!((shares.grants_each, shares.entries_each), (7, 8));
        assert_eq!(limits("").unwrap(), Limits::default());
        for (text, wrong) in [
            ("requests_per_minute = 0", "0 is not from 1 to 100000000"),
            ("replay_memory = 63", "63 is not from 64 to 10000000"),
            ("pending_bytes = 1", "1 is not from 32768 to 67108864"),
            ("history_bytes = 1", "1 is not from 1048576 to 1073741824"),
            ("requests_per_minut = 9", "did you mean 'requests_per_minute'?"),
        ] {
            let problems = limits(text).unwrap_err();
            assert!(problems[0].to_string().contains(wrong), "{}", problems[0]);
        }
    }
}
