//! The machine is there again: after a reboot, and out of a snapshot.
//!
//! Owns what is carried over on the disk. What the outside has to do for it is asked for on the stage.

use crate::stage::Stage;
use crate::world::World;
use postern_proto::v1::{Signature, SignedMessage};
use postern_tests::client::reason;
use postern_tests::net::{GRANTED, NEIGHBOUR, STRANGER};
use postern_tests::postern::{ALICE, AUDIENCE};
use postern_tests::request::Access;
use postern_tests::until;
use serde_json::{Value, json};
use std::fs;

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
    let open = world.grant(&["22/any"], &[GRANTED.v4.into()], 3600);
    let client = world.postern.client();
    let unnoticed = client.status().expect("a status").clock.expect("a clock").restores_unnoticed;
    let message = world.access(&["22/any"], &[NEIGHBOUR.v4.into()], 3600).seal(&world.postern.alice);
    drop(client);
    match stage.ask("snapshot").as_str() {
        "taken" => {
            world.postern.client().request(message).expect("a grant that the snapshot does not know");
            world.revoke(&open.id);
            world.assert(&[GRANTED.v4.into()], false, "after it was revoked");
            world.assert(&[NEIGHBOUR.v4.into()], true, "with a grant");
            let _never_comes_back = stage.ask("restore");
            unreachable!("this machine is gone");
        }
        "restored" if unnoticed.is_empty() => noticed(&world, message),
        "restored" => {
            stage.note(&format!("a restore is not noticed here: {unnoticed}"));
            not_noticed(&world, message);
        }
        other => panic!("an answer that says nothing: {other:?}"),
    }
    stage.leave(world);
}

/// Where the hypervisor says so, everything ends, and what was used after the snapshot is of no use.
fn noticed(world: &World, message: SignedMessage) {
    until("the restore is noticed", || {
        world.postern.client().status().is_ok_and(|status| status.clock.is_some_and(|clock| clock.restores == 1))
    });
    until("nothing is open", || world.live().is_empty());
    world.assert(&[GRANTED.v4.into(), NEIGHBOUR.v4.into()], false, "in the copy");
    world.postern.client().request(message).expect_err("a message that was used after the snapshot");
    let plain = Access::new(AUDIENCE, &["22/any"], &[NEIGHBOUR.v4.into()], 600).seal(&world.postern.alice);
    assert_eq!(reason(&world.postern.client().request(plain).expect_err("no challenge")), "CLOCK_UNTRUSTED");
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
