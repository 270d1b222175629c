//! A request is judged under the rules in force when it takes effect.
//!
//! The disk is slow here, so that there is a time between a message's verification and its record. During that time the rules change.
//! What counts is the order of the journal: no record after `policy-loaded` rests on what those rules no longer allow.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_proto::v1::access_service_client::AccessServiceClient;
use postern_proto::v1::{
    ApproveAccessRequest, Grant, GrantState, ListAuditRequest, ListGrantsRequest, RequestAccessRequest,
    RevokeAccessRequest, SignedMessage,
};
use postern_tests::client::{Client, reason};
use postern_tests::keys::Key;
use postern_tests::net::{GRANTED, NEIGHBOUR, Net, SERVER, STRANGER};
use postern_tests::postern::{ADMIN, ALICE, AUDIENCE, Options, Postern, ROLES, port};
use postern_tests::probe::{self, Outcome};
use postern_tests::request::{self, Access};
use postern_tests::service::Service;
use postern_tests::strace::{Effect, Fault, Scope, Tracer};
use postern_tests::until;
use serde_json::Value;
use tonic::Status;
use tonic::transport::Channel;

/// How long the disk takes for a record here: longer than it takes to send and verify a crowd's messages on a busy machine.
const SYNC: Duration = Duration::from_millis(1500);
/// How many messages of one person wait behind it.
const CROWD: usize = 24;
const CAROL: &str = "carol@example.com";

/// A host with a requester (alice), an approver and viewer (carol), and an admin.
struct Host {
    postern: Postern,
    carol: Key,
    _service: Service,
    net: Net,
}

impl Host {
    fn new(extra: &str) -> Self {
        let net = Net::pair();
        let service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
        let rules = rules(true);
        let mut postern = Postern::start(&net.server, Options { rules, extra: extra.into(), ..Options::without_xdp() });
        postern.stop();
        let carol = Key::new(&postern.file(""), "carol");
        let host = Self { postern, carol, _service: service, net };
        host.trust(&[ALICE, ADMIN, CAROL]);
        let mut host = host;
        host.postern.launch();
        host
    }

    /// Writes a trust file that lists these people only.
    fn trust(&self, people: &[&str]) {
        let line = |who: &str, purposes: &str, key: &Key| format!("{who} namespaces=\"{purposes}\" {}\n", key.public());
        let all = [
            (ALICE, line(ALICE, "request@postern.v1,revoke@postern.v1,read@postern.v1", &self.postern.alice)),
            (ADMIN, line(ADMIN, "revoke@postern.v1,read@postern.v1", &self.postern.admin)),
            (CAROL, line(CAROL, "approve@postern.v1,read@postern.v1", &self.carol)),
        ];
        let listed: String = all.into_iter().filter(|(who, _)| people.contains(who)).map(|(_, line)| line).collect();
        std::fs::write(self.postern.file("allowed_signers"), listed).expect("the trust file");
    }

    fn journal(&self) -> Vec<Value> {
        self.postern.on_disk()
    }

    fn loaded(&self) -> usize {
        self.journal().iter().filter(|line| line["event"] == "policy-loaded").count()
    }

    /// Has the disk take its time from now on.
    fn slow(&self) -> Tracer {
        let delay = u64::try_from(SYNC.as_millis()).expect("milliseconds");
        let fault = Fault { call: "fdatasync", nth: None, effect: Effect::Delay(delay) };
        self.postern.trace(Scope::Thread("journal"), &[fault])
    }

    /// Reloads, and returns when the record of it has been written and is being synced: the older rules are in force still.
    fn reload_to_the_disk(&self) {
        let before = self.loaded();
        self.postern.reload();
        until("the record of the reload", || self.loaded() > before);
    }

    fn asks(&self, port: &str, count: usize) -> Vec<SignedMessage> {
        let sources: Vec<IpAddr> =
            (1..=count).map(|n| IpAddr::from([10, 9, 8, u8::try_from(n).expect("few")])).collect();
        sources.iter().map(|source| Access::new(AUDIENCE, &[port], &[*source], 600).seal(&self.postern.alice)).collect()
    }

    /// After the newest `policy-loaded`: nothing was granted, approved or left open.
    fn nothing_since(&self, forbidden: &[&str], signer: &str) {
        let journal = self.journal();
        let reload = journal.iter().rposition(|line| line["event"] == "policy-loaded").expect("a reload");
        let late: Vec<_> = journal[reload..]
            .iter()
            .filter(|line| forbidden.iter().any(|event| line["event"] == *event) && line.to_string().contains(signer))
            .collect();
        assert!(late.is_empty(), "{} records rest on what the new rules forbid: {}", late.len(), late[0]);
    }

