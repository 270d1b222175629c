//! What posternd has given up while it serves, and that all of its work still works.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::Path;

use postern_proto::v1::XdpMode;
use postern_tests::flood::Flood;
use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern, USER, port, program};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;
use postern_tests::{PATIENCE, until};
use rustix::process::{Pid, Signal, kill_process};

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

#[test]
fn a_serving_posternd_can_do_its_work_and_little_else() {
    let net = Net::pair();
    let _services = [22, 2222].map(|port| Service::tcp_echo(&net.server, (Ipv6Addr::UNSPECIFIED, port).into()));
    let options = Options { xdp: "{ interfaces = [\"eth0\", \"eth9\"] }".to_owned(), ..Options::default() };
    let postern = Postern::start(&net.server, options.clone());
    let client = postern.client();
    let whole = || client.details().expect("a status").is_empty();
    until("everything in force", whole);

    let threads = of_each_thread(postern.pid(), "CapEff:");
    println!("{} threads with the capabilities {}", threads.len(), threads[0]);
    let helper = helper_of(postern.pid()).expect("the part that stays root");
    assert_ne!(id_of(USER), 0);
    for (pid, user, rights) in [(postern.pid(), id_of(USER), NET_ADMIN), (helper, 0, 0)] {
        for name in ["CapEff:", "CapPrm:", "CapBnd:"] {
            for value in of_each_thread(pid, name) {
                let left = u64::from_str_radix(&value, 16).expect("a number") & !BPF;
                assert_eq!(left, rights, "{name} {value}");
            }
        }
        let ids = [user; 4].map(|id| id.to_string()).join("\t");
        for (name, wanted) in
            [("Uid:", &*ids), ("CapInh:", "0000000000000000"), ("NoNewPrivs:", "1"), ("Seccomp:", "2")]
        {
            let found = of_each_thread(pid, name);
            assert!(found.iter().all(|value| value == wanted), "{name} {found:?}");
        }
    }
    // The files that a grant makes, too.
    assert_eq!(owners(postern.state()), [id_of(USER)].into());
    assert_eq!(owners(postern.pin_dir()), [0].into());

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
    reload(&postern);
    assert_ne!(probe::tcp(&net.client, STRANGER.v4, (SERVER.v4, 2222).into()), Outcome::Answered);

    // Lost layers, lost pins.
    for layer in ["lock", "cut-ingress", "cut-egress"] {
        postern.detach(layer);
        until("the healing", || whole() && postern.pinned().iter().any(|name| name.starts_with(layer)));
    }
    fs::remove_dir_all(postern.pin_dir()).expect("the pins");
    until("the pins", || postern.pinned().iter().any(|name| name == "lock") && whole());

    // A new interface, and one that comes back.
    for _ in 0..2 {
        let far = Netns::new();
        net.server.ip(&format!("link add eth9 type veth peer name eth0 netns {}\nlink set eth9 up", far.path()));
        let xdp = || {
            client
                .status()
                .expect("a status")
                .interfaces
                .iter()
                .any(|i| i.name == "eth9" && i.mode() == XdpMode::Standby)
        };
        until("its prefilter", xdp);
        net.server.ip("link del eth9");
        until("the end of its prefilter", || !xdp());
    }
    until("everything in force", whole);
    assert_ne!(probe::tcp(&net.client, STRANGER.v4, to), Outcome::Answered);
    assert_eq!(owners(postern.state()), [id_of(USER)].into());
    assert_eq!(owners(postern.pin_dir()), [0].into());
}

/// The process that keeps an agent's pins.
fn helper_of(agent: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{agent}/task/{agent}/children")).expect("its children");
    children.split_whitespace().next().map(|pid| pid.parse().expect("a number"))
}

fn id_of(user: &str) -> u32 {
    let users = fs::read_to_string("/etc/passwd").expect("the users");
    let line = users.lines().find_map(|line| line.strip_prefix(user)?.strip_prefix(":x:")).expect("the user");
    line.split(':').next().expect("a number").parse().expect("a number")
}

/// Whose everything below a directory is.
fn owners(directory: &Path) -> BTreeSet<u32> {
    let mut owners = BTreeSet::from([fs::symlink_metadata(directory).expect("a file").uid()]);
    for entry in fs::read_dir(directory).expect("a directory") {
        let entry = entry.expect("a name");
        match entry.file_type().expect("its type").is_dir() {
            true => owners.extend(self::owners(&entry.path())),
            false => drop(owners.insert(entry.metadata().expect("a file").uid())),
        }
    }
    owners
}

