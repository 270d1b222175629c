//! Warnings before a cut. Owns the moments, the affected sessions and the words. The agent finds the terminals and writes to them. Text
//! from others becomes plain ASCII, so that it cannot command a terminal.

use std::collections::BTreeSet;
use std::net::IpAddr;

use uuid::Uuid;

use crate::grant::{Grant, PortSpec};
use crate::ledger::Ledger;
use crate::policy::{OnExpiry, Policy, SESSIONS_MOST};
use crate::request::Ending;
use crate::retained::{RetainedSession, Session};
use crate::text::Shown;
use crate::time::{BootNanos, Now, Seconds};

/// The most warnings before one end.
pub const MOST_WARNINGS: usize = 8;
/// The most characters of a text from others.
const MOST_QUOTED: usize = 100;

/// The kind of end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// A grant ends: its ports close.
    Grant,
    /// The retained sessions of a grant end.
    Sessions,
}

/// A warning that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The grant.
    pub grant: Uuid,
    /// The kind of end.
    pub ends: Ends,
    /// The grant's affected ports.
    pub ports: Vec<PortSpec>,
    /// The end.
    pub end: BootNanos,
    /// The time until the end, rounded up to seconds.
    pub left: Seconds,
}

impl Warning {
    fn new(grant: Uuid, ends: Ends, ports: Vec<PortSpec>, end: BootNanos, now: &Now) -> Self {
        Self { grant, ends, ports, end, left: Seconds(now.boot.until(end).div_ceil(1_000_000_000)) }
    }
}

/// The warnings whose moment lies after `since` and not after `now`: at most one for each end, and none from before the grant's start.
#[must_use]
pub fn due(policy: &Policy, ledger: &Ledger, since: BootNanos, now: &Now) -> Vec<Warning> {
    let ours = ledger.active().filter(|grant| grant.boot_id == now.boot_id && grant.is_live(now.boot));
    let grants = ours.filter_map(|grant| {
        let is_due = |port: &&PortSpec| moment_came(policy, **port, grant.starts_boot, grant.expires_boot, since, now);
        let ports: Vec<_> = grant.ports.iter().filter(is_due).copied().collect();
        (!ports.is_empty()).then(|| Warning::new(grant.id, Ends::Grant, ports, grant.expires_boot, now))
    });
    grants.chain(due_to_sessions(policy, ledger, since, now)).collect()
}

fn due_to_sessions(policy: &Policy, ledger: &Ledger, since: BootNanos, now: &Now) -> Vec<Warning> {
    let mut due: Vec<Warning> = Vec::new();
    for (grant, kept) in ledger.keeping().sessions(now) {
        let Some(ended) = ledger.get(&grant).and_then(|held| held.grant()) else { continue };
        // While the grant lives, the warnings are for the grant's end.
        if now.boot < ended.expires_boot
            || !moment_came(policy, kept.port, ended.expires_boot, kept.until_boot, since, now)
        {
            continue;
        }
        match due.iter_mut().find(|known| known.grant == grant && known.end == kept.until_boot) {
            Some(known) if known.ports.contains(&kept.port) => {}
            Some(known) => known.ports.push(kept.port),
            None => due.push(Warning::new(grant, Ends::Sessions, vec![kept.port], kept.until_boot, now)),
        }
    }
    due
}

fn moment_came(policy: &Policy, port: PortSpec, start: BootNanos, end: BootNanos, since: BootNanos, now: &Now) -> bool {
    let before = policy.rule(port).map(|(_, rule)| &rule.warn_before[..]).unwrap_or_default();
    before.iter().any(|before| {
        let moment = BootNanos(end.0.saturating_sub(before.0.saturating_mul(1_000_000_000)));
        start < moment && since < moment && moment <= now.boot
    })
}

/// The `established` sessions that end with `warning`: no other live grant covers them for longer, and no record retains them for longer.
#[must_use]
pub fn losing(ledger: &Ledger, warning: &Warning, established: &[Session], now: &Now) -> Vec<Session> {
    let of = |session: &Session| match warning.ends {
        Ends::Grant => {
            let about = |port: &PortSpec| warning.ports.contains(port);
            let grant = ledger.get(&warning.grant).and_then(|held| held.grant());
            grant.is_some_and(|grant| session.is_carried_by(grant, about))
        }
        Ends::Sessions => ledger
            .keeping()
            .sessions(now)
            .any(|(grant, kept)| grant == warning.grant && kept.until_boot == warning.end && names(kept, session)),
    };
    let lost = established.iter().filter(|session| of(session));
    lost.filter(|session| !goes_on(ledger, warning.grant, warning.end, session, now)).copied().collect()
}

