//! The journal as an auditor meets it: what happened can be found, and nothing can be taken out of it unnoticed.

use std::fs;
use std::net::IpAddr;
use std::process::{Output, Stdio};

use postern_proto::payload_type;
use postern_proto::v1::{
    AuditEntry, BreakGlassRequest, GetReportRequest, GetReportResponse, Grant, ListAuditRequest, ListAuditResponse,
    SignedMessage, WatchAuditRequest, WatchAuditResponse,
};
use postern_tests::client::reason;
use postern_tests::keys::Key;
use postern_tests::{PATIENCE, until};

use postern_tests::net::{GRANTED, Net, SERVER};
use postern_tests::postern::{ALICE, AUDIENCE, Options, Postern, ROLES, port, program};
use postern_tests::probe;
use postern_tests::request::{self, Access};
use postern_tests::service::Service;

type Call = ListAuditRequest;

fn asked(postern: &Postern, call: Call) -> Result<ListAuditResponse, tonic::Status> {
    let client = postern.client();
    client.wait(client.host().list_audit(call)).map(tonic::Response::into_inner)
}

/// The real `postern audit`, as root on the Unix socket unless a key is named.
fn audit(net: &Net, postern: &Postern, arguments: &[&str], key: Option<&Key>) -> Output {
    let client = program().with_file_name("postern");
    let mut command = net.server.command(&client);
    command.arg("audit").arg(format!("unix://{}", postern.socket().display())).args(arguments);
    command.env_remove("SSH_AUTH_SOCK").env("HOME", postern.file("home")).stdin(Stdio::null());
    if let Some(key) = key {
        command.arg("--key").arg(key.path());
    }
    command.output().unwrap_or_else(|error| panic!("{}: {error}", client.display()))
}

/// What `postern audit --json` shows.
fn shown(net: &Net, postern: &Postern, arguments: &[&str]) -> ListAuditResponse {
    let output = audit(net, postern, &[arguments, &["--json"]].concat(), None);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("the API's own form")
}

/// (event, principal, grant) of each line, the newest first.
fn lines(found: &ListAuditResponse) -> Vec<(&str, &str, &str)> {
    assert!(found.chain_verified, "{}", found.damage);
    found.entries.iter().map(|e| (&e.event[..], &e.principal[..], &e.grant_id[..])).collect()
}

#[test]
fn an_auditor_finds_what_happened_by_person_port_source_time_and_kind() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::without_xdp());
    let [v4, v6]: [IpAddr; 2] = GRANTED.both();
    let first = postern.grant(&["22/tcp"], &[v4], 600).expect("a grant").id;
    let refused = postern.grant(&["22/tcp"], &[v4], 24 * 3600).expect_err("too long");
    assert_eq!(reason(&refused), "DURATION_TOO_LONG");
    let second = postern.grant(&["22/udp"], &[v6], 600).expect("a grant").id;
    postern.revoke(&first).expect("its end");
    let (alice, root) = ("alice@example.com", "root@example.com");
    let (granted, again) = (("granted", alice, &first[..]), ("granted", alice, &second[..]));
    let (ended, refused, started) = (("ended", alice, &first[..]), ("refused", alice, ""), ("started", "", ""));

    let all = asked(&postern, Call::default()).expect("all lines");
    assert_eq!(lines(&all), [ended, again, refused, granted, started]);
    let text = postern.journal();
    assert!(all.entries.iter().rev().map(|entry| &entry.line[..]).eq(text.lines()), "as they stand in the file");
    assert!(all.entries[2].reason.starts_with("DURATION_TOO_LONG"), "{}", all.entries[2].reason);
    let time = |n: usize| all.entries[n].time.expect("a time");
    let clock = |n: usize| jiff::Timestamp::new(time(n).seconds, 0).expect("a time").to_string();
    let kept = |keep: &dyn Fn(i64) -> bool| -> Vec<_> {
        let entries = all.entries.iter().zip(lines(&all));
        entries.filter(|(e, _)| keep(e.time.expect("a time").seconds)).map(|(_, line)| line).collect()
    };
    let whole = |n: usize| Some(pbjson_types::Timestamp { seconds: time(n).seconds, nanos: 0 });

    let person = |who: &str| Call { principal: who.to_owned(), ..Call::default() };
    let port = |port: &str| Call { port: port.to_owned(), ..Call::default() };
    let source = |source: &str| Call { source: source.to_owned(), ..Call::default() };
    let kind = |kind: &str| Call { events: vec![kind.to_owned()], ..Call::default() };
    let (own, around) = (format!("{v4}/32"), "fd00::/8");
    for (call, arguments, wanted) in [
        (person(alice), ["--principal", alice], vec![ended, again, refused, granted]),
        (person(root), ["--principal", root], vec![]),
        (port("22/tcp"), ["--port", "22/tcp"], vec![ended, refused, granted]),
        (port("22/any"), ["--port", "ssh"], vec![ended, again, refused, granted]),
        (port("22/udp"), ["--port", "22/udp"], vec![again]),
        (source(&own), ["--from", &own], vec![ended, refused, granted]),
        (source(around), ["--from", around], vec![again]),
        (kind("refused"), ["--event", "refused"], vec![refused]),
        (Call { since: whole(0), ..Call::default() }, ["--since", &clock(0)], kept(&|t| t >= time(0).seconds)),
        (Call { until: whole(2), ..Call::default() }, ["--until", &clock(2)], kept(&|t| t < time(2).seconds)),
    ] {
        assert_eq!(lines(&asked(&postern, call).expect("lines")), wanted, "{arguments:?} as a call");
        assert_eq!(lines(&shown(&net, &postern, &arguments)), wanted, "{arguments:?} with postern");
    }
    let mut paged = Vec::new();
    let mut call = Call { page_size: 2, ..Call::default() };
    loop {
        let page = asked(&postern, call.clone()).expect("a page");
        paged.extend(page.entries);
        if page.next_page_token.is_empty() {
            break;
        }
        call.page_token = page.next_page_token;
    }
    assert_eq!(paged, all.entries);
}

