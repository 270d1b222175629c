//! The real `postern` against a real posternd over TLS: my-ip, pinning, a relay, and messages about mistakes.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use postern_tests::laptop::Laptop;
use postern_tests::net::{GRANTED, NEIGHBOUR, Net, SERVER, STRANGER};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::terminal::Terminal;
use postern_tests::{PATIENCE, find, until, within};
use serde_json::Value;

fn is_open(net: &Net, source: IpAddr) -> bool {
    probe::tcp(&net.client, source, SocketAddr::new(SERVER.like(source), 22)) == Outcome::Answered
}

/// The address that the kernel gives a connection to `server`.
fn usual_source(namespace: &Netns, server: IpAddr) -> IpAddr {
    let any: IpAddr = if server.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
    let socket = namespace.run(|| UdpSocket::bind((any, 0))).expect("a socket");
    socket.connect((server, 7322)).expect("a route");
    socket.local_addr().expect("an address").ip()
}

#[test]
fn my_ip_opens_for_the_addresses_that_the_host_sees_in_both_families() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::default());
    let _service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
    let laptop = Laptop::new(&net.client, &postern);
    let own = SERVER.both().map(|server| usual_source(&net.client, server));
    assert!(own.iter().all(|source| !is_open(&net, *source)));
    let asked = laptop.postern(&["request", "vm1.test", "--port", "ssh", "--for", "10m", "--reason", "a test"]);
    assert_eq!(asked.code, Some(0), "{}{}", asked.out, asked.err);
    let grant = asked.json()["grant"].clone();
    let mut sources: Vec<_> = grant["source"].as_array().expect("sources").iter().filter_map(Value::as_str).collect();
    sources.sort_unstable();
    let mut wanted = own.map(postern_tests::request::prefix);
    wanted.sort_unstable();
    assert_eq!(sources, wanted, "the host saw the laptop's own addresses");
    for source in [STRANGER, GRANTED, NEIGHBOUR].iter().flat_map(|host| host.both()) {
        assert_eq!(is_open(&net, source), own.contains(&source), "{source}");
    }
    let id = grant["id"].as_str().expect("an id");
    let listed = laptop.postern(&["list", "vm1.test"]);
    assert_eq!(listed.json()["grants"][0]["id"], id, "{}", listed.err);
    let status = laptop.postern(&["status", "vm1.test"]);
    assert_eq!(status.json()["liveGrants"], 1, "{}", status.err);
    let revoked = laptop.postern(&["revoke", "vm1.test", id]);
    assert_eq!(revoked.code, Some(0), "{}", revoked.err);
    assert!(own.iter().all(|source| !is_open(&net, *source)));
}

/// A laptop behind a router that hides it: only the host can tell which address it comes from.
#[test]
fn my_ip_behind_a_second_hop_is_the_address_that_the_host_sees() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::default());
    let _service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
    let home = net.behind_a_nat();
    let laptop = Laptop::new(&home, &postern);
    let reaches = |server: IpAddr| {
        probe::tcp(&home, usual_source(&home, server), SocketAddr::new(server, 22)) == Outcome::Answered
    };
    assert_eq!(SERVER.both().map(reaches), [false; 2]);
    let request = ["request", "vm1.test", "--port", "ssh", "--for", "10m", "--reason", "a test"];
    // The laptop cannot tell its router from somebody who passes its connection on; a person can.
    assert_eq!(laptop.postern(&request).code, Some(4));
    let mut terminal = Terminal::new();
    let key = postern.alice.path().display().to_string();
    let asking = laptop.start_at(&terminal, &[&request[..], &["--json", "--accept-new", "--key", &key]].concat());
    terminal.wait_for("(yes/no)");
    terminal.type_in("yes\nyes\n");
    let asked = asking.wait();
    assert_eq!(asked.code, Some(0), "{}{}", asked.out, terminal.last_screen());
    let grant = asked.json()["grant"].clone();
    let mut sources: Vec<_> = grant["source"].as_array().expect("sources").iter().filter_map(Value::as_str).collect();
    sources.sort_unstable();
    let mut wanted = GRANTED.both().map(postern_tests::request::prefix);
    wanted.sort_unstable();
    assert_eq!(sources, wanted, "the router's address, which the laptop does not know");
    assert_eq!(SERVER.both().map(reaches), [true; 2]);
    assert!(!is_open(&net, NEIGHBOUR.both()[0]));
    let returned = laptop.postern(&["give-back", "vm1.test"]);
    assert_eq!(returned.code, Some(0), "{}{}", returned.out, returned.err);
    assert_eq!(SERVER.both().map(reaches), [false; 2]);
}

