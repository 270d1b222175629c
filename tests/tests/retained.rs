//! Sessions that outlive their grant, and those that were there before Postern: real ssh, a real posternd that is killed in between.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_proto::v1::{Grant, GrantState, ListAuditRequest};
use postern_tests::client::reason;
use postern_tests::clock::boot_ns;
use postern_tests::net::{GRANTED, NEIGHBOUR, Net, SERVER};
use postern_tests::postern::{AUDIENCE, Options, Postern, ROLES, port};
use postern_tests::probe::{self, Outcome};
use postern_tests::request;
use postern_tests::ssh::{Session, Sshd};
use postern_tests::{PATIENCE, until};

const SECOND: u64 = 1_000_000_000;
/// How long grants live here: a login and a look before the end fit in.
const LIFE: u64 = 8;

struct Lab {
    postern: Postern,
    sshd: Sshd,
    net: Net,
}

impl Lab {
    fn new(on_expiry: &str) -> Self {
        let net = Net::pair();
        let postern = Postern::start(&net.server, options(on_expiry));
        Self { sshd: Sshd::start(&net.server), postern, net }
    }

    /// An ssh session under a grant of [`LIFE`] seconds, and when that ends.
    fn session(&self) -> (Session, Grant, u64) {
        let grant = self.postern.grant(&["22/tcp"], &GRANTED.both(), LIFE).expect("a grant");
        let session = self.ssh(GRANTED.both()[0]);
        let record = self.record(|r| r["grant"]["id"] == grant.id.as_str());
        let end = record["grant"]["expires_boot"].as_u64().expect("an end");
        (session, grant, end)
    }

    fn ssh(&self, from: IpAddr) -> Session {
        let session = self.sshd.session(&self.net.client, from, SERVER.like(from));
        assert!(session.ticks(PATIENCE), "{}", session.errors());
        session
    }

    fn record(&self, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let journal = self.postern.journal();
        let records = journal.lines().map(|line| serde_json::from_str(line).expect("JSON"));
        records.into_iter().find(wanted).expect("the record")
    }

    fn lines(&self, kind: &str) -> usize {
        let read = ListAuditRequest { events: vec![kind.to_owned()], ..Default::default() };
        let client = self.postern.client();
        client.wait(client.host().list_audit(read)).expect("the journal").into_inner().entries.len()
    }

    fn is_open(&self, from: IpAddr) -> bool {
        probe::tcp(&self.net.client, from, SocketAddr::new(SERVER.like(from), 22)) == Outcome::Answered
    }

    fn state(&self, id: &str) -> GrantState {
        self.postern.client().get(id).expect("the grant").grant.expect("the grant").state()
    }

    fn until_kept(&self) {
        until("sessions are kept", || self.lines("sessions-kept") > 0);
    }
}

fn options(on_expiry: &str) -> Options {
    let rule = port(22, "tcp").replace("\"cut\"", &format!("{on_expiry:?}"));
    Options { rules: [&rule, ROLES].concat(), ..Options::default() }
}

/// Reads along until `boot`: the session has to talk all the time.
fn talks_until(session: &Session, boot: u64) {
    while boot_ns() < boot {
        assert!(session.ticks(PATIENCE), "it fell silent {} ms before: {}", ms(boot), session.errors());
    }
}

fn ms(boot: u64) -> u64 {
    boot.saturating_sub(boot_ns()) / 1_000_000
}

/// Reads along until nothing comes any more, and says when that was, on the boot clock.
fn falls_silent(session: &Session) -> u64 {
    let mut last = boot_ns();
    while session.ticks(Duration::from_millis(1500)) {
        last = boot_ns();
    }
    last
}

