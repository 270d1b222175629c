//! Every way to be refused: each has its stable reason, opens nothing, and is in the record as it should be.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use postern_proto::payload_type;
use postern_proto::v1::{Grant, RequestAccessRequest, Signature, SignedMessage};
use postern_tests::client::{Client, reason};
use postern_tests::figure;
use postern_tests::keys::Key;
use postern_tests::net::{GRANTED, Net, SERVER};
use postern_tests::postern::{ADMIN, ALICE, AUDIENCE, Options, Postern, ROLES, port};
use postern_tests::probe::{self, Outcome};
use postern_tests::request::{self, Access, REQUEST, REVOKE, seconds_from_now};
use postern_tests::service::Service;
use postern_tests::until;
use serde_json::Value;
use tokio::task::JoinSet;

/// A right request.
fn access() -> Access {
    Access::new(AUDIENCE, &["22/tcp"], &GRANTED.both(), 60)
}

fn journal(postern: &Postern) -> Vec<Value> {
    let text = postern.journal();
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn ask(client: &Client, message: SignedMessage) -> Result<Grant, String> {
    client.request(message).map_err(|status| reason(&status))
}

/// The message for a payload that need not be right.
fn raw(key: &Key, payload: &str) -> SignedMessage {
    key.seal(REQUEST, payload_type::ACCESS_REQUEST, payload)
}

#[test]
fn each_mistake_of_a_trusted_signer_is_refused_with_its_reason_and_recorded() {
    let net = Net::pair();
    let limited = format!("{}justification = \"required\"\nmax_grants = 1\n", port(3389, "tcp"));
    let rules = [port(22, "tcp"), limited, ROLES.to_owned()].concat();
    let mut postern = Postern::start(&net.server, Options { rules, ..Options::default() });
    let service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
    let client = postern.client();
    let who = client.who_am_i().expect("an answer");
    let alice = |change: &dyn Fn(&mut Access)| {
        let mut access = access();
        change(&mut access);
        access.seal(&postern.alice)
    };
    let edited = |from: &str, to: &str| {
        let payload = access().json();
        assert!(payload.contains(from), "{payload} has no {from}");
        raw(&postern.alice, &payload.replace(from, to))
    };
    let cases: Vec<(&str, SignedMessage)> = vec![
        ("AUDIENCE_MISMATCH", alice(&|a| a.audience = vec!["another.example".to_owned()])),
        ("AUDIENCE_KEY_MISSING", alice(&|a| a.audience = vec![who.host_id.clone()])),
        ("AUDIENCE_KEY_MISSING", alice(&|a| a.audience = vec![who.host_id.clone(), "SHA256:another".to_owned()])),
        ("AUDIENCE_KEY_MISSING", alice(&|a| a.audience = vec![who.host_id.clone(), who.tls_fingerprint.clone()])),
        ("AUDIENCE_HOST_ID_MISSING", alice(&|a| a.audience = vec![format!("tls:{}", who.tls_fingerprint)])),
        ("AUDIENCE_MISMATCH", alice(&|a| a.audience = vec!["6f1b1c5e-0000-4000-8000-000000000000".to_owned()])),
        ("MESSAGE_EXPIRED", alice(&|a| a.not_after = seconds_from_now(-1))),
        ("MESSAGE_EXPIRED", alice(&|a| a.not_after = "1970-01-01T00:00:00Z".to_owned())),
        ("MESSAGE_TOO_LONG_LIVED", alice(&|a| a.not_after = seconds_from_now(3600))),
        ("MESSAGE_TOO_LONG_LIVED", alice(&|a| a.not_after = "2200-01-01T00:00:00Z".to_owned())),
        ("CHALLENGE_INVALID", alice(&|a| a.challenge = "AAAA".to_owned())),
        ("PORT_NOT_PROTECTED", alice(&|a| a.ports = vec!["23/tcp".to_owned()])),
        ("PORT_NOT_PROTECTED", alice(&|a| a.ports = vec!["22/udp".to_owned()])),
        ("PORT_NOT_PROTECTED", alice(&|a| a.ports = vec!["22/tcp".to_owned(), "23/tcp".to_owned()])),
        ("SOURCE_NOT_ALLOWED", alice(&|a| a.source = vec!["192.0.2.7/32".to_owned()])),
        ("SOURCE_NOT_ALLOWED", alice(&|a| a.source = vec!["0.0.0.0/0".to_owned()])),
        ("SOURCE_NOT_ALLOWED", alice(&|a| a.source = vec!["::/0".to_owned()])),
        ("SOURCE_NOT_ALLOWED", alice(&|a| a.source = vec!["8.0.0.0/5".to_owned()])),
        ("DURATION_TOO_LONG", alice(&|a| a.duration = "10801s".to_owned())),
        ("DURATION_TOO_SHORT", edited("\"duration\":\"60s\"", "\"end\":\"2020-01-01T00:00:00Z\"")),
        (
            "JUSTIFICATION_REQUIRED",
            alice(&|a| (a.ports, a.justification) = (vec!["3389/tcp".to_owned()], " ".to_owned())),
        ),
        ("NOT_PERMITTED", admin_asks(&postern)),
    ];
    for (want, message) in &cases {
        assert_eq!(ask(&client, message.clone()), Err((*want).to_owned()));
    }
    let malformed = [
        edited("\"60s\"", "\"0s\""),
        edited("\"60s\"", "\"-60s\""),
        edited("\"60s\"", "\"1e3s\""),
        edited("\"60s\"", "60"),
        edited("\"60s\"", "\"99999999999999999999s\""),
        edited("\"duration\":", "\"durations\":"),
        edited("\"duration\":", "\"duration\":\"60s\",\"duration\":"),
        edited("\"notAfter\":", "\"not_after\":\"2030-01-01T00:00:00Z\",\"notAfter\":"),
        edited("\"22/tcp\"", "\"22\""),
        edited("\"22/tcp\"", "\"0/tcp\""),
        edited("\"22/tcp\"", "\"65536/tcp\""),
        edited("\"22/tcp\"", "\"22/tcp\",\"22/tcp\""),
        edited("\"22/tcp\"", "22"),
        edited("10.1.0.10/32", "10.1.0.10/16"),
        edited("10.1.0.10/32", "10.1.0.10"),
        edited("10.1.0.10/32", "::ffff:10.1.0.10/128"),
        edited("10.1.0.10/32", "127.0.0.1/32"),
        edited("10.1.0.10/32", "224.0.0.1/32"),
        edited("a test", "a\\u0000test"),
        raw(&postern.alice, ""),
        raw(&postern.alice, "{}"),
        raw(&postern.alice, "[]"),
        raw(&postern.alice, "null"),
        raw(&postern.alice, &format!("{} ", "[".repeat(5000))),
        raw(&postern.alice, &format!("{}x", access().json())),
        raw(&postern.alice, &format!("\u{feff}{}", access().json())),
    ];
    for message in &malformed {
        let text = String::from_utf8_lossy(&message.payload).into_owned();
        let got = ask(&client, message.clone()).expect_err(&text);
        assert!(["PAYLOAD_MALFORMED", "SOURCE_INVALID", "DURATION_TOO_SHORT"].contains(&&got[..]), "{got}: {text}");
    }
    let grant = |access: Access| ask(&client, access.seal(&postern.alice));
    let one = Access { ports: vec!["3389/tcp".to_owned()], ..access() };
    grant(one.clone()).expect("the one grant");
    assert_eq!(grant(Access { id: request::uuid(), ..one }), Err("TOO_MANY_GRANTS".to_owned()));
    figure::print("bad inputs tried", (cases.len() + malformed.len()) as u64);
    let to = SocketAddr::new(SERVER.both()[0], 22);
    assert_ne!(probe::tcp(&net.client, GRANTED.both()[0], to), Outcome::Answered);
    assert_eq!((service.served(), client.status().expect("the status").live_grants), (0, 1));
    postern.stop();
    let lines = postern.on_disk();
    let of = |event: &'static str| lines.iter().filter(move |line| line["event"] == event);
    let summed: u64 = of("refusals")
        .flat_map(|line| line["counts"].as_object())
        .flat_map(|all| all.values())
        .filter_map(|n| n.as_u64())
        .sum();
    // The two more: the last request, and the one that showed that the reload had come.
    let all = cases.len() + malformed.len() + 2;
    assert_eq!(of("refused").count() + usize::try_from(summed).expect("few"), all, "each has a line or is summed up");
}

fn admin_asks(postern: &Postern) -> SignedMessage {
    // The trust file lets the administrator sign for this once it is written so; the policy still does not let him ask.
    let trust = std::fs::read_to_string(postern.file("allowed_signers")).expect("the trust file");
    let more = format!("{trust}{ADMIN} namespaces=\"request@postern.v1\" {}\n", postern.admin.public());
    std::fs::write(postern.file("allowed_signers"), more).expect("the trust file");
    postern.reload();
    let message = || access().seal(&postern.admin);
    until("the reload is in force", || ask(&postern.client(), message()) != Err("ROLE_NOT_TRUSTED".to_owned()));
    message()
}

#[test]
fn unverified_messages_are_counted_and_never_fill_the_journal() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::default());
    let client = postern.client();
    let (good, stranger) = (access().seal(&postern.alice), Key::new(postern.file("").as_path(), "stranger"));
    let changed = |change: &dyn Fn(&mut SignedMessage)| {
        let mut message = good.clone();
        change(&mut message);
        message
    };
    let rsa = Key::of_type(postern.file("").as_path(), "rsa", &["-t", "rsa", "-b", "2048"]);
    let cases: Vec<(&str, SignedMessage)> = vec![
        ("KEY_UNKNOWN", access().seal(&stranger)),
        ("ALGORITHM_NOT_ALLOWED", access().seal(&rsa)),
        ("NAMESPACE_MISMATCH", postern.alice.seal(REVOKE, payload_type::ACCESS_REQUEST, &access().json())),
        ("ROLE_NOT_TRUSTED", access().seal(&postern.admin)),
        ("SIGNATURE_INVALID", changed(&|m| m.payload[10] ^= 1)),
        ("SIGNATURE_INVALID", changed(&|m| m.payload.push(b' '))),
        ("ENVELOPE_MALFORMED", changed(&|m| m.payload_type = "text/plain".to_owned())),
        ("NAMESPACE_MISMATCH", changed(&|m| m.payload_type = payload_type::REVOKE_REQUEST.to_owned())),
        ("SIGNATURE_MALFORMED", changed(&|m| m.signatures = vec![Signature { sshsig: "nonsense".to_owned() }])),
        ("SIGNATURE_MALFORMED", changed(&|m| m.signatures[0].sshsig.insert(60, '!'))),
        ("MESSAGE_TOO_LARGE", changed(&|m| m.payload = vec![b' '; 40_000])),
    ];
    for (want, message) in &cases {
        assert_eq!(ask(&client, message.clone()), Err((*want).to_owned()));
    }
    assert!(
        ["UNSIGNED", "ENVELOPE_MALFORMED"]
            .contains(&&ask(&client, changed(&|m| m.signatures.clear())).expect_err("unsigned")[..])
    );
    assert_eq!(status_reason(&client, RequestAccessRequest { message: None }), "ENVELOPE_MALFORMED");
    assert_eq!(ask(&client, good.clone()).map(|g| g.principal), Ok(ALICE.to_owned()), "the honest one still serves");
    assert_eq!(ask(&client, good), Err("PAYLOAD_REPEATED".to_owned()));
    const FLOOD: u64 = 100_000;
    let overloaded = flood(&postern, &access().seal(&stranger), FLOOD);
    let counters = client.status().expect("the status").counters;
    let counted = |reason: &str| counters.iter().filter(|c| c.reason == reason).map(|c| c.count).sum::<u64>();
    // One more from the cases above. Nothing else is overloaded here.
    assert_eq!((counted("KEY_UNKNOWN"), counted("OVERLOADED")), (FLOOD + 1, overloaded));
    let lines = journal(&postern);
    assert!(lines.len() < 20, "{} lines", lines.len());
    assert!(lines.iter().all(|line| line["event"] != "refused"));
    figure::print("bad inputs tried", cases.len() as u64 + FLOOD);
}

