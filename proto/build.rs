//! Generates the Rust side of `postern/v1/*.proto` with protox, so that no protoc is needed.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

const FILES: [&str; 3] = ["postern/v1/messages.proto", "postern/v1/access.proto", "postern/v1/host.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=postern");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let set = protox::compile(FILES, ["."])?;
    let bytes = set.encode_to_vec();
    fs::write(out.join("descriptor.bin"), &bytes)?;

    tonic_prost_build::configure()
        .compile_well_known_types(true)
        .extern_path(".google.protobuf", "::pbjson_types")
        .compile_fds(set)?;
    // Strict JSON (a duplicate, unknown or doubly named field is an error) for what people sign.
    pbjson_build::Builder::new().register_descriptors(&bytes)?.build(&[".postern.v1"])?;
    Ok(())
}
