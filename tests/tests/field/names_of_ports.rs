//! People write the names of ports as they stand in the configuration.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use postern_tests::client::Client;
use postern_tests::laptop::{Laptop, Run};
use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
use postern_tests::postern::{Options, Postern, ROLES};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

/// A host whose ports have names of their own, one of them the name of a service on another number.
const RULES: &str = "[[port]]\nnumber = 2222\nname = \"ssh\"\n\
    [[port]]\nnumber = 2223\nname = \"gitssh\"\n\
    [[port]]\nnumber = \"postgresql\"\n\
    [[port]]\nnumber = 3389\nprotocol = \"any\"\n\
    [[port]]\nnumber = 53\nname = \"dns\"\n\
    [[port]]\nnumber = 53\nname = \"dns\"\nprotocol = \"udp\"\n\
    [[port]]\nnumber = 22\nname = \"2222\"\n";

/// The net, posternd with these ports, and somebody's machine.
fn scene() -> (Net, Postern, Laptop) {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options { rules: [RULES, ROLES].concat(), ..Options::without_xdp() });
    let laptop = Laptop::new(&net.client, &postern);
    (net, postern, laptop)
}

/// Asks for these ports for the granted addresses.
fn ask(laptop: &Laptop, ports: &str) -> Run {
    let from = GRANTED.both().map(|address| address.to_string()).join(",");
    laptop.postern(&["request", "vm1.test", "--port", ports, "--for", "10m", "--from", &from])
}

/// The ports of the grant that came of it.
fn granted(run: &Run) -> Vec<String> {
    assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
    texts(&run.json()["grant"]["ports"])
}

