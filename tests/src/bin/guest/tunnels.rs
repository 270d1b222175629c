//! A protected port over the devices that this kernel has modules for and a build machine may not have.
//!
//! Each path is walked by real connections. That it is one shows an open port behind it, all the time; that nothing but a grant opens
//! the protected one is what is asserted. All devices appear while posternd runs, and are made anew while it is dead.

use crate::stage::Stage;
use crate::world::{OPEN, PORT, World, options};
use postern_tests::net::{SERVER, STRANGER, join};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, port};
use postern_tests::probe::{self, Outcome};
use postern_tests::until;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

/// A device at both ends, the number of its subnet, and the `ip` lines that make it. `LOCAL4` and the like stand for the addresses
/// of the two `eth0`.
type Route = (&'static str, u8, &'static str);

/// In this order: one may be on top of another.
const PATHS: &[Route] = &[
    ("tagged", 20, "link add link eth0 name tagged type vlan id 7"),
    ("inner", 21, "link add link tagged name inner type vlan id 8"),
    ("provider", 22, "link add link eth0 name provider type vlan proto 802.1ad id 9"),
    (
        "bond0",
        23,
        "link add bond0 type bond mode active-backup miimon 20\nlink set eth1 down\nlink set eth1 master bond0",
    ),
    ("onbond", 24, "link add link bond0 name onbond type vlan id 7"),
    ("over4", 25, "link add over4 type gre local LOCAL4 remote REMOTE4 ttl 64"),
    ("tap4", 26, "link add tap4 type gretap local LOCAL4 remote REMOTE4 key 8"),
    ("over6", 27, "link add over6 type ip6gre local LOCAL6 remote REMOTE6"),
    ("four", 28, "link add four type ipip local LOCAL4 remote REMOTE4 ttl 64"),
    ("six", 29, "link add six type sit local LOCAL4 remote REMOTE4 ttl 64"),
    ("wg0", 30, "link add wg0 type wireguard"),
];

/// What a path leads: both families, but for two kinds of tunnels.
fn carries(device: &str, family: usize) -> bool {
    !matches!((device, family), ("four", 1) | ("six", 0))
}

/// One host's addresses in a path's subnet: the server's is 1, the client's 2.
fn subnet(number: u8, host: u8) -> [IpAddr; 2] {
    [Ipv4Addr::new(10, number, 0, host).into(), Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, host.into()).into()]
}

fn make(world: &World, folder: &Path) {
    join(&world.net.server, "eth1", [2, 0, 0, 0, 1, 1], &world.net.client, "eth1", [2, 0, 0, 0, 1, 2]);
    let ends = [(&world.net.server, SERVER, STRANGER, 1, "server"), (&world.net.client, STRANGER, SERVER, 2, "client")];
    for (namespace, local, remote, host, name) in ends {
        for (device, number, lines) in PATHS {
            let names = [("LOCAL4", local.v4.to_string()), ("REMOTE4", remote.v4.to_string())];
            let more = [("LOCAL6", local.v6.to_string()), ("REMOTE6", remote.v6.to_string())];
            let named = names.into_iter().chain(more);
            namespace.ip(&named.fold((*lines).to_owned(), |text, (name, value)| text.replace(name, &value)));
            if *device == "wg0" {
                let other = if name == "server" { "client" } else { "server" };
                peer(namespace, &folder.join(name), &folder.join(other), &format!("{}:51820", remote.v4));
            }
            let [v4, v6] = subnet(*number, host);
            namespace.ip(&format!(
                "addr add {v4}/24 dev {device}\naddr add {v6}/64 dev {device} nodad\nlink set {device} up"
            ));
        }
    }
    for (device, ..) in PATHS {
        world.net.server.wait_until_running(device);
        world.net.client.wait_until_running(device);
    }
}

/// In the reverse order; the other end of `eth1` goes with it.
fn unmake(world: &World) {
    let lines = PATHS.iter().rev().map(|(device, ..)| format!("link del {device}\n")).collect::<String>();
    for namespace in [&world.net.server, &world.net.client] {
        namespace.ip(&lines);
    }
    world.net.server.ip("link del eth1");
}

fn peer(namespace: &Netns, own: &Path, other: &Path, endpoint: &str) {
    let theirs = wg(&["pubkey"], &std::fs::read_to_string(other).expect("a key"));
    let mut command = namespace.command("wg");
    command.args(["set", "wg0", "listen-port", "51820", "private-key"]).arg(own);
    command.args(["peer", theirs.trim(), "endpoint", endpoint, "allowed-ips", "10.30.0.0/24,fd00:1e::/64"]);
    let done = command.status().expect("wg");
    assert!(done.success(), "wg set: {done}");
}

