//! The keys that a host proves to hold: checks that each proof is about the host's statement on this connection.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use postern_core::ssh::{self, Accept, Certificate, SshSig, dearmor};
use postern_proto::v1::{HostProof, WhoAmIResponse};
use serde::Deserialize;
use ssh_key::PublicKey;

use super::NAMESPACE;
use crate::{statement::Statement, tls};

/// How many proofs the client looks at. A host has one for each type of key, and a few by former keys.
const MOST: usize = 16;

#[derive(Clone, Debug)]
pub struct Shown {
    pub key: PublicKey,
    /// Checked only to be about `key`.
    pub certificate: Option<Certificate>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Payload {
    host_id: String,
    names: Vec<String>,
    tls_fingerprint: String,
}

/// The keys whose proofs are about this answer and connection. Empty if the host shows no proof.
pub fn all(who: &WhoAmIResponse, said: &Statement) -> Result<Vec<Shown>, String> {
    let only = || HostProof { signature: who.proof.clone(), certificate: String::new() };
    let proofs = match who.proofs.as_slice() {
        [] if who.proof.is_empty() => return Ok(Vec::new()),
        [] => &[only()][..],
        several => several,
    };
    let payload = who.proof_payload.as_bytes();
    let keys = proofs.iter().take(MOST).map(|proof| key(proof, payload)).collect::<Result<Vec<_>, _>>()?;
    let Payload { host_id, names, tls_fingerprint } =
        serde_json::from_slice(payload).map_err(|error| format!("its content is malformed: {error}"))?;
    if said.tls.is_none_or(|tls| tls::fingerprint(&tls_fingerprint) != Ok(tls)) {
        return Err("it is for another TLS key than the one shown".to_owned());
    }
    if host_id != said.host_id || names != said.names {
        return Err("it is for another host id or other names than the host says".to_owned());
    }
    Ok(keys.into_iter().flatten().collect())
}

/// None for a type of key that the client cannot check: the host may be newer.
fn key(proof: &HostProof, payload: &[u8]) -> Result<Option<Shown>, String> {
    let malformed = |error: ssh::Error| format!("it is malformed: {error}");
    let signature = SshSig::parse(&dearmor(&proof.signature).map_err(malformed)?).map_err(malformed)?;
    let key = match ssh::PublicKey::parse(&signature.key, Accept::HostKeys) {
        Err(ssh::Error::KeyType(_)) => return Ok(None),
        key => key.map_err(malformed)?,
    };
    let fits = signature.namespace == NAMESPACE.as_bytes() && signature.verify(&key, payload).is_ok();
    let key = fits.then(|| PublicKey::from_bytes(&signature.key)).ok_or("its signature does not fit")?;
    let key = key.map_err(|error| format!("its key is malformed: {error}"))?;
    let certificate = match proof.certificate.as_str() {
        "" => None,
        line => Some(certificate(line, &key).ok_or("its certificate is malformed or about another key")?),
    };
    Ok(Some(Shown { key, certificate }))
}

/// Reads a line `TYPE BASE64`; none if it is not about `key`.
fn certificate(line: &str, key: &PublicKey) -> Option<Certificate> {
    let blob = BASE64_STANDARD.decode(line.split_ascii_whitespace().nth(1)?).ok()?;
    let certificate = Certificate::parse(&blob, Accept::All).ok()?;
    key.to_bytes().is_ok_and(|key| key == certificate.key.blob()).then_some(certificate)
}
