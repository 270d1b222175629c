//! Errors of the enforcer. Each message names a remedy.

use std::io;

use postern_core::table::Edit;

/// An error of the enforcer. A failed start or edit opens nothing that was closed before.
#[derive(Debug, thiserror::Error)]
pub enum EnforcerError {
    /// The kernel refused a step.
    #[error("cannot {what}: {cause}; {advice}")]
    Kernel {
        /// The step, as an infinitive.
        what: String,
        /// The message of the kernel or the loader. A verifier's log is cut to its end.
        cause: String,
        /// The remedy.
        advice: &'static str,
    },
    /// Another agent holds the pin directory at this path.
    #[error("another posternd holds {0}: stop that one first (systemctl stop posternd)")]
    InUse(String),
    /// A layer is missing or does not last. The other layers stay in force.
    #[error("{0}")]
    Partly(String),
    /// The kernel's table is full. No other entry was removed.
    #[error("the kernel's table is full, and {0:?} does not fit: wait until grants end, or raise `limits`")]
    TableFull(Edit),
    /// The kernel refused an edit.
    #[error("the kernel refused {edit:?}: {source}")]
    Edit {
        /// The edit.
        edit: Edit,
        /// The kernel's reason.
        source: io::Error,
    },
}

impl EnforcerError {
    pub(super) fn kernel(what: impl Into<String>, cause: &dyn std::error::Error, advice: &'static str) -> Self {
        Self::Kernel { what: what.into(), cause: chain(cause), advice }
    }
}

/// An error and its sources in one line. Long text, such as a verifier's log, is cut to its end.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    const LONGEST: usize = 600;
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let words = source.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        next = source.source();
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let text = lines.join(" | ");
    match text.char_indices().rev().nth(LONGEST) {
        Some((from, _)) => format!("… {}", &text[from..]),
        None => text,
    }
}
