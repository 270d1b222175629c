//! How the client behaves towards a peer: trust, my-ip, what it sends, how it tells what comes back.
//!
//! The peer is a test double ([`support::peer`]) that speaks the wire format and decides nothing.

mod support;

use std::{fs, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use postern_cli::{
    connect::{self, LinkError},
    console::Console,
    failure::Kind,
    known_hosts::KnownHosts,
    session::{Plan, Reach},
    ssh_hosts::SshHosts,
    trust::Trust,
};
use postern_proto::v1::SignedMessage;
use serde_json::{Value, json};
use support::{
    Agent, Home, payload,
    peer::{CHALLENGE, GRANTS, HOST_ID, HOST_TIME, Peer, Serving, TlsKey, own_ip, runtime},
    stderr, stdout, succeed,
};

/// A home with a key, and its line for allowed_signers.
fn home() -> (Home, String) {
    let home = Home::new();
    home.keygen("key", &["-t", "ed25519"]);
    let line = format!("alice {}", fs::read_to_string(home.path("key.pub")).unwrap());
    (home, line)
}

/// For the address that the double sees: without a terminal nothing else is signed for a source that is not this machine's own.
fn request<'a>(host: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["request", host, "--port", "ssh", "--for", "30m", "--from", "my-ip,192.0.2.7"], more].concat()
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn an_unknown_host_needs_consent_a_known_one_none_and_a_changed_one_is_refused() {
    let (home, _) = home();
    let (peer, key) = (Peer::seeing("192.0.2.7"), TlsKey::new());
    let ip = own_ip();
    let serving = Serving::tls(peer.clone(), &key, &ip, 0);
    let (host, port) = (serving.address.to_string(), serving.address.port());

    let output = home.run(&request(&host, &[]));
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(stderr(&output).contains(&key.fingerprint().to_string()), "{}", stderr(&output));
    assert!(peer.heard().is_empty(), "something signed was sent to a host that nobody trusts");

    succeed(&mut home.with_key(&request(&host, &["--accept-new"])));
    succeed(&mut home.with_key(&request(&host, &[])));
    drop(serving);

    let (relay, other) = (Peer::seeing("192.0.2.7"), TlsKey::new());
    let serving = Serving::tls(relay.clone(), &other, &ip, port);
    for more in [&[][..], &["--accept-new"]] {
        let output = home.run(&request(&host, more));
        assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
        let told = stderr(&output);
        for part in ["HAS CHANGED", &key.fingerprint().to_string(), &other.fingerprint().to_string(), "postern forget"]
        {
            assert!(told.contains(part), "{part} is not in {told}");
        }
    }
    assert!(relay.heard().is_empty(), "something signed was sent to a changed host");

    succeed(&mut home.postern(&["forget", &host]));
    let named = other.fingerprint().to_string();
    succeed(&mut home.with_key(&request(&host, &["--fingerprint", &named])));
    succeed(&mut home.with_key(&request(&host, &[])));
    drop(serving);
}

#[test]
fn an_explicit_fingerprint_accepts_no_other() {
    let (home, _) = home();
    let (peer, key) = (Peer::seeing("192.0.2.7"), TlsKey::new());
    let serving = Serving::tls(peer.clone(), &key, "127.0.0.1", 0);
    let other = TlsKey::new().fingerprint().to_string();
    let host = serving.address.to_string();
    let output = home.run(&request(&host, &["--accept-new", "--fingerprint", &other]));
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(peer.heard().is_empty());
}

#[test]
fn a_relay_that_shows_the_pinned_certificate_without_its_key_gains_nothing() {
    let (real, own) = (TlsKey::new(), TlsKey::new());
    let key =
        rustls::crypto::ring::sign::any_supported_type(&rustls::pki_types::PrivateKeyDer::Pkcs8(own.key_der.into()));
    let certified = rustls::sign::CertifiedKey::new(vec![real.certificate.clone().into()], key.unwrap());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    runtime().block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let relay = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await.map(drop)
        });
        let pinned = real.certificate.as_slice();
        let pin = postern_cli::tls::Fingerprint::of(pinned);
        let result = connect::tls("vm1", address, Some(pin)).await;
        assert!(matches!(result, Err(LinkError::Impostor(_))), "{result:?}");
        assert!(relay.await.unwrap().is_err(), "the relay finished a handshake");
    });
}