#[test]
fn viewers_and_admins_read_the_journal_and_a_change_of_it_is_a_condition() {
    let net = Net::pair();
    let mut options = Options::without_xdp();
    let postern = Postern::start(&net.server, options.clone());
    postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
    let signed = |read: &SignedMessage| Call { read: Some(read.clone()), ..Call::default() };
    let read = request::read(&postern.alice, AUDIENCE);
    let refusals = || asked(&postern, Call { reason: "NOT_PERMITTED".to_owned(), ..Call::default() }).expect("lines");
    for times in 1..=3 {
        let refused = asked(&postern, signed(&read)).expect_err("a requester");
        assert_eq!((refused.code(), &reason(&refused)[..]), (tonic::Code::PermissionDenied, "NOT_PERMITTED"));
        assert_eq!(lines(&refusals()), [("refused", ALICE, "")], "one line, shown {times} times");
    }
    assert_eq!(audit(&net, &postern, &[], Some(&postern.alice)).status.code(), Some(1));
    assert_eq!(refusals().entries.len(), 2, "another message, another line");
    assert!(refusals().entries[0].key_fingerprint.starts_with("SHA256:"), "whose key it was");
    assert_eq!(asked(&postern, signed(&request::read(&postern.admin, AUDIENCE))).expect("an admin").entries.len(), 4);
    options.rules.push_str("[[role]]\nname = \"viewer\"\nprincipals = [\"alice@example.com\"]\n");
    postern.configure(&options);
    postern.reload();
    until("alice is a viewer", || asked(&postern, signed(&request::read(&postern.alice, AUDIENCE))).is_ok());
    for bad in [
        Call { port: "22".to_owned(), ..Call::default() },
        Call { events: vec!["opened".to_owned()], ..Call::default() },
        Call { reason: "TOO_LONG".to_owned(), ..Call::default() },
        Call { grant_id: "1".to_owned(), ..Call::default() },
        Call { page_size: 1001, ..Call::default() },
    ] {
        assert_eq!(asked(&postern, bad).expect_err("malformed").code(), tonic::Code::InvalidArgument);
    }
    let table = audit(&net, &postern, &[], Some(&postern.admin));
    let text = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.status.success() && text.starts_with("LINE") && text.contains("alice@example.com"), "{text}");
    assert!(String::from_utf8_lossy(&table.stderr).contains("the chain holds from line 1 to line "));

    let path = &postern.segments()[0];
    let changed = fs::read_to_string(path).expect("the journal").replace("alice@example.com", "mallo@example.com");
    fs::write(path, changed).expect("to change it");
    let found = asked(&postern, Call::default()).expect("what is there");
    assert!(!found.chain_verified && found.damage.starts_with("line 3 does not continue"), "{}", found.damage);
    let told = audit(&net, &postern, &[], None);
    assert_eq!(told.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&told.stderr).contains("line 3 does not continue the one before it"));
}

/// A host where Carol has to approve what Alice asks for, on port 22.
fn with_approvals(net: &Net) -> (Postern, Key, Options) {
    let people = "[[role]]\nname = \"approver\"\nprincipals = [\"carol@example.com\"]\n";
    let rules = [&port(22, "tcp"), "approvals = 1\n", &port(3389, "tcp"), ROLES, people].concat();
    let options = Options { rules, ..Options::without_xdp() };
    let mut postern = Postern::start(&net.server, options.clone());
    postern.stop();
    let carol = Key::new(&postern.file(""), "carol");
    let mut trust = fs::read_to_string(postern.file("allowed_signers")).expect("the trust file");
    let namespaces = format!("{},{}", request::APPROVE, request::READ);
    trust.push_str(&format!("carol@example.com namespaces=\"{namespaces}\" {}\n", carol.public()));
    fs::write(postern.file("allowed_signers"), trust).expect("the trust file");
    postern.launch();
    (postern, carol, options)
}