    fn live(&self) -> Vec<Grant> {
        let grants = self.postern.client().grants().expect("the grants");
        grants.into_iter().filter(|grant| [GrantState::Active, GrantState::Pending].contains(&grant.state())).collect()
    }

    /// How often the journal says since the newest `policy-loaded` that a message of `signer` was refused for `why`.
    fn refused(&self, signer: &str, why: &str) -> usize {
        let journal = self.journal();
        let reload = journal.iter().rposition(|line| line["event"] == "policy-loaded").expect("a reload");
        let of = |line: &&Value| {
            line["event"] == "refused" && line["reason"] == why && line["signer"]["principal"] == signer
        };
        journal[reload..].iter().filter(of).count()
    }

    fn is_open(&self, from: IpAddr) -> bool {
        probe::tcp(&self.net.client, from, SocketAddr::new(SERVER.like(from), 22)) == Outcome::Answered
    }
}

/// Port 22 is for anybody with the role, 3389 wants carol's approval.
fn rules(with_roles: bool) -> String {
    let ports = [port(22, "any"), format!("{}approvals = 1\n", port(3389, "any"))].concat();
    let other = "[[role]]\nname = \"approver\"\nprincipals = [\"carol@example.com\"]\n\
                 [[role]]\nname = \"viewer\"\nprincipals = [\"carol@example.com\"]\n";
    let roles = if with_roles { ROLES.to_owned() } else { String::new() };
    [ports, roles, other.to_owned()].concat()
}

/// Sends all of them at once, and waits for every answer.
fn at_once<F>(
    client: &Client,
    messages: Vec<SignedMessage>,
    send: fn(AccessServiceClient<Channel>, SignedMessage) -> F,
) -> Vec<Result<Grant, Status>>
where
    F: Future<Output = Result<Grant, Status>> + Send + 'static,
{
    client.wait(async {
        let calls: Vec<_> = messages.into_iter().map(|message| tokio::spawn(send(client.access(), message))).collect();
        let mut answers = Vec::new();
        for call in calls {
            answers.push(call.await.expect("an answer"));
        }
        answers
    })
}

async fn request(mut access: AccessServiceClient<Channel>, message: SignedMessage) -> Result<Grant, Status> {
    let answer = access.request_access(RequestAccessRequest { message: Some(message) }).await?;
    Ok(answer.into_inner().grant.expect("a grant"))
}

async fn approve(mut access: AccessServiceClient<Channel>, message: SignedMessage) -> Result<Grant, Status> {
    let answer = access.approve_access(ApproveAccessRequest { message: Some(message) }).await?;
    Ok(answer.into_inner().grant.expect("a grant"))
}

async fn revoke(mut access: AccessServiceClient<Channel>, message: SignedMessage) -> Result<Grant, Status> {
    let answer = access.revoke_access(RevokeAccessRequest { message: Some(message) }).await?;
    Ok(answer.into_inner().grant.expect("a grant"))
}

fn reasons(answers: &[Result<Grant, Status>]) -> Vec<String> {
    answers.iter().map(|answer| answer.as_ref().map_or_else(reason, |_| String::new())).collect()
}

#[test]
fn a_request_that_was_pending_while_its_key_was_removed_is_not_granted() {
    let host = Host::new("");
    let client = host.postern.client();
    let (early, late) = (host.asks("22/tcp", CROWD), host.asks("22/tcp", CROWD));
    let slow = host.slow();
    host.trust(&[ADMIN, CAROL]);
    // Some are on their way when the reload comes, and wait in one crowd with it.
    let answers = std::thread::scope(|scope| {
        let first = scope.spawn(|| at_once(&host.postern.client(), early, request));
        until("the first are on their way", || host.journal().iter().any(|line| line["event"] == "granted"));
        host.reload_to_the_disk();
        // The others are verified while the key is trusted still, and decided when it is not.
        let late = at_once(&client, late, request);
        (first.join().expect("answers"), late)
    });
    drop(slow);
    host.nothing_since(&["granted"], ALICE);
    assert_eq!(host.live(), [], "{:?}", answers.0);
    let late = reasons(&answers.1);
    assert!(late.iter().all(|why| why == "KEY_UNKNOWN"), "{late:?}");
    assert!(host.refused(ALICE, "KEY_UNKNOWN") > 0, "no message waited: the attack was not tried");
}

#[test]
fn requests_during_a_reload_get_nothing_under_the_old_rules() {
    let host = Host::new("");
    let client = host.postern.client();
    for _ in 0..6 {
        let messages = host.asks("22/tcp", 48);
        let before = host.loaded();
        std::thread::scope(|scope| {
            let crowd = scope.spawn(|| at_once(&client, messages, request));
            host.trust(&[ADMIN, CAROL]);
            host.postern.reload();
            until("the reload", || host.loaded() > before);
            crowd.join().expect("answers");
        });
        host.nothing_since(&["granted"], ALICE);
        assert_eq!(host.live(), []);
        let before = host.loaded();
        host.trust(&[ADMIN, CAROL, ALICE]);
        host.postern.reload();
        until("the reload", || host.loaded() > before);
    }
}

