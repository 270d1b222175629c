//! A stream ends when the trust that it rests on ends, also while nothing happens on it.

use std::time::Duration;

use postern_proto::payload_type;
use postern_proto::v1::{SignedMessage, WatchAuditRequest, WatchGrantsRequest};
use postern_tests::PATIENCE;
use postern_tests::client::{Client, reason};
use postern_tests::keys::Key;
use postern_tests::net::Net;
use postern_tests::postern::{ADMIN, ALICE, AUDIENCE, Options, Postern};
use postern_tests::request::{self, READ};
use tonic::{Status, Streaming};

/// Waits until a stream ends, and says why. Nothing else happens on it.
fn end_of<T>(client: &Client, stream: &mut Streaming<T>) -> String {
    let end = client.wait(async {
        tokio::time::timeout(PATIENCE, async {
            loop {
                match stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Status::ok("the stream just ended"),
                    Err(status) => return status,
                }
            }
        })
        .await
    });
    reason(&end.expect("the stream ends"))
}

/// Whether a stream goes on: nothing comes, and it does not end.
fn goes_on<T>(client: &Client, stream: &mut Streaming<T>) -> bool {
    client.wait(async { tokio::time::timeout(Duration::from_secs(2), stream.message()).await.is_err() })
}

fn grants(client: &Client, read: Option<SignedMessage>) -> Streaming<postern_proto::v1::WatchGrantsResponse> {
    client.wait(client.access().watch_grants(WatchGrantsRequest { read })).expect("a watch").into_inner()
}

fn audit(client: &Client, read: Option<SignedMessage>) -> Streaming<postern_proto::v1::WatchAuditResponse> {
    // No test here writes a line with this code, so nothing comes.
    let call = WatchAuditRequest { read, reason: "DURATION_TOO_LONG".to_owned(), ..WatchAuditRequest::default() };
    client.wait(client.host().watch_audit(call)).expect("a watch").into_inner()
}

/// A read message that lasts so many seconds.
fn read_for(key: &Key, seconds: i64) -> Option<SignedMessage> {
    let payload = format!(
        "{{\"id\":\"{}\",\"audience\":[\"{AUDIENCE}\"],\"notAfter\":\"{}\"}}",
        request::uuid(),
        request::seconds_from_now(seconds)
    );
    Some(key.seal(READ, payload_type::READ_REQUEST, &payload))
}

fn trust(postern: &Postern, alice: &str, with_admin: bool) {
    let line = |who: &str, dates: &str, key: &Key| {
        format!("{who} namespaces=\"request@postern.v1,revoke@postern.v1,read@postern.v1\"{dates} {}\n", key.public())
    };
    let admin = if with_admin { line(ADMIN, "", &postern.admin) } else { String::new() };
    let text = [line(ALICE, alice, &postern.alice), admin].concat();
    std::fs::write(postern.file("allowed_signers"), text).expect("the trust file");
}

#[test]
fn idle_streams_of_a_removed_key_end_at_the_reload_and_others_go_on() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::without_xdp());
    let client = postern.client();
    let (mut gone, mut gone_audit) =
        (grants(&client, read_for(&postern.admin, 300)), audit(&client, read_for(&postern.admin, 300)));
    let (mut stays, mut root) = (grants(&client, read_for(&postern.alice, 300)), grants(&client, None));
    trust(&postern, "", false);
    postern.reload();
    assert_eq!(end_of(&client, &mut gone), "KEY_UNKNOWN");
    assert_eq!(end_of(&client, &mut gone_audit), "KEY_UNKNOWN");
    assert!(goes_on(&client, &mut stays) && goes_on(&client, &mut root));
}

#[test]
fn the_stream_of_an_idle_watcher_who_lost_the_role_ends_at_the_reload() {
    let net = Net::pair();
    let options = Options::without_xdp();
    let postern = Postern::start(&net.server, options.clone());
    let client = postern.client();
    let mut lost = audit(&client, read_for(&postern.admin, 300));
    postern.configure(&Options { rules: options.rules.replace("\"admin\"", "\"requester\""), ..options });
    postern.reload();
    assert_eq!(end_of(&client, &mut lost), "NOT_PERMITTED");
}

#[test]
fn idle_streams_end_with_their_message() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::without_xdp());
    let client = postern.client();
    let (mut short, mut short_audit) =
        (grants(&client, read_for(&postern.admin, 4)), audit(&client, read_for(&postern.admin, 4)));
    let mut long = grants(&client, read_for(&postern.admin, 300));
    assert_eq!(end_of(&client, &mut short), "MESSAGE_EXPIRED");
    assert_eq!(end_of(&client, &mut short_audit), "MESSAGE_EXPIRED");
    assert!(goes_on(&client, &mut long));
}

#[test]
fn idle_streams_end_with_the_dates_of_the_key() {
    let net = Net::pair();
    let mut postern = Postern::start(&net.server, Options::without_xdp());
    postern.stop();
    let end = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(12);
    let dates = format!(",valid-before=\"{}\"", end.strftime("%Y%m%d%H%M%SZ"));
    trust(&postern, &dates, true);
    postern.launch();
    let client = postern.client();
    let (mut ends, mut stays) =
        (grants(&client, read_for(&postern.alice, 300)), grants(&client, read_for(&postern.admin, 300)));
    assert_eq!(end_of(&client, &mut ends), "KEY_EXPIRED");
    assert!(goes_on(&client, &mut stays));
}
