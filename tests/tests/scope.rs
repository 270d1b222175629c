//! What a host shows of itself: how its prefilter is attached, why it does not start, and one grant by its id.

use std::net::SocketAddr;

use postern_proto::v1::{GetGrantRequest, XdpMode};
use postern_tests::client::reason;
use postern_tests::flood::Flood;
use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
use postern_tests::postern::{AUDIENCE, Options, Postern};
use postern_tests::prefilter;
use postern_tests::probe::{self, Outcome};
use postern_tests::request;
use postern_tests::service::Service;

#[test]
fn the_prefilter_takes_jumbo_frames_natively_and_says_where_it_does_not_go() {
    let net = Net::pair();
    net.client.ip("link set eth0 mtu 9000");
    net.server.ip("link set eth0 mtu 9000\nlink add br0 type bridge\nlink set br0 up");
    let xdp = "{ interfaces = [\"eth0\", \"br0\"], mode = \"native\" }".to_owned();
    let postern = Postern::start(&net.server, Options { xdp, ..Options::default() });
    let _service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
    let bridge = prefilter::of(&postern, "br0");
    assert_eq!(bridge.mode(), XdpMode::Off);
    assert!(!bridge.reason.is_empty(), "the reason is named");
    postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    let _flood = Flood::start(&net, &[22]);
    prefilter::until(&postern, "eth0", XdpMode::Native);
    for (host, wanted) in [(GRANTED, true), (STRANGER, false)] {
        for source in host.both() {
            let to = SocketAddr::new(SERVER.like(source), 22);
            let answered = if wanted {
                probe::tcp_answers
            } else {
                |n: &_, from, to| probe::tcp(n, from, to) == Outcome::Answered
            };
            assert_eq!(answered(&net.client, source, to), wanted, "{source}");
        }
    }
}

#[test]
fn with_a_wrong_cgroup_there_is_a_condition_and_closed_ports_stay_closed() {
    let net = Net::pair();
    let mut postern = Postern::start(&net.server, Options::default());
    let service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
    postern.stop();
    postern.configure(&Options { extra: format!("cgroup = {:?}", postern.file("state")), ..Options::default() });
    postern.launch();
    let told = postern.client().details().expect("root is answered").join("\n");
    assert!(told.contains("cut-ingress") && told.contains("not a directory of cgroup v2"), "it says why: {told}");
    for source in STRANGER.both() {
        let to = SocketAddr::new(SERVER.like(source), 22);
        assert_ne!(probe::tcp(&net.client, source, to), Outcome::Answered);
    }
    assert_eq!(service.served(), 0);
}

#[test]
fn a_grant_is_shown_by_its_id_to_readers_who_may_see_it() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, Options::default());
    let client = postern.client();
    let made = postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    let get = |id: &str| {
        let call = GetGrantRequest { read: Some(request::read(&postern.alice, AUDIENCE)), id: id.to_owned() };
        client.wait(client.access().get_grant(call)).map_err(|status| reason(&status))
    };
    let shown = get(&made.id).expect("her own grant").into_inner().grant.expect("a grant");
    assert_eq!((&shown.id, &shown.ports, &shown.source), (&made.id, &made.ports, &made.source));
    assert_eq!(get(&request::uuid()).map(drop), Err("GRANT_NOT_FOUND".to_owned()));
    assert_eq!(get("nonsense").map(drop), Err("PAYLOAD_MALFORMED".to_owned()));
}