fn break_glass(postern: &Postern, reason: &str) -> Grant {
    let client = postern.client();
    let wish = BreakGlassRequest {
        ports: vec!["22/tcp".to_owned()],
        source: vec![request::prefix(GRANTED.v4.into())],
        duration: Some(pbjson_types::Duration { seconds: 300, nanos: 0 }),
        reason: reason.to_owned(),
    };
    client.wait(client.host().break_glass(wish)).expect("root may").into_inner().grant.expect("the grant")
}

/// (event, principal, code) of each line, the oldest first.
fn told(entries: &[AuditEntry]) -> Vec<(String, String, String)> {
    entries.iter().map(|e| (e.event.clone(), e.principal.clone(), e.code.clone())).collect()
}

#[test]
fn a_watcher_gets_every_line_and_the_lines_of_a_request_are_found_by_its_grant() {
    let net = Net::pair();
    let (postern, carol, mut options) = with_approvals(&net);
    let client = postern.client();
    let watch = |call: WatchAuditRequest| client.wait(client.host().watch_audit(call)).expect("a watch").into_inner();
    let mut all = watch(WatchAuditRequest::default());
    let mut only = watch(WatchAuditRequest { reason: "revoked".to_owned(), ..WatchAuditRequest::default() });
    let refused = client.wait(client.host().watch_audit(WatchAuditRequest {
        read: Some(request::read(&carol, AUDIENCE)),
        ..WatchAuditRequest::default()
    }));
    assert_eq!(reason(&refused.expect_err("an approver is no auditor")), "NOT_PERMITTED");

    let payload = Access::new(AUDIENCE, &["22/tcp"], &[GRANTED.v4.into()], 600).json();
    let payload = payload.replacen('{', "{\"ticket\":\"CHG-7\",", 1);
    let message = postern.alice.seal(request::REQUEST, payload_type::ACCESS_REQUEST, &payload);
    let waiting = client.request(message).expect("a request that waits");
    client.approve(request::approve(&carol, payload.as_bytes())).expect("the last approval");
    client.revoke(request::revoke(&postern.admin, AUDIENCE, &waiting.id)).expect("its end");
    let glass = break_glass(&postern, "the identity provider is down");
    options.rules = [&port(3389, "tcp"), ROLES].concat();
    postern.configure(&options);
    postern.reload();

    let wanted = [
        ("refused", "carol@example.com", "NOT_PERMITTED"),
        ("requested", ALICE, ""),
        ("approved", "carol@example.com", ""),
        ("granted", ALICE, ""),
        ("ended", ALICE, "revoked"),
        ("break-glass", "root", ""),
        ("ended", "root", "policy-changed"),
        ("policy-loaded", "", ""),
    ]
    .map(|(event, who, code)| (event.to_owned(), who.to_owned(), code.to_owned()));
    let next = |stream: &mut tonic::Streaming<WatchAuditResponse>| {
        let message = client.wait(async { tokio::time::timeout(PATIENCE, stream.message()).await });
        message.expect("a line in time").expect("no end").expect("a line").entry.expect("an entry")
    };
    let watched: Vec<_> = wanted.iter().map(|_| next(&mut all)).collect();
    assert_eq!(told(&watched), wanted);
    let revoked = next(&mut only);
    assert_eq!((&revoked.grant_id, &revoked.code[..]), (&waiting.id, "revoked"));
    let mut listed = asked(&postern, Call { page_size: 8, ..Call::default() }).expect("lines").entries;
    listed.reverse();
    assert_eq!(watched, listed, "as the journal has them");

    let life = |id: &str| {
        let found = asked(&postern, Call { grant_id: id.to_owned(), ..Call::default() }).expect("lines");
        found.entries.iter().rev().map(|entry| entry.event.clone()).collect::<Vec<_>>()
    };
    assert_eq!(life(&waiting.id), ["requested", "approved", "granted", "ended"]);
    assert_eq!(life(&glass.id), ["break-glass", "ended"]);
    let by_carol = Call { principal: "carol@example.com".to_owned(), reason: "revoked".to_owned(), ..Call::default() };
    assert_eq!(
        lines(&asked(&postern, by_carol).expect("lines")),
        [("ended", ALICE, &waiting.id[..])],
        "she approved it"
    );
    let shown = shown(&net, &postern, &["--grant", &glass.id, "--reason", "policy-changed"]);
    assert_eq!(lines(&shown), [("ended", "root", &glass.id[..])], "with postern");

    // Everything about one grant can be read from its lines.
    let line = |event: &str| watched.iter().find(|entry| entry.event == event).expect("a line").line.clone();
    let value = |event: &str| serde_json::from_str::<serde_json::Value>(&line(event)).expect("JSON");
    let (granted, ended) = (value("granted"), value("ended"));
    for field in ["id", "signer", "approvers", "ports", "sources", "created", "expires", "justification", "ticket"] {
        assert!(!granted["grant"][field].is_null(), "{field}: {granted}");
    }
    assert!(granted["grant"]["signer"]["fingerprint"].as_str().is_some_and(|key| key.starts_with("SHA256:")));
    assert_eq!(granted["grant"]["approvers"][0]["principal"], "carol@example.com");
    assert_eq!((&ended["ending"]["by"], &ended["ending"]["cause"]), (&"root@example.com".into(), &"revoked".into()));
    assert!(ended["usage"]["packets_in"].is_u64() && ended["usage"]["bytes_out"].is_u64(), "{ended}");
}

