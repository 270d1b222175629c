//! Two people and one host: asking, approving, declining, extending, giving back, planning ahead; with the real `postern`
//! on both laptops, and again with nothing but grpcurl and ssh-keygen.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use postern_tests::grpcurl;
use postern_tests::keys::Key;
use postern_tests::laptop::{Laptop, Run};
use postern_tests::net::{GRANTED, Net, SERVER};
use postern_tests::postern::{AUDIENCE, Options, Postern, ROLES, port};
use postern_tests::probe;
use postern_tests::request::{self, Access};
use postern_tests::service::Service;
use postern_tests::ssh::Sshd;
use postern_tests::{PATIENCE, until};
use serde_json::{Value, json};

const CAROL: &str = "carol@example.com";

/// A host, Alice who asks, and Carol who approves. Alice is an approver too, of everybody's requests but her own.
struct Office {
    net: Net,
    postern: Postern,
    carol: Key,
}

impl Office {
    /// Where port 22 wants `approvals`, and 3389 none.
    fn open(approvals: u32) -> Self {
        let net = Net::pair();
        let approvers = format!("[[role]]\nname = \"approver\"\nprincipals = [\"{CAROL}\", \"alice@example.com\"]\n");
        let rules = format!("{}approvals = {approvals}\n{}{ROLES}{approvers}", port(22, "tcp"), port(3389, "tcp"));
        let mut postern = Postern::start(&net.server, Options { rules, ..Options::without_xdp() });
        postern.stop();
        let carol = Key::new(&postern.file(""), "carol");
        let trust = std::fs::read_to_string(postern.file("allowed_signers")).expect("the trust file");
        let more = format!(
            "{CAROL} namespaces=\"approve@postern.v1,revoke@postern.v1,read@postern.v1\" {}\n\
             alice@example.com namespaces=\"approve@postern.v1\" {}\n",
            carol.public(),
            postern.alice.public()
        );
        std::fs::write(postern.file("allowed_signers"), trust + &more).expect("the trust file");
        postern.launch();
        Self { net, postern, carol }
    }

    fn laptops(&self) -> (Laptop, Laptop) {
        (Laptop::new(&self.net.client, &self.postern), Laptop::of(&self.net.client, &self.carol))
    }

    /// Whether the port answers there and now.
    fn answers(&self, port: u16) -> bool {
        let from = source();
        probe::tcp_answers(&self.net.client, from, SocketAddr::new(SERVER.like(from), port))
    }

    /// What grpcurl says, and whether the host agreed.
    fn grpcurl(&self, program: &Path, method: &str, body: &Value) -> (bool, String) {
        let server = SocketAddr::new(SERVER.like(source()), 7322).to_string();
        let mut command = self.net.client.command(program);
        command.args(["-insecure", "-d", &body.to_string(), &server, &format!("postern.v1.AccessService/{method}")]);
        said(&mut command)
    }
}

fn said(command: &mut std::process::Command) -> (bool, String) {
    let output = command.output().expect("to run it");
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn source() -> IpAddr {
    GRANTED.both()[0]
}

fn ask<'a>(more: &[&'a str], from: &'a str) -> Vec<&'a str> {
    [&["request", "vm1.test", "--from", from], more].concat()
}

