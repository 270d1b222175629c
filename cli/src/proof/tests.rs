//! The judgement of proofs that the real `ssh-keygen` made, and of invalid ones.

use std::{fs, path::Path, process::Command};

use super::*;
use crate::{failure::Kind, ssh_hosts::config::Config};

const HOST: &str = "vm1.example.com";

/// A host's key by the real `ssh-keygen`, and its proofs.
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

    fn fingerprint(&self) -> Fingerprint {
        PublicKey::from_openssh(&self.public()).unwrap().fingerprint(HashAlg::Sha256)
    }

    fn answer(&self, namespace: &str, payload: &str) -> WhoAmIResponse {
        let file = self.directory.path().join("payload");
        let _ = fs::remove_file(file.with_extension("sig"));
        fs::write(&file, payload).unwrap();
        let key = self.directory.path().join("key");
        ssh_keygen(Command::new("ssh-keygen").args(["-Y", "sign", "-n", namespace, "-f"]).arg(key).arg(&file));
        WhoAmIResponse {
            proof_payload: payload.to_owned(),
            proof: fs::read_to_string(file.with_extension("sig")).unwrap(),
            ..WhoAmIResponse::default()
        }
    }

    fn proving(&self) -> WhoAmIResponse {
        self.answer(NAMESPACE, &payload(&tls().to_string()))
    }
}

fn ssh_keygen(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn tls() -> crate::tls::Fingerprint {
    crate::tls::Fingerprint::of(b"certificate")
}

fn said() -> Statement {
    Statement {
        host_id: "7".to_owned(),
        names: vec![HOST.to_owned()],
        host_time: jiff::Timestamp::UNIX_EPOCH,
        challenge: String::new(),
        address: String::new(),
        local_address: String::new(),
        tls: Some(tls()),
        ports: Vec::new(),
    }
}

fn payload(fingerprint: &str) -> String {
    format!(r#"{{"hostId":"7","names":["{HOST}"],"tlsFingerprint":"{fingerprint}"}}"#)
}

/// The verdict with these lines in `known_hosts`. With lines hashed by `ssh-keygen -H` it must be the same.
fn verdict(who: &WhoAmIResponse, lines: &[String]) -> Result<HostTrust> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("known_hosts");
    fs::write(&file, lines.join("\n") + "\n").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let judged = |file: &Path| {
        let known = Known::find(&Config::plain(HOST, [file.to_owned()])).unwrap();
        runtime.block_on(judge(HOST, who, &said(), &known, 0))
    };
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
        let fingerprint = host.fingerprint();
        assert_eq!(proved(&who, &said()), [fingerprint]);
        let proven = || Ok(HostTrust::Proven(fingerprint));
        let known = |key: &str| format!("{HOST} {key}");
        assert_eq!(verdict(&who, &[]), Ok(HostTrust::Unknown));
        assert_eq!(verdict(&who, &[format!("elsewhere {own}")]), Ok(HostTrust::Unknown));
        assert_eq!(verdict(&who, &[format!("@cert-authority * {own}")]), Ok(HostTrust::Unproven(None)));
        assert_eq!(verdict(&who, &[known(&own)]), proven());
        assert_eq!(verdict(&who, &[known(&other), known(&own)]), proven(), "one of several keys");
        assert_eq!(verdict(&who, &[known(&other_type)]), Ok(HostTrust::Unproven(None)));
        let changed = verdict(&who, &[known(&other_type), known(&other)]).unwrap_err();
        assert_eq!(changed.kind, Kind::Identity);
        assert!(changed.message.contains("REMOTE HOST IDENTIFICATION HAS CHANGED"), "{changed}");
        assert!(changed.message.contains("known_hosts:2"), "{changed}");
        let revoked = verdict(&who, &[known(&own), format!("@revoked * {own}")]).unwrap_err();
        assert_eq!(revoked.kind, Kind::Identity);
        assert!(revoked.message.contains("REVOKED HOST KEY DETECTED"), "{revoked}");
        assert_eq!(verdict(&who, &[known(&own), format!("@revoked * {other}")]), proven());
        assert_eq!(verdict(&WhoAmIResponse::default(), &[known(&own)]), Ok(HostTrust::Unproven(None)));
    }
}

#[test]
fn a_proof_of_something_else_is_refused() {
    let host = Host::new(&["-t", "ed25519"]);
    let known = [format!("{HOST} {}", host.public())];
    let good = host.proving();
    let fingerprint = tls().to_string();
    let moved = crate::tls::Fingerprint::of(b"another").to_string();
    for (what, who) in [
        ("TLS key", host.answer(NAMESPACE, &payload(&moved))),
        ("namespace", host.answer("request@postern.v1", &payload(&fingerprint))),
        ("unknown field", host.answer(NAMESPACE, &payload(&fingerprint).replace('{', "{\"\u{1b}[31m\":1,"))),
        ("field twice", host.answer(NAMESPACE, &payload(&fingerprint).replace('{', "{\"hostId\":\"7\","))),
        ("missing field", host.answer(NAMESPACE, &payload(&fingerprint).replace("\"hostId\":\"7\",", ""))),
        ("changed text", WhoAmIResponse { proof_payload: payload(&moved), ..good.clone() }),
        ("host id", host.answer(NAMESPACE, &payload(&fingerprint).replace("\"7\"", "\"8\""))),
        ("names", host.answer(NAMESPACE, &payload(&fingerprint).replace(HOST, "vm2.example.com"))),
        ("no signature", WhoAmIResponse { proof: "garbage".to_owned(), ..good.clone() }),
    ] {
        let failure = verdict(&who, &known).unwrap_err();
        assert_eq!(failure.kind, Kind::Identity, "{what}");
        assert!(proved(&who, &said()).is_empty(), "{what}");
        assert!(
            failure.message.contains("sent an invalid proof") && !failure.message.contains('\u{1b}'),
            "{what}: {failure}"
        );
    }
    assert_eq!(verdict(&good, &known), Ok(HostTrust::Proven(host.fingerprint())));
}
