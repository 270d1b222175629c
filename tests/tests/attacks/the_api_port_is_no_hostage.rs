//! The Unix socket is served whatever becomes of the TCP port of the API.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_proto::v1::{BreakGlassRequest, Grant};
use postern_tests::client::Client;
use postern_tests::net::{GRANTED, NEIGHBOUR, Net, SERVER};
use postern_tests::postern::{Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::{request, spoil, until};

const API: u16 = 7322;

fn at(port: u16) -> SocketAddr {
    (SERVER.v4, port).into()
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::from(([0_u16; 8], port))
}

fn degraded(client: &Client) -> String {
    client.details().expect("the status").join("\n")
}

fn break_glass(client: &Client, source: IpAddr) -> Grant {
    let wish = BreakGlassRequest {
        ports: vec!["22/tcp".to_owned()],
        source: vec![request::prefix(source)],
        duration: Some(Duration::from_secs(600).into()),
        reason: "the port of the API is gone".to_owned(),
    };
    client.wait(client.host().break_glass(wish)).expect("root may").into_inner().grant.expect("the grant")
}

/// A host with a service on 22, a posternd that is configured, and somebody who holds the API's port.
struct Host {
    postern: Postern,
    net: Net,
    _ssh: Service,
}

impl Host {
    fn new(options: Options) -> Self {
        let net = Net::pair();
        let _ssh = Service::tcp_echo(&net.server, any(22));
        Self { postern: Postern::prepared(&net.server, options), net, _ssh }
    }

    fn holds(&self, address: SocketAddr) -> TcpListener {
        self.net.server.run(|| TcpListener::bind(address)).expect("the squatter is first")
    }

    fn is_open(&self, from: IpAddr) -> bool {
        probe::tcp(&self.net.client, from, at(22)) == Outcome::Answered
    }

    /// Closed to strangers, open by root's break-glass.
    fn root_gets_in(&self, client: &Client) {
        assert!(!self.is_open(GRANTED.v4.into()) && !self.is_open(NEIGHBOUR.v4.into()), "closed before break-glass");
        break_glass(client, GRANTED.v4.into());
        assert!(self.is_open(GRANTED.v4.into()) && !self.is_open(NEIGHBOUR.v4.into()), "open for whom root named");
    }

    fn serves_tls(&self) -> bool {
        let connection = self.net.client.run(|| TcpStream::connect_timeout(&at(API), Duration::from_secs(4)));
        connection.is_ok()
    }
}

#[test]
fn a_local_user_who_holds_the_port_keeps_no_client_out() {
    for squatted in ["127.0.0.1:7322", "0.0.0.0:7322", "[::1]:7322", "[::]:7322"] {
        let mut host = Host::new(Options::without_xdp());
        let squatter = host.holds(squatted.parse().expect("an address"));
        host.postern.launch();
        let client = host.postern.client();
        let why = degraded(&client);
        assert!(why.contains("[::]:7322") && why.contains("holds the port") && why.contains("ss -ltnp"), "{why}");
        host.root_gets_in(&client);
        drop(squatter);
        until("the port is bound and the condition goes", || !degraded(&client).contains("7322"));
        assert!(host.serves_tls(), "{squatted}");
    }
}

#[test]
fn a_port_that_is_taken_in_the_gap_of_a_restart_keeps_grants_and_root() {
    let mut host = Host::new(Options::without_xdp());
    host.postern.launch();
    host.postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).expect("a grant");
    host.postern.kill();
    let squatter = host.holds(any(API));
    host.postern.launch();
    assert!(host.is_open(GRANTED.v4.into()) && !host.is_open(NEIGHBOUR.v4.into()));
    // A reload neither loses the condition nor protects the port that is still to be bound.
    let protecting = Options::without_xdp();
    let rules = protecting.rules.clone() + &postern_tests::postern::port(API, "any");
    host.postern.configure(&Options { rules, tcp: vec!["[::]:7399".to_owned()], ..protecting });
    host.postern.reload();
    let client = host.postern.client();
    until("the policy is refused", || degraded(&client).contains("would be protected"));
    assert!(degraded(&client).contains("holds the port"));
    host.postern.configure(&Options::without_xdp());
    host.postern.reload();
    until("the policy is right again", || !degraded(&client).contains("would be protected"));
    drop(squatter);
    until("the port is bound", || degraded(&client).is_empty());
    assert!(host.serves_tls());
}