/// The grant in what a command printed.
#[track_caller]
fn grant(run: &Run) -> Value {
    assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
    run.json()["grant"].clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

/// A message in JSON, as grpcurl takes it.
fn envelope(message: &postern_proto::v1::SignedMessage) -> Value {
    serde_json::to_value(message).expect("JSON")
}

#[test]
fn carol_approves_what_alice_asks_for_and_alice_cannot() {
    let office = Office::open(1);
    let _service = Service::tcp_echo(&office.net.server, "[::]:22".parse().expect("an address"));
    let (alice, carol) = office.laptops();
    let from = source().to_string();
    let mut asking = alice
        .start(&ask(&["--port", "ssh", "--for", "10m", "--reason", "disk full", "--ticket", "T-1", "--wait"], &from));
    let mut id = String::new();
    until("the request waits", || {
        let waiting = carol.postern(&["pending", "vm1.test"]).json();
        let first = waiting["grants"][0].clone();
        id = first["id"].as_str().unwrap_or_default().to_owned();
        assert!(id.is_empty() || first["justification"] == "disk full" && first["ticket"] == "T-1", "{waiting}");
        !id.is_empty()
    });
    assert!(asking.runs() && !office.answers(22), "nothing opens for one person alone");

    let own = alice.postern(&["approve", "vm1.test", &id, "--yes"]);
    assert_eq!((own.code, &own.error()["reason"]), (Some(1), &"SELF_APPROVAL".into()), "{}", own.err);
    assert!(text(&own.error()["message"]).contains("nobody approves their own request"), "{}", own.err);
    assert!(text(&own.error()["next"]).contains("somebody else"), "{}", own.err);
    let silent = carol.postern(&["approve", "vm1.test", &id]);
    assert_eq!(silent.code, Some(2), "without a terminal no person looked: {}", silent.err);
    assert!(asking.runs() && !office.answers(22), "it waits still");

    let approved = carol.postern(&["approve", "vm1.test", &id, "--yes"]);
    assert_eq!(grant(&approved)["state"], "GRANT_STATE_ACTIVE");
    for shown in ["alice@example.com", "22/tcp", &from, "10m 0s", "disk full", "T-1"] {
        assert!(approved.err.contains(shown), "{shown} is not shown: {}", approved.err);
    }
    let opened = asking.wait();
    assert_eq!(grant(&opened)["state"], "GRANT_STATE_ACTIVE", "{}", opened.err);
    assert!(office.answers(22), "open for both");
    let shown = alice.run(&["show", "vm1.test", &id, "--key", &office.postern.alice.path().display().to_string()]);
    assert!(shown.out.contains("approved by  carol@example.com"), "{}{}", shown.out, shown.err);
    let late = carol.postern(&["approve", "vm1.test", &id, "--yes"]);
    assert_eq!(late.code, Some(1), "{}", late.err);
    assert!(text(&late.error()["message"]).contains("does not wait for approval: it is active"), "{}", late.err);
}

#[test]
fn grpcurl_and_ssh_keygen_approve_the_same_bytes() {
    let Some(grpcurl) = grpcurl::program() else { return };
    let office = Office::open(1);
    let _service = Service::tcp_echo(&office.net.server, "[::]:22".parse().expect("an address"));
    let asked = Access::new(AUDIENCE, &["22/tcp"], &[source()], 600);
    let message = envelope(&asked.seal(&office.postern.alice));
    let (_, waits) = office.grpcurl(&grpcurl, "RequestAccess", &json!({ "message": message }));
    assert!(waits.contains("GRANT_STATE_PENDING") && !office.answers(22), "{waits}");
    // The same payload under Alice's own approval is refused in words.
    let own = Access { id: asked.id.clone(), ..asked.clone() };
    let own = office.postern.alice.seal("approve@postern.v1", postern_proto::payload_type::ACCESS_REQUEST, &own.json());
    let (agreed, refused) = office.grpcurl(&grpcurl, "ApproveAccess", &json!({ "message": envelope(&own) }));
    assert!(!agreed && refused.contains("SELF_APPROVAL"), "{refused}");
    let other = Access { justification: "something else".to_owned(), ..asked.clone() };
    let other = office.carol.seal("approve@postern.v1", postern_proto::payload_type::ACCESS_REQUEST, &other.json());
    let (agreed, refused) = office.grpcurl(&grpcurl, "ApproveAccess", &json!({ "message": envelope(&other) }));
    assert!(!agreed && refused.contains("PAYLOAD_DIFFERS") && !office.answers(22), "{refused}");

    let mut shell = office.net.client.command("bash");
    let path = std::env::join_paths([grpcurl.parent().expect("a directory"), Path::new("/usr/bin"), Path::new("/bin")]);
    shell.args(["-euc", &script()]).env("PATH", path.expect("a path")).env("key", office.carol.path());
    shell.env("read", envelope(&request::read(&office.carol, AUDIENCE)).to_string()).env("id", &asked.id);
    shell.env("server", SocketAddr::new(SERVER.like(source()), 7322).to_string());
    let (agreed, approved) = said(&mut shell);
    assert!(agreed && approved.contains("GRANT_STATE_ACTIVE") && approved.contains(CAROL), "{approved}");
    assert!(office.answers(22), "open for both");
}

/// The marked shell lines of docs/grpcurl.md.
fn script() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/grpcurl.md");
    let text = std::fs::read_to_string(path).expect("docs/grpcurl.md");
    let (_, rest) = text.split_once("<!-- test: approve -->\n```sh\n").expect("the marked block");
    rest.split_once("```").expect("its end").0.to_owned()
}

