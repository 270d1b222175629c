//! Where posternd cannot promise everything (containers, private mount namespaces, a part of the cgroups, no bpf file system), the
//! status says so before the death of posternd shows it, and "enable" refuses where nothing would outlive it.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use postern_tests::cgroup::Cgroup;
use postern_tests::laptop::{Laptop, Run};
use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
use postern_tests::postern::{Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::until;

/// A mount namespace from which nothing comes back, as containers and `unshare -m` have.
const PRIVATE: &[&str] = &["--mount", "--propagation", "private"];
/// A bpf file system that only this mount namespace has.
const OWN_BPFFS: &str = "mount -t bpf bpf /sys/fs/bpf";

fn at(host: postern_tests::net::Host, port: u16) -> (std::net::Ipv4Addr, SocketAddr) {
    (host.v4, (SERVER.v4, port).into())
}

fn is_open(net: &Net) -> bool {
    let (from, to) = at(STRANGER, 22);
    probe::tcp(&net.client, from, to) == Outcome::Answered
}

fn codes(postern: &Postern) -> Vec<String> {
    postern.client().conditions().expect("root is answered")
}

/// What root types on the host.
fn types(net: &Net, postern: &Postern, words: &[&str]) -> Run {
    let socket = format!("unix://{}", postern.socket().display());
    Laptop::new(&net.server, postern).run(&[words, &[&socket]].concat())
}

/// The condition is in every view of the status, and none of them says that all is well.
fn is_told(net: &Net, postern: &Postern, code: &str, says: &str) {
    until(code, || codes(postern).iter().any(|one| one == code));
    let shown = types(net, postern, &["status"]);
    assert_eq!(shown.code, Some(8), "{}{}", shown.out, shown.err);
    assert!(shown.out.contains(code) && !shown.out.contains("all is well"), "{}", shown.out);
    let json = types(net, postern, &["status", "--json"]);
    assert_eq!(json.code, Some(8));
    let json = json.json();
    let all = json["conditions"].as_array().expect("conditions");
    let found = all.iter().find(|one| one["code"] == code).expect("the condition")["detail"].as_str().expect("words");
    assert!(found.contains(says), "{found}");
}

#[test]
fn pins_that_only_posternds_mount_namespace_has_are_named_and_end_with_it() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
    let mut postern = Postern::start(&net.server, Options::within(PRIVATE, OWN_BPFFS));
    is_told(&net, &postern, "pins-not-lasting", "mount namespace");
    // It is closed as long as posternd lives, and opens under a grant.
    assert!(!is_open(&net));
    postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    assert!(probe::tcp_answers(&net.client, GRANTED.v4, (SERVER.v4, 22).into()));
    // What was told is what happens.
    postern.kill();
    until("the ports are open without posternd", || is_open(&net));
}

#[test]
fn a_mount_namespace_with_the_hosts_bpf_file_system_is_no_false_alarm() {
    // As systemd makes one for the unit, and as one without any propagation.
    for propagation in ["slave", "private"] {
        let net = Net::pair();
        let _service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
        let mut postern =
            Postern::start(&net.server, Options::within(&["--mount", "--propagation", propagation], "true"));
        assert_eq!(codes(&postern), Vec::<String>::new(), "{propagation}");
        let shown = types(&net, &postern, &["status"]);
        assert!(shown.code == Some(0) && shown.out.contains("all is well"), "{}{}", shown.out, shown.err);
        // Which network it is that is closed is said.
        let network = net.server.run(|| std::fs::read_link("/proc/thread-self/ns/net")).expect("the namespace");
        assert!(shown.out.contains(&network.display().to_string()), "{}", shown.out);
        postern.kill();
        assert!(!is_open(&net), "the pins are the host's");
    }
}

#[test]
fn as_process_1_of_a_container_the_pins_may_end_with_posternd() {
    let net = Net::pair();
    let unshare = ["--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"];
    let postern = Postern::start(&net.server, Options::within(&unshare, OWN_BPFFS));
    is_told(&net, &postern, "pins-not-lasting", "process 1 of its container");
    assert!(!is_open(&net));
}

#[test]
fn enable_refuses_where_nothing_would_outlive_posternd_unless_only_while_running_is_accepted() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
    let observe = "mode = \"observe\"".to_owned();
    let postern = Postern::start(&net.server, Options { extra: observe, ..Options::within(PRIVATE, OWN_BPFFS) });
    // Also while it only observes: before anybody enables it.
    is_told(&net, &postern, "pins-not-lasting", "mount namespace");
    let refused = types(&net, &postern, &["enable", "--json"]);
    assert_eq!(refused.code, Some(1), "{}", refused.err);
    assert_eq!(refused.error()["reason"], "NOTHING_OUTLIVES");
    let why = refused.error()["message"].as_str().expect("words").to_owned();
    assert!(why.contains("open to everybody") && why.contains("may end with posternd"), "{why}");
    assert!(refused.error()["next"].as_str().expect("advice").contains("--only-while-running"));
    assert!(is_open(&net), "it observes as before");
    let enabled = types(&net, &postern, &["enable", "--only-while-running"]);
    assert_eq!(enabled.code, Some(0), "{}", enabled.err);
    until("it is closed", || !is_open(&net));
    is_told(&net, &postern, "pins-not-lasting", "mount namespace");
}

