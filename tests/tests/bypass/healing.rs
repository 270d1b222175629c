//! One layer lost under traffic: the other one holds, the loss is noticed and healed.

use crate::PORT;
use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
use postern_tests::postern::{Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use std::net::{Ipv6Addr, SocketAddr};

#[test]
fn a_detached_layer_is_attached_again() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, SocketAddr::from((Ipv6Addr::UNSPECIFIED, PORT)));
    let postern = Postern::start(&net.server, Options::without_xdp());
    postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    let client = postern.client();
    let attached = |layer: &str| {
        let status = client.status().expect("a status");
        let found = status.layers.iter().find(|found| found.name == layer);
        found.unwrap_or_else(|| panic!("no {layer} in {:?}", status.layers)).attached
    };
    for layer in ["lock", "cut-ingress", "cut-egress"] {
        assert!(attached(layer), "{layer}");
        postern.detach(layer);
        postern_tests::until(&format!("the {layer} is back"), || {
            for server in SERVER.both() {
                let [stranger, granted] = [STRANGER, GRANTED]
                    .map(|host| probe::tcp(&net.client, host.like(server), SocketAddr::new(server, PORT)));
                assert_ne!(stranger, Outcome::Answered, "without the {layer}, at {server}");
                assert_eq!(granted, Outcome::Answered, "the grant, without the {layer}, at {server}");
            }
            attached(layer)
        });
    }
    let lost = |line: &serde_json::Value| line["event"] == "layer" && line["state"] == "detached";
    let recorded = || postern_tests::journal::lines(postern.state()).iter().filter(|line| lost(line)).count();
    postern_tests::until("each loss is on record", || recorded() >= 3);
    assert_eq!(recorded(), 3, "each loss is recorded once");
}
