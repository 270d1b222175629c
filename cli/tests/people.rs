//! Commands for more people than one, towards a peer that decides nothing: what is shown before it is signed, what is not
//! signed at all, and how answers are told. What a real host makes of them is in tests/tests/people.rs.

mod support;

use std::{fs, io::Write as _, process::Stdio};

use postern_proto::v1::{GrantState, SignedMessage};
use serde_json::{Value, json};
use support::{
    Home,
    peer::{GRANTS, HOST_ID, Peer, Serving, grant},
    stderr, stdout,
};

fn plain(serving: &Serving) -> String {
    serving.address.to_string()
}

fn request() -> Value {
    json!({
        "id": GRANTS[0], "audience": [HOST_ID], "notAfter": "2040-01-01T00:00:00Z", "ports": ["22/tcp"],
        "source": ["10.0.0.0/8", "192.0.2.7/32"], "duration": "5400s", "justification": "disk \u{1b}[2Jfull",
        "ticket": "INC-4711",
    })
}

fn waiting(payload: impl Into<Vec<u8>>) -> Peer {
    let payload_type = postern_proto::payload_type::ACCESS_REQUEST.to_owned();
    let message = SignedMessage { payload: payload.into(), payload_type, signatures: Vec::new() };
    Peer { waits: Some(message), ..Peer::seeing("192.0.2.7") }
}

