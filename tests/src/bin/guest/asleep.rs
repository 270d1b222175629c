//! The machine is put to sleep and woken by its real-time clock: the time asleep counts against every grant.

use crate::stage::Stage;
use crate::world::{STREAM, alive};
use nix::time::{ClockId, clock_gettime};
use postern_proto::v1::GrantState;
use postern_tests::clock::{Arrivals, boot_ns};
use postern_tests::net::{GRANTED, NEIGHBOUR, SERVER, STRANGER};
use postern_tests::until;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

/// How long the machine sleeps.
const ASLEEP: u64 = 11;
/// The life of a grant that ends while it does. The real-time clock counts whole seconds, so the machine may wake up a second early.
const SHORT: u64 = 8;
const SECOND: u64 = 1_000_000_000;

/// The clock that stands still while the machine sleeps, in nanoseconds.
fn awake_ns() -> u64 {
    let time = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock"));
    u64::try_from(time.as_nanos()).expect("a clock within 500 years")
}

/// Sleeps, as a laptop whose lid is closed.
fn sleep(seconds: u64) {
    let alarm = "/sys/class/rtc/rtc0/wakealarm";
    fs::write(alarm, "0").expect("no other alarm");
    fs::write(alarm, format!("+{seconds}")).expect("an alarm");
    fs::write("/sys/power/state", "mem").expect("to sleep and wake up");
}

pub fn time_asleep_counts(stage: &mut Stage) {
    let world = stage.world();
    // It ends so long after the machine woke up that a sleep that did not count would show.
    let life = 3 * ASLEEP;
    let before = boot_ns();
    world.grant(&["22/any", "3389/udp"], &[GRANTED.v4.into()], life);
    let end = boot_ns() + life * SECOND;
    world.assert(&[GRANTED.v4.into()], true, "with a grant");
    let (awake, boot) = (awake_ns(), boot_ns());
    let short = world.grant(&["22/any"], &[NEIGHBOUR.v4.into()], SHORT);
    let mut session = world.session(NEIGHBOUR.v4.into());
    assert!(alive(&mut session));

    sleep(ASLEEP);
    let (awake, all) = (awake_ns() - awake, boot_ns() - boot);
    stage.note(&format!("{:.1} s went by, {:.1} s of them awake", seconds(all), seconds(awake)));
    assert!(all > awake + (ASLEEP - 2) * SECOND, "the machine did not sleep");
    assert!(awake < SHORT * SECOND, "this machine is too slow to show it: the grant would have ended without sleep");

    world.assert(&[NEIGHBOUR.v4.into(), STRANGER.v4.into()], false, "after sleep");
    assert!(!alive(&mut session), "a session outlives its grant by a sleep");
    until("the ended grant is on record", || {
        world.postern.client().get(&short.id).expect("it").grant.expect("it").state() == GrantState::Expired
    });

    // The other one is shorter by the time asleep too, to the packet.
    let arrivals = Arrivals::new(&world.net.client, (GRANTED.v4, 0).into(), SocketAddr::from((SERVER.v4, STREAM)));
    arrivals.send(b"me");
    let mut last = 0;
    while let Some(at) = arrivals.next(Duration::from_secs(3)) {
        last = at;
    }
    stage.note(&format!("the last packet came {:.3} s before the end", seconds(end) - seconds(last)));
    assert!(last > 0, "the grant that outlives the sleep is gone");
    assert!(last < end, "a packet came {} ns after the end", last - end);
    assert!(last + 2 * SECOND > before + life * SECOND, "the grant ended {:.1} s too soon", seconds(end - last));
    world.assert(&[GRANTED.v4.into()], false, "after the end");
    stage.leave(world);
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}
