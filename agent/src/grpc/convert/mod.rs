//! Conversions between protobuf and the domain types.
//!
//! Owns all of them; the engine does not know protobuf. It never decides: an error is always a refusal of a malformed field.

mod audit;
mod policy;
mod question;
mod view;

pub use audit::{audit, audit_filter, entry, period, report, watch_filter};
pub use policy::{meanings, policy, validated};
pub use question::which_keys;
pub use view::{Called, attempt, change, explanation, grant, mode, refusal, request_of, status, who_am_i};

use postern_core::mode::DEFAULT_TRIAL;
use postern_core::refusal::{Reason, Refusal};
use postern_core::request::State;
use postern_core::time::Seconds;
use postern_proto::v1;
use uuid::Uuid;

use crate::engine::{BreakGlass, ExplainQuery, SignedBytes};
use crate::payload;
use crate::payload::{MOST_JUSTIFICATION, access, malformed, sources, text, uuid, whole_seconds};

/// The most entries in one page of `ListGrants` or `ListAudit`.
pub const MOST_PER_PAGE: usize = 1000;
/// The entries of a page if the caller gives no size.
pub const DEFAULT_PAGE: usize = 100;

/// The longest principal that root may name in `Explain`, in characters.
const MOST_PRINCIPAL: usize = 255;

/// The signed message of a call.
///
/// # Errors
/// Fails with [`Reason::EnvelopeMalformed`] if the message is missing.
pub fn signed(message: Option<v1::SignedMessage>) -> Result<SignedBytes, Refusal> {
    let missing = || Refusal::new(Reason::EnvelopeMalformed, "the message is missing").at("message");
    message.map(signed_bytes).ok_or_else(missing)
}

/// An unchecked envelope.
#[must_use]
pub fn signed_bytes(message: v1::SignedMessage) -> SignedBytes {
    let v1::SignedMessage { payload, payload_type, signatures } = message;
    let text = |signature: v1::Signature| {
        let v1::Signature { sshsig } = signature;
        sshsig
    };
    SignedBytes { payload: payload.to_vec(), payload_type, signatures: signatures.into_iter().map(text).collect() }
}

/// The size of a page of `ListGrants` or `ListAudit`, and the record before which it begins.
///
/// # Errors
/// Fails with [`Reason::PayloadMalformed`] if `size` is above [`MOST_PER_PAGE`], or if `token` is not a number.
pub fn page(size: u32, token: &str) -> Result<(usize, Option<u64>), Refusal> {
    let size = match usize::try_from(size).unwrap_or(usize::MAX) {
        0 => DEFAULT_PAGE,
        n if n <= MOST_PER_PAGE => n,
        _ => return Err(malformed("page_size", format!("at most {MOST_PER_PAGE}"))),
    };
    if token.is_empty() {
        return Ok((size, None));
    }
    let digits = token.bytes().all(|b| b.is_ascii_digit());
    let before = token.parse().ok().filter(|_| digits);
    before.map(|b| (size, Some(b))).ok_or_else(|| malformed("page_token", "it is not a next_page_token of this host"))
}

/// The question of `Explain`, without the signature. If it names no source, its source is the address `caller`.
///
/// # Errors
/// Fails with [`Reason::PayloadMalformed`] if a field is malformed, and with [`Reason::SourceInvalid`] if a source is malformed or missing.
pub fn query(request: v1::ExplainRequest, caller: Option<std::net::IpAddr>) -> Result<ExplainQuery, Refusal> {
    let v1::ExplainRequest { read: _, ports, source, duration, justification, principal, not_before, supersedes } =
        request;
    let sources = match (source.is_empty(), caller) {
        (false, _) => sources(&source)?,
        (true, Some(address)) => sources(&[ipnet::IpNet::from(address).to_string()])?,
        (true, None) => {
            let detail = "this call has no source address that a grant could name. Set source";
            return Err(Refusal::new(Reason::SourceInvalid, detail).at("source"));
        }
    };
    Ok(ExplainQuery {
        principal: text(principal, "principal", MOST_PRINCIPAL)?,
        ports: payload::ports(&ports)?,
        sources,
        duration: duration.filter(|d| (d.seconds, d.nanos) != (0, 0)).map(whole_seconds).transpose()?,
        justification: text(justification, "justification", MOST_JUSTIFICATION)?,
        not_before: not_before.map(|stamp| access::moment(stamp, "not_before")).transpose()?,
        supersedes: Some(supersedes).filter(|id| !id.is_empty()).map(|id| uuid(&id, "supersedes")).transpose()?,
    })
}

/// The parameters of `BreakGlass`. `id` becomes the grant's id.
///
/// # Errors
/// Fails with [`Reason::PayloadMalformed`] or [`Reason::SourceInvalid`] if a field is malformed or missing.
pub fn break_glass(request: v1::BreakGlassRequest, id: Uuid) -> Result<BreakGlass, Refusal> {
    let v1::BreakGlassRequest { ports, source, duration, reason } = request;
    let reason = text(reason, "reason", MOST_JUSTIFICATION)?;
    if reason.trim().is_empty() {
        return Err(malformed("reason", "it is missing"));
    }
    Ok(BreakGlass {
        id,
        ports: payload::ports(&ports)?,
        sources: sources(&source)?,
        duration: whole_seconds(duration.ok_or_else(|| malformed("duration", "it is missing"))?)?,
        reason,
    })
}

/// The length of a trial.
///
/// # Errors
/// Fails with [`Reason::PayloadMalformed`] if the length is not whole seconds, or not from 1 s to a hundred years.
pub fn trial(within: Option<pbjson_types::Duration>) -> Result<Seconds, Refusal> {
    let within = within.map_or(Ok(DEFAULT_TRIAL), whole_seconds);
    within.map_err(|refusal| refusal.at("confirm_within"))
}

/// The states that `ListGrants` filters by.
///
/// # Errors
/// Fails with [`Reason::PayloadMalformed`] if a state is unknown.
pub fn states(states: &[i32]) -> Result<Vec<State>, Refusal> {
    states.iter().map(|&state| view::state_of(state).ok_or_else(|| malformed("states", "it is unknown"))).collect()
}

#[cfg(test)]
mod tests;
