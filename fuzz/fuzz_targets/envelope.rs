//! A message's whole way: protobuf, envelope, signatures, strict JSON, audience, freshness, judge, grant.
//!
//! The first byte chooses the form. `s` is followed by the bytes of an SSHSIG, `a` by armor: nothing is accepted but what was
//! signed. `p` is followed by a byte of settings and a protobuf message, `t` by settings, a line of signatures and the payload: a
//! signature `@r1` there is put in place by the target, in the role r(equest), a(pprove), (re)v(oke), a(d)min or (rea)d, by the key
//! made from 1, or `@r1c` by a certificate of it. So the way does not end at the first signature. `@r1f` has a certificate that its
//! authority knows nothing of, and an `x` at the end is a signature over other bytes: neither makes anybody a signer.
//!
//! Two forms are short, so that little is left to luck. `e` is followed by edits of a valid SSHSIG, three bytes each. `w` is followed
//! by settings, a byte that chooses one of the host's right payloads, one for what varies in it, and a byte for
//! each signature: who signs what, in all combinations.
//!
//! `cargo fuzz run envelope`
#![no_main]

mod edits;
mod host;
mod payloads;
mod short;
mod signers;
// Each target needs only some of it.
#[allow(dead_code, reason = "the target needs only some of it")]
#[path = "../../agent-core/tests/hostile_bytes/valid.rs"]
mod valid;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::Timestamp;
use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use postern_agent::config::Config;
use postern_agent::engine::SignedBytes;
use postern_agent::grpc::convert;
use postern_agent::payload::access;
use postern_core::envelope::{Envelope, Purpose, Signature, Verified, verify, verify_approval};
use postern_core::grant::{AccessRequest, End, Grant, Header};
use postern_core::ledger::{Capacity, Ledger};
use postern_core::message::{self, CHALLENGE_LIFE, Freshness, MAX_MESSAGE_LIFE, Showing};
use postern_core::policy::{Asking, Policy, PortRule, Role};
use postern_core::ssh::dearmor;
use postern_core::time::{BootNanos, Now};
use postern_core::trust::Trust;
use postern_proto::{payload_type, v1};
use prost::Message as _;
use serde_json::Value;

static VALID: LazyLock<Vec<(Trust, Vec<u8>)>> = LazyLock::new(|| {
    let texts = valid::texts().into_iter();
    texts.map(|(text, bytes)| (Trust::parse(&text, b"").expect("a valid trust file"), bytes)).collect()
});
static TRUST: LazyLock<Trust> = LazyLock::new(|| {
    let text: String = host::TRUSTED.iter().map(|(start, seed)| valid::line(start, *seed)).collect();
    Trust::parse(&text, b"").expect("a valid trust file")
});
static POLICY: LazyLock<Policy> =
    LazyLock::new(|| Config::parse(host::CONFIG).expect("a valid configuration").policy());

/// One nanosecond is 1.
const SECOND: u64 = 1_000_000_000;

const REQUEST: &str = payload_type::ACCESS_REQUEST;

fuzz_target!(|input: &[u8]| {
    let Some((form, rest)) = input.split_first() else { return };
    match (form, rest.split_first()) {
        (b's', _) => signature(rest),
        (b'a', _) => armor(&String::from_utf8_lossy(rest)),
        (b'e', Some((which, changes))) => {
            let (_, original) = &VALID[usize::from(*which) % VALID.len()];
            signature(&edits::apply(original, changes));
        }
        (b'w', Some((settings, &[which, what, ref signatures @ ..]))) => {
            let (payload_type, payload) = payloads::payload(which, what);
            let signatures = signatures.iter().take(4).map(|byte| v1::Signature { sshsig: signers::named(*byte) });
            let signatures = signatures.collect();
            let message = v1::SignedMessage { payload: payload.into_bytes(), payload_type, signatures };
            whole_way(convert::signed_bytes(message), *settings);
        }
        (b'p', Some((settings, bytes))) => {
            let Ok(request) = v1::RequestAccessRequest::decode(bytes) else { return };
            let Ok(message) = convert::signed(request.message) else { return };
            whole_way(message, *settings);
        }
        (b't', Some((settings, text))) => {
            let mut parts = text.splitn(2, |byte| *byte == b'\n');
            let signatures = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
            let message = v1::SignedMessage {
                payload: parts.next().unwrap_or_default().to_vec(),
                payload_type: type_of(*settings).to_owned(),
                signatures: signatures.split(' ').map(|text| v1::Signature { sshsig: text.to_owned() }).collect(),
            };
            whole_way(convert::signed_bytes(message), *settings);
        }
        _ => {}
    }
});