#[test]
fn a_host_behind_somebody_elses_tls_is_refused() {
    let (home, _) = home();
    let mut peer = Peer::seeing("192.0.2.7");
    peer.who.tls_fingerprint = TlsKey::new().fingerprint().to_string();
    let serving = Serving::tls(peer.clone(), &TlsKey::new(), "127.0.0.1", 0);
    let host = serving.address.to_string();
    let output = home.run(&request(&host, &["--accept-new"]));
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(peer.heard().is_empty());
}

#[test]
fn what_is_sent_is_bound_to_the_host_and_verifies() {
    let (home, line) = home();
    let peer = Peer::seeing("::ffff:192.0.2.7");
    let key = TlsKey::new();
    let serving = Serving::tls(peer.clone(), &key, "127.0.0.1", 0);
    let host = serving.address.to_string();
    let more = ["--accept-new", "--port", "5986", "--reason", "disk full", "--ticket", "INC-1", "--json"];
    let output = succeed(&mut home.with_key(&request(&host, &more)));
    assert_eq!(json_of(&stdout(&output))["grant"]["id"], GRANTS[0]);
    let shown = json_of(stderr(&output).lines().last().unwrap());
    assert_eq!(shown["note"], format!("{host} (host {HOST_ID}) sees you as 192.0.2.7/32"));
    succeed(&mut home.with_key(&["revoke", &host, GRANTS[0], "--reason", "done"]));

    let heard: Vec<SignedMessage> = peer.heard().into_iter().flatten().collect();
    let access = payload(&heard[0]);
    assert_eq!(access["audience"], json!([format!("tls:{}", key.fingerprint()), HOST_ID]));
    assert_eq!(access["challenge"], CHALLENGE);
    // By the host's clock, which is years away from this machine's.
    assert_eq!(access["notAfter"], "2040-01-01T00:02:00+00:00");
    assert_eq!(HOST_TIME, 2_208_988_800);
    assert_eq!(access["source"], json!(["192.0.2.7/32"]), "an IPv4-mapped address is IPv4");
    assert_eq!(access["ports"], json!(["22/tcp", "5986/tcp"]));
    assert_eq!((&access["justification"], &access["ticket"]), (&json!("disk full"), &json!("INC-1")));
    assert!(home.verifies(&line, "request@postern.v1", &heard[0].payload, &heard[0].signatures[0].sshsig));

    let revoke = payload(&heard[1]);
    assert_eq!((&revoke["grantId"], &revoke["reason"]), (&json!(GRANTS[0]), &json!("done")));
    assert!(home.verifies(&line, "revoke@postern.v1", &heard[1].payload, &heard[1].signatures[0].sshsig));
}

#[test]
fn my_ip_is_what_each_family_is_seen_as_and_one_silent_address_is_told() {
    let key = TlsKey::new();
    let four = Serving::tls(Peer::seeing("192.0.2.7"), &key, "127.0.0.1", 0);
    let six = Serving::tls(Peer::seeing("2001:db8::7"), &key, "::1", 0);
    let closed: SocketAddr = {
        let listener = std::net::TcpListener::bind(format!("{}:0", own_ip())).unwrap();
        listener.local_addr().unwrap()
    };
    let session = open(&[four.address, six.address, closed], Reach::All).expect("a session");
    let mut seen: Vec<_> = session.seen().unwrap().iter().map(|one| (one.source, one.dialled)).collect();
    seen.sort_unstable();
    let pair = |source: &str, dialled: &str| (source.parse().unwrap(), Some(dialled.parse().unwrap()));
    assert_eq!(seen, [pair("192.0.2.7", "127.0.0.1"), pair("2001:db8::7", "::1")]);
    assert_eq!(session.silent.len(), 1, "{:?}", session.silent);
}

