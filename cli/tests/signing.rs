//! What `postern sign` signs, real `ssh-keygen -Y verify` accepts: every algorithm, from files and from a real agent.

mod support;

use std::{fs, path::Path, process::Command};

use serde_json::Value;
use support::{Agent, Home, Signed, stderr, succeed};

const NAMESPACE: &str = "request@postern.v1";
const ASK: [&str; 9] = ["sign", "--audience", "vm1", "--port", "ssh", "--for", "30m", "--from", "192.0.2.7"];

const KINDS: [(&str, &[&str]); 4] = [
    ("ed25519", &["-t", "ed25519"]),
    ("p256", &["-t", "ecdsa", "-b", "256"]),
    ("p384", &["-t", "ecdsa", "-b", "384"]),
    ("rsa3072", &["-t", "rsa", "-b", "3072"]),
];

fn with_key(home: &Home, key: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = home.postern(&ASK);
    command.arg("--key").arg(key);
    command
}

/// A line of allowed_signers for "alice", for requests only.
fn allowed(public: &Path) -> String {
    format!("alice namespaces=\"{NAMESPACE}\" {}", fs::read_to_string(public).unwrap())
}

/// ssh-keygen accepts what was signed, and would not accept it changed or for another purpose.
fn check(home: &Home, allowed: &str, command: &mut Command, what: &str) -> Signed {
    let signed = Signed::from_output(&succeed(command), "message");
    assert!(home.verifies(allowed, NAMESPACE, &signed.payload, &signed.sshsig), "{what}: refused by ssh-keygen");
    assert_eq!(host_accepts(allowed, &signed).as_deref(), Ok("alice"), "{what}: the host's verifier");
    let mut changed = signed.payload.clone();
    changed[0] ^= 1;
    assert!(!home.verifies(allowed, NAMESPACE, &changed, &signed.sshsig), "{what}: accepted when changed");
    assert!(!home.verifies(allowed, "revoke@postern.v1", &signed.payload, &signed.sshsig), "{what}: wrong namespace");
    signed
}

/// What the host's own verifier makes of it: who signed, or the reason code of the refusal.
fn host_accepts(allowed: &str, signed: &Signed) -> Result<String, &'static str> {
    let trust = postern_core::trust::Trust::parse(allowed, b"").expect("a trust file");
    let envelope = postern_core::envelope::Envelope {
        payload: &signed.payload,
        payload_type: &signed.payload_type,
        signatures: vec![&signed.sshsig],
    };
    let now = jiff::Timestamp::now().as_second();
    let verified = postern_core::envelope::verify(&envelope, &trust, now, true).map_err(|no| no.reason.code())?;
    Ok(verified.signer().expect("a signer").principal.clone())
}

#[test]
fn key_files_of_every_algorithm() {
    let home = Home::new();
    for (name, arguments) in KINDS {
        let key = home.keygen(name, arguments);
        let signed = check(&home, &allowed(&key.with_extension("pub")), &mut with_key(&home, &key), name);
        assert_eq!(signed.payload_type, "application/vnd.postern.access-request.v1+json");
        let payload: Value = serde_json::from_slice(&signed.payload).unwrap();
        assert_eq!(payload["ports"], serde_json::json!(["22/tcp"]));
        assert_eq!(payload["source"], serde_json::json!(["192.0.2.7/32"]));
    }
}

#[test]
fn an_agent_with_every_algorithm_chosen_by_fingerprint_comment_and_public_file() {
    let home = Home::new();
    let agent = Agent::start(&home);
    for (name, arguments) in KINDS {
        let key = home.keygen(name, arguments);
        agent.add(&home, &key);
        // From here on only the agent has the private half.
        fs::remove_file(&key).unwrap();
        let public = key.with_extension("pub");
        let listed = succeed(home.command("ssh-keygen").args(["-l", "-f"]).arg(&public));
        let fingerprint = support::stdout(&listed).split(' ').nth(1).unwrap().to_owned();
        for choice in [format!("agent:{fingerprint}"), format!("agent:{name}"), public.display().to_string()] {
            let mut command = with_key(&home, &choice);
            check(&home, &allowed(&public), command.env("SSH_AUTH_SOCK", &agent.socket), &choice);
        }
    }
    // The first acceptable key is the default, also without --key.
    let first = allowed(&home.path("ed25519.pub"));
    for mut command in [with_key(&home, "agent"), home.postern(&ASK)] {
        check(&home, &first, command.env("SSH_AUTH_SOCK", &agent.socket), "agent");
    }
}

#[test]
fn an_encrypted_key_that_the_agent_holds_needs_no_passphrase() {
    let home = Home::new();
    let agent = Agent::start(&home);
    let key = home.keygen("plain", &["-t", "ed25519"]);
    agent.add(&home, &key);
    succeed(home.command("ssh-keygen").args(["-q", "-p", "-P", "", "-N", "secret", "-f"]).arg(&key));
    let mut command = with_key(&home, &key);
    check(&home, &allowed(&home.path("plain.pub")), command.env("SSH_AUTH_SOCK", &agent.socket), "agent");
}