fn report(postern: &Postern, call: GetReportRequest) -> Result<GetReportResponse, tonic::Status> {
    let client = postern.client();
    client.wait(client.host().get_report(call)).map(tonic::Response::into_inner)
}

#[test]
fn a_report_shows_what_was_requested_used_and_left_unused() {
    let net = Net::pair();
    let (postern, carol, _) = with_approvals(&net);
    let rdp = (SERVER.v4, 3389).into();
    let _service = Service::tcp_echo(&net.server, rdp);
    let empty = report(&postern, GetReportRequest::default()).expect("a report");
    let names: Vec<_> = empty.ports.iter().map(|line| (&line.port[..], &line.name[..], line.requests)).collect();
    assert_eq!(names, [("22/tcp", "port-22", 0), ("3389/tcp", "port-3389", 0)]);

    let [v4, v6]: [IpAddr; 2] = GRANTED.both();
    let used = postern.grant(&["3389/tcp"], &[v4], 600).expect("a grant");
    assert!(probe::tcp_answers(&net.client, GRANTED.v4, rdp));
    postern.revoke(&used.id).expect("its end");
    let unused = postern.grant(&["3389/tcp"], &[v6], 600).expect("a grant");
    postern.revoke(&unused.id).expect("its end");
    let live = postern.grant(&["3389/tcp"], &[v6], 600).expect("a grant");
    postern.grant(&["3389/tcp"], &[v4], 24 * 3600).expect_err("too long");
    postern.grant(&["80/tcp"], &[v4], 600).expect_err("not protected");
    let waiting = postern.grant(&["22/tcp"], &[v4], 600).expect("a request that waits");

    let signed = |key| GetReportRequest { read: Some(request::read(key, AUDIENCE)), period: None };
    let found = report(&postern, signed(&carol)).expect("an approver");
    assert!(found.chain_verified, "{}", found.damage);
    let counts = |port: &str| {
        let line = found.ports.iter().find(|line| line.port == port).expect("a line");
        (line.requests, line.granted, line.refused, line.pending, line.live)
    };
    assert_eq!(counts("3389/tcp"), (4, 3, 1, 0, 1));
    assert_eq!(counts("22/tcp"), (1, 0, 0, 1, 0));
    assert_eq!(counts("80/tcp"), (1, 0, 1, 0, 0));
    let line = found.ports.iter().find(|line| line.port == "3389/tcp").expect("a line");
    let last = line.last_access.expect("an access");
    let last = jiff::Timestamp::new(last.seconds, last.nanos).expect("a time");
    let age = jiff::Timestamp::now().duration_since(last);
    assert!(line.last_user == ALICE && age.abs() < jiff::SignedDuration::from_secs(120), "{line:?}");
    let ids: Vec<_> = found.unused.iter().map(|grant| &grant.id[..]).collect();
    assert_eq!(ids, [&unused.id[..]], "not {} nor {} nor {}", used.id, live.id, waiting.id);
    assert!(!found.unused[0].history.is_empty() && found.unused[0].ended.is_some());

    let refused = report(&postern, signed(&postern.alice)).expect_err("a requester");
    assert_eq!(reason(&refused), "NOT_PERMITTED");
    for (seconds, nanos) in [(0, 0), (-1, 0), (400 * 24 * 3600, 0), (i64::MAX, 999_999_999)] {
        let period = Some(pbjson_types::Duration { seconds, nanos });
        let refused = report(&postern, GetReportRequest { read: None, period }).expect_err("no period");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
    let path = &postern.segments()[0];
    let changed = fs::read_to_string(path).expect("the journal").replace("\"a test\"", "\"a tset\"");
    fs::write(path, changed).expect("to change it");
    assert!(!report(&postern, GetReportRequest::default()).expect("what is there").chain_verified);
}