fn send(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.cast_signed()).expect("a process id");
    kill_process(pid, signal).expect("to signal it");
}

/// A granted source gets in, a stranger does not.
fn holds(net: &Net, when: &str) {
    assert!(probe::tcp_answers(&net.client, GRANTED.v4, (SERVER.v4, 22).into()), "{when}");
    assert_ne!(probe::tcp(&net.client, STRANGER.v4, (SERVER.v4, 22).into()), Outcome::Answered, "{when}");
}

/// Has posternd read its files again, and waits until they are in force. No connection shows that: a source that is connected when a port
/// becomes protected may come again.
fn reload(postern: &Postern) {
    let loaded = || postern.on_disk().iter().filter(|line| line["event"] == "policy-loaded").count();
    let before = loaded();
    postern.reload();
    until("the reload is on record", || loaded() > before);
    // The engine answers after it has put in force what it has recorded.
    postern.client().status().expect("a status");
}

fn degraded(postern: &Postern) -> String {
    postern.client().details().expect("a status").join("\n")
}

#[test]
fn state_made_as_root_serves_the_agents_user_and_the_other_way_round() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, (Ipv6Addr::UNSPECIFIED, 22).into());
    let as_user = |user: &str| Options { user: user.to_owned(), ..Options::without_xdp() };
    let mut postern = Postern::start(&net.server, as_user("root"));
    assert_eq!(degraded(&postern), "");
    assert_eq!(helper_of(postern.pid()), None);
    assert_eq!(owners(postern.state()), [0].into());
    postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    holds(&net, "by root");
    let missing = "nobody-of-this-name";
    for (user, owner, complaint) in [
        (USER, id_of(USER), ""),
        ("root", 0, ""),
        (USER, id_of(USER), ""),
        (missing, 0, "there is no user"),
        (USER, id_of(USER), ""),
    ] {
        postern.configure(&as_user(user));
        assert!(postern.stop().success());
        holds(&net, "while nobody is there");
        postern.launch();
        holds(&net, user);
        assert!(
            degraded(&postern).contains(complaint) && degraded(&postern).is_empty() == complaint.is_empty(),
            "{user}: {}",
            degraded(&postern)
        );
        assert_eq!(owners(postern.state()), [owner].into(), "{user}");
    }
    // What root has written meanwhile is its user's again.
    assert!(postern.stop().success());
    for entry in ["journal", "host-id"] {
        chown(postern.state().join(entry), Some(0), Some(0)).expect("an owner");
    }
    postern.launch();
    holds(&net, "after somebody's chown");
    postern.grant(&["3389/tcp"], &GRANTED.both(), 600).expect("a grant");
    assert_eq!((degraded(&postern), owners(postern.state())), (String::new(), [id_of(USER)].into()));
}

#[test]
fn a_state_directory_that_its_user_cannot_reach_is_worked_on_as_root() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, (Ipv6Addr::UNSPECIFIED, 22).into());
    let closed = tempfile::tempdir().expect("a directory");
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o700)).expect("a mode");
    let state = Some(closed.path().join("state"));
    let mut postern = Postern::start(&net.server, Options { state, ..Options::without_xdp() });
    assert!(degraded(&postern).contains("posternd runs as root: its user cannot use"), "{}", degraded(&postern));
    postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    holds(&net, "as root");
    fs::set_permissions(closed.path(), fs::Permissions::from_mode(0o711)).expect("a mode");
    assert!(postern.stop().success());
    postern.launch();
    holds(&net, "as its user");
    assert_eq!(degraded(&postern), "");
}

#[test]
fn a_folder_for_the_socket_is_made() {
    let net = Net::pair();
    for user in [USER, "root"] {
        let mut postern = Postern::prepared(&net.server, Options { user: user.to_owned(), ..Options::without_xdp() });
        let folder = postern.file("run");
        let text = fs::read_to_string(postern.config()).expect("the configuration");
        let socket = postern.socket().display().to_string();
        let text = text.replace(&socket, &socket.replace("posternd.sock", "run/below/posternd.sock"));
        fs::write(postern.config(), text).expect("the configuration");
        symlink(folder.join("below/posternd.sock"), postern.socket()).expect("a way to it");
        postern.launch();
        assert_eq!((degraded(&postern), owners(&folder)), (String::new(), [0].into()), "{user}");
    }
}

