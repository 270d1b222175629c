//! The threads that check signatures stand still, as under a load that they never master.
//!
//! Owns the proof that no other thread checks signatures, and that every request is answered.

use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Duration, Instant};

use postern_tests::halt::{self, Halted};
use postern_tests::net::{GRANTED, STRANGER};
use postern_tests::postern::AUDIENCE;
use postern_tests::request::Access;
use postern_tests::{figure, until};

use crate::floods::{CONNECTIONS, Ends, MOST_PAYLOAD, STREAMS, pour};
use crate::person::{LONG_PATIENCE, Person};
use crate::{TLS, World};

/// Threads that answer (`runtime` in `agent/src/commands/run/mod.rs`).
const REACTORS: usize = 2;
/// Signatures that are checked at once (`agent/src/engine/share.rs`).
const CHECKED_AT_ONCE: usize = 2;
/// So many looks in a row have to find nothing under way.
const QUIET: u32 = 20;

/// The threads of tokio: those that answer, and those for blocking work. They have the same name.
fn threads(world: &World) -> Vec<i32> {
    let names = halt::names(world.postern.pid()).into_iter();
    names.filter(|(_, name)| name.starts_with("tokio")).map(|(thread, _)| thread).collect()
}

/// The threads for blocking work, where all of them are idle.
fn idle_checkers(world: &World) -> Option<Vec<i32>> {
    let (idle, others): (Vec<_>, Vec<_>) =
        threads(world).into_iter().partition(|thread| halt::idles(world.postern.pid(), *thread));
    (others.len() == REACTORS).then_some(idle)
}

fn refused(world: &World, why: &str) -> u64 {
    world.lost().into_iter().find(|(reason, _)| reason == why).map_or(0, |(_, count)| count)
}

#[test]
fn every_request_is_answered_while_no_signature_is_checked() {
    let world = World::new();
    let message = Access::new(AUDIENCE, &["22/tcp"], &[STRANGER.v4.into()], 60).seal(&world.postern.alice);
    let person = Person::at(&world.net.client, GRANTED.v4.into(), TLS, &world.postern);
    let number = AtomicU64::new(0);
    let flood = |stop: &AtomicBool| pour(world.local(), &message, MOST_PAYLOAD, &number, stop);
    let (stop, again) = (AtomicBool::new(false), AtomicBool::new(false));
    // Until as many threads as may work at once are there.
    std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        (0..CONNECTIONS).for_each(|_| drop(scope.spawn(|| flood(&stop))));
        // Threads that look at files are of the same kind, so the first answers count as well.
        until("threads that check signatures", || {
            threads(&world).len() >= REACTORS + CHECKED_AT_ONCE && refused(&world, "SIGNATURE_INVALID") > 0
        });
    });
    // Requests that the first flood has sent may still arrive at a thread. One that stood still in the middle of a check would be
    // replaced by a new one.
    let (mut checked, mut quiet, mut checkers) = (0, 0, Vec::new());
    until("no signature is being checked", || {
        let before = std::mem::replace(&mut checked, refused(&world, "SIGNATURE_INVALID"));
        checkers = idle_checkers(&world).filter(|_| before == checked).unwrap_or_default();
        quiet = if checkers.is_empty() { 0 } else { quiet + 1 };
        quiet > QUIET
    });
    let refusals = std::thread::scope(|scope| {
        let ends = Ends(&again);
        let halted = Halted::threads(checkers);
        let floods: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(|| flood(&again))).collect();
        let (start, mut longest) = (Instant::now(), Duration::ZERO);
        // All but those who have their turn, which takes for ever.
        let queued = (CONNECTIONS * STREAMS - CHECKED_AT_ONCE) as u64;
        while refused(&world, "OVERLOADED") < 2 * queued {
            assert!(start.elapsed() < LONG_PATIENCE, "they wait for ever: {:?}", world.lost());
            let asked = Instant::now();
            person.address();
            longest = longest.max(asked.elapsed());
        }
        assert!(longest < LONG_PATIENCE, "WhoAmI waited for {longest:?}");
        assert_eq!(refused(&world, "SIGNATURE_INVALID"), checked, "another thread checks signatures");
        println!("WhoAmI took {longest:?} at the most; {:?}", world.lost());
        drop((halted, ends));
        floods.into_iter().flat_map(|flood| flood.join().expect("a flood to its end")).collect::<Vec<_>>()
    });
    assert!(refusals.iter().all(|(why, _)| ["OVERLOADED", "SIGNATURE_INVALID"].contains(&&why[..])), "{refusals:?}");
    // Those who had their turn got their answer.
    assert!(refused(&world, "SIGNATURE_INVALID") >= checked + CHECKED_AT_ONCE as u64);
    person.gets_a_grant_after();
    figure::print("messages turned away while no signature was checked", refused(&world, "OVERLOADED"));
}
