//! The journal's lines between protobuf and the domain.
//!
//! Owns both ways of `ListAudit`. It never decides who may read them.

use postern_core::ledger::Event;
use postern_core::refusal::Refusal;
use postern_proto::v1;
use uuid::Uuid;

use super::payload::moment;
use super::view::stamp;
use super::{MOST_PRINCIPAL, malformed, page, sources, text};
use crate::journal::scan::{Entry, Filter, Page};

/// Which lines are asked for.
///
/// # Errors
/// [`Reason::PayloadMalformed`](postern_core::refusal::Reason::PayloadMalformed) or
/// [`Reason::SourceInvalid`](postern_core::refusal::Reason::SourceInvalid) at the field.
pub fn audit_filter(request: v1::ListAuditRequest) -> Result<Filter, Refusal> {
    let v1::ListAuditRequest { read: _, principal, port, source, since, until, events, page_size, page_token } =
        request;
    let (limit, before) = page(page_size, &page_token)?;
    let named = |text: &String| !text.is_empty();
    let principal = text(principal, "principal", MOST_PRINCIPAL)?;
    let port = text(port, "port", 16)?;
    let parsed = Some(port).filter(named).map(|port| port.parse()).transpose();
    let source = Some(source).filter(named).map(|source| sources(&[source])).transpose();
    Ok(Filter {
        principal: Some(principal).filter(named),
        port: parsed.map_err(|why: String| malformed("port", why))?,
        source: source.map_err(|refusal| Refusal { rule: "source".to_owned(), ..refusal })?.map(|all| all[0]),
        since: since.map(|time| moment(time, "since")).transpose()?,
        until: until.map(|time| moment(time, "until")).transpose()?,
        kinds: events.iter().map(|event| kind(event)).collect::<Result<_, _>>()?,
        before,
        limit,
    })
}

fn kind(name: &str) -> Result<&'static str, Refusal> {
    let known = Event::KINDS.iter().copied().find(|kind| *kind == name);
    known.ok_or_else(|| malformed("events", format!("they are {}", Event::KINDS.join(", "))))
}

/// A page of lines.
#[must_use]
pub fn audit(page: Page) -> v1::ListAuditResponse {
    let Page { entries, more, damage, first, seq, head, lines: _ } = page;
    let next_page_token = entries.last().filter(|_| more).map(|e| e.seq.to_string()).unwrap_or_default();
    v1::ListAuditResponse {
        entries: entries.into_iter().map(entry).collect(),
        next_page_token,
        chain_verified: damage.is_none(),
        damage: damage.unwrap_or_default(),
        first_sequence: first,
        sequence: seq,
        head,
    }
}

fn entry(entry: Entry) -> v1::AuditEntry {
    let Entry { seq, time, kind, principal, grant, ports, sources, reason, line } = entry;
    v1::AuditEntry {
        seq,
        time: Some(stamp(time)),
        event: kind.to_owned(),
        principal,
        grant_id: grant.as_ref().map(Uuid::to_string).unwrap_or_default(),
        reason,
        ports: ports.iter().map(ToString::to_string).collect(),
        source: sources.iter().map(ToString::to_string).collect(),
        line,
    }
}
