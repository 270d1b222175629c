//! What the client takes for a host's word: only a statement about this very call, by the key that it trusts.
//!
//! The peer is a test double ([`support::peer`]) that speaks the wire format and decides nothing.

mod support;

use serde_json::{Value, json};
use support::{
    Home, payload,
    peer::{Peer, Serving, TlsKey},
    stderr, succeed,
};

fn request<'a>(host: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["request", host, "--port", "ssh", "--for", "30m"], more].concat()
}

#[test]
fn a_host_without_a_right_statement_gets_no_signature() {
    let home = Home::with_a_key();
    let edits: [fn(&mut Value); 8] = [
        |text| text["nonce"] = json!("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"),
        |text| text["tlsFingerprint"] = json!(TlsKey::new().fingerprint().to_string()),
        |text| text["hostId"] = json!("\u{1b}[31m"),
        |text| text["hostId"] = json!(""),
        |text| text["hostTime"] = json!("now"),
        |text| text["challenge"] = Value::Null,
        |text| text["more"] = json!(1),
        |text| *text = json!([]),
    ];
    for edit in edits {
        let peer = Peer { edit, ..Peer::seeing("192.0.2.7") };
        let serving = Serving::trusted(peer.clone(), &home);
        let output = home.run(&request(&serving.address.to_string(), &[]));
        assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
        let told = stderr(&output);
        assert!(told.contains("sent an invalid statement about itself") && !told.contains('\u{1b}'), "{told}");
        assert!(peer.heard().is_empty());
    }
    // By the key of another host than the one of the connection.
    let peer = Peer { tls: Some(TlsKey::new()), ..Peer::seeing("192.0.2.7") };
    let serving = Serving::trusted(peer.clone(), &home);
    let output = home.run(&request(&serving.address.to_string(), &[]));
    assert!(output.status.code() == Some(4) && stderr(&output).contains("another TLS key"), "{}", stderr(&output));
    assert!(peer.heard().is_empty());
}

#[test]
fn an_old_host_is_called_that_and_gets_no_signature() {
    let home = Home::with_a_key();
    let key = TlsKey::new();
    let peer = Peer::seeing("192.0.2.7");
    let serving = Serving::without_statements(peer.clone(), &key);
    let output = home.run(&request(&serving.address.to_string(), &["--accept-new"]));
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("runs an older posternd"), "{}", stderr(&output));
    assert!(peer.heard().is_empty());
}

#[test]
fn what_a_host_says_beside_its_statement_is_not_used() {
    let home = Home::with_a_key();
    let other = "7d0c0d0e-3b1a-4a53-9a3d-333333333333";
    let edit: fn(&mut Value) = |text| {
        text["hostId"] = json!("7d0c0d0e-3b1a-4a53-9a3d-333333333333");
        text["challenge"] = json!("c3RhdGVk");
        text["address"] = json!("192.0.2.9");
        text["hostTime"] = json!("2039-01-01T00:00:00Z");
    };
    let peer = Peer { edit, ..Peer::seeing("192.0.2.7") };
    let serving = Serving::trusted(peer.clone(), &home);
    succeed(&mut home.with_key(&request(&serving.address.to_string(), &["--from", "my-ip,192.0.2.9"])));
    let sent = payload(peer.heard()[0].as_ref().unwrap());
    assert_eq!(sent["audience"][1], other);
    assert_eq!((&sent["challenge"], &sent["source"]), (&json!("c3RhdGVk"), &json!(["192.0.2.9/32"])));
    assert_eq!(sent["notAfter"], "2039-01-01T00:02:00+00:00");
}

#[test]
fn plaintext_is_pinned_and_a_peer_behind_the_network_is_refused() {
    let home = Home::with_a_key();
    let key = TlsKey::new();
    let more = ["--from", "192.0.2.7"];
    let accepted = ["--from", "192.0.2.7", "--accept-new"];
    let peer = Peer::seeing("127.0.0.1");
    let serving = Serving::plaintext(peer.clone(), &key);
    let host = format!("http://{}", serving.address);
    let output = home.run(&request(&host, &more));
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("not known yet"), "{}", stderr(&output));
    succeed(&mut home.with_key(&request(&host, &accepted)));
    succeed(&mut home.with_key(&request(&host, &more)));
    assert_eq!(peer.heard().len(), 2);
    succeed(&mut home.postern(&["forget", &host]));
    let other = TlsKey::new().fingerprint().to_string();
    let output = home.run(&request(&host, &["--from", "192.0.2.7", "--fingerprint", &other]));
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    let far = Peer::seeing("192.0.2.8");
    let serving = Serving::plaintext(far.clone(), &key);
    let output = home.run(&request(&format!("http://{}", serving.address), &accepted));
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains("over the network"), "{}", stderr(&output));
    assert!(far.heard().is_empty());
}
