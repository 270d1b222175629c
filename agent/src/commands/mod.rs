//! The commands of `posternd`.
//!
//! Owns what each command does and prints. It decides nothing about access: the engine does.

pub mod offline;
pub mod run;

use std::io::{self, ErrorKind, Write as _};

use run::Failure;

/// Prints `text` and a newline on standard output. A reader that closed its end, such as `head`, is no failure.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::Other(format!("the output cannot be written to standard output: {error}")))
        }
        _ => Ok(()),
    }
}