#[test]
fn a_declined_requester_reads_why_and_a_stopped_client_leaves_its_request_pending() {
    let office = Office::open(1);
    let (alice, carol) = office.laptops();
    let from = source().to_string();
    let waiting = || carol.postern(&["pending", "vm1.test"]).json()["grants"].as_array().map_or(0, Vec::len);
    let asking = alice.start(&ask(&["--port", "22", "--for", "10m", "--wait"], &from));
    until("the request waits", || waiting() == 1);
    let id = text(&carol.postern(&["pending", "vm1.test"]).json()["grants"][0]["id"]).to_owned();
    let declined = carol.postern(&["decline", "vm1.test", &id, "--reason", "use the test host"]);
    assert_eq!(grant(&declined)["state"], "GRANT_STATE_REFUSED");
    let told = asking.wait();
    assert_eq!(told.code, Some(1), "{}{}", told.out, told.err);
    let message = told.error()["message"].to_string();
    assert!(message.contains("use the test host") && message.contains(CAROL), "{message}");
    assert_eq!(waiting(), 0);

    let asking = alice.start(&ask(&["--port", "22", "--for", "10m", "--wait"], &from));
    until("the next one waits", || waiting() == 1);
    asking.signal(libc::SIGINT);
    let stopped = asking.wait();
    assert_eq!(stopped.code, Some(130), "{}", stopped.err);
    assert!(stopped.err.contains("stays as it is"), "{}", stopped.err);
    assert_eq!(waiting(), 1, "it waits all the same");
    let taken_back = alice.postern(&["give-back", "vm1.test"]);
    assert_eq!(grant(&taken_back)["state"], "GRANT_STATE_WITHDRAWN");
    assert_eq!(waiting(), 0);
}

#[test]
fn an_ssh_session_outlives_the_end_that_was_moved_and_giving_back_ends_it() {
    let office = Office::open(0);
    let sshd = Sshd::start(&office.net.server);
    let (alice, _) = office.laptops();
    let from = source().to_string();
    let asked = alice.postern(&ask(&["--port", "ssh", "--for", "20s", "--reason", "deploying"], &from));
    let first = grant(&asked);
    let old_end: Timestamp = text(&first["expires"]).parse().expect("a time");
    let mut session = sshd.session(&office.net.client, source(), SERVER.like(source()));
    assert!(session.ticks(PATIENCE), "logged in: {}", session.errors());
    let shorter = alice.postern(&["extend", "vm1.test", "--for", "1s"]);
    assert_eq!(shorter.code, Some(1), "{}", shorter.err);
    assert!(text(&shorter.error()["message"]).contains("would not be longer"), "{}", shorter.err);
    let long = alice.postern(&["extend", "vm1.test", "--for", "5h"]);
    assert_eq!((long.code, &long.error()["reason"]), (Some(1), &"DURATION_TOO_LONG".into()), "{}", long.err);
    let extended = grant(&alice.postern(&["extend", "vm1.test", "--for", "1h"]));
    assert_eq!((&extended["supersedes"], &extended["justification"]), (&first["id"], &"deploying".into()));
    assert!(text(&extended["expires"]).parse::<Timestamp>().expect("a time") > old_end + SignedDuration::from_mins(30));
    while Timestamp::now() < old_end + SignedDuration::from_secs(2) {
        assert!(session.ticks(PATIENCE), "the session lives over the old end: {}", session.errors());
    }
    assert!(session.ended().is_none());
    let old = alice.postern(&["show", "vm1.test", text(&first["id"])]);
    assert_eq!(grant(&old)["state"], "GRANT_STATE_SUPERSEDED");
    let list = alice.postern(&["list", "vm1.test"]);
    assert_eq!(list.json()["grants"].as_array().map(Vec::len), Some(1), "{}", list.out);

    let back = grant(&alice.postern(&["give-back", "vm1.test", "--reason", "done"]));
    assert_eq!((&back["id"], &back["state"]), (&extended["id"], &"GRANT_STATE_WITHDRAWN".into()));
    assert!(!session.wait().success(), "ssh sees its end");
    assert!(!office.answers(22), "closed at once");
    let none = alice.postern(&["extend", "vm1.test", "--for", "1h"]);
    assert_eq!(none.code, Some(2), "there is nothing to extend: {}", none.err);
}

