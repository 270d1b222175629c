//! A machine that was booted with `ipv6.disable=1`: posternd serves and enforces on IPv4, and nothing is amiss.

use crate::stage::Stage;
use crate::world::alive;
use postern_tests::client::unwell;
use postern_tests::net::{GRANTED, NEIGHBOUR, SERVER, STRANGER, join};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::until;
use std::net::{Ipv4Addr, SocketAddr};

const PORT: u16 = 22;
const API: u16 = 7322;

/// Whether the kernel of this boot has no IPv6.
pub fn is_so() -> bool {
    std::fs::read_to_string("/proc/cmdline").expect("the command line").contains("ipv6.disable=1")
}

/// Whether TCP and UDP are answered.
fn answers(client: &Netns, from: Ipv4Addr, expected: bool) -> [bool; 2] {
    let to = (SERVER.v4, PORT).into();
    if expected {
        return [probe::tcp_answers(client, from, to), probe::udp_answers(client, from, to)];
    }
    [probe::tcp(client, from, to), probe::udp(client, from, to)].map(|outcome| outcome == Outcome::Answered)
}

fn assert_granted(client: &Netns, granted: &[Ipv4Addr], when: &str) {
    for from in [STRANGER.v4, GRANTED.v4, NEIGHBOUR.v4] {
        let expected = granted.contains(&from);
        assert_eq!(answers(client, from, expected), [expected; 2], "{from} {when}: [tcp, udp]");
    }
}

pub fn serves_and_enforces(stage: &mut Stage) {
    let (client, server) = (Netns::new(), Netns::new());
    join(&client, "eth0", [2, 0, 0, 0, 0, 2], &server, "eth0", [2, 0, 0, 0, 0, 1]);
    server.ip(&format!("addr add {}/16 dev eth0", SERVER.v4));
    for host in [STRANGER, GRANTED, NEIGHBOUR] {
        client.ip(&format!("addr add {}/16 dev eth0", host.v4));
    }
    let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let _services = [Service::tcp_echo(&server, any), Service::udp_echo(&server, any)];
    assert_granted(&client, &[STRANGER.v4, GRANTED.v4, NEIGHBOUR.v4], "on bare Linux");
    // The API is configured as on every host: "[::]:7322".
    let mut postern = Postern::start(&server, Options::default());
    let all_is_well = |postern: &Postern| {
        let degraded = unwell(&postern.client());
        assert!(degraded.is_empty(), "{degraded:?}");
    };
    all_is_well(&postern);
    let own = SocketAddr::from((SERVER.v4, PORT));
    assert!(probe::tcp_answers(&server, SERVER.v4, own), "the host talks to itself");
    assert!(probe::tcp_answers(&client, STRANGER.v4, (SERVER.v4, API).into()), "the API is there");
    assert_granted(&client, &[], "with posternd");
    let grant = postern.grant(&["22/any"], &[GRANTED.v4.into()], 600).expect("a grant");
    assert_granted(&client, &[GRANTED.v4], "with a grant");
    let mut session = probe::connect(&client, GRANTED.v4, own).expect("a session");
    assert!(alive(&mut session));
    for layer in ["lock", "cut"] {
        postern.detach(layer);
        until("the layer is back", || unwell(&postern.client()).is_empty());
    }
    postern.revoke(&grant.id).expect("to revoke it");
    assert!(!alive(&mut session), "a session lives on without its grant");
    assert_granted(&client, &[], "after it was revoked");
    postern.kill();
    assert_granted(&client, &[], "while posternd is dead");
    postern.launch();
    all_is_well(&postern);
    stage.note("posternd is at home without IPv6");
}
