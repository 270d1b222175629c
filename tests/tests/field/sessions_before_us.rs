//! Sessions that are older than the kernel programs go on, and open no port without a listener.

use super::own_connections::{OWN, connect, connect_udp, far_services, gets_in, options, talks, talks_udp};
use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
use postern_tests::postern::{Options, Postern, ROLES, port};
use postern_tests::probe;
use postern_tests::service::Service;
use postern_tests::until;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A port with a listener.
const SERVED: u16 = 2222;

fn at(address: impl Into<IpAddr>) -> SocketAddr {
    SocketAddr::new(address.into(), OWN)
}

fn loads(postern: &Postern) -> usize {
    postern.journal().lines().filter(|line| line.contains("policy-loaded")).count()
}

#[test]
fn a_session_that_the_host_opened_before_the_first_start_goes_on_and_opens_nothing() {
    let net = Net::pair();
    let _far = far_services(&net);
    let mut streams = SERVER.both().map(|like| connect(&net.server, like).expect("a connection"));
    let sockets = SERVER.both().map(|like| connect_udp(&net.server, like, OWN));
    let mut all_talk = |when: &str| {
        assert!(streams.iter_mut().all(talks) && sockets.iter().all(talks_udp), "silent {when}");
    };
    all_talk("on bare Linux");
    let mut postern = Postern::start(&net.server, options());
    all_talk("after the first start");
    let _service = Service::tcp_echo(&net.server, at(Ipv6Addr::UNSPECIFIED));
    let closed = |when: &str| {
        for from in GRANTED.both() {
            assert!(!gets_in(&net, from, OWN), "{from}: got in {when}");
        }
    };
    closed("after the first start");
    postern.kill();
    all_talk("while posternd is dead");
    postern.launch();
    all_talk("after a restart");
    closed("after a restart");
    postern.reload();
    until("the reload", || loads(&postern) == 1);
    all_talk("after a reload");
    closed("after a reload");
}

#[test]
fn a_port_that_a_reload_protects_keeps_its_sessions_and_opens_only_where_a_process_listens() {
    let net = Net::pair();
    let _far = far_services(&net);
    let postern = Postern::start(&net.server, Options { rules: ROLES.to_owned(), ..Options::without_xdp() });
    let mut streams = SERVER.both().map(|like| connect(&net.server, like).expect("a connection"));
    let served = Service::tcp_echo(&net.server, SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), SERVED));
    let to = SocketAddr::new(SERVER.v4.into(), SERVED);
    let mut session = probe::connect(&net.client, GRANTED.v4, to).expect("an open port");
    let rules = [options().rules, port(SERVED, "tcp")].concat();
    postern.configure(&Options { rules, ..Options::without_xdp() });
    postern.reload();
    until("the reload", || loads(&postern) == 1);
    assert!(streams.iter_mut().all(talks) && talks(&mut session), "a session ended");
    let _service = Service::tcp_echo(&net.server, at(Ipv6Addr::UNSPECIFIED));
    // The record of the reload comes before its effect.
    until("the port is closed", || !STRANGER.both().into_iter().any(|from| gets_in(&net, from, OWN)));
    for from in GRANTED.both() {
        assert!(!gets_in(&net, from, OWN), "{from}: got in where no process listened");
    }
    assert!(gets_in(&net, GRANTED.v4.into(), SERVED), "no window where a process listens");
    drop(served);
}

#[test]
fn a_listener_at_another_address_gives_no_window() {
    let net = Net::pair();
    let _far = far_services(&net);
    let _local = Service::tcp_echo(&net.server, at(Ipv4Addr::LOCALHOST));
    let mut stream = connect(&net.server, SERVER.v4.into()).expect("a connection");
    let _postern = Postern::start(&net.server, options());
    assert!(talks(&mut stream));
    let _service = Service::tcp_echo(&net.server, at(SERVER.v4));
    assert!(!gets_in(&net, GRANTED.v4.into(), OWN));
}
