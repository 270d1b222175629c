//! The engine's answers, as protobuf.
//!
//! Owns the conversion to protobuf. It adds only the version and the fingerprint of the TLS key.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use postern_core::grant::Use;
use postern_core::refusal::Refusal;
use postern_core::request::{Ending, Request, State, Step};
use postern_core::time::Seconds;
use postern_core::warn::{Ends, Warning};
use postern_proto::v1;

use super::policy::protected_port;
use crate::enforcer::{XdpMode, XdpStatus};
use crate::engine::{
    ClockView, ConditionView, DeniedView, Explanation, GrantUpdate, GrantView, HostState, LayerView, ModeView, WhoAmI,
};
use crate::proof::{Proof, Signed};

const BACKEND: &str = "ebpf";

/// The addresses of a call, as this host sees them; none on the Unix socket.
#[derive(Clone, Copy, Debug, Default)]
pub struct Called {
    /// The address of the caller.
    pub address: Option<IpAddr>,
    /// The host's own address at which the call arrived.
    pub local_address: Option<IpAddr>,
}

/// The answer of `WhoAmI`, without the statement.
#[must_use]
pub fn who_am_i(view: WhoAmI, called: Called, tls_fingerprint: &str, proof: &Proof) -> v1::WhoAmIResponse {
    let WhoAmI { host_id, names, host_time, clock_trusted, challenge } = view;
    let shown = |by: &Arc<Signed>| v1::HostProof { signature: by.signature.clone(), certificate: by.certificate() };
    let proofs: Vec<_> = proof.signed.iter().map(shown).collect();
    let without =
        |(key_type, why): &(String, String)| v1::HostKeyWithoutProof { key_type: key_type.clone(), why: why.clone() };
    let text = |address: Option<IpAddr>| address.map(|a| a.to_string()).unwrap_or_default();
    v1::WhoAmIResponse {
        address: text(called.address),
        local_address: text(called.local_address),
        host_id: host_id.to_string(),
        names,
        host_time: Some(stamp(host_time)),
        clock_trusted,
        challenge,
        tls_fingerprint: tls_fingerprint.to_owned(),
        proof_payload: if proofs.is_empty() { String::new() } else { proof.payload.clone() },
        proof: proofs.first().map(|proof| proof.signature.clone()).unwrap_or_default(),
        proofs,
        without_proof: proof.without.iter().map(without).collect(),
        ..v1::WhoAmIResponse::default()
    }
}

/// One message of `WatchGrants`.
#[must_use]
pub fn change(change: GrantUpdate) -> v1::WatchGrantsResponse {
    let warning = change.warning.map(|(Warning { ends, ports, left, .. }, end, consequence)| v1::EndWarning {
        ports: ports.iter().map(ToString::to_string).collect(),
        left: Some(duration(left)),
        end: Some(stamp(end)),
        sessions: ends == Ends::Sessions,
        consequence,
    });
    v1::WatchGrantsResponse { grant: Some(grant(change.view)), warning }
}

/// One request or grant.
#[must_use]
pub fn grant(view: GrantView) -> v1::Grant {
    let state = state(view.state).into();
    let (signer, granted, pending) = (view.life.signer(), view.life.grant(), view.life.pending());
    let (ended, end_reason, ended_by) = match &view.ending {
        None => (None, String::new(), String::new()),
        Some(Ending { at, cause, by, reason }) => (Some(stamp(*at)), why(cause.sentence(), reason), by.clone()),
    };
    let (justification, ticket) = match &view.life {
        Request::Granted(grant) => (&grant.justification, &grant.ticket),
        Request::Pending(pending) => (&pending.request.justification, &pending.request.ticket),
    };
    v1::Grant {
        id: view.life.id().to_string(),
        state,
        principal: signer.principal.clone(),
        key_fingerprint: signer.fingerprint.clone(),
        ports: view.life.ports().iter().map(ToString::to_string).collect(),
        source: view.life.sources().iter().map(ToString::to_string).collect(),
        created: granted.map(|g| g.created).or_else(|| pending.map(|p| p.created)).map(stamp),
        expires: expires(&view).map(stamp),
        remaining: Some(std::time::Duration::from_nanos(view.remaining_ns).into()),
        ended,
        end_reason,
        ended_by,
        justification: justification.clone(),
        ticket: ticket.clone(),
        usage: Some(self::usage(view.usage)),
        approvers: view.life.approvers().iter().map(|approver| approver.principal.clone()).collect(),
        approvals_missing: pending.filter(|_| view.ending.is_none()).map_or(0, |pending| pending.missing),
        lapses: pending.map(|pending| stamp(pending.lapses)),
        not_before: granted.map_or_else(|| pending.and_then(|p| p.request.not_before), |g| g.not_before).map(stamp),
        supersedes: granted
            .map_or_else(|| pending.and_then(|p| p.request.supersedes), |g| g.supersedes)
            .map(|id| id.to_string())
            .unwrap_or_default(),
        superseded_by: view.superseded_by.map(|id| id.to_string()).unwrap_or_default(),
        break_glass: granted.is_some_and(|grant| grant.break_glass),
        first_use_within: granted.and_then(|grant| grant.first_use_within).map(duration),
        idle_timeout: granted.and_then(|grant| grant.idle_timeout).map(duration),
        history: view.steps.into_iter().map(step).collect(),
    }
}

