//! What lies under our names at a start is checked before it is used.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use postern_tests::bpf::{self, Pass};
use postern_tests::flood::Flood;
use postern_tests::net::{Net, SERVER, STRANGER};
use postern_tests::netns::Netns;
use postern_tests::postern::{Options, Postern, program};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;

use crate::{PORT, any, is_whole, recorded};

/// What is put under our name, and how.
type Put<'a> = (&'a str, &'a dyn Fn(&Path));

/// A directory for pins that the harness sweeps away.
fn directory(name: &str) -> PathBuf {
    Path::new("/sys/fs/bpf").join(postern_tests::names::unique(name))
}

fn made(name: &str) -> PathBuf {
    let path = directory(name);
    fs::create_dir(&path).expect("a directory on bpffs");
    fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("its mode");
    path
}

/// Where posternd puts what is not its own.
fn aside(pins: &Path) -> PathBuf {
    format!("{}-not-posterns-0", pins.display()).into()
}

fn is_closed(net: &Net) -> bool {
    probe::tcp(&net.client, STRANGER.v4, (SERVER.v4, PORT).into()) != Outcome::Answered
}

/// What posternd says when it does not start.
fn refusal(namespace: &Netns, config: &Path) -> String {
    let mut command = namespace.command(program());
    let output = command.args(["run", "--config"]).arg(config).output().expect("posternd");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_foreign_object_under_our_name_is_replaced() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, any());
    let lookup = || bpf::load(Pass::Lookup).expect("a program");
    let foreign: [Put; 6] = [
        ("a link of our namespace with a foreign program", &|path| {
            bpf::pin(&net.server.run(|| bpf::attach_lookup(&lookup())).expect("a link"), path).expect("to pin");
        }),
        ("a link of another namespace", &|path| {
            bpf::pin(&net.client.run(|| bpf::attach_lookup(&lookup())).expect("a link"), path).expect("to pin");
        }),
        ("a program", &|path| bpf::pin(&lookup(), path).expect("to pin")),
        ("a map", &|path| bpf::pin(&bpf::some_map().expect("a map"), path).expect("to pin")),
        ("a directory", &|path| fs::create_dir(path).expect("a directory")),
        ("a symbolic link", &|path| symlink("/sys/fs/bpf/nothing", path).expect("a link")),
    ];
    for (what, put) in foreign {
        let pins = made("foreign");
        put(&pins.join("lock"));
        put(&pins.join("lock-new"));
        let postern = Postern::start_pinned(&net.server, Options::without_xdp(), pins);
        assert_eq!(recorded(&postern, "lock"), ["foreign-pin", "in-force"], "{what}");
        let status = postern.client().status().expect("a status");
        assert!(is_whole(&status), "{what}: {status:?}");
        assert!(is_closed(&net), "{what}");
    }
}

#[test]
fn a_link_that_was_changed_while_posternd_was_dead_is_replaced() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, any());
    let mut postern = Postern::start(&net.server, Options::without_xdp());
    let flood = Flood::start(&net, &[PORT]);
    let lock = postern.pin_dir().join("lock");
    // As it was left, it is adopted.
    postern.kill();
    postern.launch();
    assert!(recorded(&postern, "lock").is_empty());
    postern.kill();
    bpf::replace_program(&lock, &bpf::load(Pass::Lookup).expect("a program")).expect("to replace");
    postern.launch();
    assert_eq!(recorded(&postern, "lock"), ["foreign-pin", "in-force"]);
    postern.kill();
    bpf::detach_link(&lock).expect("to detach");
    postern.launch();
    assert_eq!(recorded(&postern, "lock")[2..], ["detached", "in-force"]);
    // Another layout, and a record that is no record.
    for record in ["0:0123456789abcdef", "nonsense"] {
        postern.kill();
        fs::remove_file(postern.pin_dir().join("layout")).expect("the record");
        symlink(record, postern.pin_dir().join("layout")).expect("a record");
        postern.launch();
        assert!(is_whole(&postern.client().status().expect("a status")), "{record}");
    }
    println!("{:?}", flood.held());
}

