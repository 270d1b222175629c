//! What the engine answers, as protobuf.
//!
//! Owns the way out. It leaves nothing out and adds nothing but the version and the TLS key's fingerprint.

use std::net::IpAddr;

use jiff::Timestamp;
use postern_core::grant::{EndCause, Ending, Grant, Use};
use postern_core::policy::PortRule;
use postern_core::refusal::Refusal;
use postern_proto::v1;

use crate::engine::{Explanation, GrantView, HostState, KnockView, LayerView, ShedView, WhoAmI};
use crate::proof::Proof;

/// The kernel backend's name.
const BACKEND: &str = "ebpf";

/// What anybody may know; `address` is the caller's own.
#[must_use]
pub fn who_am_i(
    view: WhoAmI,
    address: Option<IpAddr>,
    tls_fingerprint: &str,
    proof: Option<&Proof>,
) -> v1::WhoAmIResponse {
    let WhoAmI { host_id, names, host_time, clock_trusted, challenge } = view;
    v1::WhoAmIResponse {
        address: address.map(|a| a.to_string()).unwrap_or_default(),
        host_id: host_id.to_string(),
        names,
        host_time: Some(stamp(host_time)),
        clock_trusted,
        challenge,
        tls_fingerprint: tls_fingerprint.to_owned(),
        proof_payload: proof.map(|proof| proof.payload.clone()).unwrap_or_default(),
        proof: proof.map(|proof| proof.signature.clone()).unwrap_or_default(),
    }
}

/// One grant.
#[must_use]
pub fn grant(view: GrantView) -> v1::Grant {
    let GrantView { seq: _, grant, ending, remaining_ns, usage } = view;
    let Grant {
        id,
        signer,
        approvers,
        ports,
        sources,
        created,
        expires,
        expires_boot: _,
        boot_id: _,
        slot: _,
        justification,
        ticket,
    } = grant;
    let state = state(ending.as_ref(), remaining_ns);
    let (ended, end_reason, ended_by) = match ending {
        None => (None, String::new(), String::new()),
        Some(Ending { at, cause, by, reason }) => (Some(stamp(at)), why(cause, &reason), by),
    };
    v1::Grant {
        id: id.to_string(),
        state: state.into(),
        principal: signer.principal,
        key_fingerprint: signer.fingerprint,
        ports: ports.iter().map(ToString::to_string).collect(),
        source: sources.iter().map(ToString::to_string).collect(),
        created: Some(stamp(created)),
        expires: Some(ended.filter(|_| state == v1::GrantState::Revoked).unwrap_or_else(|| stamp(expires))),
        remaining: Some(std::time::Duration::from_nanos(remaining_ns).into()),
        ended,
        end_reason,
        ended_by,
        justification,
        ticket,
        usage: Some(self::usage(usage)),
        approvers: approvers.into_iter().map(|approver| approver.principal).collect(),
    }
}

/// A grant whose time is up is expired even before the record says so: the kernel does not wait for the record.
fn state(ending: Option<&Ending>, remaining_ns: u64) -> v1::GrantState {
    match ending.map(|e| e.cause) {
        None if remaining_ns > 0 => v1::GrantState::Active,
        None | Some(EndCause::Expired) => v1::GrantState::Expired,
        Some(
            EndCause::Revoked
            | EndCause::SignerUntrusted
            | EndCause::PolicyChanged
            | EndCause::Rebooted
            | EndCause::Undone,
        ) => v1::GrantState::Revoked,
    }
}

fn why(cause: EndCause, reason: &str) -> String {
    if reason.is_empty() { cause.sentence().to_owned() } else { format!("{}: {reason}", cause.sentence()) }
}

fn usage(usage: Use) -> v1::Usage {
    let Use { packets_in, bytes_in, packets_out, bytes_out, first, last } = usage;
    v1::Usage { packets_in, bytes_in, packets_out, bytes_out, first_use: first.map(stamp), last_use: last.map(stamp) }
}

