//! What `cargo xtask torture` runs: crashes at system calls, faulty disks and restarts, with packets counted.
//!
//! Every test here is ignored by a plain `cargo test`, because together they take minutes; `cargo xtask test` runs them in their
//! short form as a stage of its own. Longer forms are chosen by environment variables (see [`setting`]).

mod disk;
mod model;
mod replace;
mod walk;
mod world;
mod writes;

/// A number from the environment, or what the short form takes.
fn setting(name: &str, short: u64) -> u64 {
    std::env::var(name)
        .ok()
        .map_or(short, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")))
}