#[test]
fn one_address_that_cannot_be_bound_stops_no_other_and_a_late_one_is_bound() {
    let tcp = ["203.0.113.7:7322", "10.1.0.1:7322"].map(str::to_owned).to_vec();
    let mut host = Host::new(Options { tcp, ..Options::without_xdp() });
    host.postern.launch();
    let client = host.postern.client();
    assert!(host.serves_tls(), "the address that is there is served");
    let why = degraded(&client);
    assert!(why.contains("203.0.113.7:7322") && !why.contains("10.1.0.1:7322"), "{why}");
    host.net.server.ip("addr add 203.0.113.7/32 dev lo");
    until("the late address is bound", || degraded(&client).is_empty());
    let late = "203.0.113.7:7322".parse().expect("an address");
    assert!(host.net.server.run(|| TcpStream::connect_timeout(&late, Duration::from_secs(4))).is_ok());
}

#[test]
fn plaintext_that_cannot_be_bound_is_a_condition_too() {
    let mut host = Host::new(Options { plaintext: vec!["127.0.0.1:7323".to_owned()], ..Options::without_xdp() });
    let squatter = host.holds("127.0.0.1:7323".parse().expect("an address"));
    host.postern.launch();
    let client = host.postern.client();
    assert!(degraded(&client).contains("127.0.0.1:7323") && host.serves_tls());
    drop(squatter);
    until("it is bound", || degraded(&client).is_empty());
}

/// Puts something in the place of a file.
type Put = fn(&Path);

#[test]
fn a_tls_key_that_cannot_be_used_is_a_condition_and_is_never_replaced() {
    let faults: [(&str, Put); 5] = [
        ("half written", |path| {
            let whole = fs::read(path).expect("the key");
            fs::write(path, &whole[..whole.len() / 2]).expect("a part");
        }),
        ("readable for others", |path| spoil::chmod(path, 0o644)),
        ("a directory", |path| {
            fs::remove_file(path).expect("to remove it");
            fs::create_dir(path).expect("a directory");
        }),
        ("a FIFO", |path| {
            fs::remove_file(path).expect("to remove it");
            spoil::fifo(path);
        }),
        ("a link", |path| {
            let other = path.with_extension("other");
            fs::rename(path, &other).expect("to move it");
            std::os::unix::fs::symlink(&other, path).expect("a link");
        }),
    ];
    for (what, put) in faults {
        let mut host = Host::new(Options::without_xdp());
        host.postern.launch();
        assert!(host.postern.stop().success());
        let key = host.postern.state().join("tls/key-and-certificate.pem");
        put(&key);
        let before = fs::symlink_metadata(&key).expect("what was put there");
        host.postern.launch();
        let client = host.postern.client();
        let why = degraded(&client);
        assert!(why.contains("key-and-certificate.pem") && why.contains("not served with TLS"), "{what}: {why}");
        assert!(!host.serves_tls(), "{what}: nothing listens without a key");
        host.root_gets_in(&client);
        let after = fs::symlink_metadata(&key).expect("what was put there");
        assert_eq!((before.file_type(), before.len()), (after.file_type(), after.len()), "{what}: it is left alone");
    }
}

#[test]
fn root_is_served_although_something_else_lies_at_the_unix_sockets_path() {
    let faults: [(&str, Put); 3] = [
        ("a directory", |path| fs::create_dir(path).expect("a directory")),
        ("a file", |path| fs::write(path, "precious").expect("a file")),
        ("a FIFO", |path| spoil::fifo(path)),
    ];
    for (what, put) in faults {
        let mut host = Host::new(Options::without_xdp());
        let socket = host.postern.socket();
        put(&socket);
        let beside = PathBuf::from(format!("{}.root", socket.display()));
        host.postern.launch_unseen();
        until("root's socket is there", || Client::unix(&beside).is_ok_and(|client| client.who_am_i().is_ok()));
        assert_eq!(spoil::mode_of(&beside), 0o600, "{what}: for root alone");
        let client = Client::unix(&beside).expect("the socket");
        let why = degraded(&client);
        assert!(why.contains(&format!("unix://{}", beside.display())), "{what}: {why}");
        host.root_gets_in(&client);
        assert!(
            fs::symlink_metadata(&socket)
                .is_ok_and(|found| !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()))
        );
    }
}
