//! One principal cannot spend the room of the others.
//!
//! Owns the attacks of one key that is trusted: floods of requests that are refused, of padded requests that are taken back, of waiting
//! requests, of grants, of reads and of streams. The keys sign in this process, since ssh-keygen is too slow for a flood. And one of
//! somebody without a key: a flood of calls that the host has to sign an answer for.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postern_cli::connect;
use postern_proto::payload_type::{ACCESS_REQUEST, READ_REQUEST, REVOKE_REQUEST};
use postern_proto::v1::access_service_client::AccessServiceClient;
use postern_proto::v1::{
    BreakGlassRequest, ListAuditRequest, ListGrantsRequest, RequestAccessRequest, Signature, SignedMessage,
    WatchGrantsRequest, WhoAmIRequest,
};
use postern_tests::client::{Client, reason};
use postern_tests::net::{GRANTED, Net, SERVER};
use postern_tests::postern::{AUDIENCE, Options, Postern, port};
use postern_tests::request::{self, APPROVE, Access, READ, REQUEST, REVOKE};
use ring::digest::{SHA512, digest};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::json;

const MALLORY: &str = "mallory@example.com";
/// Messages of a flood: an older posternd wrote a line for each.
const FLOOD: usize = 6_000;
/// Requests that are taken back, each padded to almost 32 KiB.
const PADDED: usize = 600;
/// Refusals of one principal that have a line of their own at once, and seconds until one more has.
const LINES: u64 = 10;
const LINE_EVERY: u64 = 30;

/// An ed25519 key that signs in this process, as `ssh-keygen -Y sign` does.
struct Fast(Ed25519KeyPair);

impl Fast {
    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a key"))
    }

    fn blob(&self) -> Vec<u8> {
        [string(b"ssh-ed25519"), string(self.0.public_key().as_ref())].concat()
    }

    /// A line of the trust file.
    fn line(&self, principal: &str) -> String {
        format!("{principal} ssh-ed25519 {}\n", STANDARD.encode(self.blob()))
    }

    fn seal(&self, namespace: &str, payload_type: &str, payload: &str) -> SignedMessage {
        let head = [string(namespace.as_bytes()), string(b""), string(b"sha512")].concat();
        let hash = digest(&SHA512, payload.as_bytes());
        let signed = [b"SSHSIG", &head[..], &string(hash.as_ref())].concat();
        let signature = [string(b"ssh-ed25519"), string(self.0.sign(&signed).as_ref())].concat();
        let all = [b"SSHSIG", &1_u32.to_be_bytes()[..], &string(&self.blob()), &head, &string(&signature)].concat();
        let text = STANDARD.encode(all);
        let lines: Vec<_> = text.as_bytes().chunks(70).map(String::from_utf8_lossy).collect();
        let sshsig = format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", lines.join("\n"));
        SignedMessage {
            payload: payload.as_bytes().to_vec(),
            payload_type: payload_type.to_owned(),
            signatures: vec![Signature { sshsig }],
        }
    }

    fn ask(&self, access: &Access) -> SignedMessage {
        self.seal(REQUEST, ACCESS_REQUEST, &access.json())
    }

    fn read(&self) -> SignedMessage {
        let text = json!({ "id": request::uuid(), "audience": [AUDIENCE], "notAfter": request::seconds_from_now(120) });
        self.seal(READ, READ_REQUEST, &text.to_string())
    }

    fn end(&self, grant: &str) -> SignedMessage {
        let text = json!({
            "id": request::uuid(), "audience": [AUDIENCE], "notAfter": request::seconds_from_now(120),
            "grantId": grant, "reason": "a test",
        });
        self.seal(REVOKE, REVOKE_REQUEST, &text.to_string())
    }
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).expect("short").to_be_bytes()[..], bytes].concat()
}

/// A host with people whose keys sign fast. Port 22 opens at once, port 3389 wants one approval.
struct Host {
    postern: Postern,
    mallory: Arc<Fast>,
    bob: Fast,
    carol: Fast,
    ruth: Fast,
    vera: Arc<Fast>,
    _net: Net,
}

