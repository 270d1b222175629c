//! The life of a request on the real kernel: it waits, it is planned, it is extended, it idles; the agent is killed in between.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_proto::v1::{BreakGlassRequest, EndWarning, Grant, GrantState, WatchGrantsRequest, WatchGrantsResponse};
use postern_tests::client::{Client, reason};
use postern_tests::keys::Key;
use postern_tests::net::{GRANTED, NEIGHBOUR, Net, SERVER};
use postern_tests::postern::{AUDIENCE, Options, Postern, ROLES, port};
use postern_tests::probe::{self, Outcome};
use postern_tests::request::{self, Access, seconds_from_now};
use postern_tests::service::Service;
use postern_tests::{PATIENCE, until};
use tonic::Streaming;

/// A host with port 22 behind a rule, a requester, two approvers, and a client without a grant.
struct Lab {
    postern: Postern,
    carol: Key,
    dan: Key,
    _service: Service,
    net: Net,
}

fn approvers() -> String {
    let people = "[\"carol@example.com\", \"dan@example.com\", \"alice@example.com\"]";
    format!("[[role]]\nname = \"approver\"\nprincipals = {people}\n")
}

impl Lab {
    /// `rule` is added to port 22, `extra` to the top of the configuration.
    fn new(rule: &str, extra: &str) -> Self {
        let net = Net::pair();
        let rules = [&port(22, "tcp"), rule, ROLES, &approvers()].concat();
        let options = Options { rules, extra: extra.to_owned(), ..Options::without_xdp() };
        let postern = Postern::start(&net.server, options);
        let (carol, dan) = (Key::new(&postern.file(""), "carol"), Key::new(&postern.file(""), "dan"));
        let lab = Self {
            _service: Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address")),
            postern,
            carol,
            dan,
            net,
        };
        lab.trust(&[("carol", &lab.carol), ("dan", &lab.dan), ("alice", &lab.postern.alice)]);
        lab
    }

    /// Has these approve from now on.
    fn trust(&self, people: &[(&str, &Key)]) {
        let file = self.postern.file("allowed_signers");
        let before = std::fs::read_to_string(&file).expect("the trust file");
        let kept = before.lines().filter(|line| !line.contains(request::APPROVE)).map(|line| format!("{line}\n"));
        let line = |(who, key): &(&str, &Key)| {
            format!("{who}@example.com namespaces=\"{}\" {}\n", request::APPROVE, key.public())
        };
        let text: String = kept.chain(people.iter().map(line)).collect();
        std::fs::write(&file, text).expect("the trust file");
        let digest = || self.postern.client().policy().expect("the policy").digest;
        let old = digest();
        self.postern.reload();
        until("the reload", || digest() != old);
    }

    fn access(&self, seconds: u64) -> Access {
        Access::new(AUDIENCE, &["22/tcp"], &GRANTED.both(), seconds)
    }

    fn ask(&self, access: &Access) -> Result<Grant, String> {
        self.postern.client().request(access.seal(&self.postern.alice)).map_err(|status| reason(&status))
    }

    fn approve(&self, key: &Key, access: &Access) -> Result<Grant, String> {
        let message = request::approve(key, access.json().as_bytes());
        self.postern.client().approve(message).map_err(|status| reason(&status))
    }

    fn state(&self, id: &str) -> GrantState {
        self.postern.client().get(id).expect("the grant").grant.expect("the grant").state()
    }

    fn is_open(&self, source: IpAddr) -> bool {
        probe::tcp(&self.net.client, source, SocketAddr::new(SERVER.like(source), 22)) == Outcome::Answered
    }

    fn is_open_for_both(&self) -> [bool; 2] {
        GRANTED.both().map(|source| self.is_open(source))
    }

    fn journal_lines(&self, kind: &str) -> usize {
        let read = postern_proto::v1::ListAuditRequest { events: vec![kind.to_owned()], ..Default::default() };
        let client = self.postern.client();
        client.wait(client.host().list_audit(read)).expect("the journal").into_inner().entries.len()
    }
}