#[test]
fn certificates_from_a_file_and_over_an_agent() {
    let home = Home::new();
    let ca = home.keygen("ca", &["-t", "ed25519"]);
    let ca_line = format!(
        "alice cert-authority,namespaces=\"{NAMESPACE}\" {}",
        fs::read_to_string(ca.with_extension("pub")).unwrap()
    );
    for (name, arguments) in KINDS {
        let key = home.keygen(name, arguments);
        let public = key.with_extension("pub");
        succeed(
            home.command("ssh-keygen")
                .args(["-q", "-I", "id", "-n", "alice", "-V", "-1h:+1h", "-s"])
                .arg(&ca)
                .arg(&public),
        );
        check(&home, &ca_line, &mut with_key(&home, &key), name);
        // The .pub names the plain key even beside a certificate.
        check(&home, &allowed(&public), &mut with_key(&home, &public), name);
        let agent = Agent::start(&home);
        agent.add(&home, &key);
        fs::remove_file(&key).unwrap();
        let certificate = home.path(&format!("{name}-cert.pub"));
        let mut command = with_key(&home, &certificate);
        check(&home, &ca_line, command.env("SSH_AUTH_SOCK", &agent.socket), name);
    }
}

#[test]
fn a_certificate_without_an_end_is_used() {
    let home = Home::new();
    let ca = home.keygen("ca", &["-t", "ed25519"]);
    let key = home.keygen("key", &["-t", "ed25519"]);
    succeed(
        home.command("ssh-keygen").args(["-q", "-I", "id", "-n", "alice", "-s"]).arg(&ca).arg(home.path("key.pub")),
    );
    let authority = fs::read_to_string(ca.with_extension("pub")).unwrap();
    let line = format!("alice cert-authority,namespaces=\"{NAMESPACE}\" {authority}");
    check(&home, &line, &mut with_key(&home, &key), "key");
}

#[test]
fn an_expired_certificate_beside_a_key_does_not_spoil_the_key() {
    let home = Home::new();
    let ca = home.keygen("ca", &["-t", "ed25519"]);
    let key = home.keygen("key", &["-t", "ed25519"]);
    let public = home.path("key.pub");
    let validity = ["-V", "20200101:20200102"];
    succeed(
        home.command("ssh-keygen").args(["-q", "-I", "id", "-n", "alice", "-s"]).arg(&ca).args(validity).arg(&public),
    );
    check(&home, &allowed(&public), &mut with_key(&home, &key), "key");
}

#[test]
fn key_files_in_other_formats_are_signed_by_ssh_keygen() {
    let home = Home::new();
    let key = home.keygen("pem", &["-t", "rsa", "-b", "3072", "-m", "PEM"]);
    assert!(fs::read_to_string(&key).unwrap().contains("BEGIN RSA PRIVATE KEY"));
    check(&home, &allowed(&home.path("pem.pub")), &mut with_key(&home, &key), "PEM");
}

#[test]
fn keys_that_hosts_refuse_are_refused_here() {
    let home = Home::new();
    let other = home.path("other");
    fs::write(&other, "not a key").unwrap();
    for (key, complaint) in [
        (home.keygen("rsa2048", &["-t", "rsa", "-b", "2048"]), "2048 bits"),
        (home.keygen("p521", &["-t", "ecdsa", "-b", "521"]), "do not accept"),
        (other, "not a private key"),
        (home.path("missing"), "no such key file"),
    ] {
        let output = with_key(&home, &key).output().unwrap();
        assert_eq!(output.status.code(), Some(5), "{key:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(complaint), "{key:?}: {}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
    let output = home.postern(&ASK).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "no key at all: {}", stderr(&output));
}

#[test]
fn a_payload_file_is_signed_byte_for_byte() {
    let home = Home::new();
    let key = home.keygen("key", &["-t", "ed25519"]);
    let payload =
        "{ \"id\": \"5f0c5e64-4b7c-4d8a-9e0c-2b8f9d3f1a00\",\n  \"audience\": [\"vm1\"], \"grantId\": \"g\" }\n";
    let path = home.path("payload.json");
    fs::write(&path, payload).unwrap();
    let mut command = home.postern(&["sign", "--payload"]);
    let signed = Signed::from_output(&succeed(command.arg(&path).arg("--key").arg(&key)), "message");
    assert_eq!(signed.payload, payload.as_bytes());
    assert_eq!(signed.payload_type, "application/vnd.postern.revoke-request.v1+json");
    let line = format!("alice {}", fs::read_to_string(home.path("key.pub")).unwrap());
    assert!(home.verifies(&line, "revoke@postern.v1", &signed.payload, &signed.sshsig));

    for bad in ["{\"id\": \"a\", \"id\": \"b\"}", "{\"colour\": 1}", "", "[]"] {
        fs::write(&path, bad).unwrap();
        let output = home.postern(&["sign", "--payload"]).arg(&path).arg("--key").arg(&key).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{bad:?}: {}", stderr(&output));
    }
}

#[test]
fn a_read_is_signed_under_its_own_namespace() {
    let home = Home::new();
    let key = home.keygen("key", &["-t", "ed25519"]);
    let mut command = home.postern(&["sign", "--read", "--audience", "vm1", "--key"]);
    let signed = Signed::from_output(&succeed(command.arg(&key)), "read");
    let line = format!("alice {}", fs::read_to_string(home.path("key.pub")).unwrap());
    assert!(home.verifies(&line, "read@postern.v1", &signed.payload, &signed.sshsig));
    assert!(!home.verifies(&line, NAMESPACE, &signed.payload, &signed.sshsig));
}
