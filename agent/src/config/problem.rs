//! What is wrong with a configuration, and where. Problems are collected, so that one run shows all of them.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use postern_core::text;

/// One thing that is wrong with the text of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The line, counted from 1.
    pub line: usize,
    /// The character in that line, counted from 1.
    pub column: usize,
    /// The setting, for example `port[1].max_duration` (counted from 0); empty if the place has none.
    pub field: String,
    /// The mistake in words, without a full stop.
    pub message: String,
    /// The text of the line, without its end.
    pub excerpt: String,
    /// How many characters of the line are wrong; at least 1.
    pub length: usize,
}

impl fmt::Display for Problem {
    /// `12:3: port[1].max_duration: …`, to follow the file's name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

impl Problem {
    /// The line, with marks below the wrong part.
    #[must_use]
    pub fn picture(&self) -> String {
        let number = self.line.to_string();
        // The width as shown, so that the marks stand below the right characters.
        let width = |part: &mut dyn Iterator<Item = char>| tame(&part.collect::<String>()).chars().count();
        let mut rest = self.excerpt.chars();
        let before = " ".repeat(width(&mut rest.by_ref().take(self.column.saturating_sub(1))));
        let inside = width(&mut rest.by_ref().take(self.length));
        // The mark may be behind the end of the line.
        let marks = "^".repeat(inside.max(self.length));
        let margin = " ".repeat(number.len());
        let line = tame(&self.excerpt);
        format!("{number} | {line}\n{margin} | {before}{marks}")
    }
}

/// Text without control characters: a file must not control a terminal. A tab becomes a space.
fn tame(text: &str) -> String {
    text::line(&text.replace('\t', " ")).into_owned()
}

pub(super) struct Report<'a> {
    text: &'a str,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Report<'a> {
    pub(super) const fn of(text: &'a str) -> Self {
        Self { text, problems: RefCell::new(Vec::new()) }
    }

    pub(super) fn add(&self, span: &Range<usize>, field: &str, message: impl fmt::Display) {
        let problem = located(self.text, span, field, message.to_string());
        self.problems.borrow_mut().push(problem);
    }

    /// The line of byte `at`, counted from 1.
    pub(super) fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort();
        problems.dedup();
        problems
    }
}

fn located(text: &str, span: &Range<usize>, field: &str, message: String) -> Problem {
    let start = (0..=span.start.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let before = text.get(..start).unwrap_or_default();
    let begin = before.rfind('\n').map_or(0, |at| at + 1);
    let excerpt = text.get(begin..).unwrap_or_default().lines().next().unwrap_or_default();
    let column = before.get(begin..).unwrap_or_default().chars().count() + 1;
    let meant = text.get(start..span.end.min(text.len())).unwrap_or_default();
    let length = meant.lines().next().unwrap_or_default().trim_end().chars().count().max(1);
    let line = before.matches('\n').count() + 1;
    // Both may quote a key or a text of the file.
    Problem { line, column, field: tame(field), message: tame(&message), excerpt: excerpt.to_owned(), length }
}

/// The word of `known` that `word` was probably meant to be.
pub(super) fn nearest<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', ' '], "_");
    let word = plain(word);
    let distance = |other: &str| {
        let other = plain(other);
        let within = word.len() >= 4 && other.len() >= 4 && (other.contains(&word) || word.contains(&other));
        // Half a word is a more likely mistake than three wrong letters.
        (strsim::osa_distance(&word, &other), within)
    };
    let allowed = (word.chars().count() / 3).max(1);
    let near = known.into_iter().map(|other| (distance(other), other));
    near.filter(|((edits, within), _)| *edits <= allowed || *within)
        .min_by_key(|(rank, _)| *rank)
        .map(|(_, other)| other)
}

/// `; did you mean 'max_duration'?`, or nothing.
pub(super) fn suggestion<'k>(word: &str, known: impl IntoIterator<Item = &'k str>) -> String {
    nearest(word, known).map(|other| format!("; did you mean '{other}'?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn nothing_that_a_file_says_drives_a_terminal() {
        for text in [
            "xdp = \"\\u001b[2J\\n\"",
            "\"\\u001b[2J\" = 1",
            "[[port]]\nnumber = 22\n\"\\r\" = 1",
            "names = \"\u{9b}2J\"",
        ] {
            for problem in Config::parse(text).unwrap_err() {
                let shown = format!("{problem}\n{}", problem.picture());
                assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?}");
            }
        }
    }
}
