//! What `cargo xtask test` checks about the crates that others wrote: licences, bans, sources, advisories and the Rust version that they need.
//!
//! cargo-deny does the first four, by deny.toml.

use crate::sh::{self, Result};
use std::path::Path;
use std::process::Command;

/// The manifests whose lock files are checked: each is a workspace.
const MANIFESTS: [&str; 3] = ["Cargo.toml", "agent-ebpf/Cargo.toml", "fuzz/Cargo.toml"];

/// Documents that name the minimum Rust version.
const DOCUMENTS: [&str; 2] = ["README.md", "CONTRIBUTING.md"];

/// How long the download of the advisory database may take, in seconds.
const PATIENCE: &str = "60";

/// Checks everything, for a person who changes a dependency.
///
/// # Errors
/// The first check that fails.
pub fn run() -> Result<()> {
    minimum_rust()?;
    rules()?;
    advisories()?.into_iter().for_each(|what| println!("not checked: {what}"));
    Ok(())
}

/// Checks the licences, bans and sources of every dependency. They need no network beyond the registry.
///
/// # Errors
/// Where a dependency breaks a rule of deny.toml.
pub fn rules() -> Result<()> {
    MANIFESTS
        .into_iter()
        .try_for_each(|manifest| sh::run(deny(manifest).args(["check", "licenses", "bans", "sources"])))
}

/// Checks for published advisories. Returns what was not checked where the database cannot be reached.
///
/// # Errors
/// Where an advisory names a dependency.
pub fn advisories() -> Result<Option<String>> {
    let mut fetch = Command::new("timeout");
    fetch.args([PATIENCE, "git", "ls-remote", "https://github.com/RustSec/advisory-db", "HEAD"]);
    if sh::output(&mut fetch).is_none() {
        return Ok(Some("advisories: the database of RustSec cannot be reached from here".to_owned()));
    }
    MANIFESTS.into_iter().try_for_each(|manifest| sh::run(deny(manifest).args(["check", "advisories"])))?;
    Ok(None)
}

fn deny(manifest: &str) -> Command {
    let mut command = sh::cargo();
    command.arg("deny");
    // The lock file of fuzz/ may lag behind the agent's dependencies, as for its build.
    if !manifest.starts_with("fuzz/") {
        command.arg("--locked");
    }
    command.args(["--log-level", "error", "--config", "deny.toml", "--manifest-path", manifest]);
    command
}

/// The minimum Rust version that Cargo.toml states.
pub const STATED: &str = env!("CARGO_PKG_RUST_VERSION");

/// Checks that the documents and the lints agree with the stated minimum version, and that no dependency needs more.
///
/// clippy checks the standard library's functions against the same version (`incompatible_msrv`), so no older compiler is needed here.
///
/// # Errors
/// Names each file and each dependency that does not agree.
pub fn minimum_rust() -> Result<()> {
    let read = |path: &str| sh::read(&sh::root().join(path));
    let mut complaints = Vec::new();
    for document in DOCUMENTS {
        if !read(document)?.contains(&format!("{STATED} or later")) {
            complaints.push(format!("{document} must say \"{STATED} or later\", as rust-version in Cargo.toml does"));
        }
    }
    if !read("Cargo.toml")?.contains("incompatible_msrv = \"deny\"") {
        complaints.push("Cargo.toml must deny clippy's lint incompatible_msrv".to_owned());
    }
    for name in ["clippy.toml", ".clippy.toml"] {
        if read(name).is_ok_and(|text| text.contains("msrv")) {
            complaints.push(format!("{name} must state no msrv: clippy takes rust-version from Cargo.toml"));
        }
    }
    let manifests = sh::output(sh::cargo().args(["metadata", "--locked", "--format-version", "1"]))
        .ok_or("cargo metadata failed: run `cargo metadata --locked` to see why")?;
    complaints.extend(manifest_paths(&manifests).filter_map(|path| too_new(path, &sh::read(Path::new(path)).ok()?)));
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("\n")) }
}

/// The manifests that `cargo metadata` names, one for each package.
fn manifest_paths(metadata: &str) -> impl Iterator<Item = &str> {
    metadata.split("\"manifest_path\":\"").skip(1).filter_map(|rest| rest.split('"').next())
}

/// A complaint about a manifest that states a higher version.
fn too_new(path: &str, manifest: &str) -> Option<String> {
    let version = manifest.lines().find_map(|line| line.strip_prefix("rust-version = \""))?.trim_end_matches('"');
    (numbers(version) > numbers(STATED))
        .then(|| format!("{path} needs Rust {version}; Cargo.toml states {STATED}: take an older version of it, or raise rust-version"))
}

/// A version as numbers that can be compared: `1.89` is `1.89.0`.
fn numbers(version: &str) -> [u32; 3] {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    std::array::from_fn(|_| parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::{manifest_paths, numbers, too_new};

    #[test]
    fn a_dependency_that_needs_a_newer_compiler_is_named() {
        assert_eq!(too_new("a", "[package]\nrust-version = \"1.89.0\"\n"), None);
        assert_eq!(too_new("a", "[package]\nrust-version.workspace = true\n"), None);
        assert!(
            too_new("a", "[package]\nrust-version = \"1.999\"\n")
                .is_some_and(|text| text.starts_with("a needs Rust 1.999"))
        );
        assert!(numbers("1.100") > numbers("1.89.3"));
    }

    #[test]
    fn every_package_of_the_metadata_is_read() {
        let text = r#"{"packages":[{"name":"a","manifest_path":"/x/Cargo.toml"},{"manifest_path":"/y/Cargo.toml"}]}"#;
        assert_eq!(manifest_paths(text).collect::<Vec<_>>(), ["/x/Cargo.toml", "/y/Cargo.toml"]);
    }
}
