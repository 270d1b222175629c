//! Every way of losing a part while posternd runs, under a flood of SYNs from a source without a grant.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use postern_tests::bpf::{self, Pass};
use postern_tests::flood::Flood;
use postern_tests::net::{GRANTED, Net, SERVER, STRANGER};
use postern_tests::postern::{Options, Postern};
use postern_tests::probe::{self, Outcome};
use postern_tests::service::Service;

use crate::{PORT, any, is_whole, recorded, until};

/// A way of losing a part: which, what the record says of it, and how it is done.
type Loss = (&'static str, &'static str, fn(&Path));

const LOSSES: &[Loss] = &[
    ("lock", "detached", |pins| detach(pins, "lock")),
    ("cut-ingress", "detached", |pins| detach(pins, "cut-ingress")),
    ("cut-egress", "detached", |pins| detach(pins, "cut-egress")),
    ("lock", "other-program", |pins| replace(pins, "lock", Pass::Lookup)),
    ("cut-ingress", "other-program", |pins| replace(pins, "cut-ingress", Pass::Ingress)),
    ("cut-egress", "other-program", |pins| replace(pins, "cut-egress", Pass::Egress)),
    ("lock", "unpinned", |pins| fs::remove_file(pins.join("lock")).expect("a pin")),
    ("cut-egress", "unpinned", |pins| fs::remove_file(pins.join("cut-egress")).expect("a pin")),
    ("cut-ingress", "foreign-pin", |pins| {
        fs::remove_file(pins.join("cut-ingress")).expect("a pin");
        bpf::pin(&bpf::some_map().expect("a map"), &pins.join("cut-ingress")).expect("to pin");
    }),
    ("pin-directory", "gone", |pins| fs::remove_dir_all(pins).expect("the pins")),
    ("pin-directory", "gone", |pins| fs::rename(pins, elsewhere(pins)).expect("the pins")),
    ("pin-directory", "exposed", |pins| fs::set_permissions(pins, Permissions::from_mode(0o777)).expect("a mode")),
    ("pin-directory", "exposed", |pins| chown(pins, Some(1000), None).expect("an owner")),
];

fn elsewhere(pins: &Path) -> PathBuf {
    format!("{}-elsewhere", pins.display()).into()
}

fn detach(pins: &Path, name: &str) {
    bpf::detach_link(&pins.join(name)).expect("to detach");
}

fn replace(pins: &Path, name: &str, pass: Pass) {
    bpf::replace_program(&pins.join(name), &bpf::load(pass).expect("a program")).expect("to replace");
}

#[test]
fn every_loss_is_noticed_healed_and_recorded_under_a_flood() {
    let net = Net::pair();
    let service = Service::tcp_echo(&net.server, any());
    let postern = Postern::start(&net.server, Options::without_xdp());
    postern.grant(&["22/tcp"], &GRANTED.both(), 3600).expect("a grant");
    let flood = Flood::start(&net, &[PORT]);
    for loss in LOSSES {
        suffer(&postern, loss, |when| {
            let to = (SERVER.v4, PORT).into();
            assert_ne!(probe::tcp(&net.client, STRANGER.v4, to), Outcome::Answered, "{when}");
            assert!(probe::tcp_answers(&net.client, GRANTED.v4, to), "the grant, {when}");
        });
    }
    println!("{:?}, {} connections served", flood.held(), service.served());
    let _ = fs::remove_dir_all(elsewhere(postern.pin_dir()));
}

/// Loses a part until it was once seen as degraded (the healing may be faster than the question), and waits each time until
/// it is healed and recorded.
fn suffer(postern: &Postern, (part, state, tear): &Loss, check: impl Fn(&str)) {
    let client = postern.client();
    for round in 1.. {
        assert!(round < 10, "{part}: never seen as {state}");
        let _ = until("everything in force", || is_whole(&client.status().expect("a status")).then_some(()));
        let before = recorded(postern, part).len();
        tear(postern.pin_dir());
        let mut seen = false;
        let ((), took) = until("the healing", || {
            let status = client.status().expect("a status");
            seen |= !status.conditions.is_empty();
            let healed = recorded(postern, part).split_off(before).last().is_some_and(|state| state == "in-force");
            (healed && is_whole(&status)).then_some(())
        });
        assert_eq!(recorded(postern, part)[before..], [(*state).to_owned(), "in-force".to_owned()], "{part}");
        check(&format!("{part} was {state}"));
        println!("{part:14} {state:14} healed and recorded after {} ms", took.as_millis());
        if seen {
            return;
        }
    }
}

