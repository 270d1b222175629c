//! `posternd check-config` and `posternd explain`: the real program on files as an organisation would write them.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

const POLICY: &str = r#"
names = ["vm1.example.com"]
max_duration = "8h"
pending_ttl = "30m"
trust_file = "DIR/allowed_signers"
# The machine that runs the tests may have nobody to ask for the time.
clock = { unsynchronised = "trust" }
user = "nobody"
revoked_keys = "DIR/revoked"

[[port]]
number = "ssh"
max_duration = "2h"
allowed_sources = ["10.0.0.0/8", "192.0.2.0/24"]
justification = { matches = "^(CHG|INC)-[0-9]+" }
max_grants = 5
first_use_within = "10m"
idle_timeout = "1h"

[[port]]
number = "rdp"
approvals = { count = 2, roles = ["approver", "admin"] }

[[port]]
number = 5900
allowed_sources = []

[[role]]
name = "requester"
principals = ["alice", "bob"]

[[role]]
name = "requester"
principals = ["guest"]
ports = ["ssh"]
sources = ["192.0.2.0/28"]
max_duration = "30m"

[[role]]
name = "approver"
principals = ["bob", "carol", "ghost"]

[[role]]
name = "admin"
principals = ["dan", "late"]
"#;

/// The lines of the trust file, and the name of the key in each.
const TRUST: &[(&str, &str)] = &[
    ("alice namespaces=\"request@postern.v1,read@postern.v1\"", "alice"),
    ("bob", "bob"),
    ("carol namespaces=\"approve@postern.v1\"", "carol"),
    ("dan namespaces=\"approve@postern.v1,revoke@postern.v1\"", "dan"),
    ("late valid-before=\"20200101Z\"", "late"),
    ("stranger", "stranger"),
    ("lost", "lost"),
    ("guest*,!guest2 cert-authority,namespaces=\"request@postern.v1\"", "authority"),
    ("git namespaces=\"git\"", "git"),
    ("nick,alice", "nick"),
];

/// A directory with these files, which belong to whoever runs the test: root.
struct Site {
    directory: TempDir,
}

impl Site {
    fn new(policy: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let mut lines = String::new();
        for (who, name) in TRUST {
            lines += &format!("{who} {}\n", public_key(path, name));
        }
        fs::write(path.join("allowed_signers"), lines).unwrap();
        fs::copy(path.join("lost.pub"), path.join("revoked")).unwrap();
        fs::write(path.join("postern.toml"), policy.replace("DIR", path.to_str().unwrap())).unwrap();
        Self { directory }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_posternd"));
        let (first, rest) = arguments.split_first().unwrap();
        command.arg(first).arg("--config").arg(self.directory.path().join("postern.toml")).args(rest);
        command
    }

    /// What it prints, with the directory's name and the keys' fingerprints taken out.
    fn say(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        let text = if output.status.code() == Some(0) || output.status.code() == Some(3) {
            output.stdout
        } else {
            output.stderr
        };
        let text = String::from_utf8(text).unwrap().replace(self.directory.path().to_str().unwrap(), "DIR");
        let word = |word: &str| if word.starts_with("SHA256:") { "SHA256:…".to_owned() } else { word.to_owned() };
        let line = |line: &str| line.split(' ').map(word).collect::<Vec<_>>().join(" ");
        (output.status.code().unwrap(), text.lines().map(line).collect::<Vec<_>>().join("\n"))
    }

