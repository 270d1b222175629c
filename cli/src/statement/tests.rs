//! Statements by every type of key that a host may have, and invalid ones.

use std::process::Command;

use rustls::{
    SignatureScheme, crypto::ring::sign::any_supported_type, pki_types::PrivateKeyDer, pki_types::pem::PemObject,
};

use super::*;

const NONCE: Nonce = [7; 32];

fn by_rcgen(kind: &'static rcgen::SignatureAlgorithm) -> String {
    let key = rcgen::KeyPair::generate_for(kind).unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["vm1".to_owned()]).unwrap().self_signed(&key).unwrap();
    key.serialize_pem() + &certificate.pem()
}

fn by_openssl() -> String {
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=vm1", "-keyout", "-"]);
    let output = command.output().expect("openssl");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn text(tls: &str, nonce: &str) -> String {
    format!(
        r#"{{"nonce":"{nonce}","hostId":"7","names":["vm1"],"hostTime":"2026-11-30T08:00:00.5Z","clockTrusted":true,"challenge":"c","address":"192.0.2.7","localAddress":"192.0.2.1","tlsFingerprint":"{tls}"}}"#
    )
}

/// The answer of a host with this key. `text` makes its statement from its fingerprint.
fn answer(pem: &str, text: impl Fn(&str) -> String) -> WhoAmIResponse {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let key = any_supported_type(&PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
    let schemes = [
        SignatureScheme::ED25519,
        SignatureScheme::ECDSA_NISTP256_SHA256,
        SignatureScheme::ECDSA_NISTP384_SHA384,
        SignatureScheme::RSA_PSS_SHA256,
    ];
    let statement = text(&Fingerprint::of(&certificate).to_string());
    let signer = key.choose_scheme(&schemes).unwrap();
    let statement_signature = signer.sign(&[STATEMENT_MARK, statement.as_bytes()].concat()).unwrap();
    let tls_certificate = certificate.to_vec();
    WhoAmIResponse { statement, statement_signature, tls_certificate, ..WhoAmIResponse::default() }
}

fn right(tls: &str) -> String {
    text(tls, &BASE64_URL_SAFE_NO_PAD.encode(NONCE))
}

#[test]
fn every_type_of_key_states_and_one_changed_bit_is_refused() {
    let kinds = [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519];
    for pem in kinds.map(by_rcgen).into_iter().chain([by_openssl()]) {
        let who = answer(&pem, right);
        let tls = Fingerprint::of(&who.tls_certificate);
        for connection in [None, Some(tls)] {
            let said = verify(&who, &NONCE, &[], connection).unwrap();
            assert_eq!((said.tls, said.host_id.as_str(), said.address.as_str()), (Some(tls), "7", "192.0.2.7"));
        }
        assert!(verify(&who, &NONCE, &[], Some(Fingerprint::of(b"another"))).is_err());
        assert!(verify(&who, &[8; 32], &[], None).is_err(), "a statement for another call");
        let mut changed = who.clone();
        changed.statement = who.statement.replace("192.0.2.7", "192.0.2.8");
        assert_eq!(verify(&changed, &NONCE, &[], None), Err(Fault::Wrong("its signature does not fit".to_owned())));
        let mut changed = who.clone();
        changed.statement_signature[20] ^= 1;
        assert!(verify(&changed, &NONCE, &[], None).is_err());
        let other = by_rcgen(&rcgen::PKCS_ECDSA_P256_SHA256);
        let tls_certificate = answer(&other, right).tls_certificate;
        assert!(verify(&WhoAmIResponse { tls_certificate, ..who.clone() }, &NONCE, &[], None).is_err());
    }
}

#[test]
fn what_is_signed_by_the_key_but_is_no_statement_is_refused() {
    let pem = by_rcgen(&rcgen::PKCS_ECDSA_P256_SHA256);
    assert_eq!(verify(&WhoAmIResponse::default(), &NONCE, &[], None), Err(Fault::Missing));
    assert!(verify(&answer(&pem, right), &NONCE, &[], None).is_ok());
    let bad: [fn(&str) -> String; 6] = [
        |tls| right(tls).replace("\"names\"", "\"labels\""),
        |tls| right(tls).replace('{', "{\"hostId\":\"8\","),
        |tls| right(tls).replace('{', "{\"more\":1,"),
        |_| right("SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"),
        |tls| right(tls).replace("\"7\"", "\"7 8\""),
        |tls| text(tls, "BwcHBwcHBwcHBwcHBwcHBw"),
    ];
    for text in bad {
        assert!(matches!(verify(&answer(&pem, text), &NONCE, &[], None), Err(Fault::Wrong(_))));
    }
}

#[test]
fn answers_about_ports_are_for_what_was_asked_and_have_the_form_of_messages() {
    let pem = by_rcgen(&rcgen::PKCS_ECDSA_P256_SHA256);
    let asked = ["gitssh".to_owned(), "22".to_owned()];
    let stated = |ports: serde_json::Value| {
        let with = |tls: &str| {
            let mut text: serde_json::Value = serde_json::from_str(&right(tls)).unwrap();
            text["ports"] = ports.clone();
            text.to_string()
        };
        verify(&answer(&pem, with), &NONCE, &asked, None)
    };
    let one = |text: &str, ports: &[&str]| serde_json::json!({ "asked": BASE64_URL_SAFE_NO_PAD.encode(text), "ports": ports, "admitted": true });
    let said = stated(serde_json::json!([one("gitssh", &["2222/tcp"]), one("22", &[])])).unwrap();
    assert_eq!(said.ports.iter().map(|meaning| meaning.ports.len()).collect::<Vec<_>>(), [1, 0]);
    assert!(stated(serde_json::json!([])).unwrap().ports.is_empty(), "an older posternd");
    for wrong in [
        serde_json::json!([one("gitssh", &["2222/tcp"])]),
        serde_json::json!([one("22", &["22/tcp"]), one("gitssh", &["2222/tcp"])]),
        serde_json::json!([one("gitssh", &["2222/tcp"]), one("23", &["23/tcp"])]),
        serde_json::json!([one("gitssh", &["ssh"]), one("22", &[])]),
        serde_json::json!([one("gitssh", &["2222"]), one("22", &[])]),
        serde_json::json!([one("gitssh", &["02222/tcp"]), one("22", &[])]),
        serde_json::json!([one("gitssh", &["0/tcp"]), one("22", &[])]),
        serde_json::json!([one("gitssh", &["22ssh/tcp"]), one("22", &[])]),
        serde_json::json!([one("gitssh", &["338\u{fffd}9/any"]), one("22", &[])]),
        serde_json::json!([one("gitssh", &["2222/tcp\u{1b}[2J"]), one("22", &[])]),
    ] {
        assert!(matches!(stated(wrong.clone()), Err(Fault::Wrong(_))), "{wrong}");
    }
}