#[test]
fn what_the_host_did_not_sign_is_never_a_source() {
    // The bare field names another address than the statement, which alone is signed.
    let mut peer = Peer::seeing("198.51.100.66");
    peer.edit = |statement| statement["address"] = json!("192.0.2.7");
    let serving = Serving::tls(peer, &TlsKey::new(), "127.0.0.1", 0);
    let session = open(&[serving.address], Reach::All).expect("a session");
    let seen = session.seen().unwrap();
    assert_eq!(seen.iter().map(|one| one.source.to_string()).collect::<Vec<_>>(), ["192.0.2.7"]);
}

#[test]
fn an_address_that_accepts_and_never_answers_does_not_hold_up_the_others() {
    let answering = Serving::tls(Peer::seeing("192.0.2.7"), &TlsKey::new(), "127.0.0.1", 0);
    // The kernel completes the TCP handshake; nobody ever speaks.
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [mute.local_addr().unwrap(), answering.address];
    let session = open(&addresses, Reach::All).expect("a session");
    assert!(session.silent[0].ends_with("no answer in time"), "{:?}", session.silent);
    assert!(open(&addresses, Reach::Any).is_ok());
}

#[test]
fn a_host_that_hung_up_meanwhile_is_asked_again_but_not_another_one() {
    let key = TlsKey::new();
    let ip = own_ip();
    let serving = Serving::tls(Peer::seeing("192.0.2.7"), &key, &ip, 0);
    let port = serving.address.port();
    let directory = tempfile::tempdir().unwrap();
    let plan = plan(&serving.address.to_string(), directory.path());
    let runtime = runtime();
    let mut session = runtime.block_on(plan.open(Reach::All)).expect("a session");
    drop(serving);

    let mut restarted = Peer::seeing("192.0.2.7");
    restarted.who.challenge = "after the restart".to_owned();
    let serving = Serving::tls(restarted, &key, &ip, port);
    runtime.block_on(session.refresh_older_than(Duration::ZERO)).expect("the same host again");
    assert_eq!(session.said().challenge, "after the restart");
    drop(serving);

    let _relay = Serving::tls(Peer::seeing("192.0.2.7"), &TlsKey::new(), &ip, port);
    let failure = runtime.block_on(session.refresh_older_than(Duration::ZERO)).expect_err("another key");
    assert_eq!(failure.kind, Kind::Identity, "{failure}");
}

#[test]
fn a_name_that_leads_to_two_hosts_is_refused() {
    let key = TlsKey::new();
    let one = Serving::tls(Peer::seeing("192.0.2.7"), &key, "127.0.0.1", 0);
    let mut clone = Peer::seeing("2001:db8::7");
    clone.who.host_id = "7d0c0d0e-3b1a-4a53-9a3d-222222222222".to_owned();
    let clone = Serving::tls(clone, &key, "127.0.0.2", 0);
    let stranger = Serving::tls(Peer::seeing("2001:db8::7"), &TlsKey::new(), "127.0.0.3", 0);
    for other in [clone.address, stranger.address] {
        let failure = open(&[one.address, other], Reach::All).expect_err("two hosts");
        assert_eq!(failure.kind, Kind::Identity, "{failure}");
        assert!(failure.message.contains("different hosts"), "{failure}");
    }
}

/// Opens a session with a host that has these addresses, trusting it unseen.
fn open(addresses: &[SocketAddr], reach: Reach) -> postern_cli::failure::Result<postern_cli::session::Session> {
    let directory = tempfile::tempdir().unwrap();
    let plan = plan("vm1.example.com", directory.path());
    let runtime = runtime();
    let result = runtime.block_on(plan.open_tls("vm1.example.com", addresses, reach));
    runtime.shutdown_background();
    result
}