#[test]
fn approvals_come_one_by_one_and_survive_a_kill() {
    let mut lab = Lab::new("approvals = 2\n", "");
    let access = lab.access(600);
    let waiting = lab.ask(&access).expect("a request that waits");
    assert_eq!((waiting.state(), waiting.approvals_missing), (GrantState::Pending, 2));
    assert_eq!(lab.approve(&lab.postern.alice, &access), Err("SELF_APPROVAL".to_owned()));
    let mut changed = access.clone();
    changed.duration = "601s".to_owned();
    assert_eq!(lab.approve(&lab.carol, &changed), Err("PAYLOAD_DIFFERS".to_owned()));
    assert_eq!(lab.approve(&lab.carol, &lab.access(600)), Err("GRANT_NOT_FOUND".to_owned()));
    // Shown again, what was refused costs no line.
    let refused = lab.journal_lines("refused");
    for _ in 0..3 {
        assert_eq!(lab.approve(&lab.carol, &changed), Err("PAYLOAD_REPEATED".to_owned()));
    }
    assert_eq!(lab.journal_lines("refused"), refused);
    // The host shows approvers exactly what was signed.
    let shown = lab.postern.client().get(&waiting.id).expect("the request").request.expect("its bytes");
    assert_eq!(shown.payload, access.json().as_bytes());
    let once = lab.postern.client().approve(request::approve(&lab.carol, &shown.payload)).expect("an approval");
    assert_eq!((once.state(), once.approvals_missing), (GrantState::Pending, 1));
    let again = lab.approve(&lab.carol, &access).expect("the same again");
    assert_eq!((again.approvals_missing, lab.journal_lines("approved")), (1, 1), "an approver counts once");
    assert_eq!(lab.is_open_for_both(), [false; 2]);
    lab.postern.kill();
    lab.postern.launch();
    assert_eq!((lab.state(&waiting.id), lab.is_open_for_both()), (GrantState::Pending, [false; 2]));
    let open = lab.approve(&lab.dan, &access).expect("the last approval");
    assert_eq!((open.state(), open.approvers.len()), (GrantState::Active, 2));
    assert_eq!((lab.is_open_for_both(), lab.is_open(NEIGHBOUR.both()[0])), ([true; 2], false));
    assert_eq!(lab.approve(&lab.dan, &access).expect("once more").state(), GrantState::Active);
    assert_eq!(lab.ask(&access), Err("REPLAYED".to_owned()), "the request itself counts once");
    let steps: Vec<_> = open.history.iter().map(|step| (step.state(), step.by.as_str())).collect();
    let (waits, carol, dan) = (GrantState::Pending, "carol@example.com", "dan@example.com");
    assert_eq!(
        steps,
        [(waits, "alice@example.com"), (waits, carol), (waits, dan), (GrantState::Active, "")],
        "{:?}",
        open.history
    );
}

#[test]
fn approvals_of_a_removed_signer_do_not_count() {
    let lab = Lab::new("approvals = 1\n", "pending_ttl = \"2s\"\n");
    // An approver goes before the request is decided.
    let access = lab.access(600);
    let waiting = lab.ask(&access).expect("a request that waits");
    until("it lapses", || lab.state(&waiting.id) == GrantState::Expired);
    assert_eq!(lab.approve(&lab.carol, &access), Err("NOT_PENDING".to_owned()));
    let access = lab.access(600);
    let open = {
        lab.ask(&access).expect("a request that waits");
        lab.approve(&lab.carol, &access).expect("a grant")
    };
    assert_eq!(lab.is_open_for_both(), [true; 2]);
    lab.trust(&[("dan", &lab.dan)]);
    until("the grant ends with its approver", || lab.state(&open.id) == GrantState::Revoked);
    assert_eq!(lab.is_open_for_both(), [false; 2]);
    // Declined by an approver, taken back by the requester: both close for ever.
    let declined = lab.access(600);
    let id = lab.ask(&declined).expect("a request that waits").id;
    let message = request::revoke(&lab.postern.admin, AUDIENCE, &id);
    assert_eq!(lab.postern.client().revoke(message).expect("to decline").state(), GrantState::Refused);
    assert_eq!(lab.approve(&lab.dan, &declined), Err("NOT_PENDING".to_owned()));
    let mine = lab.access(600);
    let id = lab.ask(&mine).expect("a request that waits").id;
    assert_eq!(lab.postern.revoke(&id).expect("to take back").state(), GrantState::Withdrawn);
    assert_eq!(lab.approve(&lab.dan, &mine), Err("NOT_PENDING".to_owned()));
    assert_eq!(lab.is_open_for_both(), [false; 2]);
}

