//! `install`: posternd, postern, the units and a default configuration, put in place.
//!
//! Idempotent. Overwrites programs and units, never a configuration or a trust file. Starts and enables nothing.

use crate::sh::{self, Result};
use crate::{build_ebpf, toolchain};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Programs that are built: the name, and where it goes.
const PROGRAMS: &[(&str, &str)] = &[("posternd", "usr/sbin/posternd"), ("postern", "usr/bin/postern")];

/// What else is put where: from the checkout, to the root, the mode, and whether a person edits it there.
const FILES: &[(&str, &str, u32, bool)] = &[
    ("systemd/posternd.service", "usr/lib/systemd/system/posternd.service", 0o644, false),
    ("systemd/postern-early.service", "usr/lib/systemd/system/postern-early.service", 0o644, false),
    ("systemd/sysusers.d/postern.conf", "usr/lib/sysusers.d/postern.conf", 0o644, false),
    ("systemd/tmpfiles.d/postern.conf", "usr/lib/tmpfiles.d/postern.conf", 0o644, false),
    ("systemd/postern.toml", "etc/postern/postern.toml", 0o644, true),
    ("systemd/allowed_signers", "etc/postern/allowed_signers", 0o644, true),
];

/// Builds and installs as `words` say.
///
/// # Errors
/// Where the words are not options, the build fails, or a file cannot be written (names it).
pub fn run(words: &[&str]) -> Result<()> {
    let (root, profile) = options(words)?;
    if toolchain::find().is_some() || !sh::root().join(build_ebpf::OBJECT).exists() {
        build_ebpf::run()?;
    }
    let packages = ["--package", "postern-agent", "--package", "postern-cli"];
    sh::run(sh::cargo().args(["build", "--locked", "--bins", "--profile", profile]).args(packages))?;
    // Cargo keeps what the profile `dev` builds in `debug`.
    let built = sh::target().join(if profile == "dev" { "debug" } else { profile });
    for &(name, to) in PROGRAMS {
        put(&built.join(name), &root.join(to), 0o755, false)?;
    }
    for &(from, to, mode, edited) in FILES {
        put(&sh::root().join(from), &root.join(to), mode, edited)?;
    }
    println!(
        "\nNext: name who may open what in /etc/postern/allowed_signers and /etc/postern/postern.toml, then\n  \
         systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload && systemctl enable --now posternd"
    );
    Ok(())
}

/// The root to install under, and the profile to build with.
fn options<'a>(words: &[&'a str]) -> Result<(PathBuf, &'a str)> {
    let (mut root, mut profile) = (PathBuf::from("/"), "release");
    for pair in words.chunks(2) {
        match pair {
            ["--root", folder] => root = PathBuf::from(folder),
            ["--profile", name] => profile = name,
            other => return Err(format!("install: {:?} is not --root DIR or --profile NAME", other.join(" "))),
        }
    }
    Ok((root, profile))
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
