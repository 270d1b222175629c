//! `fuzz`: builds the fuzz targets and runs them beside each other, from the seeds in `fuzz/corpus`.
//!
//! Owns building them as `cargo fuzz build --sanitizer none` does, which takes neither cargo-fuzz nor a nightly compiler
//! (docs/decisions/0037-fuzzing-without-cargo-fuzz.md). Never writes into the seeds: what a run finds stays below `fuzz/target`.

use crate::build_ebpf;
use crate::sh::{self, Result};
use crate::summary::Counts;
use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};

/// How long `cargo xtask fuzz` tries each target, unless told otherwise.
const SECONDS: u64 = 600;

/// How long a run of everything, and the short torture, try each target.
pub const SHORT_SECONDS: u64 = 60;

/// What cargo-fuzz gives to rustc: LLVM notes which edges an input takes and what it is compared with. No sanitizer, which
/// would take a nightly: there is no unsafe code in what is fuzzed. Overflows and assertions are in the profile.
const FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-sanitizer-coverage-stack-depth",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
    "--cfg=fuzzing",
];

/// The longest input, in bytes, and how long one may take, in seconds: a parser that needs longer hangs.
const MOST_BYTES: usize = 8192;
const MOST_SECONDS: u64 = 10;

/// Lines of a target's output that are shown where it failed.
const LAST_LINES: usize = 60;

/// What became of one target.
#[derive(Default)]
struct Outcome {
    name: String,
    succeeded: bool,
    /// Inputs that it was tried on.
    inputs: u64,
    /// Edges of its code that they reached.
    edges: u64,
    /// Where the input is that broke it.
    reproducer: Option<String>,
    output: VecDeque<String>,
}

/// `[--seconds N] [TARGET…]`
///
/// # Errors
/// Where there is no such target, it does not build, or an input broke one.
pub fn run(words: &[&str]) -> Result<()> {
    let (seconds, names) = match words {
        ["--seconds", number, rest @ ..] => {
            (number.parse().map_err(|_| format!("{number:?} is no number of seconds"))?, rest)
        }
        rest => (SECONDS, rest),
    };
    build_ebpf::run()?;
    verdict(&some(seconds, names)?)
}

/// Every target for so many seconds; the eBPF object is there.
///
/// # Errors
/// Where they do not build. A target that broke is counted as a failure.
pub fn all(seconds: u64) -> Result<Counts> {
    some(seconds, &[])
}

/// Begins to build every target with what other stages leave of the processors; [`all`] finds them built. What fails here fails
/// there again, aloud.
pub fn build_beside() -> JoinHandle<()> {
    thread::spawn(|| {
        let command = host().and_then(|triple| Ok(build(&targets()?, &triple)));
        let _told_later = command.and_then(|command| sh::run(sh::nice(&command).arg("--quiet")));
    })
}

fn some(seconds: u64, names: &[&str]) -> Result<Counts> {
    let all = targets()?;
    if let Some(unknown) = names.iter().find(|name| all.iter().all(|known| known != *name)) {
        return Err(format!("there is no fuzz target {unknown:?}, only {}", all.join(", ")));
    }
    let wanted: Vec<String> = all.into_iter().filter(|name| names.is_empty() || names.contains(&&name[..])).collect();
    let triple = host()?;
    sh::run(&mut build(&wanted, &triple))?;
    let outcomes = side_by_side(wanted, |name| fuzz(name, &triple, seconds));
    outcomes.into_iter().map(|(name, outcome)| outcome.map_err(|error| format!("fuzz {name}: {error}"))).try_fold(
        Counts::default(),
        |mut counts, outcome| {
            report(&outcome?, seconds, &mut counts);
            Ok(counts)
        },
    )
}

fn verdict(counts: &Counts) -> Result<()> {
    if counts.failed == 0 { Ok(()) } else { Err(format!("failed: {}", counts.failures.join(", "))) }
}

/// Their names: the binaries of the fuzz crate.
fn targets() -> Result<Vec<String>> {
    let manifest = sh::read(&sh::root().join("fuzz/Cargo.toml"))?;
    let sections = manifest.split("[[bin]]\nname = \"").skip(1);
    Ok(sections.filter_map(|section| section.split('"').next().map(str::to_owned)).collect())
}

/// The machine that they are built for, which is this one.
fn host() -> Result<String> {
    let version = sh::output(Command::new("rustc").arg("-vV").current_dir(sh::root())).unwrap_or_default();
    let triple = version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc does not say its host")?;
    Ok(triple.to_owned())
}

/// What builds them.
fn build(names: &[String], triple: &str) -> Command {
    let mut command = sh::cargo();
    // Not --locked: the agent's dependencies change without anybody thinking of the lock file here.
    command.args(["build", "--release", "--manifest-path", "fuzz/Cargo.toml"]);
    // With a target, the flags reach neither build scripts nor macros.
    command.args(["--target-dir", "fuzz/target", "--target", triple]);
    command.args(names.iter().flat_map(|name| ["--bin", name]));
    command.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", FLAGS.join(" "));
    command
}

/// As many at once as there are processors.
fn side_by_side<T: Send>(names: Vec<String>, work: impl Fn(&str) -> T + Sync) -> Vec<(String, T)> {
    let workers = thread::available_parallelism().map_or(1, usize::from).min(names.len());
    let (waiting, done) = (Mutex::new(VecDeque::from(names)), Mutex::new(Vec::new()));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(name) = next() {
                    let outcome = work(&name);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((name, outcome));
                }
            });
        }
    });
    done.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Runs one target until its time is over or an input breaks it.
