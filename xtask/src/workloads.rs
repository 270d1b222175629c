//! `demo` and `bench`: build what they need, then run the tests crate's binary `demo` as root.
//!
//! Owns no step of either; they share their harness with the tests.

use crate::sh::{self, Result};
use crate::{build_ebpf, setup};
use std::process::Command;

/// Runs the steps of the demo. The debug build is enough for them, because the kernel programs are always optimised.
///
/// # Errors
/// Where something cannot be installed, built or run, or the run itself found a broken promise.
pub fn demo() -> Result<()> {
    run("debug", &[], &[])?;
    println!(
        "\nThis posternd is a debug build. An installed one starts and answers in about half the time (`cargo xtask bench`)."
    );
    println!(
        "The kernel programs are the same, and so are the times of what the kernel does: closing, and the end of a grant."
    );
    Ok(())
}

/// Runs the measurements, of the build that is installed.
///
/// # Errors
/// As [`demo`].
pub fn bench() -> Result<()> {
    run("release", &["--release"], &["bench"])
}

fn run(folder: &str, profile: &[&str], arguments: &[&str]) -> Result<()> {
    setup::for_demo()?;
    build_ebpf::run()?;
    println!("building posternd and the demo (the first time takes minutes)");
    let bins = ["--bin", "posternd", "--bin", "demo"];
    // The packages that decide the features of a plain `cargo build`, so that neither compiles a dependency again.
    let packages = ["--package", "postern-agent", "--package", "postern-tests"];
    sh::run(sh::cargo().args(["build", "--locked"]).args(profile).args(packages).args(bins))?;
    let mut command = confined();
    command.arg(sh::target().join(folder).join("demo")).args(arguments);
    sh::run(command.env("PATH", sh::search_path()).current_dir(sh::root()))
}

/// Mounts, pins and processes of their own, which go when it ends, however it ends.
fn confined() -> Command {
    let words =
        ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];
    let mut command = Command::new(if sh::is_root() { words[0] } else { "sudo" });
    if !sh::is_root() {
        command.args(["--preserve-env=PATH", words[0]]);
    }
    command.args(&words[1..]);
    command
}
