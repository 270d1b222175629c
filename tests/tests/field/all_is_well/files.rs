//! Conditions that files and disks bring about.
//!
//! Owns the cases alone: the walk and its tools are the module above.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use postern_core::condition::Condition::*;
use postern_tests::client::Client;
use postern_tests::disk::SmallDisk;
use postern_tests::net::GRANTED;
use postern_tests::postern::{Options, port};
use postern_tests::strace::{Effect, Fault, Scope};
use postern_tests::until;

use super::{Host, Scene, of, plain, with};

#[test]
fn files_that_cannot_be_used() {
    let host = Host::prepared(plain());
    let (config, trust, revoked) =
        (host.postern.config(), host.postern.file("allowed_signers"), host.postern.file("revoked"));
    fs::write(&revoked, "").expect("a file");
    let mut host = host;
    host.restart(&with(&format!("revoked_keys = {revoked:?}")));
    host.is_well();
    let good = [&config, &trust, &revoked].map(|path| fs::read(path).expect("a file"));
    for (path, condition) in [(&config, Configuration), (&trust, TrustFile), (&revoked, RevokedKeys)] {
        let good = fs::read(path).expect("a file");
        fs::write(path, "nonsense of 1 file\n").expect("a broken file");
        host.postern.reload();
        host.tells(condition);
        fs::write(path, good).expect("the file");
        host.postern.reload();
        host.is_well();
    }
    let text = String::from_utf8(good[1].clone()).expect("text");
    let without: String = text.split_inclusive('\n').filter(|line| !line.starts_with("alice")).collect();
    fs::write(&trust, without).expect("a file");
    host.postern.reload();
    host.tells(NoWayIn);
    fs::write(&trust, &good[1]).expect("the file");
    // The file moves the API, which a reload does not do, and protects the port at which it still listens.
    let own =
        Options { rules: [port(7322, "tcp"), plain().rules].concat(), tcp: vec!["[::]:7323".to_owned()], ..plain() };
    host.reload(&own);
    host.tells(PolicyRefused);
    fs::write(&config, &good[0]).expect("the file");
    host.postern.reload();
    host.is_well();
}

#[test]
fn a_configuration_of_which_only_a_part_is_known() {
    let mut host = Host::prepared(plain());
    let good = fs::read_to_string(host.postern.config()).expect("the configuration");
    // The ports are behind what cannot be read; where socket, state and pins are can be.
    let kept: String = good.lines().take_while(|l| !l.starts_with("[[")).map(|line| format!("{line}\n")).collect();
    fs::write(host.postern.config(), kept + "oops = 1\n").expect("a broken file");
    host.postern.launch();
    host.tells(Configuration);
    host.reload(&Options { tcp: vec!["[::]:7323".to_owned()], ..plain() });
    host.tells_all(Scene::Bare);
    host.restart(&plain());
    host.is_well();
}

#[test]
fn a_disk_that_is_full() {
    let disk = SmallDisk::new(2048);
    let state = |extra: &str| Options { state: Some(disk.path().to_owned()), ..with(extra) };
    let mut host = Host::new(state(""));
    disk.fill();
    until("a refusal", || host.postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600).is_err());
    host.tells(JournalUnwritten);
    disk.free();
    host.is_well();
    host.postern.kill();
    disk.fill();
    host.postern.configure(&state("mode = \"observe\""));
    host.postern.launch();
    host.tells_all(Scene::FullDisk);
    disk.free();
    host.forgets(ModeUnrecorded);
    host.tells(Observing);
    host.restart(&state(""));
    host.is_well();
    host.postern.kill();
}

#[test]
fn a_disk_that_is_slow() {
    let host = Host::new(plain());
    let slow = Fault { call: "fdatasync", nth: None, effect: Effect::Delay(600_000) };
    let tracer = host.postern.trace(Scope::Process, &[slow]);
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| host.postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 600));
        host.tells_all(Scene::SlowDisk);
        drop(tracer);
        let _answered = asked.join().expect("an answer");
    });
    host.is_well();
}