/// Why something was or would be refused.
#[must_use]
pub fn refusal(refusal: &Refusal) -> v1::Refusal {
    let Refusal { reason, detail: _, rule } = refusal;
    v1::Refusal { reason: reason.code().to_owned(), message: refusal.sentence(), rule: rule.clone() }
}

/// The answer of `Explain`.
#[must_use]
pub fn explanation(view: Explanation) -> v1::ExplainResponse {
    let Explanation { refusal: refused, grants, knocks, findings } = view;
    v1::ExplainResponse {
        refusal: refused.as_ref().map(refusal),
        grants: grants.into_iter().map(grant).collect(),
        knocks: knocks.into_iter().map(knock).collect(),
        findings,
    }
}

fn knock(view: KnockView) -> v1::Knock {
    let KnockView { address, port, last_seen, count } = view;
    v1::Knock { address: address.to_string(), port: port.to_string(), last_seen: Some(stamp(last_seen)), count }
}

/// The answer of `GetStatus`. `lost` counts the connections that the API ended, by reason.
#[must_use]
pub fn status(state: HostState, lost: &[(&'static str, u64)], tls_fingerprint: &str) -> v1::GetStatusResponse {
    let HostState {
        host_id,
        names,
        started,
        boot_id,
        layers,
        sheds,
        ports,
        degraded,
        counters,
        unverified,
        live_grants,
        journal_seq,
        journal_head,
        journal_path,
    } = state;
    let api = unverified.iter().chain(lost).map(|&(reason, count)| ("api", reason, count));
    v1::GetStatusResponse {
        host_id: host_id.to_string(),
        names,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        backend: BACKEND.to_owned(),
        started: Some(stamp(started)),
        boot_id: boot_id.to_string(),
        layers: layers.into_iter().map(layer).collect(),
        interfaces: sheds.into_iter().map(interface).collect(),
        ports: ports.iter().map(protected_port).collect(),
        degraded,
        counters: counters.into_iter().chain(api).map(counter).collect(),
        live_grants,
        journal: Some(v1::Journal { sequence: journal_seq, head: journal_head, path: journal_path }),
        tls_fingerprint: tls_fingerprint.to_owned(),
    }
}

fn counter((hook, reason, count): (&'static str, &'static str, u64)) -> v1::Counter {
    v1::Counter { hook: hook.to_owned(), reason: reason.to_owned(), count }
}

fn layer(view: LayerView) -> v1::Layer {
    let LayerView { name, attached, detail } = view;
    v1::Layer { name: name.to_owned(), attached, detail }
}

fn interface(view: ShedView) -> v1::Interface {
    let ShedView { name, index, mode, reason } = view;
    let mode = match mode {
        "native" => v1::ShedMode::Native,
        "generic" => v1::ShedMode::Generic,
        "off" => v1::ShedMode::Off,
        _ => v1::ShedMode::Unspecified,
    };
    v1::Interface { name, index, mode: mode.into(), reason }
}

fn protected_port(rule: &PortRule) -> v1::ProtectedPort {
    let PortRule {
        port,
        name,
        max_duration,
        allowed_sources,
        on_expiry: _,
        justification_required: _,
        max_grants: _,
        approvals,
    } = rule;
    v1::ProtectedPort {
        port: port.to_string(),
        name: name.clone(),
        max_duration_seconds: max_duration.0,
        allowed_sources: allowed_sources.iter().flatten().map(ToString::to_string).collect(),
        approvals: *approvals,
    }
}

pub(super) fn stamp(moment: Timestamp) -> pbjson_types::Timestamp {
    // jiff lets both parts be negative before 1970; protobuf wants the nanoseconds to count forwards.
    let total = moment.as_nanosecond();
    let seconds = i64::try_from(total.div_euclid(1_000_000_000)).unwrap_or_default();
    let nanos = i32::try_from(total.rem_euclid(1_000_000_000)).unwrap_or_default();
    pbjson_types::Timestamp { seconds, nanos }
}