#[test]
fn a_drained_session_outlives_its_grant_and_ends_at_its_own_time() {
    let lab = Lab::new("drain 8s");
    let (mut session, grant, end) = lab.session();
    let mut late = None;
    talks_until(&session, end - SECOND);
    // The second look before the end finds it.
    if boot_ns() < end - SECOND / 2 {
        late = Some(lab.ssh(GRANTED.both()[1]));
    }
    talks_until(&session, end + SECOND);
    until("the end is told", || lab.state(&grant.id) == GrantState::Expired);
    assert!(!GRANTED.both().into_iter().any(|from| lab.is_open(from)), "nothing new gets in");
    talks_until(&session, end + 6 * SECOND);
    let last = falls_silent(&session);
    assert!(last < end + 9 * SECOND, "{} ms too long", (last - end) / 1_000_000 - 8000);
    assert_eq!(session.wait().code(), Some(255), "its socket is destroyed: {}", session.errors());
    drop(late);
    assert_eq!(lab.postern.client().details().expect("the status"), Vec::<String>::new());
}

#[test]
fn a_kept_session_goes_on_across_restarts_until_it_is_revoked() {
    let mut lab = Lab::new("keep");
    let (mut session, grant, end) = lab.session();
    let mut stranger = lab.sshd.session(&lab.net.client, NEIGHBOUR.both()[0], SERVER.both()[0]);
    assert_ne!(stranger.wait().code(), Some(0), "no grant");
    talks_until(&session, end + SECOND);
    until("the end is told", || lab.state(&grant.id) == GrantState::Expired);
    lab.postern.kill();
    talks_until(&session, boot_ns() + SECOND);
    lab.postern.launch();
    assert_eq!(lab.postern.stop().code(), Some(0));
    lab.postern.launch();
    talks_until(&session, boot_ns() + SECOND);
    lab.postern.reload();
    until("the reload", || lab.lines("policy-loaded") == 1);
    talks_until(&session, boot_ns() + SECOND);
    assert!(!lab.is_open(GRANTED.both()[0]));
    let message = || request::revoke(&lab.postern.admin, AUDIENCE, &grant.id);
    let after = lab.postern.client().revoke(message()).expect("to revoke");
    assert_eq!(after.state(), GrantState::Expired, "{:?}", after.history);
    let step = after.history.last().expect("a step");
    assert!(step.by == "root@example.com" && step.reason.contains("outlived"), "{step:?}");
    assert_eq!(session.wait().code(), Some(255), "{}", session.errors());
    let again = lab.postern.client().revoke(message()).map_err(|status| reason(&status));
    assert_eq!(again.map(|grant| grant.id), Err("GRANT_ENDED".to_owned()));
    let ended = ListAuditRequest { events: vec!["sessions-cut".to_owned()], ..Default::default() };
    let client = lab.postern.client();
    let entry = client.wait(client.host().list_audit(ended)).expect("the journal").into_inner().entries.remove(0);
    assert_eq!((entry.principal.as_str(), entry.grant_id), ("alice@example.com", grant.id));
    assert_eq!(lab.lines("granted"), 1, "no bootstrap at any start");
}

#[test]
fn retained_sessions_end_when_their_signer_is_removed() {
    let mut lab = Lab::new("keep");
    let (mut session, grant, end) = lab.session();
    talks_until(&session, end + SECOND);
    let file = lab.postern.file("allowed_signers");
    let trust = std::fs::read_to_string(&file).expect("the trust file");
    let others: String = trust.lines().filter(|line| !line.contains("alice")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&file, others).expect("the trust file");
    // While nobody was there to be told.
    lab.postern.kill();
    lab.postern.launch();
    assert_eq!(session.wait().code(), Some(255), "{}", session.errors());
    assert_eq!((lab.state(&grant.id), lab.lines("sessions-cut")), (GrantState::Expired, 1));
}