    fn json(&self, arguments: &[&str]) -> (i32, Value) {
        let output = self.run(&[arguments, &["--json"]].concat());
        (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
    }
}

fn public_key(directory: &Path, name: &str) -> String {
    let file = directory.join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(&file).status();
    assert!(made.unwrap().success());
    fs::read_to_string(file.with_extension("pub")).unwrap().trim().to_owned()
}

const UNDERSTOOD: &str = "\
DIR/postern.toml and DIR/allowed_signers are valid.

Host
  names          vm1.example.com
  longest grant  8h
  requests       wait 30m for approvals
  API            /run/postern/posternd.sock, [::]:7322 (TLS)
  xdp            auto

Ports, closed without a grant
  22/tcp ssh     up to 2h, from 10.0.0.0/8, 192.0.2.0/24
                 justification matches ^(CHG|INC)-[0-9]+
                 at most 5 grants at once
                 closes when not used within 10m
                 closes when idle for 1h
  3389/tcp rdp   up to 3h, from any address
                 2 must approve, of role approver or admin
  5900/tcp       up to 3h, from nowhere

Roles
  requester      alice, bob
  requester      guest; only for 22/tcp; only from 192.0.2.0/28; up to 30m
  approver       bob, carol, ghost
  admin          dan, late

Whose signatures count
  line 1         alice
                 SHA256:…
                 may sign: request, read
                 roles: requester
  line 2         bob
                 SHA256:…
                 may sign: request, approve, revoke, admin, read
                 roles: requester, approver
  line 3         carol
                 SHA256:…
                 may sign: approve
                 roles: approver
  line 4         dan
                 SHA256:…
                 may sign: approve, revoke
                 roles: admin
  line 5         late
                 SHA256:…
                 may sign: request, approve, revoke, admin, read
                 roles: admin
                 valid until 2020-01-01T00:00:00Z
  line 6         stranger
                 SHA256:…
                 may sign: request, approve, revoke, admin, read
                 roles: none
  line 7         lost
                 SHA256:…
                 may sign: request, approve, revoke, admin, read
                 roles: none
                 REVOKED
  line 8         certificates for guest*, !guest2
                 SHA256:…
                 may sign: request
                 roles: requester
  line 9         git
                 SHA256:…
                 may sign: nothing for Postern
                 roles: none
  line 10        nick, alice
                 SHA256:…
                 may sign: request, approve, revoke, admin, read
                 roles: none

Warnings
  - nobody may request 5900/tcp: no requester whom the trust file knows, and whose role and its limits cover it
  - ghost has a role, and no line of the trust file names them
  - late is admin, and no valid line of the trust file lets them sign for that (namespaces, dates, revoked keys)
  - line 5 of the trust file (late) does not count today: the trust file accepts this key no longer
  - line 6 of the trust file (stranger): no role names them, so they may do nothing
  - line 7 of the trust file (lost) is a revoked key
  - line 9 of the trust file (git) may sign nothing for Postern: its namespaces are others'
  - line 10 of the trust file (nick, alice): alice has a role, but only the first name of a line counts";

#[test]
fn check_config_says_what_it_understood_and_doubts() {
    let site = Site::new(POLICY);
    let (code, said) = site.say(&["check-config"]);
    assert_eq!((code, &said[..]), (0, UNDERSTOOD), "{said}");
    let (code, json) = site.json(&["check-config"]);
    assert_eq!(code, 0);
    assert_eq!(json["host"]["max_duration"], 8 * 3600);
    assert_eq!(json["ports"][1]["approval_roles"], json!(["approver", "admin"]));
    assert_eq!(json["roles"][1]["sources"], json!(["192.0.2.0/28"]));
    assert_eq!(json["signers"][0]["purposes"], json!(["request", "read"]));
    assert_eq!((&json["signers"][6]["revoked"], &json["signers"][7]["authority"]), (&json!(true), &json!(true)));
    assert_eq!(json["warnings"].as_array().unwrap().len(), 8);
}

#[test]
fn a_user_that_is_not_there_is_doubted() {
    let site = Site::new(&POLICY.replace("\"nobody\"", "\"nobody-here\""));
    let (code, said) = site.say(&["check-config"]);
    let doubt = "- posternd will stay root here: there is no user \"nobody-here\"";
    assert!(code == 0 && said.contains(doubt), "{said}");
}

#[test]
fn approvals_that_can_never_come_are_doubted() {
    let warnings = |policy: &str| {
        let (_, json) = Site::new(policy).json(&["check-config"]);
        let all: Vec<_> = json["warnings"].as_array().unwrap().iter().map(|w| w.as_str().unwrap().to_owned()).collect();
        all.into_iter().filter(|w| w.contains("approve") || w.contains("never")).collect::<Vec<_>>()
    };
    // bob may approve, but not for himself.
    let one = POLICY.replace("count = 2, roles = [\"approver\", \"admin\"]", "count = 2");
    assert_eq!(
        warnings(&one),
        ["bob can never get 3389/tcp: it needs 2 to approve, and of those who could (2) nobody approves their own"]
    );
    let many = POLICY.replace("count = 2", "count = 4");
    assert_eq!(
        warnings(&many),
        [
            "alice, bob can never get 3389/tcp: it needs 4 to approve, and of those who could (3) nobody approves their own"
        ]
    );
    let idle = POLICY.replace("idle_timeout = \"1h\"", "idle_timeout = \"2h\"");
    assert_eq!(warnings(&idle), ["idle_timeout of 22/tcp never matters: 2h is not shorter than its max_duration, 2h"]);
    // Narrowing an approver counts too.
    let narrow = POLICY.replace("\"ghost\"]", "\"ghost\"]\nports = [\"ssh\"]");
    assert!(warnings(&narrow)[0].starts_with("alice, bob can never get 3389/tcp"), "{:?}", warnings(&narrow));
}

#[test]
fn a_wrong_file_shows_everything_at_once_with_pictures() {
    let site =
        Site::new("[[port]]\nnumber = 22\n  max_durration = \"1h\"\n[[role]]\nname = \"boss\"\nprincipals = []\n");
    let (code, said) = site.say(&["check-config"]);
    assert_eq!(code, 78);
    let want = "\
posternd: DIR/postern.toml:3:3: port[0].max_durration: unknown key 'max_durration' in [[port]]; did you mean 'max_duration'?
3 |   max_durration = \"1h\"
  |   ^^^^^^^^^^^^^
DIR/postern.toml:5:8: role[0].name: 'boss' is none of \"viewer\", \"requester\", \"approver\", \"admin\"
5 | name = \"boss\"
  |        ^^^^^^";
    assert_eq!(said, want, "{said}");
    assert_eq!(
        site.run(&["explain", "--principal", "a", "--port", "ssh", "--source", "10.0.0.1/32"]).status.code(),
        Some(78)
    );
}

#[test]
fn explain_asks_the_judge_without_an_agent() {
    let site = Site::new(POLICY);
    let ask = |line: &str| {
        let arguments: Vec<_> = line.split(' ').collect();
        let (code, json) = site.json(&[&["explain"], &arguments[..]].concat());
        let refusal = &json["refusal"];
        let text = |field: &str| refusal[field].as_str().unwrap_or_default().to_owned();
        assert_eq!(json["allowed"], json!(code == 0));
        (code, text("reason"), text("rule"))
    };
    let allowed = (0, String::new(), String::new());
    let refused = |reason: &str, rule: &str| (3, reason.to_owned(), rule.to_owned());
    for (line, want) in [
        ("--principal alice --port ssh --source 10.0.0.1/32 --for 1h --justification CHG-7", allowed.clone()),
        ("--principal alice --port 22/tcp --source 192.0.2.7/32 --justification CHG-7", allowed.clone()),
        (
            "--principal alice --port ssh --source 10.0.0.1/32 --for 1h",
            refused("JUSTIFICATION_REQUIRED", "port[0].justification"),
        ),
        (
            "--principal alice --port ssh --source 10.0.0.1/32 --for 3h --justification CHG-7",
            refused("DURATION_TOO_LONG", "port[0].max_duration"),
        ),
        (
            "--principal alice --port ssh --source 203.0.113.1/32 --justification CHG-7",
            refused("SOURCE_NOT_ALLOWED", "port[0].allowed_sources"),
        ),
        ("--principal alice --port 80/tcp --source 10.0.0.1/32", refused("PORT_NOT_PROTECTED", "port")),
        ("--principal guest --port ssh --source 192.0.2.7/32 --for 30m --justification INC-1", allowed.clone()),
        (
            "--principal guest --port ssh --source 192.0.2.7/32 --for 31m --justification INC-1",
            refused("NOT_PERMITTED", "role[1].max_duration"),
        ),
        (
            "--principal guest --port ssh --source 192.0.2.77/32 --for 5m --justification INC-1",
            refused("NOT_PERMITTED", "role[1].sources"),
        ),
        ("--principal guest --port rdp --source 192.0.2.7/32 --for 5m", refused("NOT_PERMITTED", "role[1].ports")),
        // Roles and trust are both needed.
        (
            "--principal stranger --port ssh --source 10.0.0.1/32 --justification CHG-7",
            refused("NOT_PERMITTED", "role"),
        ),
        (
            "--principal nobody --port ssh --source 10.0.0.1/32 --justification CHG-7",
            refused("ROLE_NOT_TRUSTED", "trust_file"),
        ),
        (
            "--principal late --port ssh --source 10.0.0.1/32 --justification CHG-7",
            refused("ROLE_NOT_TRUSTED", "trust_file"),
        ),
        // Two other people, who may sign that, in one of two roles.
        ("--principal alice --port rdp --source 10.0.0.1/32", refused("APPROVALS_MISSING", "port[1].approvals")),
        (
            "--principal alice --port rdp --source 10.0.0.1/32 --approved-by bob",
            refused("APPROVALS_MISSING", "port[1].approvals"),
        ),
        (
            "--principal alice --port rdp --source 10.0.0.1/32 --approved-by bob --approved-by late",
            refused("APPROVALS_MISSING", "port[1].approvals"),
        ),
        ("--principal alice --port rdp --source 10.0.0.1/32 --approved-by bob --approved-by dan", allowed.clone()),
        (
            "--principal bob --port rdp --source 10.0.0.1/32 --approved-by bob --approved-by dan",
            refused("APPROVALS_MISSING", "port[1].approvals"),
        ),
        (
            "--principal alice --port ssh --source 10.0.0.1/32 --justification CHG-7 --not-before 2100-01-01T00:00:00Z",
            refused("START_TOO_FAR", "not_before"),
        ),
    ] {
        assert_eq!(ask(line), want, "{line}");
    }
    let usage = |line: &str| site.run(&[&["explain"], &line.split(' ').collect::<Vec<_>>()[..]].concat()).status.code();
    assert_eq!(usage("--principal alice --port 22/tcp --source 10.0.0.1/8"), Some(2));
    assert_eq!(usage("--principal alice --port 22/tcp"), Some(2));
    assert_eq!(usage("--principal alice --port shh --source 10.0.0.1/32"), Some(2));
}

#[test]
fn explain_speaks_plainly() {
    let site = Site::new(POLICY);
    let common = ["explain", "--principal", "alice", "--source", "10.0.0.1/32"];
    let (_, said) = site.say(&[&common[..], &["--port", "ssh", "--for", "1h", "--justification", "CHG-7"]].concat());
    let want = "\
alice requests 22/tcp from 10.0.0.1/32 for 1h
A request like this would be granted now.
max_grants of 22/tcp was not checked: only a running posternd knows the live grants.
This answer is from the files alone. No running posternd was asked.";
    assert_eq!(said, want, "{said}");
    let (_, said) =
        site.say(&[&common[..], &["--port", "rdp", "--approved-by", "late", "--approved-by", "carol"]].concat());
    let want = "\
alice requests 3389/tcp from 10.0.0.1/32, approved by late, carol
APPROVALS_MISSING (port[1].approvals): the policy wants more people to approve this: 1 of 2 for 3389/tcp
A request like this would wait up to 30m for one person to approve it.
No valid line of the trust file lets late approve requests.
This answer is from the files alone. No running posternd was asked.";
    assert_eq!(said, want, "{said}");
    let never = Site::new(&POLICY.replace("pending_ttl = \"30m\"", "pending_ttl = \"0s\""));
    let (_, said) = never.say(&[&common[..], &["--port", "rdp"]].concat());
    assert!(
        said.contains("\nA request like this would be refused: the policy wants more people to approve this: 0 of 2"),
        "{said}"
    );
}

#[test]
fn a_reader_that_closes_its_end_is_no_failure() {
    let site = Site::new(POLICY);
    let explain = ["explain", "--principal", "alice", "--port", "ssh", "--source", "192.0.2.7/32", "--for", "1h"];
    for (arguments, code) in [(&["check-config"][..], 0), (&["check-config", "--json"], 0), (&explain, 3)] {
        // Both ends of the pipe are closed but the program's own before the program writes.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = site.command(arguments).stdout(writer).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), complaint.as_ref()), (Some(code), ""), "{arguments:?}");
    }
}
