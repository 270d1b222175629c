//! `demo` and `bench`: build what they need, then run the tests crate's binary `demo` as root.
//!
//! Owns no step of either; they share their harness with the tests.

use crate::sh::{self, Result};
use crate::{build_ebpf, setup};
use std::process::Command;

/// Sets up what is missing, builds, and runs `demo` with `arguments`.
///
/// # Errors
/// Where something cannot be installed, built or run, or the run itself found a broken promise.
pub fn run(arguments: &[&str]) -> Result<()> {
    setup::for_demo()?;
    build_ebpf::run()?;
    println!("building what is shown (the first time takes minutes)");
    let bins = ["--bin", "posternd", "--bin", "demo"];
    let packages = ["--package", "postern-agent", "--package", "postern-tests"];
    sh::run(sh::cargo().args(["build", "--locked", "--release"]).args(packages).args(bins))?;
    let mut command = confined();
    command.arg(sh::target().join("release/demo")).args(arguments);
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
