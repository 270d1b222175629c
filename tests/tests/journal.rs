//! What becomes of the host when its journal is damaged between two starts: it is closed, says so, and lets people in again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use postern_proto::v1::{Grant, ListAuditRequest};
use postern_tests::client::reason;
use postern_tests::net::{GRANTED, Net, SERVER};
use postern_tests::postern::{AUDIENCE, Options, Postern, program};
use postern_tests::probe::{self, Outcome};
use postern_tests::request::Access;
use postern_tests::service::Service;
use postern_tests::until;

fn access() -> Access {
    Access::new(AUDIENCE, &["22/tcp"], &[GRANTED.v4.into()], 600)
}

/// Asks for access with a challenge of the host, as the clients do.
fn with_challenge(postern: &Postern) -> Result<Grant, tonic::Status> {
    let client = postern.client();
    let mut access = access();
    access.challenge = client.who_am_i().expect("who it is").challenge;
    client.request(access.seal(&postern.alice))
}

/// Every file below a directory, with its bytes.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("its name"));
    let read = |entry: fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("a file"))
    };
    entries.map(read).collect()
}

fn set_aside(postern: &Postern) -> Vec<PathBuf> {
    let entries = fs::read_dir(postern.file("state")).expect("the state").map(|entry| entry.expect("its name").path());
    let is_aside = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().contains(".damaged-"));
    let mut found: Vec<_> = entries.filter(is_aside).collect();
    found.sort();
    found
}

fn events(postern: &Postern) -> Vec<String> {
    let lines = postern.journal();
    let event = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON")["event"].clone();
    lines.lines().map(|line| event(line).as_str().expect("an event").to_owned()).collect()
}

/// Changes the journal in one way and says which line is the first that is not as it should be.
type Damage = fn(&Path, &mut Vec<u8>) -> u64;

const DAMAGES: [(&str, Damage); 4] = [
    ("a flipped bit in the first line", |_, text| {
        let at = text.windows(8).position(|window| window == b"started\"").expect("the start");
        text[at] ^= 1;
        1
    }),
    ("a line that is gone from the middle", |_, text| {
        let ends: Vec<_> = text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
        text.drain(ends[0]..ends[1]);
        2
    }),
    ("lines cut off the end", |_, text| {
        let ends: Vec<_> = text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
        text.truncate(ends[1]);
        3
    }),
    ("another head", |head, _| {
        fs::write(head, "no head").expect("to write it");
        1
    }),
];

#[test]
fn a_damaged_journal_is_set_aside_and_a_challenge_still_gets_in() {
    let net = Net::pair();
    let ssh = (SERVER.v4, 22).into();
    let _service = Service::tcp_echo(&net.server, ssh);
    for (name, damage) in DAMAGES {
        let mut postern = Postern::start(&net.server, Options::default());
        let client = postern.client();
        let used = access().seal(&postern.alice);
        client.request(used.clone()).expect("a grant");
        postern.grant(&["3389/tcp"], &[GRANTED.v4.into()], 600).expect("another grant");
        // A session that is there when the new journal begins is no reason to let its source in: the port was closed before.
        let _session = probe::connect(&net.client, GRANTED.v4, ssh).expect("a session");
        postern.kill();
        let (segment, dir) = (postern.segments().remove(0), postern.file("state/journal"));
        let mut text = fs::read(&segment).expect("the journal");
        let line = damage(&dir.join("head"), &mut text);
        fs::write(&segment, text).expect("to damage it");
        let evidence = contents(&dir);

        postern.launch();
        assert_ne!(probe::tcp(&net.client, GRANTED.v4, ssh), Outcome::Answered, "{name}: no grant is live");
        let aside = set_aside(&postern);
        assert_eq!(aside.len(), 1, "{name}");
        assert_eq!(contents(&aside[0]), evidence, "{name}: it is as it was found");
        let client = postern.client();
        let found = client.wait(client.host().list_audit(ListAuditRequest::default())).expect("lines").into_inner();
        let first = found.entries.last().expect("a first line");
        assert_eq!((&first.event[..], first.seq, found.chain_verified), ("set-aside", 1, true), "{name}");
        let wanted = format!("{}: line {line} ", aside[0].display());
        assert!(first.reason.starts_with(&wanted), "{name}: {} and not {wanted}", first.reason);

        assert!(!client.who_am_i().expect("who it is").clock_trusted, "clients add a challenge then");
        for message in [used, access().seal(&postern.alice)] {
            let refused = client.request(message).expect_err("whether it was used nobody knows");
            assert_eq!(reason(&refused), "CLOCK_UNTRUSTED", "{name}");
        }
        assert_ne!(probe::tcp(&net.client, GRANTED.v4, ssh), Outcome::Answered, "{name}");
        with_challenge(&postern).expect("a grant at once");
        assert!(probe::tcp_answers(&net.client, GRANTED.v4, ssh), "{name}");

        // It is on record, so the next start knows it too.
        postern.kill();
        postern.launch();
        assert!(probe::tcp_answers(&net.client, GRANTED.v4, ssh), "{name}: the new grant is kept");
        let refused = postern.client().request(access().seal(&postern.alice)).expect_err("still unknown");
        assert_eq!(reason(&refused), "CLOCK_UNTRUSTED", "{name}");
        let degraded = || postern.client().details().expect("its state").join("\n");
        assert!(degraded().contains(&aside[0].display().to_string()), "{name}: {}", degraded());
        assert_eq!(contents(&aside[0]), evidence, "{name}: it is as it was found");
        fs::rename(&aside[0], postern.file("evidence")).expect("to do what was said");
        assert!(!degraded().contains("damaged"), "{name}: {}", degraded());
    }
}