/// What `wg` makes of this.
fn wg(arguments: &[&str], input: &str) -> String {
    let mut command = Command::new("wg");
    let mut child = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("wg");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("to feed it");
    let output = child.wait_with_output().expect("its end");
    assert!(output.status.success(), "wg {arguments:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Every path: from where, and to which address of the server's.
fn paths() -> Vec<(&'static str, IpAddr, IpAddr)> {
    let of = |(device, number, _): &Route| {
        let (device, ends) = (*device, subnet(*number, 2).into_iter().zip(subnet(*number, 1)).enumerate());
        ends.filter(move |(family, _)| carries(device, *family)).map(move |(_, (from, to))| (device, from, to))
    };
    PATHS.iter().flat_map(of).collect()
}

/// Walks every path: the open port answers, the protected one as `granted` says.
fn walk(world: &World, granted: bool, when: &str) {
    let client = &world.net.client;
    let reached = world.echo.served();
    for (device, from, to) in paths() {
        assert!(probe::tcp_answers(client, from, (to, OPEN).into()), "no path over {device} to {to} {when}");
        let to = SocketAddr::new(to, PORT);
        let answered = if granted {
            probe::tcp_answers(client, from, to)
        } else {
            probe::tcp(client, from, to) == Outcome::Answered
        };
        assert_eq!(answered, granted, "over {device} to {to}: answered = {answered} {when}");
    }
    if granted {
        // The service counts a little later than the kernel answers.
        let all = reached + paths().len() as u64;
        until("each connection is counted", || world.echo.served() == all);
    } else {
        assert_eq!(world.echo.served(), reached, "connections that reached the socket {when}");
    }
}

/// Kernel tunnels and the UDP ports that they take, and the `ip` lines that make those which are no paths.
const TUNNELS: [(&str, u16, &str); 4] = [
    ("WireGuard", 51820, ""),
    ("VXLAN", 4789, "link add named0 type vxlan id 7 local LOCAL4 remote REMOTE4 dstport 4789\nlink set named0 up"),
    ("Geneve", 6081, "link add named1 type geneve id 7 remote REMOTE4\nlink set named1 up"),
    ("FOU", 5555, "fou add port 5555 ipproto 4"),
];

/// Tunnels whose ports are protected for a moment: this kernel's sockets show what takes their datagrams.
fn tunnels_on_protected_ports_are_named(world: &World) {
    let named = |(kind, port, _): &(&str, u16, &str)| {
        let degraded = world.postern.client().details().expect("a status");
        degraded.iter().any(|said| said.starts_with(&format!("{port}/udp ")) && said.contains(kind))
    };
    for (_, _, lines) in TUNNELS {
        let (local, remote) = (SERVER.v4.to_string(), STRANGER.v4.to_string());
        world.net.server.ip(&lines.replace("LOCAL4", &local).replace("REMOTE4", &remote));
    }
    assert!(!TUNNELS.iter().any(named), "no such port is protected");
    let ports = TUNNELS.map(|(_, number, _)| port(number, "udp")).concat();
    world.postern.configure(&Options { rules: options().rules + &ports, ..options() });
    world.postern.reload();
    for tunnel in &TUNNELS {
        until(tunnel.0, || named(tunnel));
    }
    world.postern.configure(&options());
    world.postern.reload();
    until("they are named no longer", || !TUNNELS.iter().any(named));
    world.net.server.ip("link del named0\nlink del named1\nfou del port 5555");
}

pub fn every_device(stage: &mut Stage) {
    let mut world = stage.world();
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["server", "client"] {
        std::fs::write(folder.path().join(name), wg(&["genkey"], "")).expect("a key");
    }
    make(&world, folder.path());
    walk(&world, false, "with posternd");
    tunnels_on_protected_ports_are_named(&world);
    let sources: Vec<_> = paths().into_iter().map(|(_, from, _)| from).collect();
    let grants: Vec<_> = sources.chunks(8).map(|some| world.grant(&["22/tcp"], some, 600)).collect();
    walk(&world, true, "with a grant");
    grants.iter().for_each(|grant| world.revoke(&grant.id));
    walk(&world, false, "after the grant");
    world.postern.kill();
    unmake(&world);
    make(&world, folder.path());
    walk(&world, false, "on new devices while posternd is dead");
    stage.note(&format!("{} paths over {} devices", paths().len(), PATHS.len()));
    unmake(&world);
    world.postern.launch();
    stage.leave(world);
}