#[test]
fn a_planned_grant_is_closed_before_its_start_and_open_after() {
    let office = Office::open(0);
    let _service = Service::tcp_echo(&office.net.server, "[::]:22".parse().expect("an address"));
    let (alice, _) = office.laptops();
    let from = source().to_string();
    // Whole seconds are what people plan in.
    let start = Timestamp::from_second((Timestamp::now() + SignedDuration::from_secs(6)).as_second()).expect("a time");
    let at = start.to_string();
    let plan = ask(&["--port", "ssh", "--for", "1h", "--not-before", &at, "--wait"], &from);
    let asking = alice.start(&plan);
    let list = || alice.postern(&["list", "vm1.test"]).json()["grants"][0].clone();
    until("it is planned", || list().is_object());
    if Timestamp::now() < start {
        assert_eq!(list()["state"], "GRANT_STATE_SCHEDULED", "{}", list());
    }
    let to = SocketAddr::new(SERVER.like(source()), 22);
    until("it opens", || {
        let open = probe::tcp(&office.net.client, source(), to) == probe::Outcome::Answered;
        assert!(!open || Timestamp::now() >= start, "open before its start");
        open
    });
    assert_eq!(grant(&asking.wait())["state"], "GRANT_STATE_ACTIVE");
}

#[test]
fn grpcurl_extends_plans_and_gives_back() {
    let Some(grpcurl) = grpcurl::program() else { return };
    let office = Office::open(0);
    let _service = Service::tcp_echo(&office.net.server, "[::]:22".parse().expect("an address"));
    let alice = &office.postern.alice;
    let sign = |access: &Access, field: &str, value: Value| {
        let mut payload: Value = serde_json::from_str(&access.json()).expect("JSON");
        payload[field] = value;
        let sealed = alice.seal(request::REQUEST, postern_proto::payload_type::ACCESS_REQUEST, &payload.to_string());
        json!({ "message": envelope(&sealed) })
    };
    let fresh = |seconds| Access::new(AUDIENCE, &["22/tcp"], &[source()], seconds);
    let first = fresh(60);
    let body = json!({ "message": envelope(&first.seal(alice)) });
    let (agreed, opened) = office.grpcurl(&grpcurl, "RequestAccess", &body);
    assert!(agreed && office.answers(22), "{opened}");
    let (agreed, short) = office.grpcurl(&grpcurl, "RequestAccess", &sign(&fresh(5), "supersedes", json!(first.id)));
    assert!(!agreed && short.contains("WOULD_SHORTEN"), "{short}");
    let longer = fresh(600);
    let (agreed, extended) = office.grpcurl(&grpcurl, "RequestAccess", &sign(&longer, "supersedes", json!(first.id)));
    assert!(agreed && extended.contains(&first.id) && extended.contains("GRANT_STATE_ACTIVE"), "{extended}");
    let back = json!({ "message": envelope(&request::revoke(alice, AUDIENCE, &longer.id)) });
    let (agreed, closed) = office.grpcurl(&grpcurl, "RevokeAccess", &back);
    assert!(agreed && closed.contains("GRANT_STATE_WITHDRAWN") && !office.answers(22), "{closed}");
    let planned = sign(&fresh(600), "notBefore", json!(request::seconds_from_now(3600)));
    let (agreed, scheduled) = office.grpcurl(&grpcurl, "RequestAccess", &planned);
    assert!(agreed && scheduled.contains("GRANT_STATE_SCHEDULED") && !office.answers(22), "{scheduled}");
}

