//! An address of the API that cannot be bound yet does not stop the others.

use std::net::{IpAddr, SocketAddr, SocketAddrV6, TcpStream};
use std::time::Duration;

use postern_tests::client::Client;
use postern_tests::net::{GRANTED, Net, SERVER, SERVER_LINK_LOCAL, STRANGER};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern, program};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::until;

const LATE: [&str; 2] = ["203.0.113.7", "fd00:7::7"];

fn api(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), 7322)
}

fn options(tcp: &[String]) -> Options {
    Options { tcp: tcp.to_vec(), ..Options::without_xdp() }
}

/// What the condition says; nothing where there is none.
fn shut(client: &Client) -> String {
    let conditions = client.status().expect("a status").conditions;
    conditions.into_iter().filter(|c| c.code == "api-address").map(|c| c.detail).collect()
}

fn accepts(namespace: &Netns, at: SocketAddr) -> bool {
    namespace.run(|| TcpStream::connect_timeout(&at, Duration::from_secs(1))).is_ok()
}

fn add(server: &Netns, ip: &str) {
    let ip: IpAddr = ip.parse().expect("an address");
    let length = if ip.is_ipv4() { "32" } else { "128 nodad" };
    let (length, flag) = length.split_once(' ').unwrap_or((length, ""));
    server.ip(&format!("addr add {ip}/{length} dev lo {flag}"));
}

fn remove(server: &Netns, ip: &str) {
    let length = if ip.contains(':') { 128 } else { 32 };
    server.ip(&format!("addr del {ip}/{length} dev lo"));
}

#[test]
fn each_address_is_served_while_it_is_here() {
    let net = Net::pair();
    let there = SocketAddr::from((SERVER.v4, 7322));
    let mut tcp = vec![there.to_string()];
    tcp.extend(LATE.map(|ip| api(ip).to_string()));
    let postern = Postern::start(&net.server, options(&tcp));
    let client = postern.client();
    let told = shut(&client);
    assert!(LATE.iter().all(|ip| told.contains(&api(ip).to_string())), "each is named: {told}");
    assert!(!told.contains(&there.to_string()) && accepts(&net.client, there), "the others are served: {told}");
    // An address of VRRP comes and goes.
    for (ip, other) in [(LATE[0], LATE[1]), (LATE[1], LATE[0])] {
        add(&net.server, ip);
        until("the address is served", || accepts(&net.server, api(ip)));
        until("it is named no longer", || !shut(&client).contains(ip));
        assert!(shut(&client).contains(other), "the other one still is");
        remove(&net.server, ip);
        until("the address that has gone is named", || shut(&client).contains(ip));
        assert!(accepts(&net.client, there), "the others are served");
    }
    LATE.iter().for_each(|ip| add(&net.server, ip));
    until("nothing is amiss", || shut(&client).is_empty());
    assert!(LATE.iter().all(|ip| accepts(&net.server, api(ip))));
}

#[test]
fn an_address_that_ipv6_still_checks_for_duplicates_is_served_afterwards() {
    let net = Net::pair();
    net.server.sysctl("net/ipv6/conf/eth0/accept_dad", "1");
    net.server.sysctl("net/ipv6/conf/eth0/dad_transmits", "3");
    net.server.ip("addr add fd00:1::7/64 dev eth0");
    let at = api("fd00:1::7");
    let postern = Postern::start(&net.server, options(&[at.to_string()]));
    until("it is served", || accepts(&net.client, at));
    until("nothing is amiss", || shut(&postern.client()).is_empty());
}

#[test]
fn a_link_local_address_needs_its_interface() {
    let net = Net::pair();
    let scoped = |namespace: &Netns| SocketAddrV6::new(SERVER_LINK_LOCAL, 7322, 0, namespace.interface("eth0"));
    let postern = Postern::start(&net.server, options(&[scoped(&net.server).to_string()]));
    assert_eq!(shut(&postern.client()), "");
    assert!(accepts(&net.client, scoped(&net.client).into()));
    drop(postern);
    let postern = Postern::start(&net.server, options(&[SocketAddr::from((SERVER_LINK_LOCAL, 7322)).to_string()]));
    let told = shut(&postern.client());
    assert!(told.contains("interface") && told.contains('%'), "{told}");
}

#[test]
fn ipv6_that_is_switched_off_stops_nothing() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, SocketAddr::from(([0_u16; 8], 22)));
    net.server.sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    let own = SocketAddr::new(SERVER.v6.into(), 7399);
    let postern = Postern::start(&net.server, options(&["[::]:7322".to_owned(), own.to_string()]));
    let client = postern.client();
    let told = shut(&client);
    assert!(told.contains(&own.to_string()) && !told.contains("[::]:7322"), "{told}");
    assert!(accepts(&net.client, (SERVER.v4, 7322).into()));
    let opens = |from| probe::tcp(&net.client, from, (SERVER.v4, 22).into()) == Outcome::Answered;
    postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
    assert!(opens(GRANTED.v4) && !opens(STRANGER.v4));
    net.server.sysctl("net/ipv6/conf/all/disable_ipv6", "0");
    net.server.ip(&format!("addr add {}/64 dev eth0 nodad", SERVER.v6));
    until("IPv6 is back", || accepts(&net.client, own));
    until("nothing is amiss", || shut(&client).is_empty());
}

#[test]
fn check_config_names_an_address_that_is_not_here() {
    let net = Net::pair();
    add(&net.server, LATE[0]);
    let postern = Postern::prepared(&net.server, options(&LATE.map(|ip| api(ip).to_string())));
    let check = || {
        let mut command = net.server.command(program());
        let output = command.args(["check-config", "--config"]).arg(postern.config()).output().expect("posternd");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let warned = |ip: &str, text: &str| text.lines().any(|line| line.contains(ip) && line.contains("does not have"));
    let text = check();
    assert!(!warned(LATE[0], &text) && warned(LATE[1], &text), "{text}");
    add(&net.server, LATE[1]);
    let text = check();
    assert!(!warned(LATE[1], &text), "{text}");
}