/// Trusts unseen, and remembers it in `directory`.
fn plan(host: &str, directory: &Path) -> Plan {
    Plan {
        target: host.parse().unwrap(),
        trust: Trust { fingerprint: None, accept_new: true },
        store: KnownHosts::at(directory),
        ssh: SshHosts::at([]),
        console: Console { json: false },
        ports: Vec::new(),
    }
}

#[test]
fn my_ip_over_loopback_says_to_name_an_address() {
    let (home, _) = home();
    let peer = Peer::seeing("127.0.0.1");
    let serving = Serving::trusted(peer.clone(), &home);
    let host = serving.address.to_string();
    let request = ["request", &host, "--port", "ssh", "--for", "30m"];
    let output = home.run(&request);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("--from"), "{}", stderr(&output));
    assert!(peer.heard().is_empty());
    succeed(&mut home.with_key(&[&request[..], &["--from", "192.0.2.7"]].concat()));
    assert_eq!(payload(peer.heard()[0].as_ref().unwrap())["source"], json!(["192.0.2.7/32"]));
}

#[test]
fn a_refusal_is_told_with_its_reason_rule_and_what_to_do() {
    let (home, _) = home();
    let mut peer = Peer::seeing("192.0.2.7");
    peer.refusal = Some(("DURATION_TOO_LONG", "port[0].max_duration"));
    let serving = Serving::trusted(peer.clone(), &home);
    let host = serving.address.to_string();
    let output = home.run(&request(&host, &[]));
    assert_eq!(output.status.code(), Some(1));
    let told = stderr(&output);
    for part in ["longer than 3h", "[DURATION_TOO_LONG, rule port[0].max_duration]", "next: ask for less", &host] {
        assert!(told.contains(part), "{part} is not in {told}");
    }

    let output = home.run(&request(&host, &["--json"]));
    assert_eq!((output.status.code(), stdout(&output).as_str()), (Some(1), ""));
    let lines: Vec<Value> = stderr(&output).lines().map(json_of).collect();
    let error = &lines.last().unwrap()["error"];
    assert_eq!((&error["kind"], &error["exitCode"]), (&json!("refused"), &json!(1)));
    assert_eq!(error["reason"], "DURATION_TOO_LONG");
    assert_eq!(error["rule"], "port[0].max_duration");

    peer.refusal = Some(("KERNEL_FAILED", ""));
    let serving = Serving::trusted(peer, &home);
    let output = home.run(&request(&serving.address.to_string(), &[]));
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
}

#[test]
fn reads_are_signed_once_and_shown_in_json_or_as_a_table() {
    let (home, line) = home();
    let peer = Peer::seeing("192.0.2.7");
    let serving = Serving::trusted(peer.clone(), &home);
    let host = serving.address.to_string();

    let listed = json_of(&stdout(&succeed(&mut home.with_key(&["list", &host, "--json"]))));
    let ids: Vec<&Value> = listed["grants"].as_array().unwrap().iter().map(|grant| &grant["id"]).collect();
    assert_eq!(ids, [GRANTS[0], GRANTS[1]]);
    let heard: Vec<SignedMessage> = peer.heard().into_iter().flatten().collect();
    assert_eq!(heard.len(), 2, "one call for each page");
    assert_eq!(heard[0], heard[1], "one signature serves the command");
    assert!(home.verifies(&line, "read@postern.v1", &heard[0].payload, &heard[0].signatures[0].sshsig));
    assert_eq!(payload(&heard[0])["notAfter"], "2040-01-01T00:10:00+00:00");

    let table = stdout(&succeed(&mut home.with_key(&["list", &host])));
    assert!(table.contains("29m 58s") && table.contains("alice@example.com"), "{table}");

    let output = succeed(&mut home.with_key(&["explain", &host, "--port", "ssh", "--for", "4h"]));
    let told = stdout(&output);
    assert!(told.contains("asked about 22/tcp from 192.0.2.7/32"), "{told}");
    assert!(told.contains("DURATION_TOO_LONG") && told.contains("next: "), "{told}");

    let output = home.run(&["status", &host]);
    assert_eq!(output.status.code(), Some(8), "not all is well there");
    let told = stdout(&output);
    assert!(told.contains("DEGRADED") && told.contains("lock-lost") && !told.contains('\u{1b}'), "{told}");
    let why = stderr(&output);
    assert!(why.contains("not all is well") && why.contains("lock-lost") && !why.contains('\u{1b}'), "{why}");
}

