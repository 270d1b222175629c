//! What an idle posternd costs, and how soon it heals all the same.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use postern_tests::halt;
use postern_tests::net::Net;
use postern_tests::postern::{Options, Postern};
use postern_tests::until;

/// The time over which wake-ups are counted.
const WINDOW: Duration = Duration::from_secs(10);
/// The most wake-ups in one window, of both processes together. Idle, the engine looks at the layers 20 times and the other timer runs 10
/// times.
const MOST: u64 = 40;
/// The most time from a loss to its healing, while the processor is free.
const HEALED_WITHIN: Duration = Duration::from_secs(1);
/// Another program's mount makes posternd ask its helper once more, so one window in so many has to be quiet.
const WINDOWS: usize = 6;

fn start(net: &Net) -> Postern {
    // As the shipped configuration and the shipped unit have it.
    let options = Options { xdp: "\"auto\"".to_owned(), watchdog: Some(Duration::from_secs(30)), ..Options::default() };
    Postern::start(&net.server, options)
}

/// The agent and its helper.
fn processes(postern: &Postern) -> [u32; 2] {
    let agent = postern.pid();
    let children = fs::read_to_string(format!("/proc/{agent}/task/{agent}/children")).expect("the children");
    [agent, children.trim().parse().expect("one helper")]
}

/// How often all threads of these processes went to sleep by themselves; each wakes up once for that.
fn wakeups(processes: [u32; 2]) -> u64 {
    let threads = processes.into_iter().flat_map(|process| halt::names(process).into_keys().map(move |t| (process, t)));
    threads.filter_map(|(process, thread)| halt::sleeps_of(process, thread)).sum()
}

#[test]
fn an_idle_posternd_wakes_up_at_most_four_times_a_second() {
    let net = Net::pair();
    let postern = start(&net);
    let processes = processes(&postern);
    let mut counts = Vec::new();
    while counts.len() < WINDOWS && counts.iter().all(|count| *count > MOST) {
        let (start, before) = (Instant::now(), wakeups(processes));
        until("the window is over", || start.elapsed() >= WINDOW);
        counts.push(wakeups(processes).saturating_sub(before));
    }
    println!("wake-ups in windows of {} s: {counts:?}", WINDOW.as_secs());
    assert!(counts.iter().any(|count| *count <= MOST), "more than {MOST} in each window: {counts:?}");
}

#[test]
fn an_idle_posternd_heals_a_lost_layer_and_a_lost_pin_within_a_second() {
    let net = Net::pair();
    let postern = start(&net);
    let lock = postern.pin_dir().join("lock");
    let pin = || fs::metadata(&lock).ok().map(|found| found.ino());
    let [agent, helper] = processes(&postern);
    let engine = halt::names(agent).into_iter().find(|(_, name)| name == "engine").expect("the engine's thread").0;
    // The time for which the processor was not free for one of those who take part.
    let waited = || halt::waited(agent, engine) + halt::waited(helper, helper.cast_signed()) + halt::waited_here();
    let losses: [(&str, &dyn Fn()); 2] = [
        ("the lock", &|| postern.detach("lock")),
        ("the pin of the lock", &|| fs::remove_file(&lock).expect("the pin")),
    ];
    for (what, lose) in losses.into_iter().cycle().take(10) {
        let before = pin().expect("the pin of the lock");
        let (start, held_up) = (Instant::now(), waited());
        lose();
        // What heals either of them puts a new pin in place.
        until(&format!("{what} is back"), || pin().is_some_and(|now| now != before));
        let (took, held_up) = (start.elapsed(), waited().saturating_sub(held_up));
        println!(
            "{what}: healed after {} ms, of which {} ms without a processor",
            took.as_millis(),
            held_up.as_millis()
        );
        assert!(took < HEALED_WITHIN + held_up, "{what}: healed after {took:?}, {held_up:?} of it without a processor");
    }
}