#[test]
fn a_revoked_key_and_a_lost_role_count_at_once_too() {
    let host = Host::new("");
    let revoked = host.postern.file("revoked");
    std::fs::write(&revoked, "").expect("an empty list");
    let extra = format!("revoked_keys = {revoked:?}\n");
    let configured = |with_roles| Options { rules: rules(with_roles), extra: extra.clone(), ..Options::without_xdp() };
    let client = host.postern.client();
    let reload = |options: &Options, list: &str| {
        host.postern.configure(options);
        std::fs::write(&revoked, list).expect("the list");
    };
    let cases =
        [("KEY_REVOKED", true, format!("{}\n", host.postern.alice.public())), ("NOT_PERMITTED", false, String::new())];
    for (why, with_roles, list) in cases {
        reload(&configured(true), "");
        let before = host.loaded();
        host.postern.reload();
        until("the reload", || host.loaded() > before);
        let messages = host.asks("22/tcp", CROWD);
        let slow = host.slow();
        reload(&configured(with_roles), &list);
        host.reload_to_the_disk();
        let answers = reasons(&at_once(&client, messages, request));
        drop(slow);
        host.nothing_since(&["granted"], ALICE);
        assert_eq!(host.live(), []);
        assert!(answers.iter().all(|got| got == why), "{why}: {answers:?}");
        assert!(host.refused(ALICE, why) > 0, "{why}");
    }
}

#[test]
fn an_approval_of_a_removed_key_opens_nothing() {
    let host = Host::new("");
    let client = host.postern.client();
    let asked = at_once(&client, host.asks("3389/tcp", 8), request);
    let waiting: Vec<_> = asked.into_iter().map(|answer| answer.expect("a request that waits").id).collect();
    let approvals = waiting.iter().map(|id| {
        let shown = client.get(id).expect("the request").request.expect("its bytes");
        request::approve(&host.carol, &shown.payload)
    });
    let approvals: Vec<_> = approvals.collect();
    let slow = host.slow();
    host.trust(&[ALICE, ADMIN]);
    host.reload_to_the_disk();
    let answers = reasons(&at_once(&client, approvals, approve));
    drop(slow);
    host.nothing_since(&["approved", "granted"], CAROL);
    assert!(answers.iter().all(|why| why == "KEY_UNKNOWN"), "{answers:?}");
    assert!(host.refused(CAROL, "KEY_UNKNOWN") > 0);
    assert!(host.live().iter().all(|grant| grant.state() == GrantState::Pending));
}

#[test]
fn an_approver_whose_key_was_replaced_approves_again() {
    let host = Host::new("");
    let [second, dave] = ["carol-2", "dave"].map(|name| Key::new(&host.postern.file(""), name));
    let rules = rules(true)
        .replace("approvals = 1", "approvals = 2")
        .replace("[\"carol@example.com\"]", "[\"carol@example.com\", \"dave@example.com\"]");
    host.postern.configure(&Options { rules, ..Options::without_xdp() });
    let load = |carol: &Key| {
        host.trust(&[ALICE, ADMIN]);
        let approvers = format!("{CAROL} {}\ndave@example.com {}\n", carol.public(), dave.public());
        let file = host.postern.file("allowed_signers");
        let others = std::fs::read_to_string(&file).expect("the trust file");
        std::fs::write(&file, others + &approvers).expect("the trust file");
        host.reload_to_the_disk();
    };
    load(&host.carol);
    let client = host.postern.client();
    let asked = at_once(&client, host.asks("3389/tcp", 1), request).remove(0).expect("a request that waits");
    let approved = |key: &Key| {
        let shown = client.get(&asked.id).expect("the request").request.expect("its bytes");
        let answer = at_once(&client, vec![request::approve(key, &shown.payload)], approve).remove(0);
        answer.expect("it is taken").state()
    };
    assert_eq!(approved(&host.carol), GrantState::Pending);
    load(&second);
    assert_eq!(approved(&dave), GrantState::Pending, "the removed key counts no longer");
    assert_eq!(approved(&second), GrantState::Active);
}

#[test]
fn a_revocation_of_a_removed_admin_ends_nothing() {
    let host = Host::new("");
    let client = host.postern.client();
    let grants: Vec<_> = at_once(&client, host.asks("22/tcp", 4), request)
        .into_iter()
        .map(|answer| answer.expect("a grant").id)
        .collect();
    let messages = grants.iter().map(|id| request::revoke(&host.postern.admin, AUDIENCE, id)).collect();
    let slow = host.slow();
    host.trust(&[ALICE, CAROL]);
    host.reload_to_the_disk();
    let answers = reasons(&at_once(&client, messages, revoke));
    drop(slow);
    assert!(answers.iter().all(|why| why == "KEY_UNKNOWN"), "{answers:?}");
    assert!(host.refused(ADMIN, "KEY_UNKNOWN") > 0);
    assert_eq!(host.live().len(), grants.len());
}