impl Host {
    fn start(limits: &str) -> Self {
        let net = Net::pair();
        let rules = format!(
            "{}{}approvals = 1\n[[role]]\nname = \"requester\"\nprincipals = [\"{MALLORY}\", \"bob@example.com\"]\n\
             [[role]]\nname = \"approver\"\nprincipals = [\"carol@example.com\"]\n\
             [[role]]\nname = \"admin\"\nprincipals = [\"ruth@example.com\"]\n\
             [[role]]\nname = \"viewer\"\nprincipals = [\"vera@example.com\"]\n",
            port(22, "tcp"),
            port(3389, "tcp"),
        );
        let options = Options { rules, limits: limits.to_owned(), ..Options::without_xdp() };
        let mut postern = Postern::prepared(&net.server, options);
        let [mallory, bob, carol, ruth, vera] = [1, 2, 3, 4, 5].map(Fast::new);
        let people = [(&mallory, MALLORY), (&bob, "bob@example.com"), (&carol, "carol@example.com")];
        let others = [(&ruth, "ruth@example.com"), (&vera, "vera@example.com")];
        let trust: String = people.into_iter().chain(others).map(|(key, who)| key.line(who)).collect();
        fs::write(postern.file("allowed_signers"), trust).expect("the trust file");
        postern.launch();
        Self { postern, mallory: mallory.into(), bob, carol, ruth, vera: vera.into(), _net: net }
    }

    /// A request by `key`: what it became, or the code of its refusal.
    fn ask(&self, key: &Fast, port: &str) -> Result<String, String> {
        let message = key.ask(&access(&[port], 60));
        self.postern.client().request(message).map(|grant| grant.id).map_err(|status| reason(&status))
    }

    /// What must hold at any time, whatever one principal does.
    fn others_have_their_room(&self, when: &str) {
        let client = self.postern.client();
        let own = self.ask(&self.bob, "22/tcp").unwrap_or_else(|code| panic!("{when}: bob's request: {code}"));
        client.revoke(self.bob.end(&own)).unwrap_or_else(|status| panic!("{when}: bob's give-back: {status}"));
        let waits = access(&["3389/tcp"], 60);
        client.request(self.bob.ask(&waits)).unwrap_or_else(|status| panic!("{when}: a request that waits: {status}"));
        let approved = client.approve(self.carol.seal(APPROVE, ACCESS_REQUEST, &waits.json()));
        let approved = approved.unwrap_or_else(|status| panic!("{when}: carol's approval: {status}"));
        client.revoke(self.ruth.end(&approved.id)).unwrap_or_else(|status| panic!("{when}: a revocation: {status}"));
        assert!(!client.grants().expect("a list").is_empty(), "{when}");
        let wish = BreakGlassRequest {
            ports: vec!["22/tcp".to_owned()],
            source: vec![request::prefix(GRANTED.both()[0])],
            duration: Some(pbjson_types::Duration { seconds: 60, nanos: 0 }),
            reason: "a test".to_owned(),
        };
        let glass = client.wait(client.host().break_glass(wish)).unwrap_or_else(|e| panic!("{when}: break-glass: {e}"));
        let glass = glass.into_inner().grant.expect("a grant").id;
        client.revoke(self.ruth.end(&glass)).unwrap_or_else(|status| panic!("{when}: a revocation: {status}"));
    }

    /// Kilobytes of memory that posternd holds.
    fn resident(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.postern.pid())).expect("its status");
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    }

    /// Bytes of the largest snapshot.
    fn snapshot(&self) -> u64 {
        let files = fs::read_dir(self.postern.file("state/journal")).expect("the journal").flatten();
        let snapshots = files.filter(|file| file.path().extension().is_some_and(|end| end == "snapshot"));
        snapshots.map(|file| file.metadata().expect("its size").len()).max().unwrap_or_default()
    }
}

