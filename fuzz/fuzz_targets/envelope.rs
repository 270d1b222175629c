//! A message's whole way: protobuf, envelope, signatures, strict JSON, audience, freshness, judge, grant.
//!
//! The first byte chooses the form. `s` is followed by the bytes of an SSHSIG, `a` by armor: nothing is accepted but what was
//! signed. `p` is followed by a byte of settings and a protobuf message, `t` by settings, a line of signatures and the payload: a
//! signature `@r1` there is put in place by the target, in the role r(equest), a(pprove), (re)v(oke), a(d)min or (rea)d, by the key
//! made from 1, or `@r1c` by a certificate of it. So the way does not end at the first signature.
//!
//! `cargo fuzz run envelope`
#![no_main]

mod host;
// Each target needs only some of it.
#[allow(dead_code)]
#[path = "../../agent-core/tests/hostile_bytes/valid.rs"]
mod valid;

use std::collections::BTreeSet;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use postern_agent::config::Config;
use postern_agent::engine::SignedBytes;
use postern_agent::wire;
use postern_core::envelope::{Envelope, Role, SshSig, Verified, dearmor, verify, verify_approval};
use postern_core::grant::{AccessRequest, Grant, Header};
use postern_core::ledger::{Capacity, Ledger};
use postern_core::message::{self, Freshness, MAX_MESSAGE_LIFE, Showing};
use postern_core::policy::{Asking, Policy, RoleKind};
use postern_core::time::Now;
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

const REQUEST: &str = payload_type::ACCESS_REQUEST;

fuzz_target!(|input: &[u8]| {
    let Some((form, rest)) = input.split_first() else { return };
    match (form, rest.split_first()) {
        (b's', _) => signature(rest),
        (b'a', _) => armor(&String::from_utf8_lossy(rest)),
        (b'p', Some((settings, bytes))) => {
            let Ok(request) = v1::RequestAccessRequest::decode(bytes) else { return };
            let Ok(message) = wire::signed(request.message) else { return };
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
            whole_way(wire::signed_bytes(message), *settings);
        }
        _ => {}
    }
});

fn accepted(trust: &Trust, armored: &str) -> bool {
    let envelope = Envelope { payload: valid::PAYLOAD, payload_type: REQUEST, signatures: vec![armored] };
    verify(&envelope, trust, 0, false).is_ok()
}

fn signature(bytes: &[u8]) {
    let _ = SshSig::parse(bytes).map(|signature| signature.verify(valid::PAYLOAD));
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

/// `message` with real signatures in their places, and who really signed: role and person.
fn signed(mut message: SignedBytes) -> (SignedBytes, BTreeSet<(Role, String)>) {
    let mut who = BTreeSet::new();
    // No more than that is ever looked at.
    for text in message.signatures.iter_mut().take(16) {
        let Some((role, seed, certified)) = place(text) else { continue };
        let name = match seed {
            _ if certified => "alice@example.com",
            _ => host::TRUSTED.iter().find(|(_, key)| *key == seed).map_or("nobody", |(name, _)| *name),
        };
        who.insert((role, name.to_owned()));
        let bytes = match certified {
            true => valid::sign_certified(seed, 2, role, &message.payload),
            false => valid::sign(seed, role, &message.payload),
        };
        *text = valid::armor(&bytes);
    }
    (message, who)
}

/// `@r1` or `@r1c`
fn place(text: &str) -> Option<(Role, u8, bool)> {
    let (certified, text) = (text.ends_with('c'), text.strip_suffix('c').unwrap_or(text));
    let &[b'@', role, seed @ b'1'..=b'5'] = text.as_bytes() else { return None };
    let role = Role::ALL.into_iter().zip(*b"ravxd").find(|(_, letter)| *letter == role)?.0;
    Some((role, seed - b'0', certified))
}

fn whole_way(message: SignedBytes, settings: u8) {
    let (message, who) = signed(message);
    let now = host::now(settings & 1 == 0);
    let envelope = Envelope {
        payload: &message.payload,
        payload_type: &message.payload_type,
        signatures: message.signatures.iter().map(String::as_str).collect(),
    };
    let _ = verify_approval(&envelope, &TRUST, now.wall.as_second(), now.clock.knows_windows());
    let Ok(verified) = verify(&envelope, &TRUST, now.wall.as_second(), now.clock.knows_windows()) else { return };
    // The seeds hold real signatures over this payload.
    if message.payload != valid::PAYLOAD {
        for (at, signer) in verified.signers.iter().enumerate() {
            let role = if at == 0 { verified.role } else { Role::Approve };
            assert!(who.contains(&(role, signer.principal.clone())), "{signer:?} has not signed as {role:?}: {who:?}");
        }
    }
    match verified.role {
        Role::Request => request(&message.payload, &verified, &now),
        Role::Revoke => {
            if let Ok(revocation) = wire::revoke_request(&message.payload) {
                fresh(&revocation.header, Showing::Once, &now, &told(&message.payload));
            }
        }
        Role::Read => {
            if let Ok(header) = wire::read_request(&message.payload) {
                fresh(&header, Showing::Repeated, &now, &told(&message.payload));
            }
        }
        Role::Approve | Role::Admin => panic!("no payload has this role"),
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
    let names: Vec<&str> =
        [&id].into_iter().chain(&identity.names).chain(&identity.host_keys).map(|n| &n[..]).collect();
    assert!(audience.iter().any(|a| names.iter().any(|name| name.eq_ignore_ascii_case(a))), "for another host");
    let left = header.not_after.duration_since(now.wall);
    let in_time = left.is_positive() && left.as_secs() <= i64::try_from(MAX_MESSAGE_LIFE.0).expect("minutes");
    assert!(!now.wall_trusted() || in_time, "not after {}", header.not_after);
    assert!(now.wall_trusted() || header.challenge.is_some(), "neither a clock nor a challenge");
    true
}

fn request(payload: &[u8], verified: &Verified, now: &Now) {
    let Ok(request) = wire::access_request(payload) else { return };
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
    for text in [&request.justification, &request.ticket] {
        assert!(!text.chars().any(char::is_control), "it goes into the journal and to terminals");
    }
}

fn granted(grant: &Grant, request: &AccessRequest, complete: bool, now: &Now) {
    assert!(POLICY.holds(&grant.signer.principal, RoleKind::Requester));
    assert_eq!((&grant.ports, &grant.sources), (&request.ports, &request.sources));
    assert!(grant.starts_boot >= now.boot && grant.expires_boot > grant.starts_boot, "{grant:?}");
    let length = grant.expires_boot.0 - grant.starts_boot.0;
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
        let approved = grant.approvers.iter().any(|approver| approver.principal != grant.signer.principal);
        assert!(rule.approvals.count == 0 || approved || !complete, "nobody approved {port}");
    }
    assert!(grant.keys().count() >= 1);
}
