//! What the fuzz targets start from (fuzz/corpus): the bypass corpus, signed messages, the documented configurations, what this kernel
//! says over netlink.
//!
//! `cargo test -p postern-tests --test seeds -- --ignored` writes the seeds anew, as root. Names of seeds are words, so that they
//! are told from what a fuzzer finds, whose names are hashes.

#[path = "../../fuzz/fuzz_targets/host.rs"]
mod host;
#[path = "../../fuzz/fuzz_targets/lines.rs"]
#[allow(dead_code, reason = "the target makes texts of them")]
mod lines;
#[path = "../../agent-core/tests/hostile_bytes/valid.rs"]
#[allow(dead_code, reason = "the targets need more of it")]
mod valid;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use postern_core::trust::Trust;
use postern_proto::{payload_type, v1};
use postern_tests::corpus::{Transport, corpus};
use postern_tests::keys::Key;
use postern_tests::net::{GRANTED, Net, SERVER};
use postern_tests::probe;
use postern_tests::service::Service;
use prost::Message as _;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, Socket, Type};

/// All of them together; every clone of the repository carries them.
const MOST_BYTES: u64 = 400 * 1024;
/// A frame that is longer says nothing that a shorter one does not.
const MOST_FRAME: usize = 200;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus")
}

/// A target's seeds: name and bytes.
type Seeds = Vec<(String, Vec<u8>)>;

#[test]
fn every_target_has_seeds_and_they_are_small() {
    let mut bytes = 0;
    for (target, least) in [
        ("client", 6),
        ("config", 5),
        ("envelope", 20),
        ("host_key", 15),
        ("netlink", 4),
        ("packet", 50),
        ("trust_file", 8),
    ] {
        let files = fs::read_dir(folder().join(target)).unwrap_or_else(|error| panic!("{target}: {error}"));
        let files: Vec<_> = files.map(|file| file.expect("a file")).collect();
        assert!(files.len() >= least, "{target} has {} seeds", files.len());
        bytes += files.iter().map(|file| file.metadata().expect("a size").len()).sum::<u64>();
    }
    assert!(bytes < MOST_BYTES, "{bytes} bytes");
}

#[test]
#[ignore = "writes into the checkout"]
fn write_the_seeds() {
    write("client", from_hosts());
    write("config", configurations());
    write("envelope", [signatures(), texts(), messages(), short()].concat());
    write("host_key", host_keys());
    write("netlink", kernel_answers());
    write("packet", frames());
    write("trust_file", trust_files());
}

fn write(target: &str, seeds: Seeds) {
    let folder = folder().join(target);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    for (name, bytes) in seeds {
        let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        fs::write(folder.join(name.trim_matches('-')), bytes).expect("a seed");
    }
}

fn configurations() -> Seeds {
    let read =
        |path: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).expect(path);
    let mut seeds =
        vec![("host".to_owned(), host::CONFIG.to_owned()), ("shipped".to_owned(), read("systemd/postern.toml"))];
    for (path, begin, end) in
        [("docs/configuration.md", "```toml\n", "```"), ("agent/src/config/tests.rs", "r#\"", "\"#")]
    {
        let text = read(path);
        let blocks = text.split(begin).skip(1).map(|rest| rest.split(end).next().unwrap_or_default());
        seeds.extend(blocks.enumerate().map(|(at, block)| (format!("{path}-{at}"), block.to_owned())));
    }
    let texts = seeds.into_iter().map(|(name, text)| (name, text.into_bytes()));
    // Bytes that stand for lines: see fuzz/fuzz_targets/lines.rs
    texts.chain((0..lines::RIGHT.len()).map(|at| (format!("lines-{at}"), lines::RIGHT[at].to_vec()))).collect()
}

/// SSHSIGs, bare and in armor.
fn signatures() -> Seeds {
    let names = ["key", "certificate"];
    let pairs = names.iter().zip(valid::texts());
    pairs
        .flat_map(|(name, (_, bytes))| {
            let armored = valid::armor(&bytes).into_bytes();
            [
                (format!("sshsig-{name}"), [b"s", &bytes[..]].concat()),
                (format!("armor-{name}"), [b"a", &armored[..]].concat()),
            ]
        })
        .collect()
}

