//! Whether a host proves to be the one that this person knows from ssh.
//!
//! Owns the check of the proof in `WhoAmI` against the lines of [`crate::ssh_hosts`], and ssh's refusals. What follows for
//! a host that proves nothing is decided by [`crate::trust`].

use postern_proto::v1::WhoAmIResponse;
use serde::Deserialize;
use ssh_key::{Algorithm, HashAlg, PublicKey, SshSig};

use crate::{
    failure::{Failure, Kind, Result},
    ssh_hosts::{Line, Says},
    text,
    tls::Fingerprint,
};

/// The namespace of the host's signature.
pub const NAMESPACE: &str = "host@postern.v1";

/// How a host stands with what ssh knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// No key of it is known.
    Unknown,
    /// A key of it is known, but the host shows no proof, or one by a key of another type.
    Unproven,
    /// It proved to hold the known key.
    Proven,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Payload {
    host_id: String,
    names: Vec<String>,
    tls_fingerprint: String,
}

/// Judges the answer `who` of `host` over a connection with the certificate `shown`, by the `lines` that name the host.
///
/// # Errors
/// [`Kind::Identity`]: the host's key is revoked, or another one of the same type is known; or the proof is not one.
pub fn judge(host: &str, who: &WhoAmIResponse, shown: Fingerprint, lines: &[Line]) -> Result<Standing> {
    let known: Vec<_> = lines.iter().filter(|line| line.says == Says::Known).collect();
    let without = if known.is_empty() { Standing::Unknown } else { Standing::Unproven };
    if lines.is_empty() || who.proof.is_empty() {
        return Ok(without);
    }
    let key = verify(who, shown).map_err(|why| no_proof(host, &why))?;
    let has_it = |line: &Line| line.key.key_data() == key.key_data();
    if lines.iter().any(|line| line.says == Says::Revoked && has_it(line)) {
        return Err(revoked(host, &key));
    }
    if known.iter().any(|line| has_it(line)) {
        return Ok(Standing::Proven);
    }
    match known.iter().find(|line| line.key.algorithm() == key.algorithm()) {
        Some(line) => Err(changed(host, &key, line)),
        None => Ok(without),
    }
}

/// The key that signed the proof, if the proof is about this answer and this connection.
fn verify(who: &WhoAmIResponse, shown: Fingerprint) -> std::result::Result<PublicKey, String> {
    let signature: SshSig = who.proof.parse().map_err(|error| format!("it is malformed: {error}"))?;
    let key = PublicKey::from(signature.public_key().clone());
    let payload = who.proof_payload.as_bytes();
    key.verify(NAMESPACE, payload, &signature).map_err(|_| "its signature does not fit".to_owned())?;
    let Payload { host_id, names, tls_fingerprint } =
        serde_json::from_slice(payload).map_err(|error| format!("its content is malformed: {error}"))?;
    if tls_fingerprint.parse() != Ok(shown) {
        return Err("it is for another TLS key than the one shown".to_owned());
    }
    if host_id != who.host_id || names != who.names {
        return Err("it is for another host id or other names than the host says".to_owned());
    }
    Ok(key)
}

/// As ssh names a type of key in its messages.
fn kind(key: &PublicKey) -> &'static str {
    match key.algorithm() {
        Algorithm::Ed25519 => "ED25519",
        Algorithm::Ecdsa { .. } => "ECDSA",
        _ => "RSA",
    }
}

fn changed(host: &str, key: &PublicKey, known: &Line) -> Failure {
    let (kind, file) = (kind(key), known.file.display());
    let message = format!(
        "WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! Someone could be eavesdropping on you right now \
         (man-in-the-middle attack)! It is also possible that a host key has just been changed. Nothing was sent.\n  \
         The fingerprint for the {kind} key sent by the remote host is {}.\n  Offending {kind} key in {file}:{}",
        key.fingerprint(HashAlg::Sha256),
        known.number
    );
    Failure::new(Kind::Identity, message).next(format!(
        "ask the host's administrator for its SSH host key. Only if it is the one above:\n\
         ssh-keygen -f '{file}' -R '{host}', then try again"
    ))
}

fn revoked(host: &str, key: &PublicKey) -> Failure {
    let message = format!(
        "WARNING: REVOKED HOST KEY DETECTED! The {} host key for {host} is marked as revoked. This could mean that a \
         stolen key is being used to impersonate this host. Nothing was sent.",
        kind(key)
    );
    Failure::new(Kind::Identity, message).next("ask the host's administrator; the host needs a new SSH host key")
}

