//! The journal as an auditor meets it: nothing can be taken out of it unnoticed.

use std::fs;
use std::process::Output;

use postern_tests::net::{GRANTED, Net, SERVER};
use postern_tests::postern::{Options, Postern, program};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;

/// Starts posternd where it must not come up, and waits for its end.
fn refused_start(net: &Net, postern: &Postern) -> Output {
    let mut command = net.server.command("timeout");
    command.arg("20").arg(program()).args(["run", "--config"]).arg(postern.config());
    command.output().expect("timeout and posternd")
}

#[test]
fn a_journal_that_lost_its_end_keeps_the_host_closed_and_says_what_to_do() {
    let net = Net::pair();
    let ssh = (SERVER.v4, 22).into();
    let _service = Service::tcp_echo(&net.server, ssh);
    let mut postern = Postern::start(&net.server, Options::default());
    postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
    assert!(probe::tcp_answers(&net.client, GRANTED.v4, ssh));
    postern.kill();
    let path = postern.file("state/journal.jsonl");
    let whole = fs::read_to_string(&path).expect("the journal");
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    fs::write(&path, lines[..lines.len() - 1].concat()).expect("to cut its last line off");

    let refused = refused_start(&net, &postern);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    let wanted = format!("line {} is missing, though journal.head names line {0} as the last", lines.len());
    assert!(said.contains(&wanted) && said.contains("move both aside and start again"), "{said}");
    assert_ne!(probe::tcp(&net.client, GRANTED.v4, ssh), Outcome::Answered, "a grant without a record opens nothing");

    for name in ["journal.jsonl", "journal.head"] {
        let from = postern.file(&format!("state/{name}"));
        fs::rename(from, postern.file(name)).expect("to do what was said");
    }
    postern.launch();
    assert_ne!(probe::tcp(&net.client, GRANTED.v4, ssh), Outcome::Answered, "the grant is lost, as was said");
    postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
    assert!(probe::tcp_answers(&net.client, GRANTED.v4, ssh));
}
