//! What only the program itself can show.

use std::net::SocketAddr;
use std::process::Command;

use postern_tests::net::{GRANTED, Net, SERVER};
use postern_tests::postern::{Options, Postern, program};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;

#[test]
fn in_a_time_namespace_the_ports_are_closed_and_posternd_does_not_start() {
    let net = Net::pair();
    let postern = Postern::prepared(&net.server, Options::without_xdp());
    let _service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
    let to = SocketAddr::new(SERVER.v4.into(), 22);
    assert_eq!(probe::tcp(&net.client, GRANTED.v4, to), Outcome::Answered, "before");
    let mut command = net.server.command("unshare");
    command.args(["--time", "--boottime", "86400", "--fork"]).arg(program()).args(["run", "--config"]);
    let output = command.arg(postern.config()).output().expect("unshare");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("time namespace"), "{said}");
    assert_eq!(probe::tcp(&net.client, GRANTED.v4, to), Outcome::Refused, "{said}");
}

#[test]
fn the_status_says_how_the_clock_stands() {
    let net = Net::pair();
    let mut postern = Postern::start(&net.server, Options { clock: "challenge".to_owned(), ..Options::without_xdp() });
    let clock = |postern: &Postern| postern.client().status().expect("the status").clock.expect("the clock");
    let found = clock(&postern);
    // Whichever this machine is: the refusal fits what the status says.
    let refused = postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).is_err();
    assert!(["synchronised", "unsynchronised"].contains(&&*found.state), "{found:?}");
    assert_eq!((found.trusted, found.challenge_needed), (found.state == "synchronised", refused), "{found:?}");
    assert_eq!(refused, !found.reason.is_empty());
    let unnoticed = postern_agent::system::clock::KernelLog::open().err().unwrap_or_default();
    assert_eq!((found.restores, &found.restores_unnoticed), (0, &unnoticed));
    postern.stop();
    postern.configure(&Options::without_xdp());
    postern.launch();
    let found = clock(&postern);
    assert!(found.trusted && !found.challenge_needed && found.reason.is_empty(), "{found:?}");
    let cli = Command::new(program().with_file_name("postern"))
        .args(["status", &format!("unix://{}", postern.socket().display())])
        .output()
        .expect("postern");
    let shown = String::from_utf8_lossy(&cli.stdout).into_owned();
    assert!(shown.contains(&format!("wall clock: {}", found.state)), "{shown}{}", String::from_utf8_lossy(&cli.stderr));
}
