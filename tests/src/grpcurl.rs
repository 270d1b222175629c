//! The real grpcurl.
//!
//! Owns finding it. It never stands in for it: in CI its absence is a failure; elsewhere a test says that it was skipped and why.

use std::path::PathBuf;
use std::process::Command;

/// Where grpcurl is: in PATH, or where `go install` puts it.
///
/// # Panics
/// Where it is missing and CI is set: there `cargo xtask setup` has installed it.
#[must_use]
pub fn program() -> Option<PathBuf> {
    let in_path = std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let go = Command::new("go").args(["env", "GOPATH"]).output().ok();
    let go = go.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()).join("bin"));
    let found = in_path.into_iter().flatten().chain(go).map(|dir| dir.join("grpcurl")).find(|path| path.is_file());
    assert!(found.is_some() || std::env::var_os("CI").is_none(), "grpcurl is missing: cargo xtask setup installs it");
    if found.is_none() {
        println!("skipped: there is no grpcurl here, and no Go to install it with (cargo xtask setup)");
    }
    found
}