/// Edits, and all that the host takes, signed by those who may.
const RIGHT: [&[u8]; 10] = [
    b"e\0\0\0\0",
    b"e\x01\0\0\0",
    b"w\0\0\0\0",
    b"w\0\x02\0\0\x10",
    b"w\x01\x01\x05\0",
    b"w\0\x03\0\0",
    b"w\0\x04\x05\x11",
    b"w\0\x05\x05\x13",
    b"w\0\x06\0\0",
    b"w\0\x07\0\0",
];

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    short::mutate(data, size, max_size, seed, &RIGHT)
});

fn accepted(trust: &Trust, armored: &str) -> bool {
    let envelope = Envelope { payload: valid::PAYLOAD, payload_type: REQUEST, signatures: vec![armored] };
    verify(&envelope, trust, 0, false).is_ok()
}

fn signature(bytes: &[u8]) {
    let _ = Signature::parse(bytes).map(|signature| signature.verify(valid::PAYLOAD));
    for (trust, original) in VALID.iter() {
        assert_eq!(accepted(trust, &valid::armor(bytes)), bytes == *original);
    }
}

fn armor(text: &str) {
    for (trust, original) in VALID.iter() {
        assert_eq!(accepted(trust, text), dearmor(text).is_ok_and(|bytes| bytes == *original));
    }
}

const fn type_of(settings: u8) -> &'static str {
    match settings >> 1 & 3 {
        0 | 1 => REQUEST,
        2 => payload_type::REVOKE_REQUEST,
        _ => payload_type::READ_REQUEST,
    }
}

fn whole_way(message: SignedBytes, settings: u8) {
    let (message, who) = signers::signed(message);
    let now = host::now(settings & 1 == 0);
    let envelope = Envelope {
        payload: &message.payload,
        payload_type: &message.payload_type,
        signatures: message.signatures.iter().map(String::as_str).collect(),
    };
    if let Ok(approved) = verify_approval(&envelope, &TRUST, now.wall.as_second(), now.clock.knows_windows()) {
        assert_eq!((approved.role, approved.signers.len(), &message.payload_type[..]), (Purpose::Approve, 1, REQUEST));
        have_signed(&message.payload, &approved, &who);
    }
    let Ok(verified) = verify(&envelope, &TRUST, now.wall.as_second(), now.clock.knows_windows()) else { return };
    assert_eq!(Some(verified.role), Purpose::of_payload_type(&message.payload_type));
    have_signed(&message.payload, &verified, &who);
    match verified.role {
        Purpose::Request => request(&message.payload, &verified, &now),
        Purpose::Revoke => {
            if let Ok(revocation) = access::revoke_request(&message.payload) {
                fresh(&revocation.header, Showing::Once, &now, &told(&message.payload));
            }
        }
        Purpose::Read => {
            if let Ok(header) = access::read_request(&message.payload) {
                fresh(&header, Showing::Repeated, &now, &told(&message.payload));
            }
        }
        Purpose::Approve | Purpose::Admin => panic!("no payload has this role"),
    }
}