#[test]
fn without_a_bpf_file_system_there_is_a_condition_from_the_start_and_enable_refuses() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
    let folder = tempfile::tempdir().expect("a directory");
    let observe = "mode = \"observe\"".to_owned();
    let options = || Options { extra: observe.clone(), ..Options::without_xdp() };
    let mut postern = Postern::start_pinned(&net.server, options(), folder.path().join("pins"));
    is_told(&net, &postern, "not-pinned", "only as long as posternd lives");
    assert!(codes(&postern).contains(&"pin-directory".to_owned()));
    let refused = types(&net, &postern, &["enable", "--json"]);
    assert_eq!(refused.error()["reason"], "NOTHING_OUTLIVES", "{}", refused.err);
    postern.stop();
    postern.configure(&Options::without_xdp());
    postern.launch();
    is_told(&net, &postern, "not-pinned", "only as long as posternd lives");
    assert!(!is_open(&net), "it is closed as long as posternd lives");
    postern.kill();
    until("the ports are open without posternd", || is_open(&net));
}

/// Whether anything comes within the time that a chattering service takes for a hundred lines.
fn receives(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out");
    matches!(stream.read(&mut [0; 4096]), Ok(1..))
}

#[test]
fn a_cut_at_a_part_of_the_cgroups_is_a_condition_and_sessions_elsewhere_outlive_their_grant() {
    let net = Net::pair();
    let (inside, outside) = (Cgroup::new(), "[::]:22".parse().expect("an address"));
    let _outside = Service::tcp_chatter(&net.server, outside);
    let _inside = inside.within(|| Service::tcp_chatter(&net.server, "[::]:3389".parse().expect("an address")));
    let mut postern = Postern::start(&net.server, Options { extra: inside.line(), ..Options::without_xdp() });
    is_told(&net, &postern, "cgroup-part", "outlive");
    postern.grant(&["22/tcp", "3389/tcp"], &[GRANTED.v4.into()], 3).expect("a grant");
    let connect = |port| {
        let (from, to) = at(GRANTED, port);
        probe::connect(&net.client, from, to).expect("a session under the grant")
    };
    let (mut outside, mut inside) = (connect(22), connect(3389));
    postern.kill();
    assert!(receives(&mut outside) && receives(&mut inside));
    until("the session in the cgroup is silent", || !receives(&mut inside));
    let (from, to) = at(GRANTED, 22);
    until("the grant is over", || probe::tcp(&net.client, from, to) != Outcome::Answered);
    assert!(receives(&mut outside), "the session outlives its grant, as the condition says");
    // posternd ends what the cut does not.
    postern.launch();
    until("the session outside has ended", || matches!(outside.read(&mut [0; 65536]), Ok(0) | Err(_)));
}

#[test]
fn in_a_cgroup_namespace_the_visible_root_is_not_taken_for_the_root() {
    let net = Net::pair();
    let part = Cgroup::new();
    let mount = part.path().parent().expect("the mount of cgroup v2").display().to_string();
    let line = format!("umount --lazy {mount} && mount -t cgroup2 none {mount}");
    let inner = Options::within(&["--cgroup", "--mount", "--propagation", "private"], &line);
    let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", part.path().display());
    let words = ["sh", "-c", &enter].map(str::to_owned).into_iter().chain(inner.wrapper.clone());
    let mut postern = Postern::start(&net.server, Options { wrapper: words.collect(), ..inner });
    is_told(&net, &postern, "cgroup-part", "not the root of cgroup v2");
    assert!(!is_open(&net));
    postern.kill();
    drop(postern);
    part.remove();
}

#[test]
fn in_a_user_namespace_a_condition_says_that_the_ports_are_open() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, "[::]:22".parse().expect("an address"));
    let options = Options { user: "root".to_owned(), ..Options::within(&["--user", "--map-root-user"], "true") };
    let postern = Postern::start(&net.server, options);
    is_told(&net, &postern, "open", "open to everybody");
    assert_eq!(codes(&postern)[0], "open", "the gravest first");
    assert!(is_open(&net));
    assert!(Path::new(&postern.socket()).exists());
}
