//! The machine is there again: after a reboot, and out of a snapshot.
//!
//! Owns what is carried over on the disk. What the outside has to do for it is asked for on the stage.

use crate::stage::Stage;
use crate::world::{STREAM, World, alive};
use postern_proto::v1::{Signature, SignedMessage};
use postern_tests::client::reason;
use postern_tests::clock::{Arrivals, boot_ns};
use postern_tests::net::{GRANTED, NEIGHBOUR, SERVER, STRANGER};
use postern_tests::postern::{ALICE, AUDIENCE};
use postern_tests::probe::LONG_PATIENCE;
use postern_tests::request::Access;
use postern_tests::until;
use serde_json::{Value, json};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::thread::JoinHandle;
use std::time::Duration;

/// What the boot before has left for this one.
const LEGACY: &str = "/disk/legacy.json";

/// Whether this is the boot after the first.
pub fn is_rebooted() -> bool {
    fs::exists(LEGACY).expect("the disk")
}

/// Reboots as a power cut does: nothing is stopped, nothing is unmounted. Never returns.
pub fn reboot(stage: &mut Stage) {
    let world = stage.world();
    // The grants of this boot must look live on the next one, whose boot clock begins at 0.
    let message = world.access(&["22/any"], &GRANTED.both(), 3 * 3600).seal(&world.postern.alice);
    let grant = world.postern.client().request(message.clone()).expect("a grant");
    world.assert_granted_alone("before the reboot");
    let legacy = json!({
        "key": world.postern.alice.public(), "grant": grant.id, "type": message.payload_type,
        "payload": String::from_utf8_lossy(&message.payload), "signature": message.signatures[0].sshsig,
    });
    fs::write(LEGACY, legacy.to_string()).expect("to leave it");
    fs::File::open(LEGACY).and_then(|file| file.sync_all()).expect("the disk");
    fs::write("/proc/sys/kernel/sysrq", "1").expect("sysrq");
    fs::write("/proc/sysrq-trigger", "b").expect("to reboot");
    unreachable!("the machine is rebooted");
}

pub fn nothing_is_open_after_a_reboot(stage: &mut Stage) {
    let legacy: Value = serde_json::from_slice(&fs::read(LEGACY).expect("it")).expect("it");
    let text = |name: &str| legacy[name].as_str().expect("text").to_owned();
    let mut world = World::new();
    // The signer is still trusted; only posternd's and the kernel's memory is gone.
    let trust = world.postern.file("allowed_signers");
    let line = format!("{ALICE} namespaces=\"request@postern.v1\" {}\n", text("key"));
    fs::write(&trust, fs::read_to_string(&trust).expect("the trust file") + &line).expect("the trust file");
    world.postern.launch();
    world.assert(&[GRANTED.both(), STRANGER.both()].concat(), false, "after a reboot");
    assert!(world.live().is_empty(), "{:?}", world.live());
    let grant = world.postern.client().get(&text("grant")).expect("it is on record").grant.expect("it");
    stage.note(&format!("the grant of the boot before: {:?}", grant.state()));

    let signatures = vec![Signature { sshsig: text("signature") }];
    let message = SignedMessage { payload: text("payload").into_bytes(), payload_type: text("type"), signatures };
    let told = reason(&world.postern.client().request(message).expect_err("a message of the boot before"));
    stage.note(&format!("its message, shown again: {told}"));
    assert_eq!(
        world.refusal_without_challenge().as_deref(),
        Some("CLOCK_UNTRUSTED"),
        "on a disk that may be an older one"
    );
    world.assert(&GRANTED.both(), false, "after all that");
    world.grant(&["22/any"], &[GRANTED.v4.into()], 600);
    world.assert_granted_alone("with a grant of this boot");
    stage.leave(world);
}

