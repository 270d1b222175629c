//! `torture`: crashes, faulty disks and floods, for as long as one likes, and one table of what was tried and what held.
//!
//! The short form is a stage of `cargo xtask test`. Owns no test: they are the ignored ones of `tests/tests/torture`, the floods of
//! `tests/tests/abuse` (a stage of `cargo xtask test` has had them before), and in the long form those of `tests/tests/vm.rs` on one more
//! kernel.

use crate::runner::{self, Stage};
use crate::sh::{self, Result};
use crate::summary::Counts;
use crate::{build_ebpf, fuzz, kernel};
use std::process::Command;

/// How the short form differs: a run of everything has half an hour. Without it the walk has a thousand steps.
const SHORT: [(&str, &str); 1] = [("POSTERN_TORTURE_OPERATIONS", "300")];

/// How the long form differs, unless the environment says otherwise.
const LONG: [(&str, &str); 4] = [
    // Steps of the random walk; one in eight or so is a death.
    ("POSTERN_TORTURE_OPERATIONS", "10000"),
    // Restarts, upgrades and reloads under flood: at least so many, and for so many seconds.
    ("POSTERN_TORTURE_REPLACEMENTS", "1000"),
    ("POSTERN_TORTURE_SECONDS", "300"),
    // Death at every single system call of a start, rather than one in so many.
    ("POSTERN_TORTURE_START_ONE_IN", "1"),
];

/// The Debian after the one whose kernel `test` boots.
const NEWER: &str = "trixie";

/// How long the long form tries each fuzz target.
const LONG_FUZZ_SECONDS: u64 = 600;

/// Builds, runs the tests and the fuzz targets, and prints the table.
///
/// # Errors
/// Where something does not build, or a test failed.
pub fn run(short: bool) -> Result<()> {
    build_ebpf::run()?;
    sh::run(sh::cargo().args(["build", "--locked", "--workspace", "--bins", "--test", "torture", "--test", "abuse"]))?;
    let (mut counts, mut succeeded) = runner::count(command(short))?;
    let newer = (!short && cfg!(target_arch = "x86_64")).then(newer_kernel).transpose()?;
    for command in [floods()].into_iter().chain(newer) {
        let (more, too) = runner::count(command)?;
        counts += more;
        succeeded &= too;
    }
    let fuzzed = fuzz::all(if short { fuzz::SHORT_SECONDS } else { LONG_FUZZ_SECONDS });
    let error = fuzzed.map(|fuzzed| counts += fuzzed).err();
    println!("\n{}", table(&counts));
    match error {
        Some(error) => Err(error),
        None if succeeded && counts.failed == 0 => Ok(()),
        None => Err(format!("failed: {}", counts.failures.join(", "))),
    }
}

/// The tests.
pub fn command(short: bool) -> Command {
    let mut command = runner::command(Stage::Kernel, &["--test", "torture"], &["--ignored"]);
    let settings = if short { &SHORT[..] } else { &LONG };
    command.envs(settings.iter().filter(|(name, _)| std::env::var_os(name).is_none()).copied());
    command
}

/// The tests in a virtual machine, on the kernel of the next Debian: `test` has them on that of this one.
fn newer_kernel() -> Result<Command> {
    let mut command = runner::command(Stage::Kernel, &["--test", "vm"], &[]);
    command.env("POSTERN_VM_KERNEL", kernel::fetch(Some(NEWER))?);
    Ok(command)
}

/// The floods of the API.
fn floods() -> Command {
    runner::command(Stage::Kernel, &["--test", "abuse"], &[])
}

/// What was tried and what held.
fn table(counts: &Counts) -> String {
    format!("=== torture: {} tests passed, {} failed\n{}", counts.passed, counts.failed, counts.table())
}

#[cfg(test)]
mod tests {
    use super::table;
    use crate::summary::Counts;

    #[test]
    fn figures_stand_in_columns() {
        let mut counts = Counts::default();
        for line in ["FIGURE kills: 7", "FIGURE packets leaked: 0", "FIGURE kills: 5"] {
            counts.read(line);
        }
        let told = table(&counts);
        assert!(told.contains("  kills                     12\n  packets leaked             0\n"), "{told}");
    }
}
