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

use tokio::signal::unix::{SignalKind, signal};

/// An error is a sentence for the person who watches.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Ends the demo at SIGINT and SIGTERM. As the first process of its namespace the demo would not get them otherwise; with it end the
/// other processes of the namespace.
fn end_when_asked() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = runtime.block_on(async {
        Ok::<_, std::io::Error>((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?))
    })?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        eprintln!("demo: ended before its time; nothing that it attached or started is left");
        // As a shell reports a program that SIGINT ended.
        std::process::exit(130)
    });
    Ok(())
}

fn main() -> ExitCode {
    if let Err(error) = end_when_asked() {
        eprintln!("demo: Ctrl-C will not end this run: {error}");
    }
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
