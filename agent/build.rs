//! Embeds the eBPF object that `cargo xtask build-ebpf` makes.

use std::{env, fs, path::PathBuf};

use postern_core::key::{LAYOUT_MARK, LAYOUT_VERSION};

const DEFAULT_OBJECT: &str = "../agent-ebpf/target/bpfel-unknown-none/release/postern-ebpf";

fn main() {
    println!("cargo::rerun-if-env-changed=POSTERN_EBPF_OBJECT");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let object = env::var_os("POSTERN_EBPF_OBJECT").map_or_else(|| root.join(DEFAULT_OBJECT), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let copy = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("postern-ebpf");
    let made = fs::read(&object).and_then(|bytes| {
        let fits = bytes.windows(LAYOUT_MARK.len()).any(|window| window == LAYOUT_MARK);
        fits.then_some(bytes).ok_or_else(|| std::io::Error::other(format!("not of layout {LAYOUT_VERSION}")))
    });
    if let Err(error) = made.and_then(|bytes| fs::write(&copy, bytes)) {
        println!(
            "cargo::error=there is no eBPF object for this source at {} ({error}): run `cargo xtask build-ebpf` first, or name \
             a built one in POSTERN_EBPF_OBJECT",
            object.display()
        );
    }
}
