//! What a host sends to a client: any text of a statement and any armored signature is refused, or says what another parser reads.
//!
//! The first byte says what follows: `s` the text of a statement, in which `@n` stands for the nonce of the call and `@t` for the
//! fingerprint of the host's TLS key; `a` an armored signature.
//!
//! `cargo fuzz run client`
#![no_main]

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use libfuzzer_sys::fuzz_target;
use postern_cli::statement::{Fault, Nonce, Statement, read};
use postern_cli::tls::Fingerprint;
use postern_core::ssh::{Accept, PublicKey, SshSig, dearmor};
use serde_json::Value;

const NONCE: Nonce = [7; 32];
/// What the call asked about.
const ASKED: [&str; 2] = ["ssh", "3389"];

fuzz_target!(|input: &[u8]| {
    let Some((kind, rest)) = input.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    match kind {
        b's' => statement(&text),
        b'a' => signature(&text),
        _ => {}
    }
});

fn statement(text: &str) {
    let (tls, nonce) = (Fingerprint::of(b"a certificate"), URL_SAFE_NO_PAD.encode(NONCE));
    let text = text.replace("@n", &nonce).replace("@t", &tls.to_string());
    let asked = ASKED.map(str::to_owned);
    match read(&text, &NONCE, &asked, tls) {
        // It goes onto a terminal.
        Err(Fault::Wrong(why)) => assert!(!why.is_empty() && !why.chars().any(char::is_control), "{why:?}"),
        Err(Fault::Missing) => panic!("a text is there"),
        Ok(said) => {
            let twin: Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(twin["nonce"], nonce, "a statement about another call");
            assert_eq!(twin["tlsFingerprint"], tls.to_string(), "a statement by another key");
            agrees(&said, &twin);
            assert!(read(&text, &[8; 32], &asked, tls).is_err(), "a statement is good for two calls");
            assert!(
                read(&text, &NONCE, &asked, Fingerprint::of(b"another")).is_err(),
                "a statement is good for two keys"
            );
        }
    }
}

fn agrees(said: &Statement, twin: &Value) {
    assert!(twin["hostId"] == said.host_id.as_str() && twin["challenge"] == said.challenge.as_str());
    assert!(twin["address"] == said.address.as_str() && twin["localAddress"] == said.local_address.as_str());
    assert!(said.host_id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "{:?}", said.host_id);
    let answers = twin["ports"].as_array().map_or(&[][..], Vec::as_slice);
    assert!(said.ports.len() == answers.len() && [0, ASKED.len()].contains(&answers.len()));
    for ((said, twin), asked) in said.ports.iter().zip(answers).zip(ASKED) {
        assert_eq!(twin["asked"], URL_SAFE_NO_PAD.encode(asked), "an answer to another question");
        assert_eq!(twin["admitted"], said.admitted);
        assert!(said.ports.iter().all(|port| is_port(port)), "{:?}", said.ports);
    }
}

/// `NUMBER/PROTOCOL`, in one form.
fn is_port(text: &str) -> bool {
    let Some((number, protocol)) = text.split_once('/') else { return false };
    let number = number.parse::<u16>().is_ok_and(|parsed| parsed > 0 && parsed.to_string() == number);
    number && ["tcp", "udp", "any"].contains(&protocol)
}

fn signature(text: &str) {
    let Some(signature) = dearmor(text).ok().and_then(|bytes| SshSig::parse(&bytes).ok()) else { return };
    let key = PublicKey::parse(&signature.key, Accept::HostKeys);
    // No key signed these bytes.
    assert!(key.as_ref().is_ok_and(|key| signature.verify(key, text.as_bytes()).is_err()) || key.is_err());
    // ssh-key also reads keys whose inner lengths are wrong. No signature by such a key exists, so it is no finding.
    if let Some(twin) = ssh_key::SshSig::from_pem(text).ok().filter(|_| key.is_ok()) {
        let key = ssh_key::PublicKey::from(twin.public_key().clone()).to_bytes();
        assert_eq!(key.ok().as_ref(), Some(&signature.key), "another key than ssh-key finds");
    }
}
