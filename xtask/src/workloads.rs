//! `demo` and `bench`: build what they need, then run the binary of that name in the tests crate as root.
//!
//! Owns no step of either; they share their harness with the tests.

use crate::sh::{self, Result};
use crate::{build_ebpf, setup};
use std::process::Command;

/// Sets up what is missing, builds, and runs `postern-tests`' binary `name`.
///
/// # Errors
/// Where something cannot be installed, built or run, or the run itself found a broken promise.
pub fn run(name: &str, arguments: &[&str]) -> Result<()> {
    setup::run()?;
    build_ebpf::run()?;
    sh::run(sh::cargo().args([
        "build",
        "--locked",
        "--release",
        "--package",
        "postern-agent",
        "--package",
        "postern-cli",
    ]))?;
    sh::run(sh::cargo().args(["build", "--locked", "--release", "--package", "postern-tests", "--bin", name]))?;
    let binary = sh::target().join("release").join(name);
    let mut command = if sh::is_root() { Command::new(&binary) } else { Command::new("sudo") };
    if !sh::is_root() {
        command.arg("--preserve-env=PATH").arg(&binary);
    }
    sh::run(command.args(arguments).env("PATH", sh::search_path()).current_dir(sh::root()))
}