#[test]
fn an_interrupted_set_aside_is_finished_by_the_next_start() {
    let net = Net::pair();
    let mut postern = Postern::start(&net.server, Options::without_xdp());
    postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
    postern.kill();
    fs::rename(postern.file("state/journal"), postern.file("state/journal.damaged-20261121T000000Z"))
        .expect("to move it");
    postern.launch();
    assert_eq!(events(&postern), ["set-aside", "started"]);
    assert_eq!(
        reason(&postern.client().request(access().seal(&postern.alice)).expect_err("unknown")),
        "CLOCK_UNTRUSTED"
    );
    with_challenge(&postern).expect("a grant");
}

#[test]
fn a_damaged_journal_does_not_keep_root_from_opening_the_ports_by_hand() {
    let net = Net::pair();
    let ssh = (SERVER.v4, 22).into();
    let _service = Service::tcp_echo(&net.server, ssh);
    let mut postern = Postern::start(&net.server, Options::without_xdp());
    postern.kill();
    fs::write(postern.file("state/journal/head"), "no head").expect("to damage it");
    let unlocked = net.server.command(program()).args(["unlock", "--config"]).arg(postern.config()).output();
    let unlocked = unlocked.expect("posternd unlock");
    assert!(unlocked.status.success(), "{}", String::from_utf8_lossy(&unlocked.stderr));
    assert!(probe::tcp_answers(&net.client, GRANTED.v4, ssh));
    assert_eq!((events(&postern), set_aside(&postern).len()), (vec!["set-aside".to_owned(), "unlocked".to_owned()], 1));
    postern.launch();
    assert_ne!(probe::tcp(&net.client, GRANTED.v4, ssh), Outcome::Answered);
    assert_eq!(
        reason(&postern.client().request(access().seal(&postern.alice)).expect_err("unknown")),
        "CLOCK_UNTRUSTED"
    );
}

/// What happened long ago, in another boot, as posternd's own journal writes it.
fn history(state: &Path, lines: u64) {
    use postern_core::ledger::{Event, Record};
    use postern_core::time::BootNanos;
    let settings = postern_agent::journal::Settings { segment_bytes: 4096, ..Default::default() };
    let mut journal = postern_agent::journal::Journal::open(state, settings).expect("a journal").journal;
    let nobody = || "00000000-0000-4000-8000-000000000000".parse().expect("an id");
    for seq in 1..=lines {
        let event = Event::Layer { name: "lock".into(), state: "in force".into() };
        let time = jiff::Timestamp::UNIX_EPOCH;
        journal
            .append(&[Record { seq, time, boot: BootNanos(0), boot_id: nobody(), message: None, event }])
            .expect("a line");
    }
}

#[test]
fn old_segments_go_and_the_chain_and_the_next_start_hold_without_them() {
    let net = Net::pair();
    let rules = format!("[journal]\nsegment_bytes = 4096\nkeep_days = 30\n{}", Options::default().rules);
    let mut postern = Postern::start(&net.server, Options { rules, ..Options::without_xdp() });
    postern.kill();
    fs::remove_dir_all(postern.file("state/journal")).expect("to begin anew");
    history(&postern.file("state"), 200);
    let before = postern.segments();
    assert!(before.len() > 5);
    postern.launch();
    let granted = postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant").id;
    until("the old segments are gone", || {
        // posternd looks for old segments at each decision.
        let _ = postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 24 * 3600);
        !postern.segments().contains(&before[before.len() - 2])
    });
    let audit = |postern: &Postern| {
        let client = postern.client();
        client
            .wait(client.host().list_audit(ListAuditRequest { page_size: 1000, ..Default::default() }))
            .expect("lines")
            .into_inner()
    };
    let found = audit(&postern);
    assert!(found.chain_verified && found.first_sequence > 1, "{}", found.damage);
    assert_eq!(found.entries.last().map(|entry| entry.seq), Some(found.first_sequence));
    assert!(found.entries.iter().any(|entry| entry.event == "pruned"));
    // After a crash everything is read from what is left, after a stop the snapshot is.
    postern.kill();
    postern.launch();
    assert_eq!(
        postern.client().grants().expect("grants").into_iter().map(|grant| grant.id).collect::<Vec<_>>(),
        [&granted[..]]
    );
    assert!(postern.stop().success());
    let snapshots = fs::read_dir(postern.file("state/journal")).expect("the journal");
    let names = snapshots.map(|entry| entry.expect("its name").file_name().to_string_lossy().into_owned());
    assert!(names.into_iter().any(|name| name.ends_with(".snapshot")));
    postern.launch();
    assert_eq!(
        postern.client().grants().expect("grants").into_iter().map(|grant| grant.id).collect::<Vec<_>>(),
        [&granted[..]]
    );
    assert!(audit(&postern).chain_verified);

    // A line before the snapshot: what is open stays right, and somebody is told.
    assert!(postern.stop().success());
    let oldest = postern.segments().remove(0);
    let changed = fs::read_to_string(&oldest).expect("a segment").replacen("in force", "in farce", 1);
    fs::write(&oldest, changed).expect("to change it");
    postern.launch();
    let degraded = || postern.client().details().expect("its state").join("\n");
    until("the change is a condition", || degraded().contains("the journal was changed or damaged: line "));
    assert_eq!(postern.client().grants().expect("grants").len(), 1);
    assert!(set_aside(&postern).is_empty());
}
