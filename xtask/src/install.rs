//! `install`: posternd, postern, the units and a default configuration, put in place.
//!
//! Idempotent. Overwrites programs and units, never a configuration or a trust file. Starts and enables nothing.

use crate::sh::{self, Result};
use crate::{build_ebpf, toolchain};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// What is put where: from the checkout, to the root, the mode, and whether a person edits it there.
const FILES: &[(&str, &str, u32, bool)] = &[
    ("target/release/posternd", "usr/sbin/posternd", 0o755, false),
    ("target/release/postern", "usr/bin/postern", 0o755, false),
    ("systemd/posternd.service", "usr/lib/systemd/system/posternd.service", 0o644, false),
    ("systemd/sysusers.d/postern.conf", "usr/lib/sysusers.d/postern.conf", 0o644, false),
    ("systemd/tmpfiles.d/postern.conf", "usr/lib/tmpfiles.d/postern.conf", 0o644, false),
    ("systemd/postern.toml", "etc/postern/postern.toml", 0o644, true),
    ("systemd/allowed_signers", "etc/postern/allowed_signers", 0o644, true),
];

/// Builds and installs under `root`.
///
/// # Errors
/// Where the build fails, or a file cannot be written (names it).
pub fn run(root: &str) -> Result<()> {
    if toolchain::find().is_some() || !sh::root().join(build_ebpf::OBJECT).exists() {
        build_ebpf::run()?;
    }
    sh::run(sh::cargo().args([
        "build",
        "--locked",
        "--release",
        "--package",
        "postern-agent",
        "--package",
        "postern-cli",
    ]))?;
    for &(from, to, mode, edited) in FILES {
        put(&sh::root().join(from), &Path::new(root).join(to), mode, edited)?;
    }
    println!(
        "\nNext: name who may open what in /etc/postern/allowed_signers and /etc/postern/postern.toml, then\n  \
         systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload && systemctl enable --now posternd"
    );
    Ok(())
}

fn put(from: &Path, to: &Path, mode: u32, edited: bool) -> Result<()> {
    if edited && to.exists() {
        println!("kept      {}", to.display());
        return Ok(());
    }
    let told = |error: std::io::Error| format!("{}: {error}", to.display());
    fs::create_dir_all(to.parent().unwrap_or(to)).map_err(told)?;
    // Beside it, then renamed: a running program cannot be written to, and nobody sees half a file.
    let fresh = PathBuf::from(format!("{}.new", to.display()));
    fs::copy(from, &fresh).map_err(told)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(mode)).map_err(told)?;
    fs::rename(&fresh, to).map_err(told)?;
    println!("installed {}", to.display());
    Ok(())
}