#[test]
fn a_planned_grant_opens_at_its_time_also_after_a_kill() {
    let mut lab = Lab::new("", "");
    let plan = |seconds| Access { not_before: seconds_from_now(seconds), ..lab.access(600) };
    let (soon, late, missed) = (plan(8), plan(3600), plan(8));
    let ids = [&soon, &late, &missed].map(|access| {
        let grant = lab.ask(access).expect("a planned grant");
        assert_eq!(grant.state(), GrantState::Scheduled);
        grant.id
    });
    assert_eq!(lab.is_open_for_both(), [false; 2]);
    assert_eq!(lab.postern.revoke(&ids[2]).expect("to take back").state(), GrantState::Withdrawn);
    lab.postern.kill();
    assert_eq!(lab.is_open_for_both(), [false; 2]);
    lab.postern.launch();
    until("it opens", || lab.state(&ids[0]) == GrantState::Active);
    assert_eq!(lab.is_open_for_both(), [true; 2]);
    assert_eq!((lab.state(&ids[1]), lab.state(&ids[2])), (GrantState::Scheduled, GrantState::Withdrawn));
    assert_eq!(lab.journal_lines("activated"), 1);
    lab.postern.revoke(&ids[0]).expect("to give back");
    assert_eq!(lab.is_open_for_both(), [false; 2], "the one that is to come opens nothing");
}

#[test]
fn an_extension_carries_the_session_over_the_old_end() {
    let lab = Lab::new("", "");
    let first = lab.ask(&lab.access(6)).expect("a grant");
    let source = GRANTED.both()[0];
    let to = SocketAddr::new(SERVER.like(source), 22);
    let mut session = probe::connect(&lab.net.client, source, to).expect("a session");
    session.set_read_timeout(Some(Duration::from_secs(5))).expect("a time limit");
    let mut echo = |text: &[u8; 4]| {
        session.write_all(text).and_then(|()| {
            let mut back = [0; 4];
            session.read_exact(&mut back).map(|()| back == *text)
        })
    };
    assert!(echo(b"one!").expect("an answer"));
    let shorter = Access { supersedes: first.id.clone(), ..lab.access(1) };
    assert_eq!(lab.ask(&shorter), Err("WOULD_SHORTEN".to_owned()));
    let longer = Access { supersedes: first.id.clone(), ..lab.access(600) };
    let second = lab.ask(&longer).expect("an extension");
    assert_eq!((lab.state(&first.id), second.state()), (GrantState::Superseded, GrantState::Active));
    assert_eq!(second.supersedes, first.id);
    let old_end = first.expires.expect("its end").seconds;
    until("the old end is over", || jiff::Timestamp::now().as_second() > old_end);
    assert!(echo(b"two!").expect("an answer after the old end"));
    assert_eq!(lab.is_open_for_both(), [true; 2]);
    let old = lab.postern.client().get(&first.id).expect("the old one").grant.expect("the old one");
    assert_eq!(old.superseded_by, second.id);
    assert!(old.usage.is_some_and(|usage| usage.packets_in > 0), "what the old one counted stays its own");
    assert_eq!(lab.postern.revoke(&second.id).expect("to give back").state(), GrantState::Withdrawn);
    assert_eq!(lab.is_open_for_both(), [false; 2]);
    assert!(!echo(b"end!").unwrap_or(false), "the session ended with the grant");
}

/// What those who watch all grants are told.
struct Watch {
    client: Client,
    stream: Streaming<WatchGrantsResponse>,
}

impl Watch {
    fn new(lab: &Lab) -> Self {
        let client = lab.postern.client();
        let call = client.wait(client.access().watch_grants(WatchGrantsRequest::default()));
        Self { stream: call.expect("a watch").into_inner(), client }
    }

    /// The warnings up to the change that `ends` it.
    fn warnings_until(&mut self, ends: impl Fn(&WatchGrantsResponse) -> bool) -> Vec<(Grant, EndWarning)> {
        let mut warnings = Vec::new();
        loop {
            let next = self.client.wait(async { tokio::time::timeout(PATIENCE, self.stream.message()).await });
            let told = next.expect("it is told in time").expect("a change").expect("the stream goes on");
            warnings.extend(told.warning.clone().and_then(|warning| Some((told.grant.clone()?, warning))));
            if ends(&told) {
                return warnings;
            }
        }
    }
}