#[test]
fn a_journal_that_is_damaged() {
    let small = Options { rules: format!("[journal]\nsegment_bytes = 4096\n{}", plain().rules), ..plain() };
    let mut host = Host::new(small.clone());
    let snapshots = |host: &Host| -> Vec<PathBuf> {
        let entries = fs::read_dir(host.postern.state().join("journal")).expect("the journal").flatten();
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "snapshot")).collect()
    };
    let write_many = |host: &Host| {
        let before = host.postern.segments().len();
        while host.postern.segments().len() < before + 2 {
            let grant = host.grant(600);
            let _ended = host.postern.revoke(&grant);
        }
    };
    let tracer = host.postern.trace(Scope::Thread("upkeep"), &[Fault::fail("rename", "ENOSPC")]);
    write_many(&host);
    host.tells(SnapshotUnwritten);
    drop(tracer);
    write_many(&host);
    host.is_well();

    assert!(host.postern.stop().success());
    let oldest = host.postern.segments().remove(0);
    let good = fs::read_to_string(&oldest).expect("a segment");
    fs::write(&oldest, good.replacen("alice", "malic", 1)).expect("a changed line");
    host.postern.launch();
    host.tells(JournalDamaged);
    assert!(host.postern.stop().success());
    fs::write(&oldest, good).expect("the segment");
    host.postern.launch();
    host.is_well();

    assert!(host.postern.stop().success());
    for snapshot in snapshots(&host) {
        fs::write(snapshot, "no snapshot").expect("a broken one");
    }
    host.postern.launch();
    host.tells(SnapshotPassedOver);
    assert!(host.postern.stop().success());
    host.postern.launch();
    host.is_well();

    host.postern.kill();
    fs::write(host.postern.state().join("journal/head"), "no head").expect("to damage it");
    host.postern.launch();
    host.tells(JournalAside);
    for entry in fs::read_dir(host.postern.state()).expect("the state directory").flatten() {
        if entry.file_name().to_string_lossy().contains(".damaged-") {
            fs::remove_dir_all(entry.path()).expect("to take it away");
        }
    }
    host.is_well();
    assert_eq!(of(Scene::Journal).count(), 4);
}

#[test]
fn a_journald_that_takes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("journal")).expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
    let audit = format!("[audit]\njournald = true\n{}", plain().rules);
    let options = Options { run_systemd: Some(folder.path().to_owned()), rules: audit, ..plain() };
    let host = Host::new(options);
    host.tells_all(Scene::Journald);
    let path = folder.path().join("journal/socket");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).expect("the socket");
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).expect("a mode");
    let _line = host.grant(600);
    host.is_well();
    drop(socket);
}

#[test]
fn a_state_directory_that_is_none() {
    let mut host = Host::prepared(plain());
    fs::write(host.postern.state(), "no directory").expect("a file");
    host.postern.launch();
    host.tells_all(Scene::State);
    host.postern.kill();
    fs::remove_file(host.postern.state()).expect("to remove it");
    host.postern.launch();
    host.is_well();
}

#[test]
fn copies_that_cannot_be_kept() {
    let mut host = Host::prepared(plain());
    let place = host.postern.file("postern.toml.last-good");
    fs::write(&place, "no directory").expect("a file");
    host.postern.launch();
    host.tells_all(Scene::RetainedSession);
    host.postern.kill();
    fs::remove_file(place).expect("to remove it");
    host.postern.launch();
    host.is_well();
}

#[test]
fn something_else_in_the_place_of_the_socket() {
    let mut host = Host::prepared(plain());
    let socket = host.postern.socket();
    fs::create_dir(&socket).expect("a directory");
    host.postern.launch_unseen();
    let beside = PathBuf::from(format!("{}.root", socket.display()));
    until("root's socket is there", || Client::unix(&beside).is_ok_and(|client| client.who_am_i().is_ok()));
    let told = Client::unix(&beside).expect("the socket").conditions().expect("the status");
    assert!(of(Scene::Socket).all(|condition| told.contains(&condition.code().to_owned())), "{told:?}");
    host.postern.kill();
    fs::remove_dir(socket).expect("to remove it");
    host.postern.launch();
    host.is_well();
}

#[test]
fn a_tls_key_that_is_none() {
    let mut host = Host::new(plain());
    assert!(host.postern.stop().success());
    let key = host.postern.state().join("tls/key-and-certificate.pem");
    let good = fs::read(&key).expect("the key");
    fs::write(&key, "no key").expect("a broken one");
    host.postern.launch();
    host.tells_all(Scene::Tls);
    host.postern.kill();
    fs::write(&key, good).expect("the key");
    host.postern.launch();
    host.is_well();
}

#[test]
fn a_host_key_that_is_none() {
    let mut host = Host::prepared(plain());
    let keys = host.postern.file("host_keys");
    fs::create_dir(&keys).expect("a directory");
    fs::write(keys.join("ssh_host_ed25519_key"), "no key").expect("a broken key");
    fs::set_permissions(keys.join("ssh_host_ed25519_key"), fs::Permissions::from_mode(0o600)).expect("a mode");
    let options = with(&format!("ssh_host_keys = {keys:?}"));
    host.restart(&options);
    host.tells_all(Scene::HostKey);
    fs::remove_file(keys.join("ssh_host_ed25519_key")).expect("to remove it");
    host.restart(&options);
    host.is_well();
}
