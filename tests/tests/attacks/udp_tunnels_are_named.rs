//! Kernel tunnels on protected UDP ports are named as long as they are there, and what can be refused before them is.
//!
//! The tunnels are real: VXLAN devices, and ESP in UDP by `setsockopt`.
#![allow(unsafe_code)]

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process::Output;

use postern_tests::bpf::{self, MOST_ATTACHED, Pass};
use postern_tests::net::{GRANTED, Net, SERVER};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern, ROLES, port, program};
use postern_tests::probe;
use postern_tests::service::Service;
use postern_tests::until;

const VXLAN: u16 = 4789;
const IPSEC: u16 = 4500;
const PLAIN: u16 = 3389;
const UNPROTECTED: u16 = 8472;
const INNER_SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
const INNER_CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);

fn options() -> Options {
    let ports = [(22, "tcp"), (VXLAN, "udp"), (IPSEC, "udp"), (PLAIN, "udp")];
    let rules = ports.map(|(number, protocol)| port(number, protocol)).concat() + ROLES;
    Options { rules, ..Options::without_xdp() }
}

/// Makes a VXLAN device with a fixed address and neighbour, so that nothing but what a test sends goes over it.
fn vxlan(namespace: &Netns, name: &str, port: u16, ends: [Ipv4Addr; 2], inner: [Ipv4Addr; 2]) {
    let ([local, remote], [own, other]) = (ends, inner);
    let mac = |address: Ipv4Addr| format!("02:00:00:00:77:{:02x}", address.octets()[3]);
    namespace.ip(&format!(
        "link add {name} address {} type vxlan id 7 local {local} remote {remote} dstport {port}\n\
         link set {name} addrgenmode none\nlink set {name} up\naddr add {own}/24 dev {name}\n\
         neigh replace {other} lladdr {} dev {name} nud permanent",
        mac(own),
        mac(other)
    ));
}

fn tunnel(net: &Net) {
    let (server, client) = (SERVER.v4, GRANTED.v4);
    vxlan(&net.server, "vx0", VXLAN, [server, client], [INNER_SERVER, INNER_CLIENT]);
    vxlan(&net.client, "vx0", VXLAN, [client, server], [INNER_CLIENT, INNER_SERVER]);
}

/// Packets that have come in on a device.
fn received(namespace: &Netns, name: &str) -> u64 {
    let text = namespace.run(|| fs::read_to_string("/proc/thread-self/net/dev")).expect("the devices");
    let line = text.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}:"))).expect("the device");
    line.split_whitespace().nth(1).expect("a count").parse().expect("a number")
}

/// Sends pings over the tunnel, and waits until they have been sent.
fn ping(namespace: &Netns, to: Ipv4Addr) -> Output {
    let mut command = namespace.command("ping");
    command.args(["-c", "10", "-i", "0.01", "-W", "1", &to.to_string()]).output().expect("ping")
}

/// Has the kernel take a socket's datagrams for ESP (`UDP_ENCAP`, RFC 3948), as IKE daemons do.
fn take_for_esp(socket: &UdpSocket) {
    let (udp_encap, esp_in_udp): (libc::c_int, libc::c_int) = (100, 2);
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the socket is open, and the option's value and length describe one c_int that outlives the call.
    let done = unsafe {
        let value = (&raw const esp_in_udp).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_UDP, udp_encap, value, length)
    };
    assert_eq!(done, 0, "UDP_ENCAP: {}", std::io::Error::last_os_error());
}

/// The conditions that name a tunnel.
fn named(postern: &Postern) -> Vec<String> {
    let degraded = postern.client().details().expect("a status");
    degraded.into_iter().filter(|said| said.contains("kernel tunnel")).collect()
}

fn names(postern: &Postern, port: u16, kind: &str) -> bool {
    named(postern).iter().any(|said| said.starts_with(&format!("{port}/udp ")) && said.contains(kind))
}

#[test]
fn a_vxlan_on_a_protected_port_is_named_as_long_as_it_is_there() {
    let net = Net::pair();
    // Before the start: what must not be named.
    let _plain = Service::udp_echo(&net.server, (Ipv6Addr::UNSPECIFIED, PLAIN).into());
    vxlan(&net.server, "other0", UNPROTECTED, [SERVER.v4, GRANTED.v4], [INNER_SERVER, INNER_CLIENT]);
    vxlan(&net.client, "other0", PLAIN, [GRANTED.v4, SERVER.v4], [INNER_CLIENT, INNER_SERVER]);
    net.server.ip("link del other0");
    vxlan(&net.server, "other0", UNPROTECTED, [SERVER.v4, GRANTED.v4], [INNER_SERVER, INNER_CLIENT]);
    net.client.ip("link del other0");
    tunnel(&net);
    net.server.ip("addr del 192.168.77.1/24 dev other0");
    let mut postern = Postern::start(&net.server, options());
    until("the VXLAN is named", || names(&postern, VXLAN, "VXLAN"));
    assert_eq!(named(&postern).len(), 1, "nothing else is: {:?}", named(&postern));
    // As long as it is there.
    net.server.ip("link del vx0");
    until("it is named no longer", || named(&postern).is_empty());
    // One that comes later, and one that is there at a start.
    vxlan(&net.server, "vx0", VXLAN, [SERVER.v4, GRANTED.v4], [INNER_SERVER, INNER_CLIENT]);
    until("the new VXLAN is named", || names(&postern, VXLAN, "VXLAN"));
    postern.kill();
    postern.launch();
    until("the VXLAN is named after a start", || names(&postern, VXLAN, "VXLAN"));
    // A reload decides which ports are protected.
    postern.configure(&Options { rules: port(22, "tcp") + ROLES, ..Options::without_xdp() });
    postern.reload();
    until("an unprotected port is nobody's concern", || named(&postern).is_empty());
    let rules = [port(22, "tcp"), port(UNPROTECTED, "udp"), ROLES.to_owned()].concat();
    postern.configure(&Options { rules, ..Options::without_xdp() });
    postern.reload();
    until("the other VXLAN is named", || names(&postern, UNPROTECTED, "VXLAN"));
    assert_eq!(named(&postern).len(), 1, "{:?}", named(&postern));
}

