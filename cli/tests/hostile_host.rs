//! A host that lies in each text that it may send: nothing of it commands the terminal, ends a line or hides, and with `--json` each
//! value survives. What a real host shows of hostile people is in `tests/tests/attacks/text_from_others_is_escaped.rs`.

mod support;

use postern_proto::v1::{Grant, GrantState, SignedMessage};
use serde_json::Value;
use support::{
    Home,
    peer::{ESCAPED, GRANTS, Peer, Serving, grant},
    stderr, stdout,
};

/// A window's title, a forged line, both kinds of controls, and what is not seen.
const LIE: &str = "a\u{1b}]0;b\u{7}\r\npostern: forged\u{9b}2J\u{7f}\u{85}\u{202e}\u{61c}\u{2067}\u{200b}\u{2028}\u{ad}\u{feff}\
                   \u{3164}\u{fe0f}\u{e0041}\u{e000}\u{fff9}\u{17b4}\u{34f}\t\\u{41}z";
const SHOWN: &str = "a\\u{1b}]0;b\\u{7}\\u{d}\\u{a}postern: forged\\u{9b}2J\\u{7f}\\u{85}\\u{202e}\\u{61c}\\u{2067}\\u{200b}\\u{2028}\
                     \\u{ad}\\u{feff}\\u{3164}\\u{fe0f}\\u{e0041}\\u{e000}\\u{fff9}\\u{17b4}\\u{34f}\\u{9}\\\\u{41}z";

#[track_caller]
fn is_harmless(text: &str, what: &str) {
    // Every character of the lie that is not a plain one.
    let forbidden = |c: char| c != '\n' && !c.is_ascii_graphic() && c != ' ' && LIE.contains(c);
    assert!(!text.contains(forbidden) && !text.contains('\u{1b}'), "{what}: {text:?}");
    let forged = text.lines().any(|line| line.trim_start().starts_with("postern: forged"));
    assert!(!forged, "{what} shows a forged line: {text}");
}

fn lying() -> Peer {
    let lie = || LIE.to_owned();
    let mut grant = Grant {
        principal: lie(),
        justification: lie(),
        ticket: lie(),
        ports: vec![lie()],
        source: vec![lie()],
        key_fingerprint: lie(),
        end_reason: lie(),
        ended_by: lie(),
        supersedes: lie(),
        superseded_by: lie(),
        ..grant(GRANTS[0], GrantState::Active)
    };
    let mut peer = Peer::seeing("192.0.2.7");
    peer.who.names = vec![lie(), format!("{LIE}.example.com")];
    peer.grants.push(grant.clone());
    grant.id = lie();
    grant.state = GrantState::Revoked.into();
    peer.grants.push(grant);
    peer
}

#[test]
fn a_lying_host_commands_no_terminal_and_forges_no_line() {
    let home = Home::new();
    let key = home.keygen("key", &["-t", "ed25519"]).display().to_string();
    let serving = Serving::trusted(lying(), &home);
    let host = serving.address.to_string();
    let commands: [&[&str]; 9] = [
        &["list", &host],
        &["pending", &host],
        &["show", &host, GRANTS[0]],
        &["status", &host],
        &["audit", &host],
        &["explain", &host, "--port", "22/tcp", "--from", "192.0.2.7"],
        &["request", &host, "--port", "22/tcp", "--from", "192.0.2.7", "--for", "10m"],
        &["revoke", &host, GRANTS[0]],
        &["policy", "show", &host],
    ];
    for words in commands {
        for json in [false, true] {
            let mut command = home.postern(words);
            command.arg("--key").arg(&key);
            if json {
                command.arg("--json");
            }
            let output = command.output().unwrap();
            let what = format!("{words:?} json={json}");
            is_harmless(&stdout(&output), &what);
            is_harmless(&stderr(&output), &what);
            if words[0] == "list" && json {
                let said: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
                assert_eq!(said["grants"][0]["justification"], LIE, "the value survives");
            } else if words[0] == "list" {
                assert!(stdout(&output).contains(SHOWN), "{}", stdout(&output));
            }
        }
    }
}

#[test]
fn what_a_host_has_escaped_is_not_escaped_again() {
    let home = Home::new();
    let key = home.keygen("key", &["-t", "ed25519"]).display().to_string();
    let serving = Serving::trusted(Peer::seeing("192.0.2.7"), &home);
    let output = home.postern(&["status", &serving.address.to_string(), "--key", &key]).output().unwrap();
    assert!(stdout(&output).contains(ESCAPED), "{}", stdout(&output));
}

#[test]
fn a_refusal_in_a_lying_hosts_words_is_one_line() {
    let home = Home::new();
    let key = home.keygen("key", &["-t", "ed25519"]).display().to_string();
    let serving = Serving::trusted(Peer { refusal: Some((LIE, LIE)), ..Peer::seeing("192.0.2.7") }, &home);
    let host = serving.address.to_string();
    for more in [&[][..], &["--json"]] {
        let output = home.postern(&["list", &host, "--key", &key]).args(more).output().unwrap();
        assert!(!output.status.success());
        is_harmless(&stderr(&output), "a refusal");
        assert!(stderr(&output).contains("u{202e}"), "{}", stderr(&output));
    }
}

/// The parser's error quotes the name of a field.
#[test]
fn a_request_to_approve_with_a_lie_as_a_field_forges_no_line() {
    let home = Home::new();
    let key = home.keygen("key", &["-t", "ed25519"]).display().to_string();
    let payload = serde_json::json!({ LIE: 1 }).to_string().into_bytes();
    let payload_type = postern_proto::payload_type::ACCESS_REQUEST.to_owned();
    let waits = Some(SignedMessage { payload, payload_type, signatures: Vec::new() });
    let serving = Serving::trusted(Peer { waits, ..Peer::seeing("192.0.2.7") }, &home);
    let host = serving.address.to_string();
    let output = home.postern(&["approve", &host, GRANTS[0], "--yes", "--key", &key]).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    is_harmless(&stderr(&output), "approve");
    assert!(stderr(&output).contains("u{202e}"), "the lie was quoted: {}", stderr(&output));
}
