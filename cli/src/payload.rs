//! The payloads and their envelopes. The client sends exactly the bytes that it signed; it never encodes a payload twice.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use postern_proto::v1::{AccessRequest, ReadRequest, RevokeRequest, Signature, SignedMessage};
use serde::Serialize;

pub use crate::purpose::Purpose;
use crate::{
    console::{Console, blocking},
    failure::{Failure, Kind, Result},
    keys::Key,
    statement::Statement,
    text,
};

/// Binds a message to one host and one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Binding {
    audience: Vec<String>,
    not_after: pbjson_types::Timestamp,
    challenge: String,
}

impl Binding {
    /// For the host that made this statement and proved this audience. The host's clock counts, so a wrong clock here does no harm.
    #[must_use]
    pub fn to_host(audience: Vec<String>, said: &Statement, purpose: Purpose) -> Self {
        let not_after = later(wire_time(said.host_time), purpose.life());
        Self { audience, not_after, challenge: said.challenge.clone() }
    }

    /// For hosts that the client cannot ask now: by the clock of this machine, without a challenge.
    #[must_use]
    pub fn offline(audience: Vec<String>, purpose: Purpose) -> Self {
        let not_after = later(wire_time(Timestamp::now()), purpose.life());
        Self { audience, not_after, challenge: String::new() }
    }
}

/// A time as the API writes it, in whole seconds.
#[must_use]
pub fn wire_time(time: Timestamp) -> pbjson_types::Timestamp {
    pbjson_types::Timestamp { seconds: time.as_second(), nanos: 0 }
}

fn later(time: pbjson_types::Timestamp, by: Duration) -> pbjson_types::Timestamp {
    let seconds = time.seconds.saturating_add(by.as_secs().cast_signed());
    pbjson_types::Timestamp { seconds, nanos: 0 }
}

/// The content of a request for access.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// For example `22/tcp`.
    pub ports: Vec<String>,
    /// Prefixes.
    pub source: Vec<String>,
    /// The duration or the end.
    pub lifetime: Lifetime,
    /// The start; none means at once.
    pub not_before: Option<Timestamp>,
    /// The grant that this request extends.
    pub supersedes: Option<String>,
    /// The reason.
    pub justification: String,
    /// A reference into another system.
    pub ticket: String,
}

/// The lifetime of a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// From the moment when the host accepts it.
    For(Duration),
    /// Until a time of the host's clock.
    Until(Timestamp),
}

/// The payload of a request for access.
#[must_use]
pub fn access_request(wish: Wish, binding: Binding) -> AccessRequest {
    let Wish { ports, source, lifetime, not_before, supersedes, justification, ticket } = wish;
    let Binding { audience, not_after, challenge } = binding;
    let (duration, end) = match lifetime {
        Lifetime::For(duration) => (Some(duration.into()), None),
        Lifetime::Until(time) => (None, Some(wire_time(time))),
    };
    AccessRequest {
        id: new_id(),
        audience,
        not_after: Some(not_after),
        challenge,
        ports,
        source,
        duration,
        end,
        justification,
        ticket,
        not_before: not_before.map(wire_time),
        supersedes: supersedes.unwrap_or_default(),
    }
}

/// The payload of a revocation.
#[must_use]
pub fn revoke_request(grant_id: String, reason: String, binding: Binding) -> RevokeRequest {
    let Binding { audience, not_after, challenge } = binding;
    RevokeRequest { id: new_id(), audience, not_after: Some(not_after), challenge, grant_id, reason }
}

/// The payload of a read.
#[must_use]
pub fn read_request(binding: Binding) -> ReadRequest {
    let Binding { audience, not_after, challenge } = binding;
    ReadRequest { id: new_id(), audience, not_after: Some(not_after), challenge }
}

fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// The payload's bytes: strict proto3 JSON.
///
/// # Errors
/// Fails with [`Kind::Local`] if a time is out of range.
pub fn to_json(payload: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(payload).map_err(|error| Failure::new(Kind::Local, format!("cannot write the message: {error}")))
}

/// Signs `payload` and puts both into the envelope.
///
/// # Errors
/// Fails with [`Kind::Key`] if the key cannot sign.
pub async fn seal(payload: Vec<u8>, purpose: Purpose, key: &Arc<Key>, console: Console) -> Result<SignedMessage> {
    let key = Arc::clone(key);
    let (payload, sshsig) = blocking(move || {
        let sshsig = key.sign(purpose.namespace(), &payload, console)?;
        Ok((payload, sshsig))
    })
    .await?;
    let payload_type = purpose.payload_type().to_owned();
    Ok(SignedMessage { payload, payload_type, signatures: vec![Signature { sshsig }] })
}