#[test]
fn posternd_works_where_cgroup_v2_is_not_mounted() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, (Ipv6Addr::UNSPECIFIED, 22).into());
    let postern = Postern::prepared(&net.server, Options::without_xdp());
    let unmounted =
        "grep ' cgroup2 ' /proc/mounts | cut -d ' ' -f 2 | xargs --no-run-if-empty umount --lazy && exec \"$@\"";
    let mut command = net.server.command("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", unmounted, "sh"]).arg(program());
    let mut child = command.args(["run", "--config"]).arg(postern.config()).spawn().expect("unshare");
    let mut ended = || child.try_wait().expect("its state");
    let whole =
        || postern.connect().is_ok_and(|client| client.status().is_ok_and(|status| status.conditions.is_empty()));
    until("a posternd", || whole() || ended().is_some());
    let state = ended();
    let seen =
        (state, of_each_thread(child.id(), "Uid:"), probe::tcp(&net.client, STRANGER.v4, (SERVER.v4, 22).into()));
    child.kill().and_then(|()| child.wait()).expect("its end");
    assert_eq!(seen.0, None);
    assert!(seen.1.iter().all(|ids| ids.starts_with(&id_of(USER).to_string())), "{:?}", seen.1);
    assert_ne!(seen.2, Outcome::Answered);
}

#[test]
fn files_for_root_alone_are_reloaded() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, (Ipv6Addr::UNSPECIFIED, 2222).into());
    let options = Options::without_xdp();
    let postern = Postern::start(&net.server, options.clone());
    // Not the stranger: a session that is still there when the port is closed would let him come again.
    assert!(probe::tcp_answers(&net.client, GRANTED.v4, (SERVER.v4, 2222).into()));
    postern.configure(&Options { rules: [options.rules.clone(), port(2222, "tcp")].concat(), ..options });
    for file in [postern.config(), postern.file("allowed_signers")] {
        fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("a mode");
    }
    reload(&postern);
    assert_ne!(probe::tcp(&net.client, STRANGER.v4, (SERVER.v4, 2222).into()), Outcome::Answered);
    assert_eq!(degraded(&postern), "");
}

#[test]
fn each_process_ends_with_the_other() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, (Ipv6Addr::UNSPECIFIED, 22).into());
    let mut postern = Postern::start(&net.server, Options::without_xdp());
    postern.grant(&["22/tcp"], &GRANTED.both(), 600).expect("a grant");
    let flood = Flood::start(&net, &[22]);
    for _ in 0..3 {
        // What people and service managers tell all processes of this name is for the agent alone.
        let helper = helper_of(postern.pid()).expect("a helper");
        for signal in [Signal::HUP, Signal::INT, Signal::TERM] {
            send(helper, signal);
        }
        // The helper's part of the answer comes after the signals.
        assert_eq!(degraded(&postern), "");
        holds(&net, "after signals to the helper");
        assert_eq!(helper_of(postern.pid()), Some(helper));
        send(helper, Signal::KILL);
        assert!(postern.has_crashed(PATIENCE), "the agent goes on without its helper");
        holds(&net, "dead, both");
        postern.launch();
        holds(&net, "started again");
        let helper = helper_of(postern.pid()).expect("a helper");
        postern.kill();
        until("the helper's end", || !Path::new(&format!("/proc/{helper}")).exists());
        holds(&net, "dead, both");
        postern.launch();
        holds(&net, "started again");
    }
    assert_eq!(flood.counted().leaked, 0);
}

#[test]
fn a_start_without_root_ends_at_once() {
    let net = Net::pair();
    let postern = Postern::prepared(&net.server, Options::without_xdp());
    for words in ["run", "early"] {
        let mut command = net.server.command("timeout");
        command.args(["30", "setpriv", "--reuid", "nobody", "--clear-groups"]).arg(postern_tests::postern::program());
        let output = command.args([words, "--config"]).arg(postern.config()).output().expect("timeout and setpriv");
        assert_eq!(output.status.code(), Some(1), "{words}: {output:?}");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.contains("no port was closed") && errors.contains("needs root"), "{words}: {errors}");
    }
}

#[test]
fn only_root_records_an_unlocking() {
    let net = Net::pair();
    let mut postern = Postern::start(&net.server, Options::without_xdp());
    postern.stop();
    let before = postern_tests::journal::lines(postern.state()).len();
    for user in [postern_tests::postern::USER, "nobody"] {
        let mut command = net.server.command("setpriv");
        command.args(["--reuid", user, "--clear-groups"]).arg(postern_tests::postern::program());
        let output =
            command.args(["unlock", "--config"]).arg(postern.config()).output().expect("setpriv of util-linux");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains("as root"), "{user}: {output:?}");
    }
    assert_eq!(postern_tests::journal::lines(postern.state()).len(), before, "no record of what did not happen");
}