/// The `established` sessions that the ended `grant` covered or left behind, and that nothing else covers at `now`.
#[must_use]
pub fn lost(ledger: &Ledger, policy: &Policy, grant: &Grant, established: &[Session], now: &Now) -> Vec<Session> {
    let told = |port: &PortSpec| policy.rule(*port).is_some_and(|(_, rule)| !rule.warn_before.is_empty());
    let lost = established.iter().filter(|session| session.is_carried_by(grant, told));
    lost.filter(|session| !goes_on(ledger, grant.id, now.boot, session, now)).copied().collect()
}

fn goes_on(ledger: &Ledger, grant: Uuid, end: BootNanos, session: &Session, now: &Now) -> bool {
    let mut others = ledger.active().filter(|other| other.id != grant && other.boot_id == now.boot_id);
    let carried = |other: &Grant| end < other.expires_boot && session.is_carried_by(other, |_| true);
    let mut kept = ledger.keeping().sessions(now);
    others.any(carried) || kept.any(|(_, kept)| end < kept.until_boot && names(kept, session))
}

fn names(kept: &RetainedSession, session: &Session) -> bool {
    kept.cookie == session.cookie
}

/// The lines, without line ends, for the terminals of `sessions`, which all come from `peer`. `host` is this host's name for people.
#[must_use]
pub fn words(
    policy: &Policy,
    grant: &Grant,
    warning: &Warning,
    sessions: &[Session],
    peer: IpAddr,
    host: &str,
    now: &Now,
) -> Vec<String> {
    let (ports, fates) = touched(policy, sessions, peer);
    let at = now.wall_at(warning.end).strftime("%H:%M:%S UTC");
    let (whose, left) = (plain(&grant.signer.principal), warning.left);
    let mut lines = match warning.ends {
        Ends::Grant => vec![format!("postern: access to {ports} from {peer} ({whose}) ends in {left}, at {at}.")],
        Ends::Sessions => vec![format!("postern: this session to {ports} from {peer} is cut in {left}, at {at}.")],
    };
    if warning.ends == Ends::Grant {
        lines.extend(fates.into_iter().map(|fate| format!("         {fate}")));
    }
    lines.push(format!("         To stay: {}", remedy(grant, warning, host)));
    lines
}

/// The command that a person runs on their own machine for longer access. `host` is this host's name for people.
#[must_use]
pub fn remedy(grant: &Grant, warning: &Warning, host: &str) -> String {
    let host = if host.is_empty() { "HOST".to_owned() } else { plain(host) };
    if warning.ends == Ends::Grant && !grant.is_unsigned() {
        return format!("postern extend {host} --for 1h");
    }
    let ports = warning.ports.iter().map(|port| format!(" --port {port}")).collect::<String>();
    format!("postern request {host}{ports} --for 1h")
}

/// The last message: `grant` ends now, before its time.
#[must_use]
pub fn last_words(policy: &Policy, grant: &Grant, ending: &Ending, sessions: &[Session], peer: IpAddr) -> Vec<String> {
    let (ports, _) = touched(policy, sessions, peer);
    let (whose, why) = (plain(&grant.signer.principal), ending.cause.sentence());
    let by = match (&*ending.by, &*ending.reason) {
        ("", "") => String::new(),
        ("", reason) => format!(" ({})", plain(reason)),
        (by, "") => format!(" (by {})", plain(by)),
        (by, reason) => format!(" (by {}: {})", plain(by), plain(reason)),
    };
    vec![
        format!("postern: access to {ports} from {peer} ({whose}) ends now: {why}{by}."),
        "         Its sessions are cut.".to_owned(),
    ]
}

fn touched(policy: &Policy, sessions: &[Session], peer: IpAddr) -> (String, BTreeSet<String>) {
    let ports = sessions.iter().filter(|session| session.peer == peer).filter_map(Session::port_spec);
    let ports: BTreeSet<_> = ports.collect();
    let rules = ports.iter().filter_map(|port| policy.rule(*port));
    let fates = rules.map(|(_, rule)| fate(rule.on_expiry)).collect();
    (listed(ports), fates)
}

fn listed(ports: impl IntoIterator<Item = PortSpec>) -> String {
    ports.into_iter().map(|port| port.to_string()).collect::<Vec<_>>().join(", ")
}

/// The fate of sessions at the end of their grant, as a sentence.
#[must_use]
pub fn fate(on_expiry: OnExpiry) -> String {
    match on_expiry {
        OnExpiry::Cut => "Sessions are cut then.".to_owned(),
        OnExpiry::Drain(seconds) => format!("Sessions go on for {} after that.", seconds.min(SESSIONS_MOST)),
        OnExpiry::Keep => format!("Sessions go on for up to {SESSIONS_MOST} after that."),
    }
}

/// A short `text` for any terminal: ASCII without control characters, the rest escaped.
#[must_use]
pub fn plain(text: &str) -> String {
    Shown::new(text).in_ascii().at_most(MOST_QUOTED).to_string()
}

#[cfg(test)]
mod tests;