/// The first purpose whose strict form `bytes` has. An approval has the form of a request, so the caller has to name it.
///
/// # Errors
/// Fails with [`Kind::Usage`] if `bytes` is no payload, or not of the `wanted` purpose.
pub fn recognise(bytes: &[u8], wanted: Option<Purpose>) -> Result<Purpose> {
    let strict = |purpose| match purpose {
        Purpose::Read => serde_json::from_slice::<ReadRequest>(bytes).map(drop),
        Purpose::Request | Purpose::Approve => serde_json::from_slice::<AccessRequest>(bytes).map(drop),
        Purpose::Revoke => serde_json::from_slice::<RevokeRequest>(bytes).map(drop),
    };
    // The parser quotes the file, which may be another person's.
    let shown = |error: serde_json::Error| text::clean(&error.to_string());
    if let Some(purpose) = wanted {
        let wrong = |error| Failure::usage(format!("the payload is not a {purpose:?} message: {}", shown(error)));
        return strict(purpose).map(|()| purpose).map_err(wrong);
    }
    // A ReadRequest has no field that the others lack, so it comes first.
    let all = [Purpose::Read, Purpose::Request, Purpose::Revoke];
    all.into_iter().find(|purpose| strict(*purpose).is_ok()).ok_or_else(|| {
        let complaint = strict(Purpose::Request).err().map(shown).unwrap_or_default();
        Failure::usage(format!("the payload is no AccessRequest, RevokeRequest or ReadRequest: {complaint}"))
            .next("the fields are those of proto/postern/v1/messages.proto, in JSON")
    })
}

/// The request in `payload` if its id is `id`. The caller has to check its audience.
///
/// # Errors
/// Fails if `payload` is no request or has another id. The error says what is wrong.
pub fn approvable(payload: &[u8], id: &str) -> std::result::Result<AccessRequest, String> {
    let request: AccessRequest =
        // The error quotes field names, which the host chose.
        serde_json::from_slice(payload)
            .map_err(|error| format!("they are no AccessRequest ({})", text::clean(&error.to_string())))?;
    if !request.id.eq_ignore_ascii_case(id) {
        return Err(format!("their id is \"{}\"", text::clean(&request.id)));
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said() -> Statement {
        Statement {
            host_id: "7d0c0d0e-3b1a-4a53-9a3d-111111111111".to_owned(),
            names: vec!["another.example.com".to_owned()],
            host_time: Timestamp::new(1_795_219_200, 5).unwrap(),
            challenge: "c2VjcmV0".to_owned(),
            address: String::new(),
            local_address: String::new(),
            tls: None,
            ports: Vec::new(),
        }
    }

    fn binding(purpose: Purpose) -> Binding {
        Binding::to_host(vec!["SHA256:k".to_owned(), said().host_id], &said(), purpose)
    }

    fn wish() -> Wish {
        Wish {
            ports: vec!["22/tcp".to_owned()],
            source: vec!["192.0.2.7/32".to_owned()],
            lifetime: Lifetime::For(Duration::from_secs(1800)),
            not_before: None,
            supersedes: None,
            justification: "disk full".to_owned(),
            ticket: String::new(),
        }
    }

    #[test]
    fn a_request_is_bound_to_the_hosts_key_id_clock_and_challenge() {
        let request = access_request(wish(), binding(Purpose::Request));
        let json: serde_json::Value = serde_json::from_slice(&to_json(&request).unwrap()).unwrap();
        assert_eq!(json["audience"], serde_json::json!(["SHA256:k", "7d0c0d0e-3b1a-4a53-9a3d-111111111111"]));
        assert_eq!(json["notAfter"], "2026-11-21T00:02:00+00:00");
        assert_eq!(json["challenge"], "c2VjcmV0");
        assert_eq!(json["duration"], "1800s");
        assert!(uuid::Uuid::parse_str(json["id"].as_str().unwrap()).is_ok_and(|id| id.get_version_num() == 4));
        assert_eq!(json.get("end"), None);
    }

    #[test]
    fn payloads_are_recognised_by_their_strict_form() {
        let access = to_json(&access_request(wish(), binding(Purpose::Request))).unwrap();
        let revoke = to_json(&revoke_request("g".to_owned(), String::new(), binding(Purpose::Revoke))).unwrap();
        let read = to_json(&read_request(binding(Purpose::Read))).unwrap();
        assert_eq!(recognise(&access, None), Ok(Purpose::Request));
        assert_eq!(recognise(&access, Some(Purpose::Approve)), Ok(Purpose::Approve));
        assert_eq!(recognise(&revoke, None), Ok(Purpose::Revoke));
        assert_eq!(recognise(&read, None), Ok(Purpose::Read));
        assert!(recognise(&access, Some(Purpose::Revoke)).is_err());
        for bad in [&b"{"[..], b"[]", br#"{"id":"a","id":"b"}"#, br#"{"id":"a","colour":"red"}"#, b"\xff"] {
            assert_eq!(recognise(bad, None).unwrap_err().kind, Kind::Usage);
        }
    }
}
