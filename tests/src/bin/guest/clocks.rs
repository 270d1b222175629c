//! The wall clock is set, forwards and backwards, by a day and by a year: nothing that runs changes, and no client is locked out.

use crate::stage::Stage;
use crate::world::{STREAM, World, alive};
use postern_tests::clock::{self, Arrivals, boot_ns};
use postern_tests::net::{GRANTED, NEIGHBOUR, SERVER};
use postern_tests::until;
use std::net::SocketAddr;
use std::time::Duration;

const DAY: i64 = 86_400;
const YEAR: i64 = 365 * DAY;
/// The life of a grant over whose run the clock is set.
const SHORT: u64 = 6;
const SECOND: u64 = 1_000_000_000;

/// A refusal of what needs a clock.
fn untrusted() -> Option<String> {
    Some("CLOCK_UNTRUSTED".to_owned())
}

pub fn steps_of_the_wall_clock(stage: &mut Stage) {
    let world = stage.world();
    assert_eq!(world.refusal_without_challenge(), untrusted(), "nobody keeps this clock right");
    world.grant(&["22/any"], &[GRANTED.v4.into()], 3600);
    world.assert_granted_alone("by a challenge alone");
    // What a daemon of time tells the kernel once it is right.
    clock::say_synchronised();
    until("the clock is trusted", || world.refusal_without_challenge().is_none());
    let mut session = world.session(GRANTED.v4.into());
    for step in [DAY, -DAY, YEAR, -YEAR] {
        let left = step_over(&world, step);
        assert!(alive(&mut session), "a step of {step} s cut a session");
        stage.note(&format!("a step of {step} s: the last packet came {left:.3} s before the end"));
        clock::step(-step);
        clock::say_synchronised();
        until("the clock is trusted again", || world.refusal_without_challenge().is_none());
    }
    world.assert_granted_alone("after all steps");
    stage.leave(world);
}

/// Sets the clock while a grant runs. How many seconds before the grant's end the last packet came.
fn step_over(world: &World, step: i64) -> f64 {
    let before = boot_ns();
    world.grant(&["3389/udp"], &[NEIGHBOUR.v4.into()], SHORT);
    let (first, last) = (before + SHORT * SECOND, boot_ns() + SHORT * SECOND);
    clock::step(step);
    let stream = SocketAddr::from((SERVER.v4, STREAM));
    let arrivals = Arrivals::new(&world.net.client, (NEIGHBOUR.v4, 0).into(), stream);
    arrivals.send(b"me");
    assert_eq!(world.refusal_without_challenge(), untrusted(), "after a step of {step} s");
    world.assert_granted_alone("after a step");
    let mut newest = 0;
    while let Some(at) = arrivals.next(Duration::from_secs(3)) {
        newest = at;
    }
    assert!(newest < last, "a packet came {} ns after the end, stepped by {step} s", newest - last);
    assert!(newest + 2 * SECOND > first, "stepped by {step} s, the grant ended at {newest}, not at {first}");
    // Who asks for a challenge is never locked out by a clock.
    let grant = world.grant(&["22/any"], &[NEIGHBOUR.v4.into()], 600);
    world.assert(&[NEIGHBOUR.v4.into()], true, "granted while the clock is wrong");
    world.revoke(&grant.id);
    Duration::from_nanos(last - newest).as_secs_f64()
}
