//! `test`: every check and every test, in stages, with one summary at the end.
//!
//! What `.ci/run` runs. A failed stage does not hide the ones behind it, unless they need it. Never skips in silence:
//! what a machine cannot run is named in the summary, and in CI it is a failure.

use crate::runner::{self, Stage};
use crate::sh::{self, Result};
use crate::summary::Counts;
use crate::{build_ebpf, dependencies, fuzz, needs, tidy, torture};
use std::process::Command;
use std::time::Instant;

/// The whole run, as far as it has come.
struct Run {
    start: Instant,
    counts: Counts,
    /// Stages that failed, and why.
    broken: Vec<String>,
    /// What this machine could not check, and no machine has to.
    unchecked: Vec<String>,
}

/// Runs everything; the last line says how much passed and failed.
///
/// # Errors
/// Where a check or a test failed, or fewer tests ran than `xtask/expected-tests` says.
pub fn run() -> Result<()> {
    let mut run = Run { start: Instant::now(), counts: Counts::default(), broken: Vec::new(), unchecked: Vec::new() };
    run.stage("what the tests need", requirements);
    run.stage("format", format);
    run.stage("the repository's rules", || tidy::run(false));
    run.stage("minimum Rust version", dependencies::minimum_rust);
    run.stage("licences, bans and sources of dependencies", dependencies::rules);
    let mut unchecked = None;
    run.stage("advisories", || dependencies::advisories().map(|note| unchecked = note));
    run.unchecked.extend(unchecked);
    let built = run.stage("eBPF programs", build_ebpf::run);
    if built {
        run.stage("lints", lints);
        run.stage("documents", documents);
        // With the tests, so that nothing has to be compiled with other features for them.
        run.stage("build", || sh::run(sh::cargo().args(["build", "--locked", "--workspace", "--all-targets"])));
        run.tests("unit and property tests", runner::command(Stage::Plain, &[], &[]));
        // They wait more than they compute.
        let building = fuzz::build_beside();
        run.tests("tests on the kernel", runner::command(Stage::Kernel, &["--tests"], &[]));
        run.tests("torture, the short form", torture::command(true));
        let _ended = building.join();
        run.fuzz();
        run.enough();
    }
    run.finish()
}

impl Run {
    /// Runs one stage and says how long it took.
    fn stage(&mut self, name: &str, work: impl FnOnce() -> Result<()>) -> bool {
        self.announce(name);
        let start = Instant::now();
        let outcome = work();
        println!(
            "--- {name}: {} in {:.1} s",
            if outcome.is_ok() { "ok" } else { "FAILED" },
            start.elapsed().as_secs_f32()
        );
        if let Err(error) = &outcome {
            println!("{error}");
            self.broken.push(format!("{name}: {error}"));
        }
        outcome.is_ok()
    }

    /// Runs one `cargo test` and adds up what it says.
    fn tests(&mut self, name: &str, command: Command) {
        self.announce(name);
        let start = Instant::now();
        let outcome = runner::count(command);
        println!("--- {name}: {:.1} s", start.elapsed().as_secs_f32());
        match outcome {
            Ok((counts, succeeded)) => {
                if !succeeded && counts.failed == 0 {
                    self.broken.push(format!("{name}: cargo test failed before its tests ended"));
                }
                self.counts += counts;
            }
            Err(error) => self.broken.push(format!("{name}: {error}")),
        }
    }

    /// Every fuzz target for a while. Never beside the tests on the kernel, which measure.
    fn fuzz(&mut self) {
        let (name, start) = (format!("fuzz, {} s each", fuzz::SHORT_SECONDS), Instant::now());
        self.announce(&name);
        match fuzz::all(fuzz::SHORT_SECONDS) {
            Ok(counts) => self.counts += counts,
            Err(error) => self.broken.push(format!("{name}: {error}")),
        }
        println!("--- {name}: {:.1} s", start.elapsed().as_secs_f32());
    }

    fn announce(&self, name: &str) {
        println!("\n=== {name} ({:.0} s since the start)", self.start.elapsed().as_secs_f32());
    }

    /// A test that is no longer run must not go unnoticed.
    fn enough(&mut self) {
        let expected = sh::read(&sh::root().join("xtask/expected-tests")).and_then(|text| parse_expected(&text));
        match expected {
            Ok(expected) if self.counts.ran() >= expected => {}
            Ok(expected) => self.broken.push(format!(
                "{} tests ran, at least {expected} are expected (xtask/expected-tests)",
                self.counts.ran()
            )),
            Err(error) => self.broken.push(error),
        }
    }

    fn finish(self) -> Result<()> {
        println!("\n=== summary ({:.0} s)", self.start.elapsed().as_secs_f32());
        print!("{}", self.counts.table());
        self.counts.failures.iter().for_each(|name| println!("FAILED test {name}"));
        self.counts.skipped.iter().for_each(|reason| println!("skipped: {reason}"));
        self.unchecked.iter().for_each(|what| println!("not checked: {what}"));
        self.broken.iter().for_each(|stage| println!("FAILED {stage}"));
        let skipped_in_ci = if sh::is_ci() { self.counts.skipped.len() } else { 0 };
        let failed = self.counts.failed + self.broken.len() + skipped_in_ci;
        println!("{} passed, {failed} failed", self.counts.passed - self.counts.skipped.len());
        if failed == 0 { Ok(()) } else { Err("not everything passed".to_owned()) }
    }
}

fn requirements() -> Result<()> {
    let missing: Vec<_> =
        needs::missing().into_iter().filter(|need| !need.is_optional()).map(|need| need.what).collect();
    if missing.is_empty() { Ok(()) } else { Err(format!("missing: {}. Run `cargo xtask setup`.", missing.join(", "))) }
}

fn format() -> Result<()> {
    sh::run(sh::cargo().args(["fmt", "--all", "--check"]))?;
    // Workspaces of their own.
    ["agent-ebpf/Cargo.toml", "fuzz/Cargo.toml"]
        .into_iter()
        .try_for_each(|manifest| sh::run(sh::cargo().args(["fmt", "--check", "--manifest-path", manifest])))
}

fn lints() -> Result<()> {
    sh::run(sh::cargo().args(["clippy", "--locked", "--workspace", "--all-targets", "--", "--deny", "warnings"]))
}

fn documents() -> Result<()> {
    let mut command = sh::cargo();
    command.args(["doc", "--locked", "--workspace", "--no-deps", "--document-private-items"]);
    // Private items are documented too, so a link to one leads somewhere.
    sh::run(command.env("RUSTDOCFLAGS", "--deny warnings --allow rustdoc::private_intra_doc_links"))
}

fn parse_expected(text: &str) -> Result<usize> {
    let line = text.lines().find(|line| !line.starts_with('#')).unwrap_or_default();
    line.trim().parse().map_err(|_| format!("xtask/expected-tests: {line:?} is not a number"))
}