pub fn out_of_a_snapshot(stage: &mut Stage) {
    let world = stage.world();
    let open = world.grant(&["22/any", "3389/udp"], &[GRANTED.v4.into()], 3600);
    let told = world.postern.client().status().expect("a status").clock.expect("a clock").restores_unnoticed;
    assert_eq!(told.is_empty(), is_told(), "what the host says of itself: {told:?}");
    let message = world.access(&["22/any"], &[NEIGHBOUR.v4.into()], 3600).seal(&world.postern.alice);
    let stream = Stream::to(&world, GRANTED.v4);
    let mut session = world.session(GRANTED.v4.into());
    world.assert_granted_alone("before the snapshot");
    match stage.ask("snapshot").as_str() {
        "taken" => {
            world.postern.client().request(message).expect("a grant that the snapshot does not know");
            world.revoke(&open.id);
            world.assert(&[GRANTED.v4.into()], false, "after it was revoked");
            world.assert(&[NEIGHBOUR.v4.into()], true, "with a grant");
            let _never_comes_back = stage.ask("restore");
            unreachable!("this machine is gone");
        }
        "restored" if told.is_empty() => {
            let taken = boot_ns();
            noticed(&world, message, &open.id);
            assert!(!alive(&mut session), "a session of before the snapshot");
            let (packets, last) = stream.ended();
            stage.note(&format!(
                "noticed; the last of {packets} packets came {:.3} s after the machine went on",
                (last as f64 - taken as f64) / 1e9
            ));
        }
        "restored" => {
            stage.note(&format!("a restore is not noticed here: {told}"));
            not_noticed(&world, message);
            assert!(alive(&mut session), "a session of before the snapshot");
        }
        other => panic!("an answer that says nothing: {other:?}"),
    }
    stage.leave(world);
}

/// Whether this kernel has a driver for the device by which the emulator says so; the machine has that device.
fn is_told() -> bool {
    ["platform", "acpi"].iter().any(|bus| fs::exists(format!("/sys/bus/{bus}/drivers/vmgenid")).expect("sysfs"))
}

/// Datagrams that come all the time while a grant is live, read as they come.
struct Stream(JoinHandle<(u64, u64)>);

impl Stream {
    fn to(world: &World, from: Ipv4Addr) -> Self {
        let arrivals = Arrivals::new(&world.net.client, (from, 0).into(), SocketAddr::from((SERVER.v4, STREAM)));
        arrivals.send(b"me");
        assert!(arrivals.next(LONG_PATIENCE).is_some(), "nothing comes although there is a grant");
        Self(std::thread::spawn(move || {
            let mut seen = (0, 0);
            while let Some(at) = arrivals.next(Duration::from_secs(3)) {
                seen = (seen.0 + 1, at);
            }
            seen
        }))
    }

    /// How many came until none did any more, and when the last one, on the boot clock.
    fn ended(self) -> (u64, u64) {
        self.0.join().expect("a reader")
    }
}

/// Where the kernel says so, everything ends, and what was used after the snapshot is of no use.
fn noticed(world: &World, message: SignedMessage, open: &str) {
    let all = [GRANTED.v4.into(), NEIGHBOUR.v4.into(), STRANGER.v4.into()];
    until("the restore is noticed", || {
        world.postern.client().status().is_ok_and(|status| status.clock.is_some_and(|clock| clock.restores == 1))
    });
    until("nothing is open", || world.live().is_empty());
    let reached = world.echo.served();
    world.assert(&all, false, "in the copy");
    world.postern.client().request(message).expect_err("a message that was used after the snapshot");
    let plain = Access::new(AUDIENCE, &["22/any"], &[NEIGHBOUR.v4.into()], 600).seal(&world.postern.alice);
    assert_eq!(reason(&world.postern.client().request(plain).expect_err("no challenge")), "CLOCK_UNTRUSTED");
    world.assert(&all, false, "after that");
    assert_eq!(world.echo.served(), reached, "connections that reached the socket in the copy");
    let ends =
        |line: &Value| line["event"] == "ended" && line["grant"] == open && line["ending"]["cause"] == "restored";
    until("the end and its cause are on record", || world.postern.on_disk().iter().any(ends));
    world.grant(&["22/any"], &[GRANTED.v4.into()], 600);
    world.assert_granted_alone("by a new challenge");
}

/// Where nothing says so, the copy is as the machine was: what was open then is open, and a message with a challenge of the
/// last minute before can be shown there too, once. docs/security.md says so.
fn not_noticed(world: &World, message: SignedMessage) {
    world.assert_granted_alone("in the copy");
    world.postern.client().request(message.clone()).expect("the copy cannot know");
    let again = world.postern.client().request(message).expect_err("a second time");
    assert_eq!(reason(&again), "PAYLOAD_REPEATED");
}