#[test]
fn refused_and_planned_requests_are_explained() {
    let office = Office::open(1);
    let (alice, carol) = office.laptops();
    let from = source().to_string();
    let refused = alice.postern(&ask(&["--port", "ssh", "--for", "5h"], &from));
    let error = refused.error();
    assert_eq!((refused.code, &error["reason"]), (Some(1), &"DURATION_TOO_LONG".into()), "{}", refused.err);
    assert_eq!(error["rule"], "port[0].max_duration");
    let explained = alice.postern(&["explain", "vm1.test", "--port", "ssh", "--for", "5h", "--from", &from]);
    assert_eq!(explained.json()["refusal"]["reason"], "DURATION_TOO_LONG", "{}", explained.out);
    let meaning = alice.run(&["explain", text(&error["reason"])]);
    assert!(meaning.code == Some(0) && meaning.out.contains("longer than the policy allows"), "{}", meaning.out);
    let shorter = alice.postern(&["explain", "vm1.test", "--port", "ssh", "--for", "1h", "--from", &from]);
    assert_eq!(shorter.json()["approvalsMissing"], 1, "{}", shorter.out);
    let policy = carol.postern(&["policy", "show", "vm1.test"]);
    assert_eq!(policy.json()["policy"]["ports"][0]["approvals"], 1, "{}{}", policy.out, policy.err);
}

#[test]
fn root_breaks_the_glass_on_the_host_and_every_reader_sees_it() {
    let office = Office::open(1);
    let _service = Service::tcp_echo(&office.net.server, "[::]:22".parse().expect("an address"));
    let (_, carol) = office.laptops();
    assert!(!office.answers(22));
    until("Carol sees the denied attempts", || {
        let denied = carol.postern(&["denied", "vm1.test"]);
        assert_eq!(denied.code, Some(0), "{}", denied.err);
        denied.out.contains(&source().to_string())
    });
    let console = Laptop::new(&office.net.server, &office.postern);
    let socket = format!("unix://{}", office.postern.socket().display());
    let wish = ["--port", "ssh", "--from", "10.0.0.0/8", "--for", "1h", "--reason", "the CA is down"];
    let opened = console.run(&[&["break-glass"][..], &wish, &[&socket]].concat());
    assert_eq!(opened.code, Some(0), "{}", opened.err);
    assert!(opened.out.starts_with("BREAK-GLASS") && opened.err.contains("journal"), "{}{}", opened.out, opened.err);
    assert!(office.answers(22), "open without a signature");
    let seen = carol.postern(&["list", "vm1.test"]).json()["grants"][0].clone();
    assert_eq!((&seen["breakGlass"], &seen["justification"]), (&true.into(), &"the CA is down".into()), "{seen}");
    let record = console.run(&["audit", &socket, "--event", "break-glass", "--jsonl"]);
    assert_eq!((record.code, record.out.lines().count()), (Some(0), 1), "{}{}", record.out, record.err);
    assert!(
        record.out.contains("the CA is down") && record.out.contains("\"event\":\"break-glass\""),
        "{}",
        record.out
    );
    let far = ["break-glass", "--port", "ssh", "--from", "10.0.0.0/8", "--for", "1h", "--reason", "x", "vm1.test"];
    assert_eq!(carol.run(&far).code, Some(2), "only on the host itself");
}

#[test]
fn a_new_policy_is_checked_by_the_host_and_changes_nothing() {
    let office = Office::open(1);
    let console = Laptop::new(&office.net.server, &office.postern);
    let socket = format!("unix://{}", office.postern.socket().display());
    let good = std::fs::read_to_string(office.postern.config()).expect("the configuration");
    let file = console.home().join("new.toml");
    let check = |text: String| {
        std::fs::write(&file, text).expect("the file");
        console.run(&["policy", "check", &socket, &file.display().to_string()])
    };
    let fine = check(good.clone());
    assert_eq!(fine.code, Some(0), "{}{}", fine.out, fine.err);
    assert!(fine.out.contains("is valid") && fine.out.contains("1 approval by"), "{}", fine.out);
    let wrong = check(good.replace("approvals = 1", "approvals = 8\naproval = 1"));
    assert_eq!(wrong.code, Some(1), "{}{}", wrong.out, wrong.err);
    let line = 1 + good.lines().position(|line| line == "approvals = 1").expect("the line");
    assert!(wrong.out.contains(&format!("{}:{line}:", file.display())), "{}", wrong.out);
    assert!(wrong.out.contains("port[0].approvals") && wrong.out.contains("port[0].aproval"), "{}", wrong.out);
    let before = console.run(&["policy", "show", &socket]);
    assert!(before.code == Some(0) && before.out.contains("1 approval by"), "nothing changed: {}", before.out);
}
