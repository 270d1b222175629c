//! A policy as an organisation would write it, on a real host: each request ends as `posternd explain` says from the files.

use std::process::Command;

use postern_proto::v1::GrantState;
use postern_tests::client::reason;
use postern_tests::keys::Key;
use postern_tests::net::{GRANTED, NEIGHBOUR, Net};
use postern_tests::postern::{AUDIENCE, Options, Postern, program};
use postern_tests::request::{Access, prefix};

const RULES: &str = r#"
[[port]]
number = "ssh"
max_duration = "2h"
allowed_sources = ["10.0.0.0/8"]
justification = { matches = "^(CHG|INC)-[0-9]+" }
[[port]]
number = "rdp"
approvals = { count = 1, roles = ["admin"] }
[[port]]
number = "vnc"
max_grants = 1
[[role]]
name = "requester"
principals = ["alice@example.com"]
[[role]]
name = "requester"
principals = ["guest@example.net"]
ports = ["ssh"]
sources = ["SOURCE"]
max_duration = "30m"
[[role]]
name = "admin"
principals = ["root@example.com"]
"#;

/// What `posternd explain` says: granted, waiting, or the reason and the rule of a refusal.
fn explained(postern: &Postern, who: &str, access: &Access) -> String {
    let output = Command::new(program())
        .args(["explain", "--json", "--config"])
        .arg(postern.config())
        .args(["--principal", who, "--port", &access.ports[0], "--source", &access.source[0]])
        .args(["--for", &access.duration, "--justification", &access.justification])
        .output()
        .expect("posternd");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(if said["allowed"] == true { 0 } else { 3 }));
    match (&said["refusal"]["reason"], said["waits"].is_null()) {
        (serde_json::Value::Null, _) => "granted".to_owned(),
        (_, false) => "waits".to_owned(),
        (reason, true) => reason.as_str().expect("a reason").to_owned(),
    }
}

#[test]
fn requests_end_as_explain_says_from_the_files() {
    let net = Net::pair();
    let [source, _] = GRANTED.both();
    let rules = RULES.replace("SOURCE", &prefix(source));
    let extra = "max_duration = \"150m\"\npending_ttl = \"10m\"".to_owned();
    let mut postern = Postern::start(&net.server, Options { rules, extra, ..Options::default() });
    postern.stop();
    let guest = Key::new(&postern.file(""), "guest");
    let mut trust = std::fs::read_to_string(postern.file("allowed_signers")).expect("the trust file");
    trust += &format!("guest@example.net namespaces=\"request@postern.v1\" {}\n", guest.public());
    std::fs::write(postern.file("allowed_signers"), trust).expect("the trust file");
    postern.launch();
    let client = postern.client();
    let [neighbour, _] = NEIGHBOUR.both();
    let minutes = 60;
    for (who, port, from, seconds, why, want) in [
        ("alice@example.com", "22/tcp", source, 60 * minutes, "CHG-7: disk", "granted"),
        ("alice@example.com", "22/tcp", source, 121 * minutes, "CHG-7: disk", "DURATION_TOO_LONG"),
        ("alice@example.com", "22/tcp", source, 60 * minutes, "disk", "JUSTIFICATION_REQUIRED"),
        ("alice@example.com", "23/tcp", source, 60 * minutes, "", "PORT_NOT_PROTECTED"),
        // The host's own cap is below the port's default.
        ("alice@example.com", "5900/tcp", source, 151 * minutes, "", "DURATION_TOO_LONG"),
        ("alice@example.com", "5900/tcp", source, 150 * minutes, "", "granted"),
        ("alice@example.com", "3389/tcp", source, 60 * minutes, "", "waits"),
        ("guest@example.net", "22/tcp", source, 30 * minutes, "INC-1", "granted"),
        ("guest@example.net", "22/tcp", source, 31 * minutes, "INC-1", "NOT_PERMITTED"),
        ("guest@example.net", "22/tcp", neighbour, 30 * minutes, "INC-1", "NOT_PERMITTED"),
        ("guest@example.net", "3389/tcp", source, 30 * minutes, "", "NOT_PERMITTED"),
    ] {
        let mut access = Access::new(AUDIENCE, &[port], &[from], seconds);
        access.justification = why.to_owned();
        let case = format!("{who} {port} from {from} for {seconds} s because {why:?}");
        assert_eq!(explained(&postern, who, &access), want, "explained: {case}");
        let key = if who.starts_with("guest") { &guest } else { &postern.alice };
        let got = match client.request(access.seal(key)) {
            Ok(grant) if grant.state() == GrantState::Pending => "waits".to_owned(),
            Ok(_) => "granted".to_owned(),
            Err(status) => reason(&status),
        };
        assert_eq!(got, want, "on the host: {case}");
    }
    // What only the agent knows, and what explain says that it does not know.
    let second = Access::new(AUDIENCE, &["5900/tcp"], &[source], 60);
    assert_eq!(explained(&postern, "alice@example.com", &second), "granted");
    assert_eq!(
        client.request(second.seal(&postern.alice)).map_err(|status| reason(&status)).unwrap_err(),
        "TOO_MANY_GRANTS"
    );
}
