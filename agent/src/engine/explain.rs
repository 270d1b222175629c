//! Why a connection fails, in sentences. This module owns the findings of `Explain` and of `posternd explain`, and changes nothing.

use std::net::IpAddr;

use jiff::Timestamp;
use postern_core::envelope::Signer;
use postern_core::grant::{AccessRequest, End, Header, PortSpec, Source};
use postern_core::ledger::Ledger;
use postern_core::policy::{Asking, Judgement, Policy};
use postern_core::refusal::Refusal;
use postern_core::request::State;
use postern_core::time::{Now, Seconds};
use uuid::Uuid;

use super::Reader;
use super::view::{DeniedView, ExplainQuery, Explanation, GrantView};

/// How many of the reader's newest grants the findings consider.
pub(super) const MOST_GRANTS: usize = 200;

/// The state that the findings come from.
pub struct Seen<'a> {
    /// The rules.
    pub policy: &'a Policy,
    /// The live grants that the judge counts.
    pub ledger: &'a Ledger,
    /// The people who approve the request.
    pub approvers: &'a [Signer],
    /// Why the requester's signature does not count, if so.
    pub unsigned: Option<Refusal>,
    /// The reader's grants, the newest first, with ended grants.
    pub grants: Vec<GrantView>,
    /// Denied attempts at the ports of the question.
    pub denied: Vec<DeniedView>,
    /// The present time.
    pub now: &'a Now,
    /// Whether the host only observes.
    pub observes: bool,
}

/// Explains what happens to a request like `query`, and to packets of `query`.
#[must_use]
pub fn explain(query: &ExplainQuery, reader: &Reader, mut seen: Seen<'_>) -> Explanation {
    // Root may ask without a principal. Then there is nothing to judge.
    let judged = !query.principal.is_empty();
    let unsigned = seen.unsigned.take();
    let verdict = judged.then(|| unsigned.map_or_else(|| judge(query, &seen), Err));
    let touching = seen.grants.into_iter().filter(|g| g.life.ports().iter().any(|p| touches(query, *p)));
    let (living, ended): (Vec<_>, Vec<_>) = touching.partition(GrantView::is_living);
    let (live, coming): (Vec<_>, Vec<_>) = living.into_iter().partition(|g| g.state == State::Active);
    let denied: Vec<_> = seen.denied.into_iter().filter(|k| may_see(reader, query, &live, k)).collect();
    let mut findings: Vec<_> = seen.observes.then(only_observes).into_iter().collect();
    for port in &query.ports {
        findings.extend(unprotected(seen.policy, *port));
        for source in &query.sources {
            findings.extend(access(*port, *source, &live));
        }
    }
    findings.extend(denied.iter().filter_map(|attempt| elsewhere(attempt, query, &live)));
    findings.extend(coming.iter().map(not_yet));
    findings.extend(ended.first().filter(|_| live.is_empty() && coming.is_empty()).map(last_ended));
    findings.extend(verdict.as_ref().map(|verdict| verdict_sentence(verdict, seen.policy)));
    let (refusal, missing) = match verdict {
        Some(Ok(judgement)) => (None, judgement.missing),
        Some(Err(refusal)) => (Some(refusal), None),
        None => (None, None),
    };
    Explanation { refusal, missing, grants: live, denied, findings }
}

fn only_observes() -> String {
    "This host only observes: nothing is dropped now, with a grant or without. If you cannot connect, the cause is elsewhere.".to_owned()
}

fn verdict_sentence(verdict: &Result<Judgement, Refusal>, policy: &Policy) -> String {
    match verdict {
        Ok(Judgement { missing: None, .. }) => "A request like this would be granted now.".to_owned(),
        Ok(Judgement { missing: Some(missing), .. }) => match policy.pending_ttl {
            Some(ttl) => {
                format!("A request like this would wait up to {ttl} for {} to approve it.", people(missing.count))
            }
            None => format!("A request like this would be refused: {}.", missing.refusal.sentence()),
        },
        Err(refusal) => format!("A request like this would be refused: {}.", refusal.sentence()),
    }
}

