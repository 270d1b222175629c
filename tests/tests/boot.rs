//! Before posternd and without it: `posternd early` closes, `posternd unlock` opens, and nothing else does either.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr};
use std::process::Output;

use postern_tests::flood::Flood;
use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
use postern_tests::postern::{Options, Postern, port, program};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::until;

const RESERVED: &str = "net/ipv4/ip_local_reserved_ports";

fn any(port: u16) -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, port).into()
}

fn posternd(net: &Net, postern: &Postern, command: &str) -> Output {
    net.server.command(program()).args([command, "--config"]).arg(postern.config()).output().expect("posternd")
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn is_open(net: &Net, from: postern_tests::net::Host, port: u16) -> bool {
    probe::tcp(&net.client, from.v4, (SERVER.v4, port).into()) == Outcome::Answered
}

#[test]
fn early_closes_and_posternd_takes_over_without_a_gap() {
    let net = Net::pair();
    let _services = [22, 3389].map(|port| Service::tcp_echo(&net.server, any(port)));
    let mut postern = Postern::prepared(&net.server, Options::without_xdp());
    assert!(is_open(&net, STRANGER, 22), "nothing is in force yet");
    assert!(done(&posternd(&net, &postern, "early")).contains("4 ports are closed"));
    let flood = Flood::start(&net, &[22, 3389]);
    assert_eq!(postern.pinned(), ["cut-egress", "cut-ingress", "layout", "lock"]);
    assert!(!is_open(&net, STRANGER, 22) && !is_open(&net, GRANTED, 3389));
    assert!(!postern.file("state").exists(), "it keeps no state");
    // Again it changes nothing, and it says so; nor does it while posternd runs and a grant is live.
    assert!(done(&posternd(&net, &postern, "early")).contains("already in force"));
    postern.launch();
    assert!(postern.client().details().expect("a status").is_empty());
    postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    assert!(done(&posternd(&net, &postern, "early")).contains("already in force"));
    assert!(is_open(&net, GRANTED, 22) && !is_open(&net, STRANGER, 22));
    // Nor after its death.
    postern.kill();
    assert!(done(&posternd(&net, &postern, "early")).contains("already in force"));
    assert!(is_open(&net, GRANTED, 22));
    // A part of it is lost: what is closed for everybody then is closed for the grant too, until posternd starts.
    postern.detach("lock");
    assert!(done(&posternd(&net, &postern, "early")).contains("are closed"));
    assert!(!is_open(&net, GRANTED, 22));
    postern.launch();
    assert!(probe::tcp_answers(&net.client, GRANTED.v4, (SERVER.v4, 22).into()));
    println!("{:?}", flood.held());
}

#[test]
fn a_broken_configuration_closes_what_can_be_read_and_the_default_ports() {
    let broken = [("a wrong value", "max_duration = \"never\"\n"), ("no TOML", "name = \"ssh\nmore = = 1\n")];
    for (what, line) in broken {
        let net = Net::pair();
        let _services = [22, 2222, 5986, 8080].map(|port| Service::tcp_echo(&net.server, any(port)));
        let postern = Postern::prepared(&net.server, Options { rules: port(2222, "tcp"), ..Options::without_xdp() });
        let text = fs::read_to_string(postern.config()).expect("the configuration");
        fs::write(postern.config(), text + line).expect("the configuration");
        let output = posternd(&net, &postern, "early");
        assert_eq!(output.status.code(), Some(78), "{what}: it fails all the same: {output:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("postern.toml"), "{what}: {said}");
        let open = [22, 2222, 5986, 8080].map(|port| is_open(&net, STRANGER, port));
        assert_eq!(open, [false, false, false, true], "{what}");
    }
}

#[test]
fn unlock_is_recorded_opens_and_gives_the_reserved_ports_back() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, any(22));
    net.server.sysctl(RESERVED, "5000-5002,3389");
    let reserved = || {
        let read = || fs::read_to_string(format!("/proc/sys/{RESERVED}")).expect("the setting");
        net.server.run(read).trim().to_owned()
    };
    let mut postern = Postern::start(&net.server, Options::without_xdp());
    assert_eq!(reserved(), "22,3389,5000-5002");
    // A port that a reload adds is reserved too.
    let rules = [Options::default().rules, port(2222, "tcp")].concat();
    postern.configure(&Options { rules, ..Options::without_xdp() });
    postern.reload();
    until("the new port is reserved", || reserved() == "22,2222,3389,5000-5002");
    let refused = posternd(&net, &postern, "unlock");
    assert!(!refused.status.success() && !is_open(&net, STRANGER, 22), "not while it runs: {refused:?}");
    postern.stop();
    assert_eq!(reserved(), "22,2222,3389,5000-5002", "stopping gives nothing back");
    done(&posternd(&net, &postern, "unlock"));
    assert!(is_open(&net, STRANGER, 22));
    assert_eq!(reserved(), "3389,5000-5002", "what the administrator had written stays");
    let journal = postern.journal();
    assert!(journal.lines().last().expect("a line").contains("\"event\":\"unlocked\""));
}