fn status_reason(client: &Client, request: RequestAccessRequest) -> String {
    client.wait(client.access().request_access(request)).map_err(|status| reason(&status)).expect_err("refused")
}

/// Sends one bad envelope over several connections at once, until as many of the requests as `times` says are refused for their key. On
/// a busy machine posternd turns requests away before it checks the signature; such a request is sent again. Returns how many these were.
fn flood(postern: &Postern, message: &SignedMessage, times: u64) -> u64 {
    const CONNECTIONS: u64 = 4;
    let overloaded = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let client = postern.client();
                let answered = client.wait(refused_for_their_key(&client, message, times / CONNECTIONS));
                overloaded.fetch_add(answered, Ordering::Relaxed);
            });
        }
    });
    overloaded.into_inner()
}

async fn refused_for_their_key(client: &Client, message: &SignedMessage, times: u64) -> u64 {
    let (mut calls, mut sent, mut refused, mut overloaded) = (JoinSet::new(), 0, 0, 0);
    while refused < times {
        while calls.len() < 8 && sent < times + overloaded {
            let (mut access, message) = (client.access(), Some(message.clone()));
            calls.spawn(async move { access.request_access(RequestAccessRequest { message }).await });
            sent += 1;
        }
        let answer = calls.join_next().await.expect("a call").expect("a call");
        match reason(&answer.expect_err("refused"))[..] {
            ref why if why == "KEY_UNKNOWN" => refused += 1,
            ref why => {
                assert_eq!(why, "OVERLOADED");
                overloaded += 1;
            }
        }
        assert!(overloaded < times, "posternd turns every request away");
    }
    overloaded
}

