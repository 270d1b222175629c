//! The journal's lines, between protobuf and the domain types.
//!
//! Owns both directions for `ListAudit`, `WatchAudit` and `GetReport`. It never decides who may read the lines.

use jiff::SignedDuration;
use postern_core::ledger::Event;
use postern_core::refusal::{Reason, Refusal};
use postern_core::report::PortLine;
use postern_core::request::EndCause;
use postern_proto::v1;
use uuid::Uuid;

use super::view::stamp;
use super::{MOST_PRINCIPAL, page};
use crate::engine::Summary;
use crate::journal::scan::{Entry, Filter, Page};
use crate::payload::access::moment;
use crate::payload::{malformed, sources, text, uuid};

/// The default period of a report, the same as in Azure's "Configured" list.
const DEFAULT_PERIOD: SignedDuration = SignedDuration::from_hours(7 * 24);
const MOST_PERIOD: SignedDuration = SignedDuration::from_hours(366 * 24);

/// The filter of `ListAudit`.
///
/// # Errors
/// Fails with [`Reason::PayloadMalformed`] or [`Reason::SourceInvalid`] if a field is malformed.
pub fn audit_filter(request: v1::ListAuditRequest) -> Result<Filter, Refusal> {
    let v1::ListAuditRequest {
        read: _,
        principal,
        port,
        source,
        since,
        until,
        events,
        page_size,
        page_token,
        reason,
        grant_id,
    } = request;
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
        code: Some(reason).filter(named).map(|reason| code(&reason)).transpose()?,
        grant: Some(grant_id).filter(named).map(|id| uuid(&id, "grant_id")).transpose()?,
        before,
        limit,
    })
}

/// The filter of `WatchAudit`.
///
/// # Errors
/// Fails as [`audit_filter`] does.
pub fn watch_filter(request: v1::WatchAuditRequest) -> Result<Filter, Refusal> {
    let v1::WatchAuditRequest { read: _, principal, port, source, events, reason, grant_id } = request;
    audit_filter(v1::ListAuditRequest {
        principal,
        port,
        source,
        events,
        reason,
        grant_id,
        ..v1::ListAuditRequest::default()
    })
}

fn code(name: &str) -> Result<String, Refusal> {
    let mut known = Reason::ALL.iter().map(|reason| reason.code()).chain(EndCause::ALL.iter().map(|end| end.code()));
    let found = known.find(|code| *code == name).map(str::to_owned);
    found.ok_or_else(|| malformed("reason", "no refusal and no end has this code; docs/audit.md lists all"))
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

/// One line.
#[must_use]
pub fn entry(entry: Entry) -> v1::AuditEntry {
    let Entry { seq, time, kind, principal, key, grant, ports, sources, code, reason, line } = entry;
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
        code,
        key_fingerprint: key,
    }
}

/// The period of a report.
///
/// # Errors
/// Fails with [`Reason::PayloadMalformed`] if the period is not positive or is longer than 366 days.
pub fn period(period: Option<pbjson_types::Duration>) -> Result<SignedDuration, Refusal> {
    let Some(pbjson_types::Duration { seconds, nanos }) = period else { return Ok(DEFAULT_PERIOD) };
    let given = SignedDuration::from_secs(seconds).checked_add(SignedDuration::from_nanos(nanos.into()));
    let fits = |given: &SignedDuration| given.is_positive() && *given <= MOST_PERIOD;
    given.filter(fits).ok_or_else(|| malformed("period", "it is longer than nothing and at most a year"))
}

/// A report.
#[must_use]
pub fn report(summary: Summary) -> v1::GetReportResponse {
    let Summary { since, until, ports, unused, damage } = summary;
    v1::GetReportResponse {
        since: Some(stamp(since)),
        until: Some(stamp(until)),
        ports: ports.into_iter().map(port_report).collect(),
        unused: unused.into_iter().map(super::grant).collect(),
        chain_verified: damage.is_none(),
        damage: damage.unwrap_or_default(),
    }
}

fn port_report(line: PortLine) -> v1::PortReport {
    let PortLine { port, name, requests, granted, refused, pending, live, last_access, last_user } = line;
    v1::PortReport {
        port: port.to_string(),
        name,
        requests,
        granted,
        refused,
        pending,
        live,
        last_access: last_access.map(stamp),
        last_user,
    }
}