/// The time until which the kernel admits the grant's packets.
fn expires(view: &GrantView) -> Option<Timestamp> {
    let grant = view.life.grant()?;
    let early = view.ending.as_ref().filter(|_| view.state != State::Expired).map(|ending| ending.at);
    Some(early.map_or(grant.expires, |at| at.min(grant.expires)))
}

fn step(step: Step) -> v1::GrantStep {
    let Step { state: after, at, by, reason } = step;
    v1::GrantStep { state: state(after).into(), time: Some(stamp(at)), by, reason }
}

const STATES: [(State, v1::GrantState); 8] = [
    (State::Pending, v1::GrantState::Pending),
    (State::Scheduled, v1::GrantState::Scheduled),
    (State::Active, v1::GrantState::Active),
    (State::Expired, v1::GrantState::Expired),
    (State::Revoked, v1::GrantState::Revoked),
    (State::Superseded, v1::GrantState::Superseded),
    (State::Refused, v1::GrantState::Refused),
    (State::Withdrawn, v1::GrantState::Withdrawn),
];

fn state(state: State) -> v1::GrantState {
    STATES.iter().find(|(own, _)| *own == state).map_or(v1::GrantState::Unspecified, |(_, wire)| *wire)
}

/// The state with this protobuf number.
pub(super) fn state_of(number: i32) -> Option<State> {
    STATES.iter().find(|(_, wire)| i32::from(*wire) == number).map(|(own, _)| *own)
}

fn why(sentence: &str, reason: &str) -> String {
    if reason.is_empty() { sentence.to_owned() } else { format!("{sentence}: {reason}") }
}

/// The bytes that the requester of a pending request signed. Approvers read and sign the same bytes.
#[must_use]
pub fn request_of(view: &GrantView) -> Option<v1::SignedMessage> {
    let pending = view.life.pending().filter(|_| view.state == State::Pending)?;
    let payload = pending.payload.clone().into_bytes();
    let payload_type = postern_proto::payload_type::ACCESS_REQUEST.to_owned();
    Some(v1::SignedMessage { payload, payload_type, signatures: Vec::new() })
}

pub(super) fn duration(seconds: Seconds) -> pbjson_types::Duration {
    std::time::Duration::from_secs(seconds.0).into()
}

fn usage(usage: Use) -> v1::Usage {
    let Use { packets_in, bytes_in, packets_out, bytes_out, first, last } = usage;
    v1::Usage { packets_in, bytes_in, packets_out, bytes_out, first_use: first.map(stamp), last_use: last.map(stamp) }
}

/// Why a request is refused.
#[must_use]
pub fn refusal(refusal: &Refusal) -> v1::Refusal {
    let Refusal { reason, detail: _, rule } = refusal;
    v1::Refusal { reason: reason.code().to_owned(), message: refusal.sentence(), rule: rule.clone() }
}

/// The answer of `Explain`.
#[must_use]
pub fn explanation(view: Explanation) -> v1::ExplainResponse {
    let Explanation { refusal: refused, missing, grants, denied, findings } = view;
    v1::ExplainResponse {
        refusal: refused.as_ref().map(refusal),
        approvals_missing: missing.map_or(0, |missing| missing.count),
        grants: grants.into_iter().map(grant).collect(),
        denied: denied.into_iter().map(attempt).collect(),
        findings,
    }
}