#[test]
fn a_message_is_accepted_once_also_across_restart_and_sigkill() {
    let net = Net::pair();
    let mut postern = Postern::start(&net.server, Options::default());
    let accepted = access();
    let message = accepted.seal(&postern.alice);
    ask(&postern.client(), message.clone()).expect("a grant");
    let refused = Access { ports: vec!["23/tcp".to_owned()], ..access() };
    let refused_message = refused.seal(&postern.alice);
    assert_eq!(ask(&postern.client(), refused_message.clone()), Err("PORT_NOT_PROTECTED".to_owned()));
    let same_id = Access { duration: "61s".to_owned(), ..accepted.clone() }.seal(&postern.alice);
    assert_eq!(ask(&postern.client(), message.clone()), Err("PAYLOAD_REPEATED".to_owned()));
    assert_eq!(ask(&postern.client(), same_id.clone()), Err("REPLAYED".to_owned()));
    postern.kill();
    postern.launch();
    for (message, what) in [(&message, "accepted"), (&refused_message, "refused")] {
        assert_eq!(ask(&postern.client(), message.clone()), Err("REPLAYED".to_owned()), "{what} before SIGKILL");
    }
    postern.stop();
    postern.launch();
    assert_eq!(ask(&postern.client(), message), Err("REPLAYED".to_owned()), "after an orderly restart");
    let granted = journal(&postern).iter().filter(|record| record["event"] == "granted").count();
    assert_eq!(granted, 1);
}