/// Edits of signatures, and who signs what in a few bytes: see fuzz/fuzz_targets/envelope.rs
fn short() -> Seeds {
    let edits: [(&str, &[u8]); 2] = [("key", b"e\0"), ("certificate", b"e\x01\x06\x02\0")];
    // Settings, payload, what varies in it, signers.
    let who: [(&str, &[u8]); 8] = [
        ("request", &[0, 0, 0, 0]),
        ("challenged", &[1, 1, 5, 0]),
        ("approved", &[0, 2, 0, 0, 16]),
        ("later", &[0, 3, 0, 0]),
        ("revoke", &[0, 4, 5, 17]),
        ("read", &[0, 5, 5, 19]),
        ("ticket", &[0, 6, 0, 0]),
        ("sources", &[0, 7, 0, 0]),
    ];
    let edits = edits.map(|(name, bytes)| (format!("edits-{name}"), bytes.to_vec()));
    edits.into_iter().chain(who.map(|(name, bytes)| (format!("who-{name}"), [b"w", bytes].concat()))).collect()
}

/// A right access request to the host of the fuzz target.
fn access() -> Value {
    json!({
        "id": "7d0c0d0e-3b1a-4a53-9a3d-0123456789ab", "audience": ["vm1"], "notAfter": "2027-01-15T08:10:00Z",
        "ports": ["22/tcp"], "source": ["10.1.0.10/32", "2001:db8::7/128"], "duration": "600s",
    })
}

/// Payloads with what is signed by whom, and the settings under which they are right.
fn payloads() -> Vec<(&'static str, &'static str, u8, Value)> {
    let with = |fields: Value| {
        let mut access = access();
        for (name, value) in fields.as_object().expect("fields") {
            match value {
                Value::Null => drop(access.as_object_mut().expect("an object").remove(name)),
                value => access[name] = value.clone(),
            }
        }
        access
    };
    let id = host::identity().host_id;
    let challenge = host::challenger().issue(host::now(true).boot);
    let header = json!({"id": access()["id"], "audience": ["vm1"], "notAfter": access()["notAfter"]});
    let more = |name: &str, value: &str| {
        let mut header = header.clone();
        header[name] = json!(value);
        header
    };
    let rdp = json!({"ports": ["3389/tcp"], "justification": "CHG-17", "ticket": "T-1"});
    let end = json!({"duration": null, "end": "2027-01-15T08:30:00Z", "notBefore": "2027-01-15T08:05:00Z"});
    vec![
        ("request", "@r1", 0, access()),
        ("request-certified", "@r1c", 0, access()),
        ("request-stranger", "@r5", 0, access()),
        ("request-forged", "@r1f", 0, access()),
        ("request-of-other-bytes", "@r1x", 0, access()),
        ("request-challenged", "@r1", 1, with(json!({"challenge": challenge}))),
        ("request-until", "@r3", 0, with(end)),
        ("request-any", "@r1", 0, with(json!({"ports": ["22/any"], "source": ["10.0.0.0/24"]}))),
        ("request-extension", "@r1", 0, with(json!({"supersedes": "7d0c0d0e-3b1a-4a53-9a3d-0123456789ac"}))),
        ("request-host-id", "@r1", 0, with(json!({"audience": [host::identity().host_id.to_string()]}))),
        ("request-host-key", "@r1", 0, with(json!({"audience": host::identity().host_keys}))),
        ("request-host-key-and-id", "@r1", 0, with(json!({"audience": [host::identity().host_keys[0], id]}))),
        ("request-tls-key-and-id", "@r1", 0, with(json!({"audience": [host::identity().tls_key, id]}))),
        ("request-approved", "@r1 @a4", 0, with(rdp.clone())),
        ("request-approved-elsewhere", "@r1 @a4x", 0, with(rdp.clone())),
        ("request-approved-by-two", "@r1 @a3 @a4", 0, with(rdp.clone())),
        ("request-waits", "@r1", 0, with(rdp)),
        ("revoke", "@v4", 4, more("grantId", "7d0c0d0e-3b1a-4a53-9a3d-0123456789ac")),
        ("read", "@d4", 6, header.clone()),
        ("approval", "@a4", 0, access()),
        ("admin", "@x4", 0, access()),
        ("request-of-others", "@r1", 0, with(json!({"audience": ["vm2"]}))),
        ("request-stale", "@r1", 0, with(json!({"notAfter": "2027-01-15T07:59:59Z"}))),
        ("request-wide", "@r1", 0, with(json!({"source": ["0.0.0.0/0", "::/0"]}))),
        ("request-long", "@r1", 0, with(json!({"duration": "99999999999999999999s"}))),
    ]
}

