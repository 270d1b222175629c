//! posternd notices a lost layer or pin, brings it back and records both, and the other layers hold meanwhile. What lies under the
//! names of its pins is checked before it is used. An idle posternd costs little.

mod idle;
mod losses;
mod pins;

use std::net::{Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use postern_proto::v1::GetStatusResponse;
use postern_tests::postern::Postern;

const PORT: u16 = 22;

fn any() -> SocketAddr {
    (Ipv6Addr::UNSPECIFIED, PORT).into()
}

/// Waits until `done` gives something, and says how long that took.
fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> (T, Duration) {
    let start = Instant::now();
    let value = postern_tests::find(|| done().ok_or_else(|| what.to_owned()));
    (value, start.elapsed())
}

/// The journal's lines about a part: its states, in order.
fn recorded(postern: &Postern, part: &str) -> Vec<String> {
    let journal = postern.journal();
    let lines = journal.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let layers = lines.filter(|line| line["event"] == "layer" && line["name"] == part);
    layers.map(|line| line["state"].as_str().expect("a state").to_owned()).collect()
}

fn is_whole(status: &GetStatusResponse) -> bool {
    status.conditions.is_empty() && status.layers.iter().all(|layer| layer.attached)
}
