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

/// Threads that answer (`agent/src/run.rs`). They are the first of their kind.
const REACTORS: usize = 2;
/// Signatures that are checked at once (`agent/src/engine/share.rs`).
const CHECKED_AT_ONCE: usize = 2;

/// The threads on which the agent does what would hold others up.
fn checkers(world: &World) -> Vec<i32> {
    let names = halt::names(world.postern.pid()).into_iter();
    names.filter(|(_, name)| name.starts_with("tokio")).map(|(thread, _)| thread).skip(REACTORS).collect()
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
            checkers(&world).len() >= CHECKED_AT_ONCE && refused(&world, "SIGNATURE_INVALID") > 0
        });
    });
    let checked = refused(&world, "SIGNATURE_INVALID");
    let refusals = std::thread::scope(|scope| {
        let ends = Ends(&again);
        let at_rest = || checkers(&world).into_iter().all(|thread| halt::rests(world.postern.pid(), thread));
        until("threads at rest", at_rest);
        let halted = Halted::threads(checkers(&world));
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