fn texts() -> Seeds {
    let seed = |(name, who, settings, payload): (&str, &str, u8, Value)| {
        (format!("text-{name}"), [&[b't', settings][..], format!("{who}\n{payload}").as_bytes()].concat())
    };
    payloads().into_iter().map(seed).collect()
}

fn messages() -> Seeds {
    let seed = |(name, who, settings, payload): (&str, &str, u8, Value)| {
        let signatures = who.split(' ').map(|sshsig| v1::Signature { sshsig: sshsig.to_owned() });
        let payload_type = match settings >> 1 {
            2 => payload_type::REVOKE_REQUEST,
            3 => payload_type::READ_REQUEST,
            _ => payload_type::ACCESS_REQUEST,
        };
        let message = v1::SignedMessage {
            payload: payload.to_string().into_bytes(),
            payload_type: payload_type.to_owned(),
            signatures: signatures.collect(),
        };
        let bytes = v1::RequestAccessRequest { message: Some(message) }.encode_to_vec();
        (format!("message-{name}"), [&[b'p', settings][..], &bytes].concat())
    };
    payloads().into_iter().map(seed).collect()
}

/// The frames of the bypass corpus, each in a world of its own: a byte for the number of entries, the entries, settings.
fn frames() -> Seeds {
    let mut seeds = Seeds::new();
    for (transport, first) in [(Transport::Tcp, 40_000), (Transport::Udp, 50_000)] {
        for case in corpus(transport, GRANTED, 22, first) {
            for (part, frame) in case.frames.iter().enumerate().filter(|(_, frame)| frame.len() <= MOST_FRAME) {
                let seed = [world(seeds.len()), frame.clone()].concat();
                seeds.push((format!("{transport:?}-{}-{part}", case.name), seed));
            }
        }
    }
    seeds
}

/// No entry, a live one, an ended one, one for sessions alone, a torn one; in turn.
fn world(turn: usize) -> Vec<u8> {
    // shape, flipped bit, prefix length, expires, established, cookie, until, slot: see fuzz/fuzz_targets/packet.rs
    let entries: &[[u8; 8]] = match turn % 6 {
        0 => &[],
        1 => &[[0, 0, 32, 9, 0, 0, 0, 1]],
        2 => &[[0, 0, 24, 8, 0, 0, 0, 2]],
        3 => &[[16, 0, 32, 8, 12, 1, 12, 3]],
        4 => &[[8, 0, 32, 16, 16, 0, 0, 4]],
        _ => &[[0, 0, 32, 1, 0, 0, 0, 5], [4, 31, 8, 16, 0, 0, 0, 6]],
    };
    let mut bytes = vec![entries.len() as u8];
    bytes.extend(entries.concat());
    bytes.push(if turn % 5 == 4 { 2 } else { 0 });
    bytes
}

fn trust_files() -> Seeds {
    let key = |start: &str, seed| valid::line(start, seed);
    let all: String = host::TRUSTED.iter().map(|(start, seed)| valid::line(start, *seed)).collect();
    let options = "cert-authority,namespaces=\"request@*,read@postern.v1\",valid-after=\"20260101Z\",valid-before=\"20270101120000Z\"";
    let dated = key(&format!("\"*@example.com,!eve@example.com\" {options}"), 2);
    let fingerprint = Trust::parse(&all, b"").expect("valid").entries().next().expect("a line").fingerprint();
    let listed = key("", 1).trim_start().to_owned();
    let list = valid::revocation_list();
    let both = [b"b", all.as_bytes(), b"\0", &list].concat();
    let text = |name: &str, text: &str| (name.to_owned(), [b"t", text.as_bytes()].concat());
    let revoked = |name: &str, list: &[u8]| (name.to_owned(), [b"r", list].concat());
    vec![
        text("plain", &key("alice@example.com", 1)),
        text("all", &all),
        text("options", &dated),
        text("comments", &format!("# people\r\n\r\n{all}")),
        text("quoted", &key("\"Alice Smith,a@b\"", 1)),
        revoked("list", &list),
        revoked("header", &list[..44]),
        revoked("fingerprint", format!("# gone\n{fingerprint} alice\n").as_bytes()),
        revoked("key", listed.as_bytes()),
        ("both".to_owned(), both),
        // Words of both: see fuzz/fuzz_targets/trust_words.rs
        ("words-list".to_owned(), b"k\0\x07\x09\x02\x64\x55\x03\0\0".to_vec()),
        ("words".to_owned(), b"w\0\0\0\0\x03\x03\0\x01\xff\0\x01".to_vec()),
    ]
}

