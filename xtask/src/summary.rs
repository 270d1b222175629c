//! Reading what `cargo test` prints, and adding it up.
//!
//! Pure: lines in, counts out.

use std::collections::BTreeMap;
use std::ops::AddAssign;

/// How a test tells that it was skipped: a line that starts with this, then the reason. libtest itself only knows
/// passed and failed.
pub const SKIPPED: &str = "skipped: ";

/// How a test hands over a figure: this, its name, a colon, a number.
const FIGURE: &str = "FIGURE ";

/// What ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub passed: usize,
    pub failed: usize,
    /// Names of failed tests.
    pub failures: Vec<String>,
    /// Reasons of tests that passed without having run.
    pub skipped: Vec<String>,
    /// What tests have counted, added up by name.
    pub figures: BTreeMap<String, u64>,
}

impl Counts {
    /// Takes one line of a test runner's output.
    pub fn read(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.passed += number_before(result, " passed");
            self.failed += number_before(result, " failed");
        } else if let Some(name) = line.strip_prefix("test ").and_then(|rest| rest.strip_suffix(" ... FAILED")) {
            self.failures.push(name.to_owned());
        } else if let Some(reason) = line.strip_prefix(SKIPPED) {
            self.skipped.push(reason.to_owned());
        } else if let Some((name, value)) = line.strip_prefix(FIGURE).and_then(|rest| rest.rsplit_once(": ")) {
            *self.figures.entry(name.to_owned()).or_default() += value.trim().parse::<u64>().unwrap_or(0);
        }
    }

    /// Tests that ran to an end.
    pub fn ran(&self) -> usize {
        (self.passed + self.failed).saturating_sub(self.skipped.len())
    }

    /// The figures, one a line.
    pub fn table(&self) -> String {
        let wide = self.figures.keys().map(String::len).max().unwrap_or(0);
        self.figures.iter().map(|(name, value)| format!("  {name:<wide$}  {value:>12}\n")).collect()
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.skipped.extend(other.skipped);
        for (name, value) in other.figures {
            *self.figures.entry(name).or_default() += value;
        }
    }
}

fn number_before(text: &str, label: &str) -> usize {
    let before = text.split(label).next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn results_failures_and_skips_are_added_up() {
        let mut counts = Counts::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test b::c ... FAILED",
            "skipped: no grpcurl here",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 14 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            counts.read(line);
        }
        assert_eq!((counts.passed, counts.failed, counts.ran()), (16, 1, 16));
        assert_eq!(counts.failures, ["b::c"]);
        assert_eq!(counts.skipped, ["no grpcurl here"]);
    }
}
