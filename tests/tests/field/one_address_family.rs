//! A request asks for what the policy allows among the addresses that were seen.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use postern_tests::laptop::{Laptop, Run};
use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
use postern_tests::postern::{Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::request::prefix;
use postern_tests::service::Service;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

/// What is asked for in these tests.
const REQUEST: [&str; 6] = ["request", "vm1.test", "--port", "22", "--for", "10m"];
/// A role without limits for Alice.
const ROLE: &str = "[[role]]\nname = \"requester\"\nprincipals = [\"alice@example.com\"]\n";

/// A port that these sources may be granted.
fn port(number: u16, allowed: &str) -> String {
    format!("[[port]]\nnumber = {number}\nallowed_sources = [{allowed}]\n")
}

/// The net, posternd with these rules, and a machine that the host sees as [`STRANGER`] in both families.
fn scene(rules: &str) -> (Net, Postern, Laptop) {
    let net = Net::pair();
    let route = |server: IpAddr| format!("route replace {server} dev eth0 src {}\n", STRANGER.like(server));
    net.client.ip(&SERVER.both().map(route).concat());
    let postern = Postern::start(&net.server, Options { rules: rules.to_owned(), ..Options::without_xdp() });
    let laptop = Laptop::new(&net.client, &postern);
    (net, postern, laptop)
}

fn texts(list: &Value) -> Vec<String> {
    let mut texts: Vec<_> =
        list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect();
    texts.sort_unstable();
    texts
}

/// The sources of the grant that came of it.
fn sources(run: &Run) -> Vec<String> {
    assert_eq!(run.code, Some(0), "{}{}", run.out, run.err);
    texts(&run.json()["grant"]["source"])
}

/// Whether a note names this address as left out.
fn leaves_out(run: &Run, address: IpAddr) -> bool {
    run.err.lines().any(|line| line.contains("not included") && line.contains(&address.to_string()))
}

fn only(address: impl Into<IpAddr>) -> Vec<String> {
    vec![prefix(address.into())]
}

#[test]
fn a_policy_of_one_family_opens_for_that_family_and_the_other_is_named() {
    for (allowed, kept, out) in [
        ("\"10.0.0.0/8\"", IpAddr::from(STRANGER.v4), IpAddr::from(STRANGER.v6)),
        ("\"fd00::/8\"", STRANGER.v6.into(), STRANGER.v4.into()),
    ] {
        let (net, _postern, laptop) = scene(&[port(22, allowed), ROLE.to_owned()].concat());
        let _service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
        let answers = |source: IpAddr| {
            probe::tcp(&net.client, source, SocketAddr::new(SERVER.like(source), 22)) == Outcome::Answered
        };
        let explained = laptop.postern(&["explain", "vm1.test", "--port", "22"]);
        assert_eq!(explained.json()["refusal"], Value::Null, "explain shows what request will do: {}", explained.out);
        assert!(leaves_out(&explained, out), "{}", explained.err);
        let asked = laptop.postern(&REQUEST);
        assert_eq!(sources(&asked), only(kept));
        assert!(leaves_out(&asked, out), "{}", asked.err);
        assert!(answers(kept) && !answers(out));
        assert!(!answers(GRANTED.like(kept)), "a source without a grant gets in");
        let signed = laptop.postern(&["sign", "vm1.test", "--port", "22", "--for", "10m"]);
        let payload = signed.json()["message"]["payload"].as_str().map(|text| BASE64_STANDARD.decode(text));
        let payload: Value = serde_json::from_slice(&payload.expect("a payload").expect("base64")).expect("JSON");
        assert_eq!(texts(&payload["source"]), only(kept), "{}", signed.err);
        let extended = laptop.postern(&["extend", "vm1.test", "--for", "20m"]);
        assert_eq!(sources(&extended), only(kept), "an extension has the sources of its grant");
    }
}

#[test]
fn every_port_of_a_request_has_to_admit_a_source() {
    let both = "\"10.0.0.0/8\", \"fd00::/8\"";
    let (_net, _postern, laptop) = scene(&[port(22, "\"10.0.0.0/8\""), port(3389, both), ROLE.to_owned()].concat());
    let two = ["request", "vm1.test", "--port", "22,3389", "--for", "10m"];
    assert_eq!(sources(&laptop.postern(&two)), only(STRANGER.v4));
    let one = ["request", "vm1.test", "--port", "3389", "--for", "10m"];
    assert_eq!(sources(&laptop.postern(&one)).len(), 2, "what is allowed is not left out");
}

#[test]
fn where_nothing_is_left_the_request_is_refused_and_nothing_is_signed() {
    let (_net, postern, laptop) = scene(&[port(22, "\"192.0.2.0/24\""), ROLE.to_owned()].concat());
    let refused = laptop.postern(&REQUEST);
    assert_eq!(refused.code, Some(1), "{}{}", refused.out, refused.err);
    let error = refused.error();
    assert_eq!(error["reason"], "SOURCE_NOT_ALLOWED");
    let message = error["message"].as_str().expect("a message");
    assert!(STRANGER.both().iter().all(|address| message.contains(&address.to_string())), "{message}");
    assert!(postern.client().grants().expect("the grants").is_empty());
    assert!(!postern.on_disk().iter().any(|line| line.to_string().contains("SOURCE_NOT_ALLOWED")), "nothing was sent");
}

/// What a person wrote is asked for as it stands, and the host's refusal is on record.
#[test]
fn a_written_source_is_never_left_out() {
    let (_net, postern, laptop) = scene(&[port(22, "\"10.0.0.0/8\""), ROLE.to_owned()].concat());
    for from in [STRANGER.v6.to_string(), format!("my-ip,{}", STRANGER.v6), format!("my-ip,{}", GRANTED.v6)] {
        let refused = laptop.postern(&[&REQUEST[..], &["--from", &from]].concat());
        assert_eq!(refused.code, Some(1), "{from}: {}{}", refused.out, refused.err);
        assert_eq!(refused.error()["reason"], "SOURCE_NOT_ALLOWED");
        assert_eq!(refused.error()["rule"], "port[0].allowed_sources");
    }
    let recorded = postern.on_disk().iter().filter(|line| line.to_string().contains("SOURCE_NOT_ALLOWED")).count();
    assert_eq!(recorded, 3);
    let both = laptop.postern(&[&REQUEST[..], &["--from", &format!("my-ip,{}", GRANTED.v4)]].concat());
    let mut wanted = [prefix(GRANTED.v4.into()), prefix(STRANGER.v4.into())];
    wanted.sort_unstable();
    assert_eq!(sources(&both), wanted);
}

/// A person's role is nobody's business but theirs: the host says what it allows to the signer alone.
#[test]
fn a_role_of_one_family_opens_for_that_family() {
    let narrow = format!("{ROLE}sources = [\"10.0.0.0/8\"]\n");
    let (_net, postern, laptop) = scene(&[port(22, "\"10.0.0.0/8\", \"fd00::/8\""), narrow].concat());
    let explained = laptop.postern(&["explain", "vm1.test", "--port", "22"]);
    assert_eq!(explained.json()["refusal"], Value::Null, "{}", explained.out);
    let asked = laptop.postern(&REQUEST);
    assert_eq!(sources(&asked), only(STRANGER.v4));
    assert!(leaves_out(&asked, STRANGER.v6.into()), "{}", asked.err);
    let written = laptop.postern(&[&REQUEST[..], &["--from", &format!("my-ip,{}", GRANTED.v6)]].concat());
    assert_eq!((written.code, &written.error()["reason"]), (Some(1), &"NOT_PERMITTED".into()), "{}", written.err);
    assert_eq!(postern.client().grants().expect("the grants").len(), 1);
}

/// One family has no route here, none back, or is filtered on the way.
#[test]
fn an_unreachable_family_is_named_and_the_other_one_is_used() {
    let both = port(22, "\"10.0.0.0/8\", \"fd00::/8\"");
    for (what, here, there, filter) in [
        ("no route here", "route del fd00:1::1/128\nroute del fd00:1::/64 dev eth0\n", "", ""),
        ("an unreachable route here", "route del fd00:1::1/128\nroute add unreachable fd00:1::1/128\n", "", ""),
        ("no route back", "", "route del fd00:1::/64 dev eth0\n", ""),
        (
            "silence",
            "",
            "",
            "table ip6 silent {\nchain in {\ntype filter hook input priority -300\nmeta l4proto tcp drop\n}\n}\n",
        ),
    ] {
        let (net, _postern, laptop) = scene(&[both.clone(), ROLE.to_owned()].concat());
        net.client.ip(here);
        net.server.ip(there);
        net.server.nft(filter);
        let asked = laptop.postern(&REQUEST);
        assert_eq!(sources(&asked), only(STRANGER.v4), "{what}");
        let named =
            asked.err.lines().any(|line| line.contains("not included") && line.contains(&SERVER.v6.to_string()));
        assert!(named, "{what}: {}", asked.err);
        let listed = laptop.postern(&["list", "vm1.test"]);
        assert_eq!(listed.code, Some(0), "{what}: {}", listed.err);
    }
}