#[test]
fn a_directory_that_others_may_use_is_taken_back() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, any());
    let foreign = |pins: &Path| bpf::pin(&bpf::some_map().expect("a map"), &pins.join("lock")).expect("to pin");
    for (what, owner, mode) in [("somebody else's", 1000, 0o700), ("everybody's", 0, 0o777)] {
        let pins = made("exposed");
        foreign(&pins);
        chown(&pins, Some(owner), None).expect("an owner");
        fs::set_permissions(&pins, Permissions::from_mode(mode)).expect("a mode");
        let postern = Postern::start_pinned(&net.server, Options::without_xdp(), pins.clone());
        let now = fs::metadata(&pins).expect("the pins");
        assert_eq!((now.uid(), now.mode() & 0o7777), (0, 0o700), "{what}");
        assert!(is_whole(&postern.client().status().expect("a status")), "{what}");
        assert!(is_closed(&net), "{what}");
        let _ = fs::remove_dir_all(aside(&pins));
    }
    // A pin of ours that others may use is not ours any more.
    let mut postern = Postern::start(&net.server, Options::without_xdp());
    postern.kill();
    fs::set_permissions(postern.pin_dir().join("lock"), Permissions::from_mode(0o666)).expect("a mode");
    chown(postern.pin_dir().join("cut-egress"), Some(1000), None).expect("an owner");
    postern.launch();
    assert_eq!(recorded(&postern, "lock"), ["foreign-pin", "in-force"]);
    assert_eq!(recorded(&postern, "cut-egress"), ["foreign-pin", "in-force"]);
    assert!(is_closed(&net));
}

#[test]
fn no_symbolic_link_and_no_second_agent() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, any());
    let mut postern = Postern::start(&net.server, Options::without_xdp());
    let said = refusal(&net.server, &postern.config());
    assert!(said.contains("another posternd runs on this state directory"), "{said}");
    // Another state directory, the same pins.
    let text = fs::read_to_string(postern.config()).expect("the configuration");
    let second = text.replace("/state\"", "/second-state\"").replace("posternd.sock", "second.sock");
    assert_ne!(second, text);
    fs::write(postern.file("second.toml"), second).expect("a configuration");
    let said = refusal(&net.server, &postern.file("second.toml"));
    assert!(said.contains("another posternd holds"), "{said}");
    assert!(is_whole(&postern.client().status().expect("a status")), "the first one goes on");
    postern.stop();
    // The directory behind a symbolic link, and a path that leads through one.
    let (pins, link) = (postern.pin_dir().to_owned(), directory("link"));
    symlink(&pins, &link).expect("a symbolic link");
    let through = |path: &Path| {
        let other = text.replace(pins.to_str().expect("text"), path.to_str().expect("text"));
        fs::write(postern.file("third.toml"), other).expect("a configuration");
        postern.file("third.toml")
    };
    let config = through(&link.join("below"));
    let mut early = net.server.command(program());
    let output = early.args(["early", "--config"]).arg(&config).output().expect("posternd");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1), "{output:?}");
    assert!(said.contains(&format!("{} is a symbolic link", link.display())), "{said}");
    assert!(is_closed(&net), "what was in force stays in force");
    // posternd unlock follows none either.
    let output = Command::new(program()).args(["unlock", "--config"]).arg(through(&link)).output().expect("posternd");
    assert!(!output.status.success() && is_closed(&net), "{output:?}");
    // One in the place of the directory itself is moved aside.
    let postern = Postern::start_pinned(&net.server, Options::without_xdp(), link.clone());
    assert!(fs::symlink_metadata(&link).expect("the pins").is_dir());
    let layers = postern.client().status().expect("a status").layers;
    assert!(layers.iter().all(|layer| layer.attached) && is_closed(&net), "{layers:?}");
    fs::remove_file(aside(&link)).expect("the link");
}
