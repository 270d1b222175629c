//! The promises at their simplest, on this kernel: closed, granted, expired, revoked, held while posternd is dead, adopted.

use crate::stage::Stage;
use crate::world::{PORT, World, alive};
use postern_tests::client::unwell;
use postern_tests::net::{GRANTED, NEIGHBOUR, SERVER, STRANGER};
use postern_tests::probe::{self, Outcome};
use postern_tests::until;
use std::time::Instant;

pub fn closed_granted_and_closed_again(stage: &mut Stage) {
    let mut world = World::new();
    let all = [STRANGER.both(), GRANTED.both(), NEIGHBOUR.both()].concat();
    world.assert(&all, true, "on bare Linux");
    let start = Instant::now();
    world.postern.launch();
    stage.note(&format!("posternd answers {:.1} s after its start", start.elapsed().as_secs_f32()));
    let reached = world.echo.served();
    world.assert(&all, false, "with posternd");
    assert_eq!(world.echo.served(), reached, "connections that reached the socket");

    let grant = world.grant(&["22/any"], &GRANTED.both(), 600);
    world.assert(&GRANTED.both(), true, "with a grant");
    world.assert(&[STRANGER.both(), NEIGHBOUR.both()].concat(), false, "beside a grant");
    let mut sessions = GRANTED.both().map(|from| world.session(from));
    assert!(sessions.iter_mut().all(alive));
    world.revoke(&grant.id);
    assert!(!sessions.iter_mut().any(alive), "a session lives on without its grant");
    world.assert(&all, false, "after it was revoked");

    world.grant(&["22/any"], &GRANTED.both(), 5);
    let mut session = world.session(GRANTED.v4.into());
    until("a grant of five seconds ends", || !alive(&mut session));
    world.assert(&all, false, "after its end");
    let degraded = unwell(&world.postern.client());
    assert!(degraded.is_empty(), "{degraded:?}");
    let log = world.postern.log();
    log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).for_each(|line| stage.note(line));
    stage.leave(world);
}

pub fn what_is_pinned_holds(stage: &mut Stage) {
    let mut world = stage.world();
    world.grant(&["22/any"], &[GRANTED.v4.into()], 3600);
    world.grant(&["22/any"], &[NEIGHBOUR.v4.into()], 5);
    let mut session = world.session(GRANTED.v4.into());
    world.postern.kill();
    assert!(alive(&mut session), "the death of posternd has cut a session");
    until("a grant ends while posternd is dead", || {
        probe::tcp(&world.net.client, NEIGHBOUR.v4, (SERVER.v4, PORT).into()) != Outcome::Answered
    });
    world.assert_granted_alone("while posternd is dead");
    world.postern.launch();
    assert!(alive(&mut session), "the start of posternd has cut a session");
    world.assert_granted_alone("after a new start");
    for layer in ["lock", "cut"] {
        world.postern.detach(layer);
        world.assert(&[STRANGER.v4.into(), NEIGHBOUR.v4.into()], false, "with a layer torn off");
        until("the layer is back", || unwell(&world.postern.client()).is_empty());
    }
    world.assert_granted_alone("with every layer back");
    stage.leave(world);
}