fn fuzz(name: &str, triple: &str, seconds: u64) -> Result<Outcome> {
    let folder = sh::root().join("fuzz");
    let (found, artifacts) = (folder.join("target/corpus").join(name), folder.join("artifacts").join(name));
    let make = |path: &PathBuf| fs::create_dir_all(path).map_err(|error| format!("{}: {error}", path.display()));
    make(&found)?;
    make(&artifacts)?;
    let mut command = Command::new(folder.join("target").join(triple).join("release").join(name));
    // New inputs go into the first folder, the others are only read.
    command.arg(&found).arg(folder.join("corpus").join(name));
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.args([format!("-max_total_time={seconds}"), format!("-max_len={MOST_BYTES}")]);
    command.args([
        format!("-timeout={MOST_SECONDS}"),
        "-rss_limit_mb=2048".to_owned(),
        // Weighing what is rare costs more than it finds: without it three times as many configurations are tried.
        "-entropic=0".to_owned(),
        "-print_final_stats=1".to_owned(),
    ]);
    let dictionary = folder.join("dictionaries").join(format!("{name}.dict"));
    if dictionary.exists() {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    let told = |error: std::io::Error| error.to_string();
    let mut child = command.env("RUST_BACKTRACE", "1").stderr(Stdio::piped()).spawn().map_err(told)?;
    let mut outcome = Outcome { name: name.to_owned(), ..Outcome::default() };
    if let Some(output) = child.stderr.take() {
        for line in BufReader::new(output).split(b'\n') {
            outcome.read(String::from_utf8_lossy(&line.map_err(told)?).into_owned());
        }
    }
    outcome.succeeded = child.wait().map_err(told)?.success();
    Ok(outcome)
}

impl Outcome {
    /// Takes one line of libFuzzer's output: `#4096 pulse cov: 317 …`, `stat::number_of_executed_units: 4096`, or
    /// `artifact_prefix='…'; Test unit written to …`.
    fn read(&mut self, line: String) {
        if let Some(number) = line.strip_prefix("stat::number_of_executed_units: ") {
            self.inputs = number.trim().parse().unwrap_or(0);
        } else if let Some((_, path)) = line.split_once("Test unit written to ") {
            self.reproducer = Some(path.to_owned());
        } else if let Some((number, rest)) = line.strip_prefix('#').and_then(|rest| rest.split_once('\t')) {
            // Where it breaks there are no final statistics.
            self.inputs = number.trim().parse().unwrap_or(self.inputs);
            let edges = rest.split_once("cov: ").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
            self.edges = edges.unwrap_or(self.edges);
        }
        self.output.push_back(line);
        if self.output.len() > LAST_LINES {
            self.output.pop_front();
        }
    }
}

/// Says what became of it, and adds it up.
fn report(outcome: &Outcome, seconds: u64, counts: &mut Counts) {
    let Outcome { name, succeeded, inputs, edges, reproducer, output } = outcome;
    println!(
        "fuzz {name}: {inputs} inputs, {edges} edges of code reached, {seconds} s{}",
        if *succeeded { "" } else { ": BROKEN" }
    );
    counts.read(&format!("FIGURE bad inputs tried: {inputs}"));
    counts.read(&format!("FIGURE inputs that broke something: {}", u8::from(!succeeded)));
    if *succeeded {
        counts.passed += 1;
        return;
    }
    counts.failed += 1;
    counts.failures.push(format!("fuzz {name}"));
    output.iter().for_each(|line| println!("  {line}"));
    if let Some(path) = reproducer {
        println!(
            "the input that broke it: {path}\nonce more: cd fuzz && cargo fuzz run --sanitizer none {name} {path}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{Counts, Outcome, report, side_by_side, targets};

    fn outcome(succeeded: bool, lines: &[&str]) -> Outcome {
        let mut outcome = Outcome { succeeded, ..Outcome::default() };
        lines.iter().for_each(|line| outcome.read((*line).to_owned()));
        outcome
    }

    #[test]
    fn what_libfuzzer_prints_is_read() {
        let lines = [
            "#2\tINITED cov: 3 ft: 4 corp: 1/1b",
            "#9\tDONE   cov: 17 ft: 20 corp: 2/3b",
            "Done 9 runs in 1 second(s)",
        ];
        let good = outcome(true, &[&lines[..], &["stat::number_of_executed_units: 9"]].concat());
        assert_eq!((good.inputs, good.edges, good.reproducer.as_deref()), (9, 17, None));
        let bad = ["#7\tNEW    cov: 5 ft: 4", "artifact_prefix='a/'; Test unit written to a/crash-1"];
        let bad = outcome(false, &bad);
        assert_eq!((bad.inputs, bad.reproducer.as_deref()), (7, Some("a/crash-1")));
        let mut counts = Counts::default();
        report(&good, 60, &mut counts);
        report(&bad, 60, &mut counts);
        assert_eq!((counts.passed, counts.failed), (1, 1));
        assert_eq!((counts.figures["bad inputs tried"], counts.figures["inputs that broke something"]), (16, 1));
    }

    #[test]
    fn every_target_of_the_crate_is_run_once() {
        let names = targets().expect("fuzz/Cargo.toml");
        for name in ["config", "envelope", "netlink", "packet", "trust_file"] {
            assert!(names.iter().any(|known| known == name), "{name} of {names:?}");
        }
        let mut done: Vec<_> =
            side_by_side(names.clone(), |name| name.len()).into_iter().map(|(name, _)| name).collect();
        done.sort();
        assert_eq!(done, names);
    }
}