fn people(count: u32) -> String {
    if count == 1 { "one person".to_owned() } else { format!("{count} people") }
}

fn judge(query: &ExplainQuery, seen: &Seen<'_>) -> Result<Judgement, Refusal> {
    let most = |port: &PortSpec| seen.policy.rule(*port).map(|(_, rule)| rule.max_duration);
    let duration = query.duration.or_else(|| query.ports.iter().filter_map(most).min()).unwrap_or(Seconds::minutes(30));
    let header = Header { id: Uuid::nil(), audience: Vec::new(), not_after: Timestamp::MAX, challenge: None };
    let request = AccessRequest {
        header,
        ports: query.ports.clone(),
        sources: query.sources.clone(),
        end: End::After(duration),
        not_before: query.not_before,
        supersedes: query.supersedes,
        justification: query.justification.clone(),
        ticket: String::new(),
    };
    let asking = Asking { principal: &query.principal, approvers: seen.approvers };
    seen.policy.judge(asking, &request, seen.ledger, seen.now)
}

fn touches(query: &ExplainQuery, port: PortSpec) -> bool {
    query
        .ports
        .iter()
        .any(|p| p.number == port.number && (p.protocol.covers(port.protocol) || port.protocol.covers(p.protocol)))
}

/// Requesters see denied attempts from the sources of their question. They see others only at ports for which they hold a live grant.
fn may_see(reader: &Reader, query: &ExplainQuery, live: &[GrantView], attempt: &DeniedView) -> bool {
    reader.sees_all()
        || covered(&query.sources, attempt.address)
        || live.iter().any(|g| g.life.ports().iter().any(|p| p.number == attempt.port.number))
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
        g.life.ports().iter().any(|p| p.number == port.number && p.protocol.covers(port.protocol))
            && g.life.sources().iter().any(|s| s.net().contains(&source.net()))
    };
    let grant = live.iter().filter(opens).max_by_key(|g| g.remaining_ns)?;
    let left = Seconds(grant.remaining_ns / 1_000_000_000);
    let used = if grant.usage.packets_in == 0 { ", not used yet" } else { "" };
    Some(format!("{port} is open for {source} for another {left} (grant {}){used}.", grant.life.id()))
}

/// The common mistake: a grant for one address, and denied attempts from another.
fn elsewhere(attempt: &DeniedView, query: &ExplainQuery, live: &[GrantView]) -> Option<String> {
    let granted = live.iter().find(|g| g.life.ports().iter().any(|p| p.number == attempt.port.number))?;
    if covered(granted.life.sources(), attempt.address)
        || live.iter().any(|g| covered(g.life.sources(), attempt.address))
    {
        return None;
    }
    let sources: Vec<_> = granted.life.sources().iter().map(ToString::to_string).collect();
    let hint = if covered(&query.sources, attempt.address) { "" } else { " If that is you, ask for that address." };
    let (from, to) = (attempt.address, attempt.port);
    Some(format!("You are granted from {}, but packets to {to} come from {from}.{hint}", sources.join(", ")))
}

fn last_ended(view: &GrantView) -> String {
    let why = view.ending.as_ref().map_or("its time was up", |e| e.cause.sentence());
    let (id, ending) = (view.life.id(), view.ending.as_ref().map(|e| e.at));
    match ending.or_else(|| view.life.grant().map(|grant| grant.expires)) {
        Some(at) => format!("No grant is live. The latest one ({id}) ended at {at}, because {why}."),
        None => format!("No grant is live. The latest request ({id}) was not approved in time."),
    }
}

fn not_yet(view: &GrantView) -> String {
    let id = view.life.id();
    match view.life.pending() {
        Some(pending) => {
            format!("Your request {id} waits for {} to approve it, until {}.", people(pending.missing), pending.lapses)
        }
        None => match view.life.grant().and_then(|grant| grant.not_before) {
            Some(start) => format!("Your grant {id} opens at {start}."),
            None => format!("Your grant {id} opens in a moment."),
        },
    }
}