fn access(ports: &[&str], seconds: u64) -> Access {
    let [source, _]: [IpAddr; 2] = GRANTED.both();
    Access::new(AUDIENCE, ports, &[source], seconds)
}

/// Sends messages as fast as it goes, over several connections, until `count` were answered; the codes of the answers.
fn flood(postern: &Postern, count: usize, message: impl Fn() -> SignedMessage + Send + Sync + 'static) -> Flood {
    let clients: Vec<Client> = (0..4).map(|_| postern.client()).collect();
    let (message, left, over) =
        (Arc::new(message), Arc::new(AtomicUsize::new(count)), Arc::new(AtomicBool::new(false)));
    let ended = Arc::clone(&over);
    let thread = std::thread::spawn(move || {
        let mut codes = BTreeMap::<String, u64>::new();
        let work = |client: &Client| {
            let (mut access, message, left) = (client.access(), Arc::clone(&message), Arc::clone(&left));
            async move {
                let mut codes = Vec::new();
                let more = |n: usize| n.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() {
                    let request = RequestAccessRequest { message: Some(message()) };
                    let answer = access.request_access(request).await;
                    codes.push(answer.err().map(|status| reason(&status)).unwrap_or_default());
                }
                codes
            }
        };
        let tasks: Vec<_> = clients
            .iter()
            .flat_map(|client| (0..12).map(move |_| client))
            .map(|client| (client, client.spawn(work(client))))
            .collect();
        for (client, task) in tasks {
            for code in client.wait(task).expect("a task") {
                *codes.entry(code).or_default() += 1;
            }
        }
        ended.store(true, Ordering::Relaxed);
        codes
    });
    Flood { thread, over }
}

struct Flood {
    thread: std::thread::JoinHandle<BTreeMap<String, u64>>,
    over: Arc<AtomicBool>,
}

#[test]
fn a_flood_of_refused_requests_delays_no_other_principal() {
    let mut host = Host::start("");
    let earlier = host.ask(&host.bob, "22/tcp").expect("bob's grant");
    host.postern.client().revoke(host.bob.end(&earlier)).expect("to give it back");
    let live = host.ask(&host.mallory, "22/tcp").expect("mallory's grant");
    let (since, mallory) = (Instant::now(), Arc::clone(&host.mallory));
    let flooding = flood(&host.postern, FLOOD, move || mallory.ask(&access(&["22/tcp"], 90 * 3600)));
    host.others_have_their_room("during the flood");
    host.postern.client().revoke(host.ruth.end(&live)).expect("the admin ends mallory's grant");
    while !flooding.over.load(Ordering::Relaxed) {
        // An approval, a list and a revocation of the host's own people fit in each of these.
        let grants = host.postern.client().grants().expect("a list during the flood");
        assert!(grants.iter().any(|grant| grant.id == earlier), "what bob had is listed");
    }
    let codes = flooding.thread.join().expect("the flood");
    assert!(codes.get("RATE_LIMITED").is_some_and(|count| *count > FLOOD as u64 / 2), "{codes:?}");
    assert!(codes.keys().all(|code| ["RATE_LIMITED", "DURATION_TOO_LONG"].contains(&&code[..])), "{codes:?}");
    host.others_have_their_room("after the flood");
    // A flood of requests does not keep mallory from ending what is left.
    let ended = host.postern.client().revoke(host.mallory.end(&live)).map_err(|status| reason(&status));
    assert_eq!(ended.map(|grant| grant.id), Err("GRANT_ENDED".to_owned()));
    host.postern.stop();
    let lines = host.postern.on_disk();
    let own = lines.iter().filter(|line| line["event"] == "refused" && line["signer"]["principal"] == MALLORY).count();
    let most = LINES + since.elapsed().as_secs() / LINE_EVERY + 1;
    assert!(own as u64 <= most, "{own} lines of mallory's refusals, at most {most}");
    let sums: Vec<_> = lines.iter().filter(|line| line["event"] == "refusals").collect();
    let counted = sums.iter().flat_map(|line| line["counts"].as_object().expect("counts").values());
    let counted: u64 = counted.filter_map(serde_json::Value::as_u64).sum();
    assert_eq!(counted + own as u64, FLOOD as u64 + 1, "each refusal has a line or is summed up: {sums:?}");
    assert!(sums.iter().all(|line| line["principal"] == MALLORY && line["first"].as_str() <= line["last"].as_str()));
    host.postern.launch();
    host.others_have_their_room("after a restart");
    host.postern.kill();
    host.postern.launch();
    host.others_have_their_room("after a crash");
    let grants = host.postern.client().grants().expect("a list");
    assert!(grants.iter().any(|grant| grant.id == earlier), "what bob had is still listed");
}