/// What a host sends: see fuzz/fuzz_targets/client.rs
fn from_hosts() -> Seeds {
    let statement = |ports: Option<Value>| {
        let mut text = json!({
            "nonce": "@n", "hostId": "vm1", "names": ["vm1"], "hostTime": "2026-11-30T08:00:00.5Z", "clockTrusted": true,
            "challenge": "c", "address": "192.0.2.7", "localAddress": "192.0.2.1", "tlsFingerprint": "@t",
        });
        if let Some(ports) = ports {
            text["ports"] = ports;
        }
        format!("s{text}").into_bytes()
    };
    // "ssh" and "3389" in base64.
    let answer = |asked: &str, port: &str| json!({"asked": asked, "ports": [port], "admitted": true});
    let (ssh, rdp) = (answer("c3No", "2222/tcp"), answer("MzM4OQ", "3389/any"));
    let mut seeds = vec![
        ("statement".to_owned(), statement(None)),
        ("statement-ports".to_owned(), statement(Some(json!([ssh, rdp])))),
        ("statement-swapped".to_owned(), statement(Some(json!([rdp, ssh])))),
        ("statement-one-port".to_owned(), statement(Some(json!([ssh])))),
    ];
    let dir = tempfile::tempdir().expect("a directory");
    for kind in ["ed25519", "ecdsa"] {
        let key = Key::of_type(dir.path(), kind, &["-t", kind]);
        let armored = key.sign("host@postern.v1", b"message");
        seeds.push((format!("signature-{kind}"), [b"a", armored.as_bytes()].concat()));
    }
    seeds
}

