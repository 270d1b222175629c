//! `build-ebpf`: the eBPF programs from source, into `agent-ebpf/target/bpfel-unknown-none/release/postern-ebpf`.
//!
//! Where `agent/build.rs` finds them. Cargo decides whether anything has to be built.

use crate::sh::{self, Result};
use crate::toolchain::{self, Toolchain};
use std::process::Command;

/// What it builds, from the top of the checkout.
pub const OBJECT: &str = "agent-ebpf/target/bpfel-unknown-none/release/postern-ebpf";

/// Builds the eBPF programs.
///
/// # Errors
/// Where no compiler or no bpf-linker can do it (names `setup`), or the build fails.
pub fn run() -> Result<()> {
    let toolchain = toolchain::find().ok_or(
        "no compiler here can build the eBPF programs: run `cargo xtask setup`\n  \
         (needed: Debian's rustc-web, cargo-web and rust-web-src, or a nightly with the component rust-src)",
    )?;
    if sh::find("bpf-linker").is_none() {
        return Err("bpf-linker is missing: run `cargo xtask setup`".to_owned());
    }
    let mut build = command(&toolchain);
    sh::run(&mut build).map_err(|error| format!("{error}{}", hint(&toolchain)))
}

fn command(toolchain: &Toolchain) -> Command {
    let folder = sh::root().join("agent-ebpf");
    let mut command = Command::new(&toolchain.cargo);
    command
        .args(["build", "--release", "--locked", "-Zbuild-std=core", "--target", "bpfel-unknown-none", "--target-dir"])
        .arg(folder.join("target"))
        .current_dir(folder)
        .env("RUSTC", &toolchain.rustc)
        // Debian's compiler is a stable release; this is what lets it take the -Z flags that a nightly takes.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("PATH", sh::search_path());
    // What the outer cargo and rustup set for the host's build would reach into this one.
    for name in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "LD_LIBRARY_PATH", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

/// The likeliest cause where the compiler is newer than the linker.
fn hint(toolchain: &Toolchain) -> String {
    if toolchain.llvm <= toolchain::LLVM {
        return String::new();
    }
    let (rustc, llvm) = (toolchain.rustc.display(), toolchain.llvm);
    format!("\n  {rustc} uses LLVM {llvm}; bpf-linker must be built for LLVM {llvm} or later")
}