#[test]
fn a_tunnel_of_another_namespace_is_not_named() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, options());
    vxlan(&net.client, "vx0", PLAIN, [GRANTED.v4, SERVER.v4], [INNER_CLIENT, INNER_SERVER]);
    // The host's own one is named, so a look has taken place by then.
    vxlan(&net.server, "vx1", VXLAN, [SERVER.v4, GRANTED.v4], [INNER_SERVER, INNER_CLIENT]);
    until("the VXLAN is named", || names(&postern, VXLAN, "VXLAN"));
    assert_eq!(named(&postern).len(), 1, "{:?}", named(&postern));
    // A device that has moved away has its socket where it was made: the host's port still belongs to the tunnel.
    net.server.ip(&format!("link set vx1 netns {}", net.client.path()));
    until("its socket is closed by the move", || named(&postern).is_empty());
    net.client.ip("link set vx1 up");
    until("the VXLAN is named again", || names(&postern, VXLAN, "VXLAN"));
}

#[test]
fn esp_in_udp_by_setsockopt_is_named() {
    let net = Net::pair();
    let postern = Postern::start(&net.server, options());
    let socket = net.server.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, IPSEC))).expect("a socket");
    let dual = net.server.run(|| UdpSocket::bind((Ipv6Addr::LOCALHOST, PLAIN))).expect("a socket");
    take_for_esp(&socket);
    until("ESP in UDP is named", || names(&postern, IPSEC, "ESP in UDP"));
    assert_eq!(named(&postern).len(), 1, "{:?}", named(&postern));
    take_for_esp(&dual);
    until("ESP in UDP over IPv6 is named", || names(&postern, PLAIN, "ESP in UDP"));
    // A connected socket is found by its peer, and the lock is not asked: that is said too.
    socket.connect(SocketAddr::from((GRANTED.v4, IPSEC))).expect("to connect");
    until("the connected socket", || named(&postern).iter().any(|said| said.contains("connected to one peer")));
    drop((socket, dual));
    until("they are named no longer", || named(&postern).is_empty());
}

#[test]
fn check_config_names_tunnels_too() {
    let net = Net::pair();
    tunnel(&net);
    let postern = Postern::prepared(&net.server, options());
    let check = || {
        let mut command = net.server.command(program());
        let output = command.args(["check-config", "--config"]).arg(postern.config()).output().expect("posternd");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let said = check();
    assert!(said.contains("4789/udp belongs to a kernel tunnel (VXLAN)"), "{said}");
    assert!(!said.contains("3389/udp belongs"), "{said}");
    net.server.ip("link del vx0");
    assert!(!check().contains("kernel tunnel"), "nothing to name");
}

#[test]
fn with_the_lock_nothing_comes_in_through_the_tunnel_after_the_end() {
    let net = Net::pair();
    tunnel(&net);
    let postern = Postern::start(&net.server, options());
    let came = || received(&net.server, "vx0");
    let before = came();
    ping(&net.client, INNER_SERVER);
    assert_eq!(came(), before, "without a grant nothing comes in");
    let grant = postern.grant(&["4789/udp"], &GRANTED.both(), 600).expect("a grant");
    assert!(ping(&net.client, INNER_SERVER).status.success(), "the grant opens the tunnel");
    let before = came();
    assert!(before >= 10, "{before}");
    postern.revoke(&grant.id).expect("to revoke");
    let after = came();
    ping(&net.client, INNER_SERVER);
    assert_eq!(came(), after, "after the end nothing comes in");
    // What is not promised, and said: the tunnel still sends, and without the lock it takes what comes.
    let (sent, _) = (received(&net.client, "vx0"), ping(&net.server, INNER_CLIENT));
    assert!(received(&net.client, "vx0") > sent, "the kernel shows the cut no packet of the tunnel's");
    assert!(names(&postern, VXLAN, "VXLAN"), "and so it is named: {:?}", named(&postern));
    let mut programs = bpf::fill(net.server.descriptor(), Pass::Lookup).expect("programs on look-ups");
    until("the lock is gone", || {
        postern.detach("lock");
        programs.extend(bpf::fill(net.server.descriptor(), Pass::Lookup).expect("programs on look-ups"));
        programs.len() >= MOST_ATTACHED
    });
    until("the loss is said", || {
        let degraded = postern.client().details().expect("a status");
        degraded.iter().any(|said| said.contains("the lock is not attached") && said.contains("tunnels"))
    });
    drop(programs);
    until("the lock is back", || {
        let layers = postern.client().status().expect("a status").layers;
        layers.iter().all(|layer| layer.attached)
    });
    let before = came();
    ping(&net.client, INNER_SERVER);
    assert_eq!(came(), before, "with the lock back nothing comes in");
    assert!(!probe::udp_answers(&net.client, GRANTED.v4, (SERVER.v4, PLAIN).into()));
}