#[test]
fn padded_requests_that_are_taken_back_leave_memory_and_snapshots() {
    let history_bytes = 1 << 20;
    let unhurried = "requests_per_minute = 1000000\nrequests_per_day = 10000000\n";
    let mut host = Host::start(&format!("{unhurried}history_bytes = {history_bytes}\n"));
    let theirs = host.ask(&host.bob, "22/tcp").expect("bob's grant");
    let client = host.postern.client();
    client.revoke(host.bob.end(&theirs)).expect("to give it back");
    let before = host.resident();
    for _ in 0..PADDED {
        let wish = Access { justification: "j".repeat(1000), ..access(&["3389/tcp"], 60) };
        let payload = format!("{}{}", wish.json(), " ".repeat(31_000));
        let waits = client.request(host.mallory.seal(REQUEST, ACCESS_REQUEST, &payload)).expect("a request that waits");
        client.revoke(host.mallory.end(&waits.id)).expect("to take it back");
    }
    let grown = host.resident().saturating_sub(before);
    assert!(client.grants().expect("a list").iter().any(|grant| grant.id == theirs), "what bob had is still listed");
    host.postern.stop();
    let snapshot = host.snapshot();
    // docs/configuration.md: what has ended takes twice `history_bytes`, a remembered id 400 bytes.
    let held = 2 * history_bytes + 2 * PADDED as u64 * 400 + (1 << 16);
    assert!(snapshot > 0 && snapshot <= held, "a snapshot of {snapshot} bytes, at most {held}");
    // And a snapshot is held twice more while it is written; the allocator and a page of history for a reader come on top.
    let most = (3 * held + (24 << 20)) / 1024;
    assert!(grown <= most, "{grown} kB more after {PADDED} pairs, at most {most}");
    host.postern.launch();
    host.others_have_their_room("after the restart");
}

#[test]
fn many_pending_requests_leave_room_for_those_of_others() {
    let host = Host::start("");
    let client = host.postern.client();
    let mut padded = Vec::new();
    for _ in 0..3 {
        let payload = format!("{}{}", access(&["3389/tcp"], 60).json(), " ".repeat(30_000));
        let message = host.mallory.seal(REQUEST, ACCESS_REQUEST, &payload);
        padded.push(client.request(message).map(|grant| grant.id).map_err(|status| reason(&status)));
    }
    assert_eq!(padded.pop(), Some(Err("TOO_MANY_PENDING".to_owned())), "64 KiB of payload may wait");
    for waits in padded {
        client.revoke(host.mallory.end(&waits.expect("a request that waits"))).expect("to take it back");
    }
    let refused = std::iter::repeat_with(|| host.ask(&host.mallory, "3389/tcp")).take(100).find_map(Result::err);
    assert!(["TOO_MANY_PENDING", "RATE_LIMITED"].contains(&&refused.expect("a refusal")[..]));
    host.others_have_their_room("while mallory's requests wait");
}