/// Keys that ssh-keygen makes for nobody, in each of its types and formats: see fuzz/fuzz_targets/host_key.rs
fn host_keys() -> Seeds {
    let dir = tempfile::tempdir().expect("a directory");
    let mut seeds = Seeds::new();
    for (kind, bits) in [("ed25519", "256"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521"), ("rsa", "2048")] {
        for format in ["RFC4716", "PEM", "PKCS8"] {
            let name = format!("{kind}-{bits}-{format}");
            let path = dir.path().join(&name);
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-N", "", "-C", "", "-t", kind, "-b", bits, "-m", format, "-f"]).arg(&path);
            assert!(keygen.status().expect("ssh-keygen").success());
            let text = fs::read_to_string(path).expect("a key");
            let (label, rest) =
                text.strip_prefix("-----BEGIN ").and_then(|rest| rest.split_once("-----")).expect("armor");
            let body: String = rest.split("-----").next().expect("a body").split_whitespace().collect();
            let first = match label {
                "OPENSSH PRIVATE KEY" => b'o',
                "RSA PRIVATE KEY" => b'r',
                "EC PRIVATE KEY" => b'e',
                _ => b'p',
            };
            seeds.push((name, [&[first][..], &STANDARD.decode(body).expect("base64")].concat()));
        }
    }
    seeds
}

/// What the kernel says of sockets, links, addresses and routes in a namespace with some of each.
fn kernel_answers() -> Seeds {
    let net = Net::pair();
    net.server.ip(
        "link add bridge0 type bridge\nlink add veth0 type veth peer name veth1\nlink set veth0 master bridge0\n\
         link add link eth0 name macvlan0 type macvlan mode bridge\nlink set macvlan0 up\nlink set veth0 up\nlink set veth1 up\n\
         address add 192.0.2.1/32 peer 192.0.2.2 dev veth1\nroute add default dev eth0\n\
         route add default metric 7 nexthop dev eth0 nexthop dev macvlan0\nroute add unreachable ::/0 metric 9\n\
         route add 198.51.100.0/24 nexthop dev eth0 nexthop dev macvlan0",
    );
    let _service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
    for (from, to) in GRANTED.both().into_iter().zip(SERVER.both()) {
        let _ = probe::tcp(&net.client, from, SocketAddr::new(to, 22));
    }
    let mut seeds = Seeds::new();
    net.server.run(|| {
        // RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE of linux/rtnetlink.h
        for (name, kind) in [("links", 18), ("addresses", 22), ("routes", 26)] {
            seeds.extend(dump(libc::NETLINK_ROUTE, b'r', name, kind, &[0; 4]));
        }
        for (name, family) in [("tcp4", 2), ("tcp6", 10)] {
            // struct inet_diag_req_v2: family, protocol, extensions, padding, all states, any socket.
            let request = [&[family, 6, 0, 0][..], &[0xff; 4], &[0; 48]].concat();
            seeds.extend(dump(libc::NETLINK_SOCK_DIAG, b's', name, 20, &request));
        }
    });
    seeds.push(("together".to_owned(), together(&seeds)));
    // NLMSG_DONE with a byte behind it, and none to fill it up.
    seeds.push(("unfilled".to_owned(), [&b"r"[..], &sized(&[&[3, 0, 2, 0][..], &[0; 13]].concat())].concat()));
    seeds
}

/// What [`dump`] said of links, addresses and default routes, in one datagram, and of the links only what matters to the agent. The
/// links that stand on others are there twice: the second has its lower device in another namespace.
fn together(seeds: &Seeds) -> Vec<u8> {
    let datagrams = seeds.iter().filter(|(_, datagram)| datagram[0] == b'r').map(|(_, datagram)| &datagram[1..]);
    let mut all = vec![b'r'];
    for message in datagrams.flat_map(|datagram| pieces(datagram, 4)) {
        match message[4] {
            16 => {
                // IFLA_IFNAME, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO, IFLA_LINK_NETNSID, IFLA_PARENT_DEV_NAME
                let kept = pieces(&message[32..], 2).into_iter().filter(|a| [3, 5, 10, 18, 37, 56].contains(&a[2]));
                let kept = [&message[4..32], &kept.collect::<Vec<_>>().concat()].concat();
                all.extend(sized(&kept));
                if message.windows(7).any(|window| window == b"macvlan") {
                    all.extend(sized(&[&kept[..], &[8, 0, 37, 0, 0, 0, 0, 0]].concat()));
                }
            }
            // Routes to everywhere: struct rtmsg has the length of the destination in its second byte.
            24 if message[17] != 0 => {}
            20 | 24 => all.extend(message),
            _ => {}
        }
    }
    all
}

/// What begins with its own length, as netlink's messages and attributes do, up to the next multiple of four.
fn pieces(mut bytes: &[u8], width: usize) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        let length = bytes[..width].iter().rev().fold(0, |length, byte| length * 256 + usize::from(*byte));
        let (piece, rest) = bytes.split_at(length.next_multiple_of(4).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// A message with its length before it.
fn sized(rest: &[u8]) -> Vec<u8> {
    [&u32::try_from(rest.len() + 4).expect("short").to_le_bytes(), rest].concat()
}

/// The datagrams with which the kernel answers a request for all there is.
fn dump(protocol: i32, first: u8, name: &str, kind: u16, request: &[u8]) -> Seeds {
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(protocol)));
    let socket = socket.expect("a netlink socket");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a limit");
    // NLM_F_REQUEST | NLM_F_DUMP
    let flags = 0x301_u16;
    let length = 16 + u32::try_from(request.len()).expect("short");
    let header = [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8]].concat();
    socket.send(&[&header, request].concat()).expect("to ask the kernel");
    let mut seeds = Seeds::new();
    loop {
        let mut buffer = vec![0; 64 * 1024];
        let read = std::io::Read::read(&mut &socket, &mut buffer).expect("an answer");
        buffer.truncate(read);
        // NLMSG_DONE
        let done = buffer.get(4..6) == Some(&[3, 0]);
        seeds.push((format!("{name}-{}", seeds.len()), [&[first][..], &buffer].concat()));
        if done {
            return seeds;
        }
    }
}