/// What `postern sign` has signed.
fn payload(run: &Run) -> Value {
    let message =
        run.json()["message"]["payload"].as_str().map(|text| BASE64_STANDARD.decode(text)).expect("a payload");
    serde_json::from_slice(&message.expect("base64")).expect("JSON")
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn the_host_resolves_a_name_and_the_client_signs_the_number() {
    let (_net, _postern, laptop) = scene();
    for (typed, meant) in [
        ("gitssh", &["2223/tcp"][..]),
        ("GitSSH", &["2223/tcp"]),
        ("gitssh/tcp", &["2223/tcp"]),
        ("postgresql", &["5432/tcp"]),
        ("ssh", &["2222/tcp"]),
        ("rdp", &["3389/any"]),
        ("ms-wbt-server", &["3389/any"]),
        ("3389", &["3389/any"]),
        ("rdp/udp", &["3389/udp"]),
        ("3389/tcp", &["3389/tcp"]),
        ("dns", &["53/tcp", "53/udp"]),
        ("53/udp", &["53/udp"]),
        ("2222", &["2222/tcp"]),
        ("gitssh,2223,rdp,3389/tcp", &["2223/tcp", "3389/any"]),
    ] {
        assert_eq!(granted(&ask(&laptop, typed)), meant, "{typed}");
        let signed = laptop.postern(&["sign", "vm1.test", "--port", typed, "--for", "10m", "--from", "10.1.0.10"]);
        assert_eq!(signed.code, Some(0), "{typed}: {}", signed.err);
        assert_eq!(texts(&payload(&signed)["ports"]), meant, "{typed}: numbers alone are signed");
    }
}

#[test]
fn any_opens_both_protocols_and_a_name_of_another_port_opens_no_other() {
    let (net, _postern, laptop) = scene();
    let at = |port| SocketAddr::new(SERVER.v4.into(), port);
    let _tcp = [22, 2222, 3389].map(|port| Service::tcp_echo(&net.server, at(port)));
    let _udp = Service::udp_echo(&net.server, at(3389));
    let tcp = |source: IpAddr, port| probe::tcp(&net.client, source, at(port)) == Outcome::Answered;
    let udp = |source: IpAddr| probe::udp(&net.client, source, at(3389)) == Outcome::Answered;
    let (own, other): (IpAddr, IpAddr) = (GRANTED.v4.into(), STRANGER.v4.into());
    assert!(!tcp(own, 3389) && !udp(own) && !tcp(own, 2222));
    assert_eq!(granted(&ask(&laptop, "rdp,ssh")), ["3389/any", "2222/tcp"]);
    assert!(
        tcp(own, 3389) && udp(own) && tcp(own, 2222),
        "both protocols of rdp, and the port that the host names ssh"
    );
    assert!(!tcp(other, 3389) && !udp(other) && !tcp(other, 2222));
    assert!(!tcp(own, 22), "22 has another name on this host");
}

#[test]
fn an_unknown_name_is_refused_before_anything_is_signed() {
    let (_net, postern, laptop) = scene();
    for (typed, code) in [("gitshs", 2), ("sssh", 2), ("22-25", 2), ("dns/sctp", 2), ("mysql", 1)] {
        let run = ask(&laptop, typed);
        assert_eq!(run.code, Some(code), "{typed}: {}{}", run.out, run.err);
        // mysql is the name of a service, and this host does not protect its port.
        let reason = if code == 1 { Value::from("PORT_NOT_PROTECTED") } else { Value::Null };
        assert_eq!(run.error()["reason"], reason, "{typed}");
    }
    assert!(postern.client().grants().expect("the grants").is_empty());
}

#[test]
fn every_command_that_takes_a_port_takes_its_name() {
    let (_net, postern, laptop) = scene();
    let explained = laptop.postern(&["explain", "vm1.test", "--port", "gitssh", "--from", &GRANTED.v4.to_string()]);
    assert_eq!(explained.code, Some(0), "{}", explained.err);
    assert_eq!(explained.json()["refusal"], Value::Null, "{}", explained.out);
    let sign = ["sign", "--port", "gitssh", "--for", "10m", "--from", "10.1.0.10"];
    let signed = laptop.postern(&[&sign[..], &["vm1.test"]].concat());
    assert_eq!(texts(&payload(&signed)["ports"]), ["2223/tcp"], "{}", signed.err);
    let offline = laptop.postern(&[&sign[..], &["--audience", "test.example"]].concat());
    assert_eq!(offline.code, Some(2), "no host says what the name means: {}", offline.err);
    let table =
        laptop.postern(&["sign", "--port", "mysql,22", "--for", "10m", "--from", "10.1.0.10", "--audience", "a"]);
    assert_eq!(texts(&payload(&table)["ports"]), ["3306/tcp", "22/tcp"], "{}", table.err);
    let socket = format!("unix://{}", postern.socket().display());
    let glass =
        ["break-glass", &socket, "--port", "gitssh,rdp", "--from", "10.1.0.10", "--for", "5m", "--reason", "a test"];
    assert_eq!(granted(&laptop.postern(&glass)), ["2223/tcp", "3389/any"]);
    let audit = laptop.run(&["audit", &socket, "--port", "gitssh", "--event", "break-glass", "--json"]);
    assert_eq!(audit.code, Some(0), "{}", audit.err);
    assert_eq!(audit.json()["entries"].as_array().map(Vec::len), Some(1), "{}", audit.out);
}

/// A reload changes what a name means, and the next request has the new number.
#[test]
fn a_name_means_what_the_rules_in_force_say() {
    let (_net, postern, laptop) = scene();
    assert_eq!(granted(&ask(&laptop, "gitssh")), ["2223/tcp"]);
    let rules = RULES.replace("2223", "2224");
    postern.configure(&Options { rules: [&rules, ROLES].concat(), ..Options::without_xdp() });
    let before = postern.client().policy().expect("the rules").digest;
    postern.reload();
    postern_tests::until::until("the new rules", || postern.client().policy().is_ok_and(|now| now.digest != before));
    assert_eq!(granted(&ask(&laptop, "gitssh")), ["2224/tcp"]);
}

/// The question says no more than it must, and not without a bound.
#[test]
fn a_stranger_learns_only_what_one_name_means() {
    use postern_proto::v1::WhoAmIRequest;
    let (_net, postern, _laptop) = scene();
    let client: Client = postern.client();
    let asked_with = |nonce: Vec<u8>, ports: Vec<String>| {
        client.wait(client.access().who_am_i(WhoAmIRequest { nonce, ports })).map(tonic::Response::into_inner)
    };
    let asked = |ports| asked_with(vec![7; 32], ports);
    let answer = asked(vec!["gitssh".to_owned(), "no such".to_owned(), String::new()]).expect("an answer").ports;
    let told: Vec<_> = answer.iter().map(|one| (one.asked.as_str(), one.ports.join(" "))).collect();
    assert_eq!(told, [("gitssh", "2223/tcp".to_owned()), ("no such", String::new()), ("", String::new())]);
    assert!(asked(Vec::new()).expect("an answer").ports.is_empty());
    let unsigned = asked_with(Vec::new(), vec!["gitssh".to_owned()]).expect("an answer").ports;
    assert!(unsigned.is_empty(), "without a nonce a guess would not wait for its turn");
    for too_much in [vec!["ssh".to_owned(); 33], vec!["x".repeat(129)], vec!["a\u{1b}[2J".to_owned()]] {
        let status = asked(too_much).expect_err("a refusal");
        assert_eq!(postern_tests::client::reason(&status), "PAYLOAD_MALFORMED");
    }
}
