//! Conversion of signed JSON bytes to domain types.
//!
//! Owns the three payloads. The caller verifies the signature first. An error is always a refusal of a malformed field.

use jiff::Timestamp;
use postern_core::grant::{AccessRequest, End, Header, RevokeRequest};
use postern_core::refusal::{Reason, Refusal};
use postern_core::text::Shown;
use postern_proto::v1;

use super::{MOST_JUSTIFICATION, malformed, ports, sources, strict_json, text, uuid, whole_seconds};

/// The longest ticket, in characters.
const MOST_TICKET: usize = 200;
const MOST_AUDIENCE: usize = 16;
/// The longest name of a host, in characters (a DNS name has at most 253).
const MOST_NAME: usize = 255;
/// The longest challenge, in characters; the host's own have 54.
const MOST_CHALLENGE: usize = 128;

/// The payload of `RequestAccess`.
///
/// # Errors
/// Fails with [`Reason::PayloadMalformed`] or [`Reason::SourceInvalid`] if a field is malformed.
pub fn access_request(payload: &[u8]) -> Result<AccessRequest, Refusal> {
    let v1::AccessRequest {
        id,
        audience,
        not_after,
        challenge,
        ports: port_texts,
        source,
        duration,
        end,
        justification,
        ticket,
        not_before,
        supersedes,
    } = decode(payload)?;
    Ok(AccessRequest {
        header: header(&id, audience, not_after, challenge)?,
        ports: ports(&port_texts)?,
        sources: sources(&source)?,
        end: grant_end(duration, end)?,
        not_before: not_before.map(|stamp| moment(stamp, "not_before")).transpose()?,
        supersedes: Some(supersedes).filter(|id| !id.is_empty()).map(|id| uuid(&id, "supersedes")).transpose()?,
        justification: text(justification, "justification", MOST_JUSTIFICATION)?,
        ticket: text(ticket, "ticket", MOST_TICKET)?,
    })
}

/// The payload of `RevokeAccess`.
///
/// # Errors
/// Fails with [`Reason::PayloadMalformed`] if a field is malformed.
pub fn revoke_request(payload: &[u8]) -> Result<RevokeRequest, Refusal> {
    let v1::RevokeRequest { id, audience, not_after, challenge, grant_id, reason } = decode(payload)?;
    Ok(RevokeRequest {
        header: header(&id, audience, not_after, challenge)?,
        grant_id: uuid(&grant_id, "grant_id")?,
        reason: text(reason, "reason", MOST_JUSTIFICATION)?,
    })
}

/// The payload of the reading calls.
///
/// # Errors
/// Fails with [`Reason::PayloadMalformed`] if a field is malformed.
pub fn read_request(payload: &[u8]) -> Result<Header, Refusal> {
    let v1::ReadRequest { id, audience, not_after, challenge } = decode(payload)?;
    header(&id, audience, not_after, challenge)
}

fn decode<T: serde::de::DeserializeOwned>(payload: &[u8]) -> Result<T, Refusal> {
    strict_json::decode(payload).map_err(|error| {
        let shown = Shown::new(&error.to_string()).at_most(200).to_string();
        Refusal::new(Reason::PayloadMalformed, shown).at("payload")
    })
}

fn header(
    id: &str,
    audience: Vec<String>,
    not_after: Option<pbjson_types::Timestamp>,
    challenge: String,
) -> Result<Header, Refusal> {
    if audience.is_empty() || audience.len() > MOST_AUDIENCE {
        let detail = format!("it has {} items; 1 to {MOST_AUDIENCE} are allowed", audience.len());
        return Err(malformed("audience", detail));
    }
    let named = |(i, name): (usize, String)| match text(name, &format!("audience[{i}]"), MOST_NAME)? {
        empty if empty.is_empty() => Err(malformed(&format!("audience[{i}]"), "it is empty")),
        name => Ok(name),
    };
    let challenge = text(challenge, "challenge", MOST_CHALLENGE)?;
    Ok(Header {
        id: uuid(id, "id")?,
        audience: audience.into_iter().enumerate().map(named).collect::<Result<_, _>>()?,
        not_after: moment(not_after.ok_or_else(|| malformed("not_after", "it is missing"))?, "not_after")?,
        challenge: Some(challenge).filter(|c| !c.is_empty()),
    })
}

fn grant_end(duration: Option<pbjson_types::Duration>, end: Option<pbjson_types::Timestamp>) -> Result<End, Refusal> {
    match (duration, end) {
        (Some(duration), None) => whole_seconds(duration).map(End::After),
        (None, Some(end)) => moment(end, "end").map(End::At),
        (None, None) => Err(malformed("duration", "duration or end is needed")),
        (Some(_), Some(_)) => Err(malformed("duration", "duration and end exclude each other")),
    }
}

pub(crate) fn moment(stamp: pbjson_types::Timestamp, field: &str) -> Result<Timestamp, Refusal> {
    let pbjson_types::Timestamp { seconds, nanos } = stamp;
    let in_range = (0..1_000_000_000).contains(&nanos);
    let moment = Timestamp::new(seconds, nanos).ok().filter(|_| in_range);
    moment.ok_or_else(|| malformed(field, "it is not a time between the years 1 and 9999"))
}
