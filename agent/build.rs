//! Embeds the eBPF object that `cargo xtask build-ebpf` makes.

use std::{env, fs, path::PathBuf};

const DEFAULT_OBJECT: &str = "../agent-ebpf/target/bpfel-unknown-none/release/postern-ebpf";

fn main() {
    println!("cargo::rerun-if-env-changed=POSTERN_EBPF_OBJECT");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let object = env::var_os("POSTERN_EBPF_OBJECT").map_or_else(|| root.join(DEFAULT_OBJECT), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let copy = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("postern-ebpf");
    if let Err(error) = fs::copy(&object, &copy) {
        println!(
            "cargo::error=there is no eBPF object at {} ({error}): run `cargo xtask build-ebpf` first, or name a built one in \
             POSTERN_EBPF_OBJECT",
            object.display()
        );
    }
}
