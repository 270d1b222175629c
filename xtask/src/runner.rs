//! `run-test PROGRAM ARGUMENT…`: what cargo starts for each test program while `cargo xtask test` runs (cargo's `runner`).
//!
//! Owns the `cargo test` of each stage, which stage a test program belongs to, as whom it runs, and how many of its tests run at once. Every stage is built with the
//! whole workspace chosen, because cargo compiles dependencies anew, with other features, for each choice of packages; so
//! it is here that a stage leaves out what is not its own.

use crate::sh::{self, Result};
use crate::summary::Counts;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

/// The variable that carries [`Stage`] through cargo.
const VARIABLE: &str = "POSTERN_TEST_STAGE";

/// Where cargo looks for a runner.
const RUNNERS: [&str; 2] =
    ["CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER"];

/// The package whose tests load programs into the kernel.
const KERNEL: &str = "postern-tests";

/// Test programs of that package that wait for clocks and starts most of their time, and measure nothing that neighbours disturb.
const WAITING: [&str; 8] = ["attacks", "field", "host_proof", "journal", "keep", "life", "lifecycle", "people"];

/// Which test programs are to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Those that need no kernel.
    Plain,
    /// Those of [`KERNEL`].
    Kernel,
}

impl Stage {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Kernel => "kernel",
        }
    }

    fn of(package: &str) -> Self {
        if package == KERNEL { Self::Kernel } else { Self::Plain }
    }
}

/// `cargo test` of one stage, with these arguments for cargo and these for the tests themselves.
pub fn command(stage: Stage, targets: &[&str], arguments: &[&str]) -> Command {
    let mut command = sh::cargo();
    command.args(["test", "--locked", "--workspace", "--no-fail-fast"]).args(targets);
    command.args(["--", "--show-output"]).args(arguments);
    choose(&mut command, stage);
    command
}

/// Runs a command and prints its output while counting it. Also returns whether the command itself succeeded.
pub fn count(mut command: Command) -> Result<(Counts, bool)> {
    let told = |error: std::io::Error| format!("cargo test: {error}");
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(told)?;
    let mut counts = Counts::default();
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = String::from_utf8_lossy(&line.map_err(told)?).into_owned();
            println!("{line}");
            counts.read(&line);
        }
    }
    Ok((counts, child.wait().map_err(told)?.success()))
}

/// Has a `cargo test` run the programs of this stage alone, each by [`run`].
fn choose(command: &mut Command, stage: Stage) {
    let own = std::env::current_exe().map(|path| path.display().to_string()).unwrap_or_default();
    // Linux says so of a program that was built again while it runs.
    let runner = format!("{} run-test", own.trim_end_matches(" (deleted)"));
    command.env(VARIABLE, stage.name()).envs(RUNNERS.map(|name| (name, &runner)));
}

/// Becomes the test program, unless it belongs to another stage.
///
/// # Errors
/// Where it cannot be started.
pub fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let stage = Stage::of(&std::env::var("CARGO_PKG_NAME").unwrap_or_default());
    if std::env::var(VARIABLE).is_ok_and(|wanted| wanted != stage.name()) {
        return Ok(());
    }
    let threads = (stage == Stage::Kernel).then(|| format!("--test-threads={}", threads(program)));
    // Namespaces and eBPF take root; building does not.
    let words: &[&str] = if sh::is_root() { &[] } else { &["sudo", "--preserve-env"] };
    let mut words = words.iter().copied().chain([program]).chain(arguments.iter().copied());
    let mut command = Command::new(words.next().unwrap_or(program));
    // A test that calls cargo itself, to install what was built, means to run it.
    for name in RUNNERS.into_iter().chain([VARIABLE]) {
        command.env_remove(name);
    }
    Err(format!("{program}: {}", command.args(words).args(threads).exec()))
}

/// One after the other: they load programs into the one kernel that there is, and measure. Those that wait may wait together.
fn threads(program: &str) -> u32 {
    let file = program.rsplit('/').next().unwrap_or(program);
    let name = file.rsplit_once('-').map_or(file, |(name, _hash)| name);
    if WAITING.contains(&name) { 3 } else { 1 }
}

#[cfg(test)]
mod tests {
    use super::{Stage, threads};

    #[test]
    fn tests_on_the_kernel_run_one_after_the_other_unless_they_wait() {
        assert_eq!(threads("/target/debug/deps/keep-0123456789abcdef"), 3);
        assert_eq!(threads("/target/debug/deps/full_disk-0123456789abcdef"), 1);
        assert_eq!(threads("keepsake"), 1);
    }

    #[test]
    fn a_program_belongs_to_the_stage_of_its_package() {
        assert_eq!(Stage::of("postern-tests"), Stage::Kernel);
        assert_eq!(Stage::of("postern-core"), Stage::Plain);
        assert_ne!(Stage::Plain.name(), Stage::Kernel.name());
    }
}
