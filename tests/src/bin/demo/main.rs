//! `demo` and `bench`, as `cargo xtask` runs them: the main job with a real sshd, real ssh-keygen, a real kernel.
//!
//! Owns the choice between the two. xtask starts it in mount and process namespaces of its own, so that whatever happens
//! to it, programs, pins and processes go with it.

mod bench;
mod client;
mod lab;
mod probe;
mod story;

use std::process::ExitCode;

/// An error is a sentence for the person who watches.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let outcome = match std::env::args().nth(1).as_deref() {
        None => story::run(),
        Some("bench") => bench::run(),
        Some(other) => Err(format!("{other:?} is not `bench`").into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}
