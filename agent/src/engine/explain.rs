//! Why a connection fails, in sentences.
//!
//! Owns the findings of `Explain`. It asks the same judge as a real request does and changes nothing.

use std::net::IpAddr;

use jiff::Timestamp;
use postern_core::grant::{AccessRequest, End, Header, PortSpec, Source};
use postern_core::ledger::Ledger;
use postern_core::policy::Policy;
use postern_core::refusal::Refusal;
use postern_core::time::{Now, Seconds};
use uuid::Uuid;

use super::view::{Explanation, GrantView, KnockView, Query, Reader};

/// Of the reader's grants, the newest that are looked at.
pub(super) const MOST_GRANTS: usize = 200;

/// What there is to look at.
pub(super) struct Seen<'a> {
    pub policy: &'a Policy,
    pub ledger: &'a Ledger,
    /// The reader's, the newest first, ended ones too.
    pub grants: Vec<GrantView>,
    /// At the ports asked about.
    pub knocks: Vec<KnockView>,
    pub now: &'a Now,
}

pub(super) fn explain(query: &Query, reader: &Reader, seen: Seen<'_>) -> Explanation {
    // Root may ask without naming anybody: then there is nobody to judge.
    let judged = !query.principal.is_empty();
    let refusal = judged.then(|| judge(query, &seen)).flatten();
    let touching: Vec<_> =
        seen.grants.into_iter().filter(|g| g.grant.ports.iter().any(|p| touches(query, *p))).collect();
    let (live, ended): (Vec<_>, Vec<_>) = touching.into_iter().partition(|g| g.remaining_ns > 0);
    let knocks: Vec<_> = seen.knocks.into_iter().filter(|k| may_see(reader, query, &live, k)).collect();
    let mut findings = Vec::new();
    for port in &query.ports {
        findings.extend(unprotected(seen.policy, *port));
        for source in &query.sources {
            findings.extend(access(*port, *source, &live));
        }
    }
    findings.extend(knocks.iter().filter_map(|knock| elsewhere(knock, query, &live)));
    findings.extend(ended.first().filter(|_| live.is_empty()).map(last_ended));
    if judged {
        findings.push(match &refusal {
            None => "A request like this would be granted now.".to_owned(),
            Some(refusal) => format!("A request like this would be refused: {}.", refusal.sentence()),
        });
    }
    Explanation { refusal, grants: live, knocks, findings }
}

/// Asks the judge about the request that the query describes.
fn judge(query: &Query, seen: &Seen<'_>) -> Option<Refusal> {
    let most = |port: &PortSpec| seen.policy.rule(*port).map(|(_, rule)| rule.max_duration);
    let duration = query.duration.or_else(|| query.ports.iter().filter_map(most).min()).unwrap_or(Seconds::minutes(30));
    let header = Header { id: Uuid::nil(), audience: Vec::new(), not_after: Timestamp::MAX, challenge: None };
    let request = AccessRequest {
        header,
        ports: query.ports.clone(),
        sources: query.sources.clone(),
        end: End::After(duration),
        justification: query.justification.clone(),
        ticket: String::new(),
    };
    seen.policy.judge(query.principal.as_str(), &request, seen.ledger, seen.now).err()
}

fn touches(query: &Query, port: PortSpec) -> bool {
    query
        .ports
        .iter()
        .any(|p| p.number == port.number && (p.protocol.covers(port.protocol) || port.protocol.covers(p.protocol)))
}

/// Requesters see the knocks of the sources they asked about, and others only where they hold a live grant themselves.
fn may_see(reader: &Reader, query: &Query, live: &[GrantView], knock: &KnockView) -> bool {
    let all = matches!(reader, Reader::Root | Reader::Person { sees_all: true, .. });
    all || covered(&query.sources, knock.address)
        || live.iter().any(|g| g.grant.ports.iter().any(|p| p.number == knock.port.number))
}

fn covered(sources: &[Source], address: IpAddr) -> bool {
    sources.iter().any(|s| s.net().contains(&address))
}

fn unprotected(policy: &Policy, port: PortSpec) -> Option<String> {
    policy.rule(port).is_none().then(|| {
        format!("Postern does not protect {port} on this host: if you cannot connect, the cause is elsewhere (is the service running? another firewall?).")
    })
}

fn access(port: PortSpec, source: Source, live: &[GrantView]) -> Option<String> {
    let opens = |g: &&GrantView| {
        g.grant.ports.iter().any(|p| p.number == port.number && p.protocol.covers(port.protocol))
            && g.grant.sources.iter().any(|s| s.net().contains(&source.net()))
    };
    let grant = live.iter().filter(opens).max_by_key(|g| g.remaining_ns)?;
    let left = Seconds(grant.remaining_ns / 1_000_000_000);
    let used = if grant.usage.packets_in == 0 { ", not used yet" } else { "" };
    Some(format!("{port} is open for {source} for another {left} (grant {}){used}.", grant.grant.id))
}

/// The classic: granted from one address, knocking from another.
fn elsewhere(knock: &KnockView, query: &Query, live: &[GrantView]) -> Option<String> {
    let granted = live.iter().find(|g| g.grant.ports.iter().any(|p| p.number == knock.port.number))?;
    if covered(&granted.grant.sources, knock.address) || live.iter().any(|g| covered(&g.grant.sources, knock.address)) {
        return None;
    }
    let sources: Vec<_> = granted.grant.sources.iter().map(ToString::to_string).collect();
    let hint = if covered(&query.sources, knock.address) { "" } else { " If that is you, ask for that address." };
    let (from, to) = (knock.address, knock.port);
    Some(format!("You are granted from {}, but packets to {to} come from {from}.{hint}", sources.join(", ")))
}

fn last_ended(view: &GrantView) -> String {
    let ending = view.ending.as_ref();
    let why = ending.map_or("its time was up", |e| e.cause.sentence());
    let at = ending.map_or(view.grant.expires, |e| e.at);
    format!("No grant is live. The latest one ({}) ended at {at}, because {why}.", view.grant.id)
}