fn no_proof(host: &str, why: &str) -> Failure {
    let message =
        format!("{host} shows a proof by an SSH host key that is none: {}. Nothing was sent", text::clean(why));
    Failure::new(Kind::Identity, message).next(
        "somebody may be in the middle right now; ask the host's administrator to restart posternd and look again",
    )
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, process::Command};

    use super::*;
    use crate::ssh_hosts::SshHosts;

    const HOST: &str = "vm1.example.com";

    /// A host's key by the real `ssh-keygen`, and proofs by it.
    struct Host {
        directory: tempfile::TempDir,
    }

    impl Host {
        fn new(kind: &[&str]) -> Self {
            let directory = tempfile::tempdir().unwrap();
            ssh_keygen(
                Command::new("ssh-keygen").args(["-q", "-N", "", "-f"]).arg(directory.path().join("key")).args(kind),
            );
            Self { directory }
        }

        fn public(&self) -> String {
            fs::read_to_string(self.directory.path().join("key.pub")).unwrap().trim().to_owned()
        }

        fn answer(&self, namespace: &str, payload: &str) -> WhoAmIResponse {
            let file = self.directory.path().join("payload");
            let _ = fs::remove_file(file.with_extension("sig"));
            fs::write(&file, payload).unwrap();
            let key = self.directory.path().join("key");
            ssh_keygen(Command::new("ssh-keygen").args(["-Y", "sign", "-n", namespace, "-f"]).arg(key).arg(&file));
            WhoAmIResponse {
                host_id: "7".to_owned(),
                names: vec![HOST.to_owned()],
                proof_payload: payload.to_owned(),
                proof: fs::read_to_string(file.with_extension("sig")).unwrap(),
                ..WhoAmIResponse::default()
            }
        }

        fn proving(&self) -> WhoAmIResponse {
            self.answer(NAMESPACE, &payload(&shown().to_string()))
        }
    }

    fn ssh_keygen(command: &mut Command) {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn shown() -> Fingerprint {
        Fingerprint::of(b"certificate")
    }

    fn payload(fingerprint: &str) -> String {
        format!(r#"{{"hostId":"7","names":["{HOST}"],"tlsFingerprint":"{fingerprint}"}}"#)
    }

    /// The verdict with these lines in `known_hosts`, hashed by `ssh-keygen -H`: it must be the one without hashing.
    fn verdict(who: &WhoAmIResponse, lines: &[String]) -> Result<Standing> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("known_hosts");
        fs::write(&file, lines.join("\n") + "\n").unwrap();
        let judged = |file: &Path| judge(HOST, who, shown(), &SshHosts::at([file.to_owned()]).find(HOST).unwrap());
        let plain = judged(&file);
        if !lines.is_empty() {
            ssh_keygen(Command::new("ssh-keygen").args(["-q", "-H", "-f"]).arg(&file));
        }
        assert_eq!(judged(&file), plain);
        plain
    }

    #[test]
    fn the_known_key_proves_a_changed_or_revoked_one_is_refused() {
        let types: [&[&str]; 3] = [&["-t", "ed25519"], &["-t", "ecdsa", "-b", "256"], &["-t", "ecdsa", "-b", "384"]];
        let other_type = Host::new(&["-t", "rsa"]).public();
        for kind in types {
            let (host, other) = (Host::new(kind), Host::new(kind).public());
            let (who, own) = (host.proving(), host.public());
            let known = |key: &str| format!("{HOST} {key}");
            assert_eq!(verdict(&who, &[]), Ok(Standing::Unknown));
            assert_eq!(verdict(&who, &[format!("elsewhere {own}")]), Ok(Standing::Unknown));
            assert_eq!(verdict(&who, &[format!("@cert-authority * {own}")]), Ok(Standing::Unknown));
            assert_eq!(verdict(&who, &[known(&own)]), Ok(Standing::Proven));
            assert_eq!(verdict(&who, &[known(&other), known(&own)]), Ok(Standing::Proven), "one of several keys");
            assert_eq!(verdict(&who, &[known(&other_type)]), Ok(Standing::Unproven));
            let changed = verdict(&who, &[known(&other_type), known(&other)]).unwrap_err();
            assert_eq!(changed.kind, Kind::Identity);
            assert!(changed.message.contains("REMOTE HOST IDENTIFICATION HAS CHANGED"), "{changed}");
            assert!(changed.message.contains("known_hosts:2"), "{changed}");
            let revoked = verdict(&who, &[known(&own), format!("@revoked * {own}")]).unwrap_err();
            assert_eq!(revoked.kind, Kind::Identity);
            assert!(revoked.message.contains("REVOKED HOST KEY DETECTED"), "{revoked}");
            assert_eq!(verdict(&who, &[known(&own), format!("@revoked * {other}")]), Ok(Standing::Proven));
            assert_eq!(verdict(&WhoAmIResponse::default(), &[known(&own)]), Ok(Standing::Unproven));
        }
    }

    #[test]
    fn a_proof_of_something_else_is_refused() {
        let host = Host::new(&["-t", "ed25519"]);
        let known = [format!("{HOST} {}", host.public())];
        let good = host.proving();
        let fingerprint = shown().to_string();
        let moved = Fingerprint::of(b"another").to_string();
        for (what, who) in [
            ("TLS key", host.answer(NAMESPACE, &payload(&moved))),
            ("namespace", host.answer("request@postern.v1", &payload(&fingerprint))),
            ("unknown field", host.answer(NAMESPACE, &payload(&fingerprint).replace('{', "{\"\u{1b}[31m\":1,"))),
            ("field twice", host.answer(NAMESPACE, &payload(&fingerprint).replace('{', "{\"hostId\":\"7\","))),
            ("missing field", host.answer(NAMESPACE, &payload(&fingerprint).replace("\"hostId\":\"7\",", ""))),
            ("changed text", WhoAmIResponse { proof_payload: payload(&moved), ..good.clone() }),
            ("host id", WhoAmIResponse { host_id: "8".to_owned(), ..good.clone() }),
            ("names", WhoAmIResponse { names: vec![], ..good.clone() }),
            ("no signature", WhoAmIResponse { proof: "garbage".to_owned(), ..good.clone() }),
        ] {
            let failure = verdict(&who, &known).unwrap_err();
            assert_eq!(failure.kind, Kind::Identity, "{what}");
            assert!(
                failure.message.contains("that is none") && !failure.message.contains('\u{1b}'),
                "{what}: {failure}"
            );
        }
        assert_eq!(verdict(&good, &known), Ok(Standing::Proven));
    }
}
