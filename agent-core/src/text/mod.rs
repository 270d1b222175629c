//! Escapes for text from others. Owns the list of hidden characters, which command a terminal, end a line, change the reading order or are
//! invisible, and their escapes. Escaping loses nothing: a reader can restore the text. This module does not detect letters that look
//! alike, and right-to-left letters keep their order.

pub mod services;
mod span;

use std::borrow::Cow;
use std::fmt::{self, Write as _};

pub use span::seconds;

/// Invisible characters that the standard library calls printable (Unicode 16, `Default_Ignorable_Code_Point`, and the empty Braille
/// cell). Its `escape_debug` covers the others: control, format and private characters, separators except the space, and unassigned ones.
const UNSEEN: [(char, char); 10] = [
    ('\u{34f}', '\u{34f}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{e0100}', '\u{e01ef}'),
];

/// Whether `c` is always escaped: it commands a terminal, ends a line, changes the reading order, is invisible, or is unassigned.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    // After another character, so that combining marks (an umlaut's dots) count as printable.
    let mut pair = [b'x', 0, 0, 0, 0];
    let length = c.encode_utf8(&mut pair[1..]).len();
    let printable = std::str::from_utf8(&pair[..=length]).is_ok_and(|pair| pair.escape_debug().nth(1) == Some(c));
    !printable || UNSEEN.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// Whether `c` could command a terminal, end a line or change the reading order. Hosts refuse such characters in payloads. They accept
/// the other hidden characters ([`is_hidden`]), which some names and scripts need.
#[must_use]
pub fn commands(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || c == '\u{feff}'
}

/// Shows a text on one line: each hidden character becomes `\u{…}` with its number in hex, and a backslash becomes two.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    text: &'a str,
    most: usize,
    ascii: bool,
}

impl<'a> Shown<'a> {
    /// All of `text`.
    #[must_use]
    pub const fn new(text: &'a str) -> Self {
        Self { text, most: usize::MAX, ascii: false }
    }

    /// At most `most` characters of the text. `\[N more]` counts the rest; no text can produce this mark itself.
    #[must_use]
    pub const fn at_most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// Escapes everything except ASCII, for simple terminals.
    #[must_use]
    pub const fn in_ascii(self) -> Self {
        Self { ascii: true, ..self }
    }
}

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.text.chars().take(self.most) {
            match c {
                '\\' => f.write_str("\\\\")?,
                c if is_hidden(c) || (self.ascii && !c.is_ascii()) => write!(f, "{}", c.escape_unicode())?,
                c => f.write_char(c)?,
            }
        }
        match self.text.chars().count().saturating_sub(self.most) {
            0 => Ok(()),
            more => write!(f, "\\[{more} more]"),
        }
    }
}

/// `text` as [`Shown`] shows it.
#[must_use]
pub fn shown(text: &str) -> String {
    Shown::new(text).to_string()
}

/// The last step before a terminal: escapes the remaining hidden characters except line ends. Backslashes stay as they are.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && is_hidden(c), |c, out| out.extend(c.escape_unicode()))
}

/// As [`lines`], for a log with one entry on each line: escapes line ends too.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden, |c, out| out.extend(c.escape_unicode()))
}

/// The last step for a JSON text: hidden characters in strings become `\uXXXX`. The white space between tokens stays.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| !matches!(c, '\n' | '\r' | '\t') && is_hidden(c);
    escaped(text, hidden, |c, out| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            // Writing to a string cannot fail.
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool, escape: impl Fn(char, &mut String)) -> Cow<'_, str> {
    let Some((start, _)) = text.char_indices().find(|(_, c)| hidden(*c)) else { return Cow::Borrowed(text) };
    let mut out = String::with_capacity(text.len() + 16);
    out.push_str(&text[..start]);
    for c in text[start..].chars() {
        if hidden(c) { escape(c, &mut out) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests;
