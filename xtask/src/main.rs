//! `cargo xtask COMMAND`: everything a developer does with this repository beyond plain cargo.
//!
//! Owns the command line and nothing else; each command has a module of its own. No dependencies, so that it builds
//! in seconds on a machine where nothing has been downloaded yet.

mod build_ebpf;
mod dependencies;
mod fuzz;
mod install;
mod kernel;
mod needs;
mod runner;
mod setup;
mod sh;
mod source;
mod summary;
mod test;
mod tidy;
mod toolchain;
mod torture;
mod workloads;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND

  setup                  install what building and testing need; says what and why first
  demo                   the main job, step by step with measured times, in network namespaces of its own
  bench                  its figures, measured on this machine
  test                   everything: format, tidiness, lints, documents, all tests (what .ci/run runs)
  torture [--short]      crashes, faulty disks and floods, with one table of what held; minutes, or with --short as in `test`
  fuzz [--seconds N] [TARGET...]
                         made-up frames, messages, files and kernel answers, ten minutes each unless told otherwise
  dependencies           licences, sources and advisories of the dependencies, and the Rust version that they need
  tidy [--bless]         the repository's own rules; --bless records changed layouts and wire contracts
  build-ebpf             build the eBPF programs that posternd embeds
  install [--root DIR] [--profile NAME]
                         put posternd, postern, units and a default configuration in place";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match dispatch(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(words: &[&str]) -> sh::Result<()> {
    match words {
        ["setup"] => setup::run(),
        ["demo"] => workloads::demo(),
        ["bench"] => workloads::bench(),
        ["test" | "ci"] => test::run(),
        ["torture"] => torture::run(false),
        ["torture", "--short"] => torture::run(true),
        ["fuzz", rest @ ..] => fuzz::run(rest),
        ["dependencies"] => dependencies::run(),
        ["tidy"] => tidy::run(false),
        ["tidy", "--bless"] => tidy::run(true),
        ["build-ebpf"] => build_ebpf::run(),
        ["install", rest @ ..] => install::run(rest),
        // Not for people: `runner` has cargo call it.
        ["run-test", program, arguments @ ..] => runner::run(program, arguments),
        [] | ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(())
        }
        other => Err(format!("there is no command {:?}\n\n{USAGE}", other.join(" "))),
    }
}
