//! Errors of the enforcer, in words that say what to do.

use std::io;

use postern_core::table::Edit;

/// A failure of the enforcer. What was in force before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum EnforcerError {
    /// The kernel refused a step.
    #[error("cannot {what}: {cause}; {advice}")]
    Kernel {
        /// The step, as an infinitive.
        what: String,
        /// The message of the kernel or the loader, with the end of the verifier's log if it was the verifier.
        cause: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// Another agent holds the pin directory of this name.
    #[error("another posternd holds {0}: stop that one first (systemctl stop posternd)")]
    InUse(String),
    /// Not every layer is in force and lasts; those that are stay so.
    #[error("{0}")]
    Partly(String),
    /// The kernel's table is full; nobody was evicted.
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
    /// A step that the kernel refused.
    pub(super) fn kernel(what: impl Into<String>, cause: &dyn std::error::Error, advice: &'static str) -> Self {
        Self::Kernel { what: what.into(), cause: chain(cause), advice }
    }
}

/// An error and its sources in one line, shortened to the end of a verifier's log.
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
