//! `setup`: installs what building and testing need, after saying what and why.
//!
//! Idempotent and quick where nothing is missing. Never changes a setting of the machine.

use crate::kernel;
use crate::needs::{self, LLVM_PREFIX, Need, Source};
use crate::sh::{self, Result};
use std::process::Command;

/// Installs what building and testing need and this machine lacks.
///
/// # Errors
/// Where it may not install (prints the exact command instead) or an installation fails.
pub fn run() -> Result<()> {
    install_missing(needs::missing(), "building and testing")
}

/// Installs what the demo needs and this machine lacks.
///
/// # Errors
/// As [`run`].
pub fn for_demo() -> Result<()> {
    install_missing(needs::missing().into_iter().filter(|need| need.demo).collect(), "the demo")
}

fn install_missing(missing: Vec<&Need>, purpose: &str) -> Result<()> {
    let (optional, missing): (Vec<_>, Vec<_>) = missing.into_iter().partition(|need| need.is_optional());
    for need in optional {
        println!(
            "setup: without {} ({}): it takes Go, which is not here; its tests will say that they are skipped",
            need.what, need.why
        );
    }
    if missing.is_empty() {
        println!("setup: everything that {purpose} needs is installed");
        return Ok(());
    }
    println!("setup: this is missing, and is installed now:");
    for need in &missing {
        println!("  {:<20} {}\n  {:<20}   from {}", need.what, need.why, "", origin(need.source));
    }
    packages(&missing)?;
    for need in &missing {
        install(need)?;
    }
    check(&missing)
}

/// All Debian packages at once: one look at the package lists, one transaction.
fn packages(missing: &[&Need]) -> Result<()> {
    let names: Vec<&str> = missing.iter().flat_map(|need| debian(need.source)).copied().collect();
    if names.is_empty() {
        return Ok(());
    }
    if !sh::is_root() || sh::find("apt-get").is_none() {
        return Err(format!(
            "may not install packages here (not root, or not Debian). Do this, then come back:\n\n  \
             sudo apt-get install --no-install-recommends {}\n\n\
             Elsewhere than on Debian, install what provides the programs named above; where Debian's packages of Rust \
             are named, `rustup toolchain install nightly --component rust-src` takes their place.",
            names.join(" ")
        ));
    }
    sh::run(apt().arg("update"))?;
    sh::run(apt().args(["install", "--yes", "--no-install-recommends"]).args(names))
}

/// The Debian packages that a need comes from here.
fn debian(source: Source) -> &'static [&'static str] {
    match source {
        Source::Apt(names) => names,
        Source::Component("rustfmt", _) if !has_rustup() => &["rustfmt-web"],
        Source::Component("clippy", _) if !has_rustup() => &["rust-web-clippy"],
        Source::Component(..) | Source::Cargo(_) | Source::Go(_) | Source::Kernel => &[],
    }
}

fn install(need: &Need) -> Result<()> {
    match need.source {
        Source::Cargo(arguments) => sh::run(sh::cargo().arg("install").args(arguments).env("LLVM_PREFIX", LLVM_PREFIX)),
        Source::Go(package) => sh::run(Command::new("go").args(["install", package]).env("PATH", sh::search_path())),
        Source::Component(name, _) if has_rustup() => sh::run(Command::new("rustup").args(["component", "add", name])),
        // The package lists may be older than the mirror, which keeps only the newest kernels.
        Source::Kernel => kernel::fetch(None).map(drop).or_else(|_| {
            sh::run(apt().arg("update"))?;
            kernel::fetch(None).map(drop)
        }),
        Source::Component(..) | Source::Apt(_) => Ok(()),
    }
}

fn check(missing: &[&Need]) -> Result<()> {
    let still: Vec<&str> = missing.iter().filter(|need| !need.is_met()).map(|need| need.what).collect();
    if still.is_empty() { Ok(()) } else { Err(format!("installed, yet still not found: {}", still.join(", "))) }
}

fn origin(source: Source) -> String {
    match source {
        Source::Apt(names) => format!("Debian: {}", names.join(" ")),
        Source::Component(name, _) if has_rustup() => format!("rustup: the component {name}"),
        Source::Component(_, package) => format!("Debian: {package}"),
        Source::Cargo(arguments) => format!("cargo install {}", arguments.join(" ")),
        Source::Go(package) => format!("go install {package}"),
        Source::Kernel => "Debian: linux-image-cloud-amd64, unpacked below target/, installed nowhere".to_owned(),
    }
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.arg("--quiet=2").env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn has_rustup() -> bool {
    sh::find("rustup").is_some()
}
