//! The messages that people sign, as the JSON that they sign.
//!
//! Owns right payloads and one place to make them wrong: every field is public, and [`Access::json`] is plain text that
//! a test may edit before it is sealed.

use crate::keys::Key;
use jiff::{SignedDuration, Timestamp};
use postern_proto::payload_type;
use postern_proto::v1::SignedMessage;
use serde_json::json;
use std::net::IpAddr;

/// Namespace of signatures that ask for access.
pub const REQUEST: &str = "request@postern.v1";
/// Namespace of signatures that approve a request of another person.
pub const APPROVE: &str = "approve@postern.v1";
/// Namespace of signatures that end a grant.
pub const REVOKE: &str = "revoke@postern.v1";
/// Namespace of signatures that ask to read.
pub const READ: &str = "read@postern.v1";

/// A fresh UUID.
///
/// # Panics
/// Where /proc is not there.
#[must_use]
pub fn uuid() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").expect("a UUID").trim().to_owned()
}

/// The time that many seconds from now, as JSON wants it.
#[must_use]
pub fn seconds_from_now(seconds: i64) -> String {
    (Timestamp::now() + SignedDuration::from_secs(seconds)).to_string()
}

/// The prefix of one address.
#[must_use]
pub fn prefix(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

/// An access request.
#[derive(Clone, Debug)]
pub struct Access {
    /// Fresh unless set.
    pub id: String,
    /// For whom.
    pub audience: Vec<String>,
    /// Two minutes from now unless set.
    pub not_after: String,
    /// From `WhoAmI`; left out when empty.
    pub challenge: String,
    /// "22/tcp", …
    pub ports: Vec<String>,
    /// Prefixes.
    pub source: Vec<String>,
    /// "60s"
    pub duration: String,
    /// Why.
    pub justification: String,
    /// When it shall open; left out when empty.
    pub not_before: String,
    /// The grant that it extends; left out when empty.
    pub supersedes: String,
}

impl Access {
    /// A right request to `audience` for some addresses and seconds.
    #[must_use]
    pub fn new(audience: &str, ports: &[&str], sources: &[IpAddr], seconds: u64) -> Self {
        Self {
            id: uuid(),
            audience: vec![audience.to_owned()],
            not_after: seconds_from_now(120),
            challenge: String::new(),
            ports: ports.iter().map(|port| (*port).to_owned()).collect(),
            source: sources.iter().map(|address| prefix(*address)).collect(),
            duration: format!("{seconds}s"),
            justification: "a test".to_owned(),
            not_before: String::new(),
            supersedes: String::new(),
        }
    }

    /// The payload.
    #[must_use]
    pub fn json(&self) -> String {
        let Self { id, audience, not_after, challenge, ports, source, duration, justification, .. } = self;
        let mut value = json!({
            "id": id, "audience": audience, "notAfter": not_after, "ports": ports, "source": source,
            "duration": duration, "justification": justification,
        });
        for (name, text) in
            [("challenge", challenge), ("notBefore", &self.not_before), ("supersedes", &self.supersedes)]
        {
            if !text.is_empty() {
                value[name] = json!(text);
            }
        }
        value.to_string()
    }

    /// The envelope, signed by `key`.
    #[must_use]
    pub fn seal(&self, key: &Key) -> SignedMessage {
        key.seal(REQUEST, payload_type::ACCESS_REQUEST, &self.json())
    }
}

/// An approval of exactly these bytes, by itself.
#[must_use]
pub fn approve(key: &Key, payload: &[u8]) -> SignedMessage {
    key.seal(APPROVE, payload_type::ACCESS_REQUEST, &String::from_utf8_lossy(payload))
}

/// A signed message that ends a grant.
#[must_use]
pub fn revoke(key: &Key, audience: &str, grant: &str) -> SignedMessage {
    let (id, not_after) = (uuid(), seconds_from_now(120));
    let payload = json!({
        "id": id, "audience": [audience], "notAfter": not_after, "grantId": grant, "reason": "a test is over",
    });
    key.seal(REVOKE, payload_type::REVOKE_REQUEST, &payload.to_string())
}

/// A signed message that may be shown to read for two minutes.
#[must_use]
pub fn read(key: &Key, audience: &str) -> SignedMessage {
    let payload = json!({ "id": uuid(), "audience": [audience], "notAfter": seconds_from_now(120) });
    key.seal(READ, payload_type::READ_REQUEST, &payload.to_string())
}