/// Each signer has signed this payload, in the role that counts, and counts once.
fn have_signed(payload: &[u8], verified: &Verified, who: &BTreeSet<(Purpose, String)>) {
    let people: BTreeSet<_> = verified.signers.iter().map(|signer| &signer.principal).collect();
    assert_eq!(people.len(), verified.signers.len(), "somebody counts twice");
    // The seeds hold real signatures over this payload.
    if payload == valid::PAYLOAD {
        return;
    }
    for (at, signer) in verified.signers.iter().enumerate() {
        let role = if at == 0 { verified.role } else { Purpose::Approve };
        assert!(who.contains(&(role, signer.principal.clone())), "{signer:?} has not signed as {role:?}: {who:?}");
    }
}

/// The payload as another parser reads it.
fn told(payload: &[u8]) -> Value {
    serde_json::from_slice(payload).expect("what is accepted is JSON")
}

/// Checks audience and freshness; says whether they passed.
fn fresh(header: &Header, showing: Showing, now: &Now, told: &Value) -> bool {
    assert_eq!(told["id"], header.id.to_string(), "another id than the one that was signed");
    let audience: Vec<&str> = told["audience"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert_eq!(audience, header.audience);
    let identity = host::identity();
    if message::check(header, &identity, &host::challenger(), (showing, Freshness::Clock), now).is_err() {
        return false;
    }
    let id = identity.host_id.to_string();
    let named = audience.iter().any(|a| identity.names.iter().any(|name| name.eq_ignore_ascii_case(a)));
    let keyed = audience.iter().any(|a| identity.host_keys.iter().chain(&identity.tls_key).any(|key| key == a));
    assert!(named || keyed && audience.contains(&&id[..]), "for another host");
    let left = header.not_after.duration_since(now.wall);
    let in_time = left.is_positive() && left.as_secs() <= i64::try_from(MAX_MESSAGE_LIFE.0).expect("minutes");
    assert!(!now.wall_trusted() || in_time, "not after {}", header.not_after);
    assert_eq!(moment(told, &["notAfter", "not_after"]).unwrap_or(header.not_after), header.not_after);
    match &header.challenge {
        Some(text) if showing == Showing::Once || !now.wall_trusted() => assert!(issued(text, now), "not ours: {text}"),
        Some(_) => {}
        None => assert!(now.wall_trusted(), "neither a clock nor a challenge"),
    }
    true
}

/// Whether the host gave this challenge away within the last minute: it would give the same for the moment that it names.
fn issued(text: &str, now: &Now) -> bool {
    let bytes = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
    let Some(moment) = bytes.first_chunk().map(|bytes| u64::from_be_bytes(*bytes)) else { return false };
    let age = now.boot.0.checked_sub(moment);
    host::challenger().issue(BootNanos(moment)) == text && age.is_some_and(|age| age <= CHALLENGE_LIFE.0 * SECOND)
}

/// A moment that the payload names, where it can be read here.
fn moment(told: &Value, names: &[&str]) -> Option<Timestamp> {
    names.iter().find_map(|name| told[*name].as_str())?.parse().ok()
}

fn request(payload: &[u8], verified: &Verified, now: &Now) {
    let Ok(request) = access::access_request(payload) else { return };
    let told = told(payload);
    as_told(&request, &told);
    if !fresh(&request.header, Showing::Once, now, &told) {
        return;
    }
    let ledger = Ledger::default();
    let Some((requester, approvers)) = verified.signers.split_first() else { panic!("nobody signed") };
    let asking = Asking { principal: &requester.principal, approvers };
    let Ok(judgement) = POLICY.judge(asking, &request, &ledger, now) else { return };
    let capacity = Capacity { entries: 64, slots: 8 };
    if let Ok(grant) = ledger.admit(&verified.signers, &request, &judgement, capacity, now) {
        granted(&grant, &request, judgement.missing.is_none(), now);
    }
}

/// What opens is what was signed.
fn as_told(request: &AccessRequest, told: &Value) {
    let texts = |name: &str| -> Vec<String> {
        told[name].as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
    };
    assert_eq!(texts("ports"), request.ports.iter().map(ToString::to_string).collect::<Vec<_>>());
    let parsed = |text: &String| text.parse::<ipnet::IpNet>().expect("a prefix");
    let sources: Vec<_> = texts("source").iter().map(parsed).collect();
    assert_eq!(sources, request.sources.iter().map(|source| source.net()).collect::<Vec<_>>());
    assert_eq!(told["justification"].as_str().unwrap_or_default(), request.justification);
    assert_eq!(told["ticket"].as_str().unwrap_or_default(), request.ticket);
    assert_eq!(
        told["supersedes"].as_str().unwrap_or_default(),
        request.supersedes.map_or(String::new(), |id| id.to_string())
    );
    match request.end {
        End::After(length) => assert_eq!(seconds(&told["duration"]), Some(length.0)),
        End::At(end) => assert_eq!(moment(told, &["end"]).unwrap_or(end), end),
    }
    assert_eq!(told.get("notBefore").or(told.get("not_before")).is_some(), request.not_before.is_some());
    let start = moment(told, &["notBefore", "not_before"]);
    assert_eq!(start.or(request.not_before), request.not_before);
    for text in [&request.justification, &request.ticket] {
        let turns =
            |c| matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        assert!(!text.chars().any(|c| c.is_control() || turns(c)), "it goes into the journal and to terminals");
    }
}

/// `"600s"`
fn seconds(told: &Value) -> Option<u64> {
    told.as_str()?.strip_suffix('s')?.parse().ok()
}

fn granted(grant: &Grant, request: &AccessRequest, complete: bool, now: &Now) {
    assert!(POLICY.holds(&grant.signer.principal, Role::Requester));
    assert_eq!((&grant.ports, &grant.sources), (&request.ports, &request.sources));
    assert!(grant.starts_boot >= now.boot && grant.expires_boot > grant.starts_boot, "{grant:?}");
    let length = grant.expires_boot.0 - grant.starts_boot.0;
    lasts_as_asked(grant, request, now);
    for port in &grant.ports {
        let rule = POLICY
            .ports
            .iter()
            .find(|rule| rule.port.number == port.number && rule.port.protocol.covers(port.protocol));
        let rule = rule.expect("a port that is not ours");
        assert!(length <= rule.max_duration.0 * 1_000_000_000, "{length} ns on {port}");
        for source in &grant.sources {
            let inside =
                rule.allowed_sources.as_ref().is_none_or(|nets| nets.iter().any(|net| net.contains(&source.net())));
            assert!(inside && !source.is_everything(), "{source:?} on {port}");
        }
        assert!(!complete || approvals(grant, rule) >= rule.approvals.count as usize, "too few approved {port}");
        assert!(rule.port.number != 3389 || request.justification.contains("CHG-"), "no reason for {port}");
    }
    assert!(grant.keys().count() >= 1);
}

/// Others than the requester, each once, who may approve.
fn approvals(grant: &Grant, rule: &PortRule) -> usize {
    let others = grant.approvers.iter().map(|approver| &approver.principal).filter(|p| **p != grant.signer.principal);
    let may = |principal: &&String| rule.approvals.roles.iter().any(|role| POLICY.holds(principal, *role));
    others.filter(may).collect::<BTreeSet<_>>().len()
}

/// It opens when it was asked for, and ends when it was asked for: by another arithmetic, in signed nanoseconds.
fn lasts_as_asked(grant: &Grant, request: &AccessRequest, now: &Now) {
    let wall = now.wall.as_nanosecond();
    let start = request.not_before.map_or(wall, |moment| moment.as_nanosecond().max(wall));
    let end = match request.end {
        End::After(length) => start + i128::from(length.0 * SECOND),
        End::At(end) => end.as_nanosecond(),
    };
    let ahead = |boot: BootNanos| i128::from(boot.0) - i128::from(now.boot.0);
    assert_eq!((ahead(grant.starts_boot), ahead(grant.expires_boot)), (start - wall, end - wall), "{request:?}");
    let by_wall = request.not_before.is_some() || matches!(request.end, End::At(_));
    assert!(now.wall_trusted() || !by_wall, "by a clock that nobody trusts: {request:?}");
}
