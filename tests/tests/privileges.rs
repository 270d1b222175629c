//! What posternd has given up while it serves, and that all of its work still works (CHECKLIST E14).

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use postern_proto::v1::ShedMode;
use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern, port};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::{PATIENCE, until};

/// CAP_NET_ADMIN: what `LINK_CREATE`, the end of a session and a setting of the network take.
const NET_ADMIN: u64 = 1 << 12;
/// CAP_BPF, which kernels before 5.19 ask for at every call.
const BPF: u64 = 1 << 39;

/// A line of the `status` of each thread of a process.
fn of_each_thread(pid: u32, name: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).expect("its status");
    let value = |text: String| text.lines().find_map(|l| l.strip_prefix(name).map(|v| v.trim().to_owned()));
    tasks.map(|task| value(status(task.expect("a thread"))).expect("a line")).collect()
}

/// What all threads of a process have had of a processor so far, in nanoseconds.
fn busy_ns(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let texts =
        tasks.map(|task| fs::read_to_string(task.expect("a thread").path().join("schedstat")).expect("a figure"));
    texts.map(|text| text.split_whitespace().next().and_then(|ns| ns.parse::<u64>().ok()).expect("a number")).sum()
}

#[test]
fn a_serving_posternd_can_do_its_work_and_little_else() {
    let net = Net::pair();
    let _services = [22, 2222].map(|port| Service::tcp_echo(&net.server, (Ipv6Addr::UNSPECIFIED, port).into()));
    let options = Options { shed: "{ interfaces = [\"eth0\", \"eth9\"] }".to_owned(), ..Options::default() };
    let postern = Postern::start(&net.server, options.clone());
    let client = postern.client();
    let whole = || client.status().expect("a status").degraded.is_empty();
    until("everything in force", whole);

    let threads = of_each_thread(postern.pid(), "CapEff:");
    println!("{} threads with the capabilities {}", threads.len(), threads[0]);
    for name in ["CapEff:", "CapPrm:", "CapBnd:"] {
        for value in of_each_thread(postern.pid(), name) {
            let left = u64::from_str_radix(&value, 16).expect("a number") & !BPF;
            assert_eq!(left, NET_ADMIN, "{name} {value}");
        }
    }
    for (name, wanted) in [("CapInh:", "0000000000000000"), ("NoNewPrivs:", "1"), ("Seccomp:", "2")] {
        assert!(of_each_thread(postern.pid(), name).iter().all(|value| value == wanted), "{name}");
    }

    // What looking after all this costs: a figure, no promise.
    let (busy, start) = (busy_ns(postern.pid()), Instant::now());
    std::thread::sleep(Duration::from_secs(3));
    let busy = busy_ns(postern.pid()) - busy;
    println!("idle: {} µs of a processor in {} ms", busy / 1000, start.elapsed().as_millis());

    // Grant, session, revocation: both ends see it.
    let grant = postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    let to = SocketAddr::new(SERVER.v4.into(), 22);
    let mut session = probe::connect(&net.client, GRANTED.v4, to).expect("a session");
    session.write_all(b"x").expect("to write");
    session.read_exact(&mut [0]).expect("an answer");
    postern.revoke(&grant.id).expect("to revoke");
    session.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let ended = session.read(&mut [0]).expect_err("a reset");
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset, "{ended}");
    assert_ne!(probe::tcp(&net.client, STRANGER.v4, to), Outcome::Answered);

    // A reload, with files replaced by renaming.
    let rules = [options.rules.clone(), port(2222, "tcp")].concat();
    postern.configure(&Options { rules, ..options.clone() });
    fs::rename(postern.config(), postern.file("new.toml")).expect("to rename");
    fs::rename(postern.file("new.toml"), postern.config()).expect("to rename");
    postern.reload();
    until("the reload", || probe::tcp(&net.client, STRANGER.v4, (SERVER.v4, 2222).into()) != Outcome::Answered);

    // Lost layers, lost pins.
    for layer in ["lock", "cut-ingress", "cut-egress", "shed-"] {
        postern.detach(layer);
        until("the healing", || whole() && postern.pinned().iter().any(|name| name.starts_with(layer)));
    }
    fs::remove_dir_all(postern.pin_dir()).expect("the pins");
    until("the pins", || postern.pinned().iter().any(|name| name == "lock") && whole());

    // A new interface, and one that comes back.
    for _ in 0..2 {
        let far = Netns::new();
        net.server.ip(&format!("link add eth9 type veth peer name eth0 netns {}\nlink set eth9 up", far.path()));
        let shed = || {
            client
                .status()
                .expect("a status")
                .interfaces
                .iter()
                .any(|i| i.name == "eth9" && matches!(i.mode(), ShedMode::Native | ShedMode::Generic))
        };
        until("its shed", shed);
        net.server.ip("link del eth9");
        until("the end of its shed", || !shed());
    }
    until("everything in force", whole);
    assert_ne!(probe::tcp(&net.client, STRANGER.v4, to), Outcome::Answered);
}