#[test]
fn without_the_agent_a_session_ends_with_its_grant_and_a_kept_one_at_its_time() {
    let mut lab = Lab::new("drain 5s");
    let (session, _, end) = lab.session();
    lab.postern.kill();
    assert!(boot_ns() < end - 3 * SECOND, "too slow: the agent may have looked already");
    let last = falls_silent(&session);
    assert!(last < end + SECOND, "fail closed: {} ms after the end", last.saturating_sub(end) / 1_000_000);
    lab.postern.launch();
    assert_eq!(lab.lines("sessions-kept"), 0);

    let (mut session, _, end) = lab.session();
    lab.until_kept();
    lab.postern.kill();
    talks_until(&session, end + 3 * SECOND);
    assert!(!lab.is_open(GRANTED.both()[0]) || boot_ns() < end);
    let last = falls_silent(&session);
    assert!(last < end + 6 * SECOND, "{} ms after the drain's end", last.saturating_sub(end + 5 * SECOND) / 1_000_000);
    // The next start finds the silent socket and tells both ends.
    lab.postern.launch();
    assert_eq!(session.wait().code(), Some(255), "{}", session.errors());
}

#[test]
fn existing_sessions_go_on_when_a_port_becomes_protected() {
    let net = Net::pair();
    let sshd = Sshd::start(&net.server);
    let [v4, v6] = GRANTED.both();
    let [first, second] = [v4, v6].map(|from| sshd.session(&net.client, from, SERVER.like(from)));
    assert!(first.ticks(PATIENCE) && second.ticks(PATIENCE), "{}", first.errors());
    let postern = Postern::start(&net.server, options("cut"));
    let mut lab = Lab { postern, sshd, net };
    let grants = lab.postern.client().grants().expect("the grants");
    let [bootstrap] = &grants[..] else { panic!("one grant: {grants:?}") };
    assert_eq!((bootstrap.principal.as_str(), bootstrap.state()), ("bootstrap", GrantState::Active));
    assert_eq!(bootstrap.source.len(), 2, "{bootstrap:?}");
    let goes_on = |lab: &Lab, when: &str| {
        for session in [&first, &second] {
            talks_until(session, boot_ns() + SECOND / 2);
        }
        assert!([v4, v6].into_iter().all(|from| lab.is_open(from)), "{when}: a new connection from where one is");
        assert!(
            !NEIGHBOUR.both().into_iter().any(|from| lab.is_open(from)),
            "{when}: a source without a grant gets in"
        );
    };
    goes_on(&lab, "the first start");
    // New rules spare it, and another start is no beginning.
    lab.postern.reload();
    until("the reload", || lab.lines("policy-loaded") == 1);
    goes_on(&lab, "a reload");
    lab.postern.kill();
    goes_on(&lab, "no agent");
    lab.postern.launch();
    goes_on(&lab, "the second start");
    assert_eq!(lab.lines("granted"), 1);

    // A reload that protects another port meets its sessions too, and nobody else's.
    let echo = postern_tests::service::Service::tcp_echo(&lab.net.server, "[::]:3389".parse().expect("an address"));
    let to = SocketAddr::new(SERVER.v4.into(), 3389);
    let there = probe::connect(&lab.net.client, NEIGHBOUR.v4, to).expect("an open port");
    let rules = [options("cut").rules, port(3389, "any")].concat();
    lab.postern.configure(&Options { rules, ..Options::default() });
    lab.postern.reload();
    until("the reload", || lab.lines("policy-loaded") == 2);
    let open = |from| probe::tcp(&lab.net.client, from, to) == Outcome::Answered;
    assert_eq!((lab.lines("granted"), open(NEIGHBOUR.v4), open(GRANTED.v4)), (2, true, false));
    drop((there, echo));

    // Revoked, it is over for the sessions that it kept as well.
    lab.postern.client().revoke(request::revoke(&lab.postern.admin, AUDIENCE, &bootstrap.id)).expect("to revoke");
    for mut session in [first, second] {
        assert_eq!(session.wait().code(), Some(255), "{}", session.errors());
    }
    assert!(![v4, v6].into_iter().any(|from| lab.is_open(from)));
}
