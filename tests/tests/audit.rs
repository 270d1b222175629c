//! The journal as an auditor meets it: what happened can be found, and nothing can be taken out of it unnoticed.

use std::fs;
use std::net::IpAddr;
use std::process::{Output, Stdio};

use postern_proto::v1::{ListAuditRequest, ListAuditResponse};
use postern_tests::client::reason;
use postern_tests::keys::Key;

use postern_tests::net::{GRANTED, Net};
use postern_tests::postern::{AUDIENCE, Options, Postern, program};
use postern_tests::request;

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
    let postern = Postern::start(&net.server, Options::without_shed());
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
        (port("22/tcp"), ["--port", "ssh"], vec![ended, refused, granted]),
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
fn only_an_admin_reads_the_journal_and_a_changed_one_is_told_of() {
    let net = Net::pair();
    let mut options = Options::without_shed();
    options.rules.push_str("[[role]]\nname = \"viewer\"\nprincipals = [\"alice@example.com\"]\n");
    let postern = Postern::start(&net.server, options);
    postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
    let signed = |key| Call { read: Some(request::read(key, AUDIENCE)), ..Call::default() };
    let refused = asked(&postern, signed(&postern.alice)).expect_err("a requester and viewer");
    assert_eq!((refused.code(), &reason(&refused)[..]), (tonic::Code::PermissionDenied, "NOT_PERMITTED"));
    assert_eq!(audit(&net, &postern, &[], Some(&postern.alice)).status.code(), Some(1));
    assert_eq!(asked(&postern, signed(&postern.admin)).expect("an admin").entries.len(), 2);
    for bad in [
        Call { port: "22".to_owned(), ..Call::default() },
        Call { events: vec!["opened".to_owned()], ..Call::default() },
        Call { page_size: 1001, ..Call::default() },
    ] {
        assert_eq!(asked(&postern, bad).expect_err("malformed").code(), tonic::Code::InvalidArgument);
    }
    let table = audit(&net, &postern, &[], Some(&postern.admin));
    let text = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.status.success() && text.starts_with("LINE") && text.contains("alice@example.com"), "{text}");
    assert!(String::from_utf8_lossy(&table.stderr).contains("the chain holds from line 1 to line 2"));

    let path = &postern.segments()[0];
    let changed = fs::read_to_string(path).expect("the journal").replace("alice@example.com", "mallo@example.com");
    fs::write(path, changed).expect("to change it");
    let found = asked(&postern, Call::default()).expect("what is there");
    assert!(!found.chain_verified && found.damage.starts_with("line 2 "), "{}", found.damage);
    let told = audit(&net, &postern, &[], None);
    assert_eq!(told.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&told.stderr).contains("line 2 is not the one that was written"));
}