#[test]
fn explain_names_the_denied_address_and_the_rule_that_refuses() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::default());
    let _service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
    let laptop = Laptop::new(&net.client, &postern);
    let granted = GRANTED.both()[0];
    let asked =
        laptop.postern(&["request", "vm1.test", "--port", "22", "--for", "10m", "--from", &granted.to_string()]);
    assert_eq!(asked.code, Some(0), "{}", asked.err);
    let denied = NEIGHBOUR.both()[0];
    let told = find(|| {
        assert!(!is_open(&net, denied));
        let explained = laptop.postern(&["explain", "vm1.test", "--port", "ssh", "--from", &granted.to_string()]);
        assert_eq!(explained.code, Some(0), "{}", explained.err);
        let findings = explained.json()["findings"].to_string();
        if findings.contains(&denied.to_string()) { Ok(findings) } else { Err(findings) }
    });
    assert!(told.contains("You are granted from") && told.contains("is open for"), "{told}");
    let far = laptop.postern(&["explain", "vm1.test", "--port", "ssh", "--from", "192.0.2.0/24"]);
    assert_eq!(far.json()["refusal"]["reason"], "SOURCE_NOT_ALLOWED", "{}", far.out);
}

#[test]
fn mistakes_end_with_their_exit_code_and_what_to_do_next() {
    let net = Net::pair();
    let mut postern = Postern::start(&net.server, Options::default());
    let laptop = Laptop::new(&net.client, &postern);
    let request = |more: &[&str]| laptop.postern(&[&["request", "vm1.test", "--port", "ssh"][..], more].concat());
    let long = request(&["--for", "5h"]);
    assert_eq!((long.code, &long.error()["reason"]), (Some(1), &"DURATION_TOO_LONG".into()));
    assert_eq!(long.error()["rule"], "port[0].max_duration");
    assert!(long.error()["next"].is_string(), "{}", long.err);
    let other = laptop.postern(&["request", "vm1.test", "--port", "5985", "--for", "5m"]);
    assert_eq!((other.code, &other.error()["reason"]), (Some(1), &"PORT_NOT_PROTECTED".into()));
    let stranger = postern_tests::keys::Key::new(laptop.home(), "stranger").path().display().to_string();
    let unknown = laptop.run(&[
        "request",
        "vm1.test",
        "--port",
        "ssh",
        "--for",
        "5m",
        "--json",
        "--accept-new",
        "--key",
        &stranger,
    ]);
    assert_eq!((unknown.code, &unknown.error()["reason"]), (Some(1), &"KEY_UNKNOWN".into()));
    assert_eq!(laptop.postern(&["request", "vm1.test", "--port", "sssh", "--for", "5m"]).code, Some(2));
    assert_eq!(laptop.run(&["request", "vm1.test", "--port", "ssh", "--for", "5m", "--key", "/nowhere"]).code, Some(5));
    let fresh = Laptop::new(&net.client, &postern);
    assert_eq!(fresh.run(&["status", "vm1.test", "--key", &stranger]).code, Some(4), "nothing is trusted silently");
    postern.stop();
    assert_eq!(request(&["--for", "5m"]).code, Some(3), "no process listens");
}

#[test]
fn a_relay_with_a_key_of_its_own_gets_nothing() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::default());
    let laptop = Laptop::new(&net.client, &postern);
    assert_eq!(laptop.postern(&["status", "vm1.test"]).code, Some(0), "the host is known now");
    let relay = Relay::start(&net.client, laptop.home());
    // From here on the way to the host leads through the relay.
    let redirect = format!("ip daddr {} tcp dport 7322 redirect to :{}", SERVER.v4, Relay::PORT);
    net.client.nft(&format!("table ip relay {{\nchain out {{\ntype nat hook output priority 0\n{redirect}\n}}\n}}\n"));
    fs::write(laptop.home().join("hosts"), format!("{} vm1.test\n", SERVER.v4)).expect("the hosts file");
    let asked = laptop.postern(&["request", "vm1.test", "--port", "ssh", "--for", "10m"]);
    assert_eq!(asked.code, Some(4), "{}{}", asked.out, asked.err);
    assert!(relay.was_used(), "the relay was in the way");
    let grants = postern.client().grants().expect("the grants");
    assert!(grants.is_empty(), "nothing was asked for: {grants:?}");
}

/// A real TLS server with a certificate of its own.
struct Relay {
    process: std::process::Child,
    log: PathBuf,
}

impl Relay {
    const PORT: u16 = 9443;

    fn start(namespace: &Netns, directory: &Path) -> Self {
        let file = |name: &str| directory.join(name).display().to_string();
        let make =
            ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=vm1.test"];
        let made = Command::new("openssl").args(make).args(["-keyout", &file("k"), "-out", &file("c")]).output();
        assert!(made.expect("openssl").status.success());
        let log = directory.join("relay");
        let mut command = namespace.command("openssl");
        command.args(["s_server", "-accept", &Self::PORT.to_string(), "-key", &file("k"), "-cert", &file("c")]);
        command.args(["-alpn", "h2", "-tls1_3", "-msg"]).stdin(Stdio::piped());
        let output = fs::File::create(&log).expect("the log");
        command.stderr(output.try_clone().expect("the log")).stdout(output);
        let process = command.spawn().expect("openssl");
        let this = Self { process, log };
        until("the relay listens", || this.said("ACCEPT"));
        this
    }

    fn said(&self, what: &str) -> bool {
        fs::read_to_string(&self.log).unwrap_or_default().contains(what)
    }

    /// Whether somebody began a handshake with it.
    fn was_used(&self) -> bool {
        within(PATIENCE, || self.said("ClientHello"))
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