/// A denied attempt.
#[must_use]
pub fn attempt(view: DeniedView) -> v1::DeniedAttempt {
    let DeniedView { address, port, last_seen, count, observed, new_flows } = view;
    let (address, port, last_seen) = (address.to_string(), port.to_string(), Some(stamp(last_seen)));
    v1::DeniedAttempt { address, port, last_seen, count, observed, new_flows }
}

/// The mode of the host.
#[must_use]
pub fn mode(view: ModeView) -> v1::Mode {
    let ModeView { effective, file, since, by, until, rolled_back } = view;
    v1::Mode {
        effective: effective.name().to_owned(),
        file: file.name().to_owned(),
        since: since.map(stamp),
        by,
        until: until.map(stamp),
        rolled_back: rolled_back.map(stamp),
    }
}

/// The answer of `GetStatus`. `lost` counts the connections that the API ended, by reason.
#[must_use]
pub fn status(state: HostState, lost: &[(&'static str, u64)], tls_fingerprint: &str) -> v1::GetStatusResponse {
    let HostState {
        host_id,
        names,
        started,
        boot_id,
        clock,
        layers,
        mode: standing,
        prefilters,
        ports,
        conditions,
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
        interfaces: prefilters.into_iter().map(interface).collect(),
        ports: ports.iter().map(protected_port).collect(),
        conditions: conditions.into_iter().map(condition).collect(),
        counters: counters.into_iter().chain(api).map(counter).collect(),
        live_grants,
        journal: Some(v1::Journal { sequence: journal_seq, head: journal_head, path: journal_path }),
        tls_fingerprint: tls_fingerprint.to_owned(),
        mode: Some(mode(standing)),
        clock: Some(self::clock(clock)),
    }
}

fn condition(view: ConditionView) -> v1::Condition {
    let ConditionView { condition, detail, since } = view;
    v1::Condition { code: condition.code().to_owned(), detail, since: Some(stamp(since)) }
}

fn clock(view: ClockView) -> v1::Clock {
    let ClockView { state, forgetful, unnoticed, restores } = view;
    let reason = match (state.is_trusted(), forgetful) {
        (false, _) => format!("the wall clock is not trusted: {}", state.sentence()),
        (true, true) => {
            "Replay history is incomplete since the last boot, so messages must include a challenge.".into()
        }
        (true, false) => String::new(),
    };
    v1::Clock {
        state: state.code().to_owned(),
        trusted: state.is_trusted(),
        challenge_needed: !reason.is_empty(),
        reason,
        restores,
        restores_unnoticed: unnoticed.unwrap_or_default(),
    }
}

fn counter((hook, reason, count): (&'static str, &'static str, u64)) -> v1::Counter {
    v1::Counter { hook: hook.to_owned(), reason: reason.to_owned(), count }
}

fn layer(view: LayerView) -> v1::Layer {
    let LayerView { name, attached, detail } = view;
    v1::Layer { name: name.to_owned(), attached, detail }
}

fn interface(status: XdpStatus) -> v1::Interface {
    let XdpStatus { ifindex, name, mode, reason } = status;
    let mode = match mode {
        XdpMode::Native => v1::XdpMode::Native,
        XdpMode::Generic => v1::XdpMode::Generic,
        XdpMode::Tcx => v1::XdpMode::Tcx,
        XdpMode::Standby => v1::XdpMode::Standby,
        XdpMode::Off => v1::XdpMode::Off,
    };
    v1::Interface { name, index: ifindex, mode: mode.into(), reason }
}

pub(super) fn stamp(moment: Timestamp) -> pbjson_types::Timestamp {
    // Before 1970 both parts of jiff may be negative, but protobuf's nanoseconds must not be.
    let total = moment.as_nanosecond();
    let seconds = i64::try_from(total.div_euclid(1_000_000_000)).unwrap_or_default();
    let nanos = i32::try_from(total.rem_euclid(1_000_000_000)).unwrap_or_default();
    pbjson_types::Timestamp { seconds, nanos }
}