#[test]
fn one_message_sent_many_times_at_once_is_served_once() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::default());
    let message = access().seal(&postern.alice);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let shown = || scope.spawn(|| ask(&postern.client(), message.clone()).map(drop));
        let threads: Vec<_> = std::iter::repeat_with(shown).take(16).collect();
        threads.into_iter().map(|thread| thread.join().expect("a thread")).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    let reasons: BTreeSet<_> = outcomes.into_iter().filter_map(Result::err).collect();
    assert!(reasons.is_subset(&["PAYLOAD_REPEATED".to_owned(), "REPLAYED".to_owned()].into()), "{reasons:?}");
}

#[test]
fn a_challenge_of_this_host_is_accepted_and_one_of_another_start_is_not() {
    let net = Net::pair();
    let mut postern = Postern::start(&net.server, Options::default());
    let challenge = postern.client().who_am_i().expect("WhoAmI").challenge;
    let with = |challenge: &str| Access { challenge: challenge.to_owned(), ..access() }.seal(&postern.alice);
    ask(&postern.client(), with(&challenge)).expect("a grant");
    let late = with(&challenge);
    postern.kill();
    postern.launch();
    assert_eq!(ask(&postern.client(), late), Err("CHALLENGE_INVALID".to_owned()));
}

#[test]
fn a_principal_neither_ends_nor_sees_grants_of_others() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::default());
    let client = postern.client();
    let grant = postern.grant(&["22/tcp"], &GRANTED.both(), 60).expect("a grant");
    let revoke =
        |key: &Key, id: &str| client.revoke(request::revoke(key, AUDIENCE, id)).map_err(|status| reason(&status));
    assert_eq!(revoke(&postern.alice, &request::uuid()), Err("GRANT_NOT_FOUND".to_owned()));
    let ended = revoke(&postern.admin, &grant.id).expect("an administrator may");
    assert_eq!((ended.ended_by.as_str(), ended.end_reason.is_empty()), (ADMIN, false));
    let by_alice = request::revoke(&postern.alice, AUDIENCE, &grant.id);
    assert_eq!(client.revoke(by_alice).map_err(|status| reason(&status)), Err("GRANT_ENDED".to_owned()));
}