#[test]
fn without_its_bpf_file_system_it_goes_on_and_pins_again_when_there_is_one() {
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, any());
    let mount = tempfile::tempdir().expect("a directory");
    let run = |program: &str, arguments: &[&str]| {
        let status = std::process::Command::new(program).args(arguments).arg(mount.path()).status();
        assert!(status.expect(program).success(), "{program} {arguments:?}");
    };
    let bpffs = ["-t", "bpf", "-o", "mode=0700", "bpf"];
    run("mount", &bpffs);
    let pins = mount.path().join("postern");
    let mut postern = Postern::start_pinned(&net.server, Options::without_xdp(), pins.clone());
    let flood = Flood::start(&net, &[PORT]);
    let client = postern.client();
    run("umount", &["--lazy"]);
    let (told, took) = until("the loss", || {
        let status = client.status().expect("a status");
        status.conditions.iter().any(|one| one.detail.contains("bpf file system")).then_some(status)
    });
    println!("unmounted: noticed after {} ms: {:?}", took.as_millis(), told.conditions);
    assert!(told.layers.iter().any(|layer| layer.detail == "unpinned"), "{:?}", told.layers);
    // Nothing is lost as long as posternd lives, and a grant can be given.
    postern.grant(&["22/tcp"], &GRANTED.both(), 3600).expect("a grant");
    assert!(probe::tcp_answers(&net.client, GRANTED.v4, (SERVER.v4, PORT).into()));
    run("mount", &bpffs);
    let (_, took) = until("the healing", || is_whole(&client.status().expect("a status")).then_some(()));
    println!("mounted again: pinned after {} ms", took.as_millis());
    assert_eq!(recorded(&postern, "pin-directory"), ["gone", "in-force"]);
    assert_eq!(postern.pinned(), ["cut-egress", "cut-ingress", "layout", "lock"]);
    // And those pins hold by themselves.
    postern.kill();
    println!("{:?}", flood.held());
    drop(postern);
    run("umount", &["--lazy"]);
}

#[test]
fn a_program_beside_the_lock_is_a_condition_and_the_cut_holds() {
    let net = Net::pair();
    let listener = net.server.run(|| std::net::TcpListener::bind(any()).expect("a listener"));
    let postern = Postern::start(&net.server, Options::without_xdp());
    let flood = Flood::start(&net, &[PORT]);
    let client = postern.client();
    let before = jiff::Timestamp::now().as_second();
    let other = net.server.run(|| bpf::hijack(&listener, PORT)).expect("another program");
    let (why, took) = until("the other program", || client.details().expect("a status").pop());
    println!("told of after {} ms: {why}", took.as_millis());
    assert!(why.contains("another sk_lookup program"), "{why}");
    let since = || client.status().expect("a status").conditions[0].since.expect("since when");
    let first = since();
    assert!((before..=jiff::Timestamp::now().as_second()).contains(&first.seconds), "{first:?}");
    let _ = until("the record", || (recorded(&postern, "lookup") == ["other-program-beside"]).then_some(()));
    assert_eq!(since().seconds, first.seconds, "the condition began once");
    println!("{:?}", flood.held());
    // That it does get past the lock: with the cut gone too, strangers are let in, until posternd brings the cut back.
    drop(flood);
    let to = (SERVER.v4, PORT).into();
    let _ = until("a way past the lock", || {
        postern.detach("cut-");
        (probe::tcp(&net.client, STRANGER.v4, to) == Outcome::Answered).then_some(())
    });
    drop(other);
    let _ = until("the end of it", || is_whole(&client.status().expect("a status")).then_some(()));
    let _ = until("the record", || (recorded(&postern, "lookup").len() == 2).then_some(()));
}

#[test]
fn one_layer_at_a_time_at_any_moment_lets_no_new_flow_in() {
    const ROUNDS: usize = 24;
    let net = Net::pair();
    let _service = Service::tcp_echo(&net.server, any());
    let postern = Postern::start(&net.server, Options::without_xdp());
    let flood = Flood::start(&net, &[PORT]);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Grants come, end by themselves and are revoked, all the time.
        let busy = scope.spawn(|| {
            let mut lives = 0u32;
            while !stop.load(Ordering::Relaxed) {
                let short = postern.grant(&["22/tcp"], &[GRANTED.v4.into()], 1).expect("a grant");
                let long = postern.grant(&["22/tcp"], &[GRANTED.v6.into()], 600).expect("a grant");
                assert!(probe::tcp_answers(&net.client, GRANTED.v6, (SERVER.v6, PORT).into()));
                postern.revoke(&long.id).expect("to revoke");
                drop(short);
                lives += 1;
            }
            lives
        });
        let client = postern.client();
        // A cheap walk through moments; seeded by the clock, because any moment will do.
        let mut seed = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("a clock").subsec_nanos();
        for round in 0..ROUNDS {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            postern_tests::pause(Duration::from_micros(u64::from(seed >> 12) % 40_000));
            postern.detach(["lock", "cut-"][round % 2]);
            let attached = || client.status().expect("a status").layers.iter().all(|layer| layer.attached);
            let _ = until("the healing", || attached().then_some(()));
        }
        stop.store(true, Ordering::Relaxed);
        println!("{ROUNDS} losses during {} grants; {:?}", busy.join().expect("grants"), flood.held());
    });
}