#[test]
fn a_message_that_became_too_old_while_it_waited_is_refused() {
    let host = Host::new("");
    let client = host.postern.client();
    let plug = Access::new(AUDIENCE, &["22/tcp"], &[NEIGHBOUR.v4.into()], 600).seal(&host.postern.alice);
    let mut short = Access::new(AUDIENCE, &["22/tcp"], &[GRANTED.v4.into()], 600);
    let fault = Fault { call: "fdatasync", nth: None, effect: Effect::Delay(4000) };
    let slow = host.postern.trace(Scope::Thread("journal"), &[fault]);
    let (first, late) = std::thread::scope(|scope| {
        let first = scope.spawn(|| host.postern.client().request(plug));
        until("the first is on its way", || host.journal().iter().any(|line| line["event"] == "granted"));
        short.not_after = request::seconds_from_now(2);
        let late = client.request(short.seal(&host.postern.alice));
        (first.join().expect("an answer"), late)
    });
    drop(slow);
    first.expect("a grant");
    assert_eq!(late.map_err(|status| reason(&status)).expect_err("too old"), "MESSAGE_EXPIRED");
    assert!(!host.is_open(GRANTED.v4.into()));
}

#[test]
fn what_new_rules_forbid_is_closed_and_read_no_more_although_the_disk_hangs() {
    let host = Host::new("");
    let [from, _] = GRANTED.both();
    let client = host.postern.client();
    client.request(Access::new(AUDIENCE, &["22/tcp"], &[from], 600).seal(&host.postern.alice)).expect("a grant");
    assert!(host.is_open(from));
    let digest = client.policy().expect("the policy").digest;
    let read = request::read(&host.carol, AUDIENCE);
    let list = || {
        let call = ListGrantsRequest { read: Some(read.clone()), ..Default::default() };
        client.wait(client.access().list_grants(call)).map_err(|status| reason(&status))
    };
    let audit = || {
        let call = ListAuditRequest { read: Some(read.clone()), ..Default::default() };
        client.wait(client.host().list_audit(call)).map_err(|status| reason(&status))
    };
    assert_eq!(list().expect("the grants").into_inner().grants.len(), 1);
    assert!(audit().is_ok());
    let fault = Fault { call: "fdatasync", nth: None, effect: Effect::Delay(600_000) };
    let hang = host.postern.trace(Scope::Thread("journal"), &[fault]);
    host.trust(&[ADMIN]);
    host.reload_to_the_disk();
    until("the port closes", || !host.is_open(from));
    until("carol reads no more", || list().is_err_and(|why| why == "KEY_UNKNOWN"));
    assert_eq!(audit().expect_err("nor the journal"), "KEY_UNKNOWN");
    assert_eq!(client.policy().expect("the policy").digest, digest, "the record is on its way still");
    drop(hang);
    until("the new rules", || client.policy().is_ok_and(|policy| policy.digest != digest));
    until("the end on record", || host.journal().iter().any(|line| line["event"] == "ended"));
    assert!(!host.is_open(from));
}

#[test]
fn a_reload_that_the_disk_refused_comes_into_force_by_itself() {
    let host = Host::new("");
    let [from, _] = GRANTED.both();
    let client = host.postern.client();
    client.request(Access::new(AUDIENCE, &["22/tcp"], &[from], 600).seal(&host.postern.alice)).expect("a grant");
    let late = Access::new(AUDIENCE, &["22/tcp"], &[STRANGER.v4.into()], 600).seal(&host.postern.alice);
    let before = host.loaded();
    let broken = host.postern.trace(Scope::Thread("journal"), &[Fault::fail("fdatasync", "EIO")]);
    host.trust(&[ADMIN, CAROL]);
    host.postern.reload();
    until("the port closes", || !host.is_open(from));
    let told = || client.details().expect("its state").join("\n");
    until("the status says so", || told().contains("reload"));
    drop(broken);
    until("the record of the reload", || host.loaded() > before);
    let refused = client.request(late).map_err(|status| reason(&status)).expect_err("not under that key");
    assert_eq!(refused, "KEY_UNKNOWN");
    until("only that nobody can open a port is left", || {
        let told = told();
        !told.is_empty() && told.lines().all(|line| line.starts_with("nobody can open"))
    });
    host.nothing_since(&["granted"], ALICE);
    assert_eq!(host.live(), []);
}