#[test]
fn an_audit_of_a_changed_journal_shows_what_is_there_and_fails() {
    let (home, _) = home();
    let serving = Serving::trusted(Peer::seeing("192.0.2.7"), &home);
    let host = serving.address.to_string();
    for more in [&[][..], &["--json"]] {
        let output = home.with_key(&[&["audit", &host, "--since", "24h"], more].concat()).output().unwrap();
        let (out, err) = (stdout(&output), String::from_utf8_lossy(&output.stderr).into_owned());
        assert_eq!(output.status.code(), Some(6), "{out}{err}");
        assert!(out.contains("granted") && !out.contains('\u{1b}'), "{out}");
        assert!(err.contains("line 3 does not continue the one before it"), "{err}");
    }
    let output = home.with_key(&["audit", &host, "--until", "soon"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_watch_of_one_grant_ends_with_it() {
    let (home, _) = home();
    let serving = Serving::trusted(Peer::seeing("192.0.2.7"), &home);
    let host = serving.address.to_string();
    let output = succeed(&mut home.with_key(&["watch", &host, GRANTS[0], "--json"]));
    let lines: Vec<Value> = stdout(&output).lines().map(json_of).collect();
    let states: Vec<&Value> = lines.iter().map(|line| &line["grant"]["state"]).collect();
    assert_eq!(states, ["GRANT_STATE_ACTIVE", "GRANT_STATE_EXPIRED"], "{}", stdout(&output));
    assert!(lines.iter().all(|line| line["grant"]["id"] == GRANTS[0]));
}

#[test]
fn root_on_the_unix_socket_reads_unsigned_and_others_sign() {
    let (home, _) = home();
    let peer = Peer { tls: Some(TlsKey::new()), ..Peer::seeing("") };
    let socket = home.path("posternd.sock");
    let _serving = Serving::unix(peer.clone(), &socket);
    let host = format!("unix://{}", socket.display());
    // The listener is a process of the same user, but it is not posternd.
    let output = home.run(&["list", &host]);
    assert_eq!(output.status.code(), Some(4), "{}", stderr(&output));
    assert!(peer.heard().is_empty());
    succeed(&mut home.with_key(&["list", &host, "--accept-new"]));
    peer.inbox.lock().unwrap().clear();
    if rustix::process::geteuid().is_root() {
        succeed(&mut home.postern(&["list", &host]));
        assert!(peer.heard().iter().all(Option::is_none), "root needs no signature");
    } else {
        assert_eq!(home.postern(&["list", &host]).output().unwrap().status.code(), Some(5));
    }
    let before = peer.heard().len();
    succeed(&mut home.with_key(&["list", &host]));
    assert!(peer.heard()[before..].iter().all(Option::is_some), "a named key signs");
    let output = home.run(&request(&host, &[]));
    assert_eq!(output.status.code(), Some(2), "there is no address to offer: {}", stderr(&output));
}

#[test]
fn mistakes_and_silence_have_their_exit_codes() {
    let (home, _) = home();
    let closed = {
        let listener = std::net::TcpListener::bind(format!("{}:0", own_ip())).unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let missing = format!("unix://{}", home.path("missing.sock").display());
    for (arguments, code) in [
        (vec!["--help"], 0),
        (vec!["explain", "KEY_UNKNOWN"], 0),
        (vec![], 2),
        (vec!["open", "vm1"], 2),
        (vec!["request", "vm1", "--for", "30m"], 2),
        (vec!["request", "vm1", "--port", "ssh"], 2),
        (vec!["sign", "--port", "sshd", "--for", "30m", "--from", "192.0.2.7", "--audience", "vm1"], 2),
        (vec!["request", "vm1", "--port", "22/sctp", "--for", "30m"], 2),
        (vec!["request", "vm1", "--port", "ssh", "--for", "30"], 2),
        (vec!["request", "vm1", "--port", "ssh", "--for", "30m", "--until", "18:00"], 2),
        (vec!["request", "vm1", "--port", "ssh", "--until", "yesterday"], 2),
        (vec!["request", "vm1", "--port", "ssh", "--for", "30m", "--from", "192.0.2.7/24"], 2),
        (vec!["revoke", "vm1", "not-a-uuid"], 2),
        (vec!["explain", "vm1"], 2),
        (vec!["sign", "--port", "ssh", "--for", "30m"], 2),
        (vec!["list", "http://192.0.2.1"], 2),
        (vec!["list", &missing, "--fingerprint", "SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU"], 3),
        (vec!["list", &closed], 3),
        (vec!["list", &missing], 3),
    ] {
        let output = if arguments.is_empty() { home.postern(&[]).output().unwrap() } else { home.run(&arguments) };
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        let told = json_errors(&home, &arguments);
        assert!(code == 0 || arguments.is_empty() || told["error"]["exitCode"] == code, "{arguments:?}: {told}");
    }
}

/// The last line on standard error with `--json`.
fn json_errors(home: &Home, arguments: &[&str]) -> Value {
    let output = home.run(&[arguments, &["--json"]].concat());
    stderr(&output).lines().last().map_or(Value::Null, json_of)
}

#[test]
fn a_known_hosts_file_that_is_damaged_trusts_nobody() {
    let (home, _) = home();
    let peer = Peer::seeing("192.0.2.7");
    let serving = Serving::tls(peer.clone(), &TlsKey::new(), "127.0.0.1", 0);
    fs::create_dir_all(home.path("config/postern")).unwrap();
    fs::write(home.path("config/postern/known_hosts.toml"), "[[host]]\naddress = 3\n").unwrap();
    let output = home.run(&request(&serving.address.to_string(), &["--accept-new"]));
    assert_eq!(output.status.code(), Some(7), "{}", stderr(&output));
    assert!(stderr(&output).contains("known_hosts.toml"), "{}", stderr(&output));
    assert!(peer.heard().is_empty());
}

#[test]
fn a_host_that_does_not_say_which_keys_count_gets_the_first_one_and_a_note() {
    let home = Home::new();
    let agent = Agent::start(&home);
    let keys = ["first", "second"].map(|name| home.keygen(name, &["-t", "ed25519"]));
    keys.iter().for_each(|key| agent.add(&home, key));
    let peer = Peer::seeing("192.0.2.7");
    let serving = Serving::trusted(peer.clone(), &home);
    let mut command = home.postern(&["list", &serving.address.to_string()]);
    let output = succeed(command.env("SSH_AUTH_SOCK", &agent.socket));
    assert!(stderr(&output).contains("does not say which keys count"), "{}", stderr(&output));
    let heard: Vec<SignedMessage> = peer.heard().into_iter().flatten().collect();
    let line = format!("alice {}", fs::read_to_string(keys[0].with_extension("pub")).unwrap());
    assert!(
        home.verifies(&line, "read@postern.v1", &heard[0].payload, &heard[0].signatures[0].sshsig),
        "the first one"
    );
}
