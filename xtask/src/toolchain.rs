//! Which compiler can build the eBPF programs, and whether it has all it needs.
//!
//! Building `core` for `bpfel-unknown-none` takes a compiler with its library's source beside it and nightly's `-Z`
//! flags: Debian's `rustc-web` with `rust-web-src`, or any nightly with `rust-src`. Never installs anything.

use crate::sh;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The newest LLVM whose bitcode the bpf-linker that `setup` installs can read.
pub const LLVM: u32 = 22;

/// A compiler and its cargo that can build the eBPF programs.
pub struct Toolchain {
    pub rustc: PathBuf,
    pub cargo: PathBuf,
    /// Major version of the LLVM inside; bpf-linker's must not be older.
    pub llvm: u32,
}

/// The first usable toolchain, those that fit `setup`'s bpf-linker before the others.
pub fn find() -> Option<Toolchain> {
    let mut usable: Vec<Toolchain> = candidates().into_iter().filter_map(usable).collect();
    usable.sort_by_key(|toolchain| toolchain.llvm > LLVM);
    usable.into_iter().next()
}

fn candidates() -> Vec<PathBuf> {
    let nightly = sh::output(Command::new("rustup").args(["which", "--toolchain", "nightly", "rustc"]));
    let current =
        sh::output(Command::new("rustc").args(["--print", "sysroot"])).map(|root| format!("{root}/bin/rustc"));
    [Some("/usr/bin/rustc".to_owned()), nightly, current].into_iter().flatten().map(PathBuf::from).collect()
}

fn usable(rustc: PathBuf) -> Option<Toolchain> {
    let ask = |arguments: &[&str]| sh::output(Command::new(&rustc).args(arguments).env_remove("LD_LIBRARY_PATH"));
    let sysroot = ask(&["--print", "sysroot"])?;
    let version = ask(&["-vV"])?;
    let cargo = rustc.with_file_name("cargo");
    let (release, llvm) = (numbers(&version, "release: ")?, numbers(&version, "LLVM version: ")?);
    let source = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/src/lib.rs");
    // As cargo reads `rust-version` from Cargo.toml.
    let oldest = numbers(concat!("oldest: ", env!("CARGO_PKG_RUST_VERSION")), "oldest: ")?;
    (release >= oldest && source.exists() && cargo.exists()).then_some(Toolchain { rustc, cargo, llvm: llvm.0 })
}

/// The first two numbers of a version in `rustc -vV`.
fn numbers(version: &str, label: &str) -> Option<(u32, u32)> {
    let rest = version.lines().find_map(|line| line.strip_prefix(label))?;
    let mut parts = rest.split('.').map_while(|part| part.parse().ok());
    Some((parts.next()?, parts.next()?))
}

#[cfg(test)]
mod tests {
    use super::numbers;

    #[test]
    fn versions_are_read_from_what_rustc_prints() {
        let text = "rustc 1.96.0 (abc)\nrelease: 1.97.0-nightly\nLLVM version: 22.1.8";
        assert_eq!(numbers(text, "release: "), Some((1, 97)));
        assert_eq!(numbers(text, "LLVM version: "), Some((22, 1)));
        assert_eq!(numbers(text, "host: "), None);
    }
}
