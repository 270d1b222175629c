//! What the files say, without a running agent.
//!
//! Owns `posternd check-config` and `posternd explain`: what was understood ([`summary`]), what an administrator probably did not mean
//! ([`doubts`]), and what the judge would say ([`explain`]). It changes nothing and does not ask the
//! agent; of the kernel it asks only which UDP ports belong to tunnels.

use std::path::Path;

use postern_core::text;
use serde::Serialize;

use crate::commands::run::{self, Failure};
use crate::config::Config;
use crate::config::effective;
use crate::enforcer::ntp_error;
use crate::engine::Rules;
use crate::system::clock::Clock;

pub mod explain;
mod machine;
pub mod summary;

pub use explain::Question;

/// What is configured, and the present.
struct Files {
    config: Config,
    rules: Rules,
    now: postern_core::time::Now,
}

impl Files {
    fn read(path: &Path) -> Result<Self, Failure> {
        let config = Config::load(path).map_err(|error| Failure::Config(error.to_string()))?;
        let rules = run::rules(path, &config)?;
        let clock =
            Clock::new(config.clock.unsynchronised, ntp_error).map_err(|error| Failure::Other(error.to_string()))?;
        Ok(Self { config, rules, now: clock.now() })
    }
}

/// `posternd check-config`: reads configuration and trust file, and says what they mean.
///
/// # Errors
/// [`Failure::Config`] with everything that is wrong.
pub fn check(path: &Path, json: bool) -> Result<(), Failure> {
    if let Some(why) = effective::emptied(path) {
        return Err(Failure::Config(why));
    }
    let files = Files::read(path)?;
    let summary = summary::Summary::of(path, &files.config, &files.rules, &files.now);
    print(&summary, json)
}

/// `posternd explain`: what would become of a request. Whether it would be granted.
///
/// # Errors
/// [`Failure`]; a refusal is none.
pub fn explain(path: &Path, question: &Question, json: bool) -> Result<bool, Failure> {
    let files = Files::read(path)?;
    let answer = explain::answer(question, &files.config, &files.rules, &files.now)?;
    print(&answer, json)?;
    Ok(answer.allowed)
}

fn print(what: &(impl Serialize + std::fmt::Display), json: bool) -> Result<(), Failure> {
    if json {
        let text = serde_json::to_string_pretty(what).map_err(|error| Failure::Other(error.to_string()))?;
        println!("{}", text::json(&text));
    } else {
        println!("{}", text::lines(&what.to_string()));
    }
    Ok(())
}