#[test]
fn one_principal_fills_a_share_of_the_kernels_table() {
    let host = Host::start("grants = 32\nentries = 64\n");
    let full = std::iter::repeat_with(|| host.ask(&host.mallory, "22/tcp")).take(100).position(|asked| asked.is_err());
    assert_eq!(full, Some(8), "a quarter of all");
    host.others_have_their_room("while mallory's share is used up");
}

#[test]
fn a_flood_of_reads_and_streams_delays_no_other_reader() {
    let host = Host::start("");
    let reader = host.postern.client();
    let list = |key: &Fast| {
        let request = ListGrantsRequest { read: Some(key.read()), ..Default::default() };
        reader.wait(reader.access().list_grants(request)).map(drop).map_err(|status| reason(&status))
    };
    let refused = std::iter::repeat_with(|| list(&host.vera)).take(2000).find_map(Result::err);
    assert_eq!(refused.as_deref(), Some("RATE_LIMITED"));
    assert_eq!((list(&host.bob), list(&host.carol)), (Ok(()), Ok(())));
    host.others_have_their_room("after the flood of reads");
    let mut streams = Vec::new();
    let mut watch = |key: &Fast| {
        let request = WatchGrantsRequest { read: Some(key.read()) };
        let stream = reader.wait(reader.access().watch_grants(request)).map_err(|status| reason(&status))?;
        streams.push(stream);
        Ok::<_, String>(())
    };
    let refused = std::iter::repeat_with(|| watch(&host.mallory)).take(100).position(|opened| opened.is_err());
    assert_eq!(refused, Some(8));
    watch(&host.bob).expect("bob's stream");
    let audit = || reader.wait(reader.host().list_audit(ListAuditRequest::default())).map(drop);
    audit().expect("root reads the journal");
}

/// A TLS key with which each signature takes milliseconds.
fn with_slow_key(postern: &Postern) {
    let tls = postern.state().join("tls");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&tls).expect("a directory");
    let (key, certificate) = (postern.file("slow.key"), postern.file("slow.crt"));
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "rsa:4096", "-nodes", "-days", "30", "-subj", "/CN=posternd", "-keyout"]);
    let made = make.arg(&key).arg("-out").arg(&certificate).output().expect("openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let both = [key, certificate].map(|file| fs::read_to_string(file).expect("a file")).concat();
    let file = tls.join("key-and-certificate.pem");
    fs::write(&file, both).expect("the key");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
}

#[test]
fn a_stranger_who_has_answers_signed_keeps_neither_root_nor_others_out() {
    let net = Net::pair();
    let mut postern = Postern::prepared(&net.server, Options::without_xdp());
    with_slow_key(&postern);
    postern.launch();
    let root = postern.client();
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let api = (SERVER.v4, 7322).into();
    let nonce = || WhoAmIRequest { nonce: vec![7; 32], ports: Vec::new() };
    let mut flood = Vec::new();
    // As many calls at once as one source may have connections, and a connection streams.
    for _ in 0..32 {
        let link = net.client.run(|| root.wait(connect::tls("host", api, None))).expect("a connection");
        for _ in 0..16 {
            let (channel, stop, answered) = (link.channel.clone(), Arc::clone(&stop), Arc::clone(&answered));
            flood.push(root.spawn(async move {
                let mut access = AccessServiceClient::new(channel);
                while !stop.load(Ordering::Relaxed) {
                    let _ = access.who_am_i(nonce()).await;
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
    }
    postern_tests::until::until("the flood is under way", || answered.load(Ordering::Relaxed) > 600);
    let other = net.server.run(|| root.wait(connect::tls("host", api, None))).expect("another source");
    let mut other = AccessServiceClient::new(other.channel);
    for turn in 0..20 {
        root.wait(root.access().who_am_i(nonce())).unwrap_or_else(|status| panic!("root, {turn}: {status}"));
        root.wait(other.who_am_i(nonce())).unwrap_or_else(|status| panic!("another source, {turn}: {status}"));
    }
    stop.store(true, Ordering::Relaxed);
    flood.into_iter().for_each(|one| root.wait(one).expect("the flood"));
}
