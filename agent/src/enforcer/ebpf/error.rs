//! What can go wrong between the agent and the kernel, in words that say what to do.

use std::io;

use postern_core::table::Edit;

/// A failure of the enforcer. Whatever was in force before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum EnforcerError {
    /// The kernel refused a step.
    #[error("cannot {what}: {cause}; {advice}")]
    Kernel {
        /// The step, as an infinitive.
        what: String,
        /// What the kernel or the loader said, with the verifier's last words if it was the verifier.
        cause: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// Another agent holds the pin directory.
    #[error("another posternd holds {0}: stop that one first (systemctl stop posternd)")]
    InUse(String),
    /// Not every layer is in force and pinned; those that are stay so.
    #[error("{0}")]
    Partly(String),
    /// `GRANTS` is full; nobody was evicted.
    #[error("the kernel's table holds as many entries as it can (edit {index} did not fit)")]
    TableFull {
        /// Index of the edit that did not fit; the edits before it are in force.
        index: usize,
    },
    /// An edit failed.
    #[error("the kernel refused edit {index} ({edit:?}): {source}")]
    Edit {
        /// Index of the edit; the edits before it are in force.
        index: usize,
        /// The edit.
        edit: Edit,
        /// What the kernel said.
        source: io::Error,
    },
}

impl EnforcerError {
    /// A step that the kernel refused.
    pub(crate) fn kernel(what: impl Into<String>, cause: &dyn std::error::Error, advice: &'static str) -> Self {
        Self::Kernel { what: what.into(), cause: chain(cause), advice }
    }
}

/// An error and its sources in one line, but never the whole of a verifier's log.
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
