//! posternd is killed, stopped, upgraded and reloaded without a pause while SYNs pour in.

use std::time::{Duration, Instant};

use postern_tests::figure;
use postern_tests::flood::Flood;

use crate::setting;
use crate::world::{PORTS, Rules, SOURCES, Seen, Wish, World};

#[test]
#[ignore = "a minute long: cargo xtask torture runs it"]
fn replacing_posternd_under_a_flood_lets_nothing_in_and_nobody_out() {
    let least = setting("POSTERN_TORTURE_REPLACEMENTS", 24);
    let end = Instant::now() + Duration::from_secs(setting("POSTERN_TORTURE_SECONDS", 45));
    let mut world = World::new(true);
    let flood = Flood::start(&world.net, &PORTS);
    let (_, message) = world.request(&Wish::new(&PORTS, &SOURCES, 3 * 3600));
    world.postern.client().request(message).expect("a grant");
    let mut replaced = 0;
    while replaced < least || Instant::now() < end {
        match replaced % 4 {
            0 => {
                world.postern.kill();
                world.postern.launch();
            }
            1 => {
                assert!(world.postern.stop().success());
                world.postern.launch();
            }
            2 => {
                world.postern.upgrade();
                assert!(world.postern.stop().success());
                world.postern.launch();
            }
            _ => {
                world.write(Rules { without_carol: replaced % 8 == 3, ..Rules::default() });
                assert!(world.reload());
            }
        }
        replaced += 1;
        let shut_out = |seen: &Seen| seen.open.iter().any(|((source, _), open)| SOURCES.contains(source) && !open);
        let mut seen = world.look();
        if shut_out(&seen) {
            // A busy machine may be slow once.
            seen = world.look();
        }
        assert!(!shut_out(&seen), "replacement {replaced}: a granted source is shut out: {seen:?}");
        for ((source, port), open) in &seen.open {
            assert!(!open || SOURCES.contains(source), "replacement {replaced}: {source} reaches {port}");
        }
        assert_eq!(flood.counted().leaked, 0, "replacement {replaced}");
    }
    let counted = flood.held();
    println!("{replaced} replacements, {counted:?}");
    figure::print("replacements under flood", replaced);
    figure::print("flood SYNs held off", counted.sent);
    figure::print("packets leaked", counted.leaked);
}
