//! The commands that read the files and need no running posternd.
//!
//! Owns `posternd check-config` ([`summary`]) and `posternd explain` ([`mod@explain`]). They change nothing.

use std::path::Path;

use postern_core::text;
use serde::Serialize;

use crate::commands::run::{self, Failure};
use crate::config::Config;
use crate::config::effective;
use crate::enforcer::ntp_error;
use crate::engine::Rules;
use crate::system::clock::Clock;
use crate::system::files::{self, Contents};

pub mod explain;
mod machine;
pub mod summary;

pub use explain::Question;

struct Files {
    config: Config,
    rules: Rules,
    now: postern_core::time::Now,
}

impl Files {
    fn read(path: &Path) -> Result<Self, Failure> {
        let file = Contents::of(files::open(path));
        let config = Config::of(path, &file).map_err(|error| Failure::Config(error.to_string()))?;
        let rules = run::rules(&file, &config)?;
        let clock =
            Clock::new(config.clock.unsynchronised, ntp_error).map_err(|error| Failure::Other(error.to_string()))?;
        Ok(Self { config, rules, now: clock.now() })
    }
}

/// `posternd check-config`: prints the meaning of the configuration and the trust file.
///
/// # Errors
/// Fails with [`Failure::Config`] if the files have mistakes, and with [`Failure::Other`] if the clock or the output fails.
pub fn check(path: &Path, json: bool) -> Result<(), Failure> {
    if let Some(why) = effective::emptied(path) {
        return Err(Failure::Config(why));
    }
    let files = Files::read(path)?;
    let summary = summary::Summary::of(path, &files.config, &files.rules, &files.now);
    if json {
        return print_json(&summary);
    }
    super::print(&text::lines(&summary.to_string()))
}

/// `posternd explain`: prints the outcome of a request. Returns whether posternd grants it without further approvals.
///
/// # Errors
/// Fails if the files have mistakes, if the question is malformed, or if the clock or the output fails. A refusal is not a failure.
pub fn explain(path: &Path, question: &Question, json: bool) -> Result<bool, Failure> {
    let files = Files::read(path)?;
    let (explanation, asked) = explain::answer(question, &files.rules, &files.now)?;
    if json {
        print_json(&explain::json(&explanation, &asked, &files.rules.policy))?;
    } else {
        super::print(&text::lines(&explain::text(&explanation, &asked)))?;
    }
    Ok(explain::is_allowed(&explanation))
}

fn print_json(what: &impl Serialize) -> Result<(), Failure> {
    let shown = serde_json::to_string_pretty(what).map_err(|error| Failure::Other(error.to_string()))?;
    super::print(&text::json(&shown))
}