#[test]
fn an_approver_reads_in_plain_words_what_the_signature_is_over() {
    let home = Home::with_a_key();
    let payload = request().to_string();
    let peer = waiting(payload.clone());
    let serving = Serving::trusted(peer.clone(), &home);
    let output = home.run(&["approve", &plain(&serving), GRANTS[0], "--yes"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let shown = stderr(&output);
    for words in ["alice@example.com", "22/tcp", "1h 30m 0s", "at once", "disk \\u{1b}[2Jfull", "INC-4711"] {
        assert!(shown.contains(words), "{words:?} is not shown: {shown}");
    }
    assert!(shown.contains("WARNING: 10.0.0.0/8 is not one machine: it opens for 2^24 addresses"), "{shown}");
    assert!(!shown.contains("WARNING: 192.0.2.7"), "{shown}");
    let sent = peer.heard().pop().flatten().expect("an approval");
    assert_eq!(sent.payload, payload.as_bytes(), "the very bytes");
    let line = format!("alice {}", fs::read_to_string(home.path("key.pub")).unwrap());
    assert!(home.verifies(&line, "approve@postern.v1", &sent.payload, &sent.signatures[0].sshsig));
    assert!(stdout(&output).starts_with("approved and open; 22/tcp"), "{}", stdout(&output));
}

#[test]
fn bytes_that_are_not_this_request_for_this_host_are_not_signed() {
    let home = Home::with_a_key();
    let with = |field: &str, value: Value| {
        let mut payload = request();
        payload[field] = value;
        payload.to_string()
    };
    for (payload, complaint) in [
        (with("id", json!(GRANTS[1])), "their id is"),
        (with("audience", json!(["vm2.example.com"])), "has not proved to be"),
        // The name is one that the host itself claims.
        (with("audience", json!(["vm1.example.com"])), "has not proved to be"),
        (
            with("audience", json!([HOST_ID, "tls:SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"])),
            "has not proved to be",
        ),
        (with("audience", json!([HOST_ID, "7d0c0d0e-3b1a-4a53-9a3d-222222222222"])), "has not proved to be"),
        (with("colour", json!("red")), "no AccessRequest"),
        (with("duration", json!("soon")), "no AccessRequest"),
        (request().to_string().replacen('{', "{\"ports\":[\"3389/tcp\"],", 1), "no AccessRequest"),
        (request().to_string().replacen('{', "{\"not_after\":\"2030-01-01T00:00:00Z\",", 1), "no AccessRequest"),
        ("{".to_owned(), "no AccessRequest"),
    ] {
        let peer = waiting(payload.clone());
        let serving = Serving::trusted(peer.clone(), &home);
        let output = home.run(&["approve", &plain(&serving), GRANTS[0], "--yes"]);
        assert_eq!(output.status.code(), Some(4), "{payload}: {}", stderr(&output));
        assert!(stderr(&output).contains(complaint), "{payload}: {}", stderr(&output));
        assert_eq!(peer.heard().len(), 1, "only the read was signed: {payload}");
    }
    // A name counts where the approver wrote it.
    let named = Serving::trusted(waiting(with("audience", json!(["vm1.example.com", HOST_ID]))), &home);
    let approve = ["approve", &plain(&named), GRANTS[0], "--yes", "--audience", "vm1.example.com"];
    assert!(home.run(&approve).status.success());
}

#[test]
fn nobody_approves_unseen_and_what_does_not_wait_is_told() {
    let home = Home::with_a_key();
    let peer = waiting(request().to_string());
    let serving = Serving::trusted(peer.clone(), &home);
    let output = home.run(&["approve", &plain(&serving), GRANTS[0]]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(peer.heard().is_empty());
    let active = Serving::trusted(Peer::seeing("192.0.2.7"), &home);
    let output = home.run(&["approve", &plain(&active), GRANTS[0], "--yes"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).contains("does not wait for approval: it is active"), "{}", stderr(&output));
    let blank = home.run(&["decline", &plain(&active), GRANTS[0], "--reason", " "]);
    assert_eq!(blank.status.code(), Some(2), "who asked wants to know why");
}

#[test]
fn the_only_grant_of_ones_own_is_meant_and_of_several_none() {
    let home = Home::with_a_key();
    let grants = vec![own(&home, 0), grant(GRANTS[1], GrantState::Active)];
    let one = Serving::trusted(Peer { grants, ..Peer::seeing("192.0.2.7") }, &home);
    let output = home.run(&["extend", &plain(&one), "--for", "1h", "--json"]);
    assert!(output.status.success(), "another person's grant is not meant: {}", stderr(&output));
    let several = Peer { grants: vec![own(&home, 0), own(&home, 1)], ..Peer::seeing("192.0.2.7") };
    let serving = Serving::trusted(several.clone(), &home);
    for command in [&["extend", &plain(&serving), "--for", "1h"][..], &["give-back", &plain(&serving)]] {
        let output = home.run(command);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(GRANTS[..2].iter().all(|id| stderr(&output).contains(id)), "{}", stderr(&output));
    }
    assert_eq!(several.heard().len(), 2, "nothing but the reads was signed");
}

/// A live grant that this home's key asked for.
fn own(home: &Home, number: usize) -> postern_proto::v1::Grant {
    let shown = stdout(&home.command("ssh-keygen").args(["-lf"]).arg(home.path("key.pub")).output().unwrap());
    let key_fingerprint = shown.split(' ').nth(1).expect("a fingerprint").to_owned();
    postern_proto::v1::Grant { key_fingerprint, ..grant(GRANTS[number], GrantState::Active) }
}

#[test]
fn an_extension_takes_over_what_it_extends_and_never_shortens() {
    let home = Home::with_a_key();
    let peer = Peer::seeing("192.0.2.7");
    let serving = Serving::trusted(peer.clone(), &home);
    let short = home.run(&["extend", &plain(&serving), GRANTS[1], "--for", "10m"]);
    assert_eq!(short.status.code(), Some(1), "{}", stderr(&short));
    assert!(stderr(&short).contains("open for another 29m 59s as it is"), "{}", stderr(&short));
    assert_eq!(peer.heard().len(), 1, "only the read was signed");
    let output = home.run(&["extend", &plain(&serving), GRANTS[1], "--for", "1h"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let sent = peer.heard().pop().flatten().expect("a request");
    let payload: Value = serde_json::from_slice(&sent.payload).unwrap();
    assert_eq!(payload["supersedes"], GRANTS[1]);
    assert_eq!((&payload["ports"], &payload["source"]), (&json!(["22/tcp"]), &json!(["192.0.2.7/32"])));
    assert_eq!((&payload["duration"], payload.get("notBefore")), (&json!("3600s"), None));
}

#[test]
fn a_plan_names_its_start_and_must_make_sense() {
    let home = Home::with_a_key();
    let peer = Peer::seeing("192.0.2.7");
    let serving = Serving::trusted(peer.clone(), &home);
    let ask = |more: &[&str]| {
        home.run(&[&["request", &plain(&serving), "--port", "22", "--from", "192.0.2.7"][..], more].concat())
    };
    let output = ask(&["--for", "1h", "--not-before", "2039-06-01T18:00:00Z"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let sent = peer.heard().pop().flatten().expect("a request");
    let payload: Value = serde_json::from_slice(&sent.payload).unwrap();
    assert_eq!(payload["notBefore"], "2039-06-01T18:00:00+00:00");
    for wrong in [
        &["--for", "1h", "--not-before", "2019-06-01T18:00:00Z"][..],
        &["--for", "1h", "--not-before", "later"],
        &["--until", "2039-06-01T17:00:00Z", "--not-before", "2039-06-01T18:00:00Z"],
    ] {
        assert_eq!(ask(wrong).status.code(), Some(2), "{wrong:?}");
    }
    assert_eq!(peer.heard().len(), 1, "nothing more was sent");
}

#[test]
fn a_wrong_policy_is_told_as_compilers_do() {
    let home = Home::with_a_key();
    let serving = Serving::trusted(Peer::seeing("192.0.2.7"), &home);
    let file = home.path("new.toml");
    fs::write(&file, "[[port]]\n").unwrap();
    let name = file.display().to_string();
    let output = home.run(&["policy", "check", &plain(&serving), &name]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.contains(&format!("{name}:3:13: port[0].approvals: 8 is not from 0 to 7\n")), "{said}");
    assert!(said.contains(&format!("{name}: nobody is \\u{{1b}}[2Jadmin\n")), "{said}");
    fs::write(&file, "").unwrap();
    let output = home.run(&["policy", "check", &plain(&serving), &name]);
    assert!(output.status.success() && stdout(&output).contains("is valid"), "{}", stderr(&output));
    fs::write(&file, [0xff]).unwrap();
    assert_eq!(home.run(&["policy", "check", &plain(&serving), &name]).status.code(), Some(2));
    fs::write(&file, vec![b'#'; 100 << 10]).unwrap();
    assert_eq!(home.run(&["policy", "check", &plain(&serving), &name]).status.code(), Some(2));
    assert_eq!(home.run(&["policy", "check", &plain(&serving), "/nowhere"]).status.code(), Some(7));
}

#[test]
fn a_journal_is_exported_whole_the_oldest_line_first_and_followed() {
    let home = Home::with_a_key();
    let serving = Serving::trusted(Peer::seeing("192.0.2.7"), &home);
    let output = home.run(&["audit", &plain(&serving), "--jsonl"]);
    assert_eq!(stdout(&output), "{\"seq\":6}\n{\"seq\":7}\n");
    assert_eq!(output.status.code(), Some(6), "it was changed: {}", stderr(&output));
    assert_eq!(stdout(&home.run(&["audit", &plain(&serving), "--jsonl", "--limit", "1"])), "{\"seq\":7}\n");
    let followed = home.run(&["audit", &plain(&serving), "--follow", "--jsonl"]);
    let (said, as_it_stands) = (stdout(&followed), "{\"seq\":8,\"why\":\"a\u{200d}b\"}\n");
    assert_eq!((said.as_str(), followed.status.code()), (as_it_stands, Some(3)), "a pipe gets what the chain binds");
    assert_eq!(home.run(&["audit", &plain(&serving), "--follow", "--since", "1h"]).status.code(), Some(2));
}

#[test]
fn a_report_over_a_changed_journal_is_shown_and_fails() {
    let home = Home::with_a_key();
    let serving = Serving::trusted(Peer::seeing("192.0.2.7"), &home);
    let output = home.run(&["report", &plain(&serving), "--days", "30"]);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.contains("22/tcp") && said.contains("without a single packet") && said.contains(GRANTS[2]), "{said}");
    assert_eq!(home.run(&["report", &plain(&serving), "--days", "0"]).status.code(), Some(2));
}

#[test]
fn the_glass_is_broken_on_the_host_itself_and_with_a_reason() {
    let home = Home::with_a_key();
    let serving = Serving::trusted(Peer::seeing("192.0.2.7"), &home);
    let break_glass = |more: &[&str]| {
        home.run(&[&["break-glass", "--port", "22", "--from", "0.0.0.0/0", "--for", "1h"][..], more].concat())
    };
    let far = break_glass(&[&plain(&serving), "--reason", "the CA is down"]);
    assert_eq!(far.status.code(), Some(2), "{}", stderr(&far));
    assert!(stderr(&far).contains("on the host itself"), "{}", stderr(&far));
    assert_eq!(break_glass(&["unix:///nowhere/posternd.sock", "--reason", " "]).status.code(), Some(2));
    assert_eq!(break_glass(&["unix:///nowhere/posternd.sock", "--reason", "x"]).status.code(), Some(3));
}

#[test]
fn a_trial_is_begun_and_ended_on_the_host_itself() {
    let home = Home::with_a_key();
    let serving = Serving::trusted(Peer::seeing("192.0.2.7"), &home);
    for command in
        [&["enable", "--confirm-within", "2m"][..], &["confirm"], &["confirm", "--without-proof"], &["roll-back"]]
    {
        let far = home.run(&[command, &[&*plain(&serving)]].concat());
        assert_eq!(far.status.code(), Some(2), "{}", stderr(&far));
        assert!(stderr(&far).contains("on the host itself"), "{}", stderr(&far));
        assert_eq!(home.run(&[command, &["unix:///nowhere/posternd.sock"]].concat()).status.code(), Some(3));
    }
    assert_eq!(home.run(&["enable", "--confirm-within", "5"]).status.code(), Some(2), "no unit");
}

#[test]
fn an_approval_can_be_signed_without_the_host() {
    let home = Home::with_a_key();
    let payload = request().to_string();
    let mut command = home.with_key(&["sign", "--payload", "-", "--as", "approve"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(payload.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let signed = support::Signed::from_output(&output, "message");
    let line = format!("alice {}", fs::read_to_string(home.path("key.pub")).unwrap());
    assert_eq!(signed.payload, payload.as_bytes());
    assert!(home.verifies(&line, "approve@postern.v1", &signed.payload, &signed.sshsig));
    assert!(!home.verifies(&line, "request@postern.v1", &signed.payload, &signed.sshsig));
}
