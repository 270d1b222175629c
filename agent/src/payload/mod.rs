//! The JSON that people sign, as domain types.
//!
//! Owns strict JSON, the proto3 form of the messages in `messages.proto`, and the parsing of every field. It does not know gRPC.

pub mod access;
mod strict_json;

use postern_core::grant::{PortSpec, Source, checked_list};
use postern_core::policy::DEFAULT_MAX_DURATION;
use postern_core::refusal::{Reason, Refusal};
use postern_core::text::commands;
use postern_core::time::Seconds;
use uuid::Uuid;

/// The longest justification, or reason of a revocation, in characters.
pub(crate) const MOST_JUSTIFICATION: usize = 1000;
/// The longest duration, a hundred years, so that no sum overflows.
pub(crate) const MOST_SECONDS: u64 = 100 * 366 * 24 * 3600;

/// A UUID in lower case with hyphens. No other form is accepted, so each id has one spelling in all records.
///
/// # Errors
/// Fails with [`Reason::PayloadMalformed`] at `field` if the text has another form.
pub fn uuid(text: &str, field: &str) -> Result<Uuid, Refusal> {
    let parsed = text.parse::<Uuid>().ok().filter(|id| id.to_string() == text);
    parsed.ok_or_else(|| malformed(field, "it is not a UUID in lower case with hyphens"))
}

/// Ports like "22/tcp". Each must be well-formed, and none may repeat.
pub(crate) fn ports(items: &[String]) -> Result<Vec<PortSpec>, Refusal> {
    let parsed = items.iter().enumerate().map(|(i, item)| {
        let item = text(item.clone(), &format!("ports[{i}]"), 16)?;
        item.parse().map_err(|why: String| malformed(&format!("ports[{i}]"), why))
    });
    checked_list(parsed.collect::<Result<_, _>>()?, "ports")
}

/// Sources like "192.0.2.7/32". Each must be well-formed, and none may repeat.
pub(crate) fn sources(items: &[String]) -> Result<Vec<Source>, Refusal> {
    let parsed = items.iter().enumerate().map(|(i, item)| {
        let field = format!("source[{i}]");
        let item = text(item.clone(), &field, 64)?;
        item.parse().map_err(|why: String| Refusal::new(Reason::SourceInvalid, why).at(field))
    });
    checked_list(parsed.collect::<Result<_, _>>()?, "source")
}

/// A duration of whole seconds, at least one.
pub(crate) fn whole_seconds(duration: pbjson_types::Duration) -> Result<Seconds, Refusal> {
    let pbjson_types::Duration { seconds, nanos } = duration;
    let seconds = u64::try_from(seconds).ok().filter(|s| (1..=MOST_SECONDS).contains(s) && nanos == 0);
    let wrong =
        || malformed("duration", format!("it has to be whole seconds, for example {}s", DEFAULT_MAX_DURATION.0));
    seconds.map(Seconds).ok_or_else(wrong)
}

/// Text of at most `most` characters, without control characters. Other characters that must not be shown are escaped on output.
pub(crate) fn text(value: String, field: &str, most: usize) -> Result<String, Refusal> {
    if value.chars().count() > most {
        return Err(malformed(field, format!("it is longer than {most} characters")));
    }
    if value.chars().any(commands) {
        return Err(malformed(field, "it contains control characters"));
    }
    Ok(value)
}

pub(crate) fn malformed(field: &str, why: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::PayloadMalformed, why).at(field)
}
