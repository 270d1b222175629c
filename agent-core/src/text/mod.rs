//! Text that somebody else wrote, made fit to be shown.
//!
//! Owns the one list of characters that are never shown as they are, and the escapes in their place: what would command a terminal,
//! end a line, turn the reading order around, or not be seen at all. A character is escaped, never dropped, so what was written can be
//! read from what is shown. This module never decides who may write what.
//!
//! It cannot tell letters that merely look alike, and letters of scripts that are written from right to left keep their own order.

pub mod services;
mod span;

use std::borrow::Cow;
use std::fmt::{self, Write as _};

pub use span::seconds;

/// Characters without a shape of their own that the standard library calls printable (Unicode 16, `Default_Ignorable_Code_Point`, and
/// the empty Braille cell). All others without one it knows: its `escape_debug` escapes what is a control, a format character, a
/// separator other than the space, for private use, or unassigned.
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

/// Whether `c` is never shown as it is: it commands a terminal, ends a line, changes the reading order, cannot be seen, or means nothing.
#[must_use]
pub fn is_hidden(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    // Behind another character, so that marks that belong to it (an umlaut's dots) count as printable.
    let mut pair = [b'x', 0, 0, 0, 0];
    let length = c.encode_utf8(&mut pair[1..]).len();
    let printable = std::str::from_utf8(&pair[..=length]).is_ok_and(|pair| pair.escape_debug().nth(1) == Some(c));
    !printable || UNSEEN.iter().any(|(first, last)| (*first..=*last).contains(&c))
}

/// Whether `c` could command a terminal, end a line or change the reading order. A host takes no such character in what people write;
/// what else [`is_hidden`] names it takes, since people's names and scripts need some of it, and escapes it where it is shown.
#[must_use]
pub fn commands(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns || c == '\u{feff}'
}

/// Shows a text on one line: each hidden character as `\u{…}` with its number in hex, and a backslash as two.
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

    /// At most `most` characters of the text. Where there are more, `\[N more]` says how many: no text can show that by itself.
    #[must_use]
    pub const fn at_most(self, most: usize) -> Self {
        Self { most, ..self }
    }

    /// With everything escaped that is not ASCII, for a terminal that may know no more.
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

/// The last step before a terminal: escapes what is hidden and still there, but for the ends of lines. It leaves backslashes alone, so
/// what [`Shown`] has made of a text stays as it is.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && is_hidden(c), |c, out| out.extend(c.escape_unicode()))
}

/// As [`lines`], for a log with one entry on each line: ends of lines are escaped as well.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, is_hidden, |c, out| out.extend(c.escape_unicode()))
}

/// The last step for a JSON text: what is hidden in its strings becomes `\uXXXX`, which every reader of JSON takes for the same
/// character. The white space between its tokens stays.
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
