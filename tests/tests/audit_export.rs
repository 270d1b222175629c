//! The journal's lines on their way to journald: a real datagram socket stands where posternd looks for it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;

use postern_tests::net::{GRANTED, Net};
use postern_tests::postern::{ALICE, Options, Postern, program};
use postern_tests::{PATIENCE, until};
use tempfile::TempDir;

/// One record, by field.
type Record = BTreeMap<String, String>;

fn listen(folder: &Path) -> UnixDatagram {
    let path = folder.join("journal/socket");
    let _ = fs::remove_file(&path);
    let socket = UnixDatagram::bind(&path).expect("the socket");
    // As journald's own.
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("a mode");
    socket.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    socket
}

/// A record in journald's native protocol: `NAME=value`, or `NAME`, its length in 8 bytes and the value.
fn record(mut bytes: &[u8]) -> Record {
    let mut fields = Record::new();
    while !bytes.is_empty() {
        let end = bytes.iter().position(|byte| *byte == b'\n').expect("a line end");
        let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
        let (name, value) = match line.iter().position(|byte| *byte == b'=') {
            Some(equals) => {
                bytes = rest;
                (text(&line[..equals]), text(&line[equals + 1..]))
            }
            None => {
                let length = u64::from_le_bytes(rest[..8].try_into().expect("a length")) as usize;
                assert_eq!(rest[8 + length], b'\n');
                bytes = &rest[9 + length..];
                (text(line), text(&rest[8..8 + length]))
            }
        };
        assert!(fields.insert(name, value).is_none(), "each field once");
    }
    fields
}

/// The next record of this kind.
fn next(socket: &UnixDatagram, event: &str) -> Record {
    let mut buffer = vec![0; 1 << 17];
    loop {
        let length = socket.recv(&mut buffer).unwrap_or_else(|error| panic!("no {event}: {error}"));
        let record = record(&buffer[..length]);
        if record["POSTERN_EVENT"] == event {
            return record;
        }
    }
}

#[test]
fn journald_gets_each_line_with_its_fields_and_one_that_is_gone_delays_nothing() {
    let net = Net::pair();
    let folder = TempDir::new().expect("a folder");
    fs::create_dir(folder.path().join("journal")).expect("a folder");
    let socket = listen(folder.path());
    let options = Options { run_systemd: Some(folder.path().to_owned()), ..Options::without_xdp() };
    let mut postern = Postern::start(&net.server, options);
    assert_eq!(next(&socket, "started")["PRIORITY"], "6");
    let grant = postern.grant(&["22/tcp", "22/udp"], &[GRANTED.v4.into()], 600).expect("a grant");
    let granted = next(&socket, "granted");
    let field = |name: &str| granted.get(name).map_or("", |value| &value[..]);
    assert_eq!((field("POSTERN_PRINCIPAL"), field("POSTERN_GRANT_ID")), (ALICE, &grant.id[..]));
    let source = format!("{}/32", GRANTED.v4);
    assert_eq!((field("POSTERN_PORTS"), field("POSTERN_SOURCE")), ("22/tcp 22/udp", &source[..]));
    assert!(field("POSTERN_KEY").starts_with("SHA256:") && field("MESSAGE").contains("a test"), "{granted:?}");
    assert_eq!((field("SYSLOG_IDENTIFIER"), field("POSTERN_REASON")), ("posternd", ""));
    let journal = postern_tests::client::Client::unix(&postern.socket()).expect("root");
    let lines = journal
        .wait(journal.host().list_audit(postern_proto::v1::ListAuditRequest::default()))
        .expect("lines")
        .into_inner()
        .entries;
    let line = lines.iter().find(|line| line.event == "granted").expect("the line");
    assert_eq!((field("POSTERN_LINE"), field("POSTERN_SEQ")), (&line.line[..], &line.seq.to_string()[..]));
    postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 24 * 3600).expect_err("too long");
    let refused = next(&socket, "refused");
    assert_eq!((&refused["POSTERN_REASON"][..], &refused["PRIORITY"][..]), ("DURATION_TOO_LONG", "5"));

    // journald goes away: people get what they ask for, and the host says what is missing where.
    drop(socket);
    let degraded = || postern.client().details().expect("the status").join("; ");
    assert_eq!(degraded(), "");
    postern.revoke(&grant.id).expect("its end");
    until("the missing line is a condition", || degraded().contains("1 lines of the journal did not reach journald"));
    let socket = listen(folder.path());
    postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
    assert!(next(&socket, "granted")["POSTERN_SEQ"].parse::<u64>().expect("a number") > line.seq + 2);
    assert!(next(&socket, "export-gap")["MESSAGE"].starts_with("1 lines"));
    until("no condition is left", || degraded().is_empty());
    assert!(postern.stop().success());
    assert!(next(&socket, "stopped")["POSTERN_LINE"].contains("\"prev\""), "the last line too");
}

#[test]
fn the_lines_are_exported_from_the_disk_and_none_of_a_changed_journal() {
    let net = Net::pair();
    let mut postern = Postern::start(&net.server, Options::without_xdp());
    postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
    let config = postern.config();
    let export = |since: Option<&str>| {
        let mut command = net.server.command(program());
        command.args(["audit", "export", "--config"]).arg(&config);
        if let Some(since) = since {
            command.args(["--since", since]);
        }
        let output = command.output().expect("posternd");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (code, lines, said) = export(None);
    assert_eq!((code, &lines), (Some(0), &postern.journal()), "beside the agent: {said}");
    let last = lines.lines().last().expect("a line");
    let time =
        serde_json::from_str::<serde_json::Value>(last).expect("JSON")["time"].as_str().expect("a time").to_owned();
    assert_eq!(export(Some(&time)).1, format!("{last}\n"), "from the last line on");
    assert_eq!(export(Some("2200-01-01T00:00:00Z")), (Some(0), String::new(), String::new()));
    assert_eq!(export(Some("yesterday")).0, Some(2), "wrong usage");
    postern.kill();
    let torn = &postern.segments()[0];
    fs::write(torn, format!("{lines}{{\"torn")).expect("a crash in the middle of a line");
    let (code, whole, said) = export(None);
    assert_eq!((code, whole), (Some(0), lines.clone()), "without an agent: {said}");
    fs::write(torn, lines.replacen("alice@example.com", "mallo@example.com", 1)).expect("to change it");
    let (code, shown, said) = export(None);
    assert_eq!((code, &shown[..]), (Some(1), ""));
    assert!(said.contains("line 2 ") && said.contains("changed or damaged"), "{said}");
}
