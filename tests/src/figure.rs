//! Figures that tests hand to `cargo xtask torture`: how much was tried and what held.
//!
//! Never judges; a figure is printed by a test that has passed so far.

/// Prints one figure. Figures of one name are added up over all tests.
pub fn print(name: &str, value: u64) {
    println!("FIGURE {name}: {value}");
}