#[test]
fn a_watcher_is_warned_of_each_end_once_also_across_a_kill() {
    let mut lab = Lab::new("warn_before = [\"7s\", \"3s\"]\n", "warn_before = []\n");
    let mut watch = Watch::new(&lab);
    let extended = lab.ask(&lab.access(60)).expect("a grant");
    let short = Access::new(AUDIENCE, &["22/tcp"], &NEIGHBOUR.both(), 9);
    let short = lab.postern.client().request(short.seal(&lab.postern.alice)).expect("a grant");
    let warnings = watch.warnings_until(|told| told.warning.is_some());
    let [(grant, warning)] = &warnings[..] else { panic!("{warnings:?}") };
    assert_eq!((&grant.id, grant.state()), (&short.id, GrantState::Active));
    assert_eq!((&warning.ports[..], warning.sessions), (&["22/tcp".to_owned()][..], false));
    assert_eq!(warning.consequence, "Sessions are cut then.");
    let left = warning.left.map_or(0, |left| left.seconds);
    assert!((1..=7).contains(&left), "{left}");
    let second = |moment: Option<pbjson_types::Timestamp>| moment.expect("a moment").seconds;
    assert!(second(warning.end).abs_diff(second(short.expires)) <= 1, "{warning:?} {short:?}");

    lab.postern.kill();
    lab.postern.launch();
    let mut watch = Watch::new(&lab);
    // What an extension replaces is not warned of, what somebody ends early neither: those are changes.
    let longer = Access { supersedes: extended.id.clone(), ..lab.access(600) };
    let second = lab.ask(&longer).expect("an extension");
    lab.postern.revoke(&second.id).expect("to give back");
    until("the end", || lab.state(&short.id) == GrantState::Expired);
    let last = lab.ask(&lab.access(600)).expect("a grant");
    let warnings = watch.warnings_until(|told| told.grant.as_ref().is_some_and(|grant| grant.id == last.id));
    // A slow start may have missed the second moment.
    assert!(warnings.len() <= 1, "{warnings:?}");
    let again = |(grant, warning): &(Grant, EndWarning)| {
        grant.id != short.id || warning.left.is_none_or(|left| left.seconds > 3)
    };
    assert!(!warnings.iter().any(again), "{warnings:?}");
}

#[test]
fn an_unused_grant_ends_and_a_used_one_stays() {
    let lab = Lab::new("first_use_within = \"4s\"\nidle_timeout = \"6s\"\n", "");
    let unused = lab.ask(&lab.access(600)).expect("a grant");
    let used = lab
        .postern
        .client()
        .request(Access::new(AUDIENCE, &["22/tcp"], &NEIGHBOUR.both(), 600).seal(&lab.postern.alice));
    let used = used.expect("a grant");
    until("the unused grant has ended", || {
        assert!(lab.is_open(NEIGHBOUR.both()[0]), "used, so it stays");
        lab.state(&unused.id) != GrantState::Active
    });
    let ended = lab.postern.client().get(&unused.id).expect("it").grant.expect("it");
    assert_eq!((ended.state(), ended.end_reason.as_str()), (GrantState::Expired, "it was not used in time"));
    assert_eq!(lab.is_open_for_both(), [false; 2]);
    assert_eq!(lab.state(&used.id), GrantState::Active);
    until("it idles", || lab.state(&used.id) == GrantState::Expired);
    let ended = lab.postern.client().get(&used.id).expect("it").grant.expect("it");
    assert_eq!(ended.end_reason, "it was idle for too long");
    assert!(!lab.is_open(NEIGHBOUR.both()[0]));
}

#[test]
fn break_glass_opens_a_port_without_a_signature_and_is_recorded() {
    let lab = Lab::new("approvals = 2\n", "");
    let client = lab.postern.client();
    let wish = |ports: &str, reason: &str, seconds: u64| BreakGlassRequest {
        ports: vec![ports.to_owned()],
        source: GRANTED.both().map(request::prefix).to_vec(),
        duration: Some(Duration::from_secs(seconds).into()),
        reason: reason.to_owned(),
    };
    let ask = |wish| client.wait(client.host().break_glass(wish)).map_err(|status| reason(&status));
    assert_eq!(ask(wish("22/tcp", " ", 60)).expect_err("no reason"), "PAYLOAD_MALFORMED");
    assert_eq!(ask(wish("23/tcp", "why", 60)).expect_err("not ours"), "PORT_NOT_PROTECTED");
    assert_eq!(ask(wish("22/tcp", "why", 86_401)).expect_err("too long"), "DURATION_TOO_LONG");
    let open = ask(wish("22/tcp", "nobody else is awake", 600)).expect("a grant").into_inner().grant.expect("a grant");
    assert_eq!((open.state(), open.break_glass, open.principal.as_str()), (GrantState::Active, true, "root"));
    assert_eq!((lab.is_open_for_both(), lab.is_open(NEIGHBOUR.both()[0])), ([true; 2], false));
    assert_eq!(lab.journal_lines("break-glass"), 1);
    // A reload ends what the rules do not allow, but not the way in of last resort.
    lab.trust(&[]);
    assert_eq!(lab.is_open_for_both(), [true; 2]);
    let message = request::revoke(&lab.postern.admin, AUDIENCE, &open.id);
    assert_eq!(lab.postern.client().revoke(message).expect("to revoke").state(), GrantState::Revoked);
    assert_eq!(lab.is_open_for_both(), [false; 2]);
}
