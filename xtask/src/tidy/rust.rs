//! The words of a Rust file, as far as the rules of `tidy` need them.
//!
//! Owns the splitting into tokens and the removal of what only tests compile. It knows no grammar beyond that. Protobuf files have the same
//! comments, strings and names, and are split by the same code.

/// One token: a name, a number, `::`, a string literal with its quotes, or a single character. A character literal is `'`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    pub text: &'a str,
    /// Counted from 1.
    pub line: usize,
}

impl Token<'_> {
    /// Whether it is a name, a keyword or a number.
    pub fn is_word(&self) -> bool {
        self.text.starts_with(is_word)
    }
}

fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// The tokens of a file, without comments and white space.
pub fn tokens(text: &str) -> Vec<Token<'_>> {
    let (mut found, mut at, mut line) = (Vec::new(), 0, 1);
    while let Some((length, is_token)) = next(&text[at..]) {
        let piece = &text[at..at + length];
        if is_token {
            // `r#type` is the name `type`.
            found.push(Token {
                text: piece.strip_prefix("r#").filter(|name| !name.ends_with(['"', '#'])).unwrap_or(piece),
                line,
            });
        }
        line += piece.matches('\n').count();
        at += length;
    }
    found
}

/// The length of the next piece, and whether it is a token.
fn next(rest: &str) -> Option<(usize, bool)> {
    let first = rest.chars().next()?;
    Some(match first {
        _ if first.is_whitespace() => (first.len_utf8(), false),
        _ if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), false),
        _ if rest.starts_with("/*") => (block_comment(rest), false),
        '"' => (string(rest), true),
        '\'' => return Some(quote(rest)),
        _ if rest.starts_with("::") => (2, true),
        _ if is_word(first) => (word(rest), true),
        _ => (first.len_utf8(), true),
    })
}

/// Comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(rest: &str) -> usize {
    let mut escaped = false;
    let end = rest.bytes().enumerate().skip(1).find(|&(_, byte)| {
        let is_end = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        is_end
    });
    end.map_or(rest.len(), |(at, _)| at + 1)
}

/// A character literal is a token; a lifetime is none.
fn quote(rest: &str) -> (usize, bool) {
    let mut after = rest.char_indices().skip(1);
    match (after.next(), after.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let from = at + escaped.len_utf8();
            (rest[from..].find('\'').map_or(rest.len(), |end| from + end + 1), false)
        }
        (Some(_), Some((at, '\''))) => (at + 1, false),
        _ => (1 + rest[1..].find(|character| !is_word(character)).unwrap_or(rest.len() - 1), false),
    }
}

/// A name, a number, a raw name or a raw string.
fn word(rest: &str) -> usize {
    let end = rest.find(|character| !is_word(character)).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    let hashes = after.len() - after.trim_start_matches('#').len();
    if ["r", "br", "cr"].contains(&name) && after[hashes..].starts_with('"') {
        let close = format!("\"{}", "#".repeat(hashes));
        let from = end + hashes + 1;
        return rest[from..].find(&close).map_or(rest.len(), |at| from + at + close.len());
    }
    if name == "r" && hashes == 1 { end + 1 + word(&after[1..]) } else { end }
}

/// The tokens without the items that only tests compile.
pub fn without_tests<'a>(tokens: &[Token<'a>]) -> Vec<Token<'a>> {
    let (mut kept, mut at) = (Vec::new(), 0);
    while at < tokens.len() {
        let attribute = attribute(&tokens[at..]);
        if attribute.is_some_and(is_test_only) {
            at = item_end(tokens, at);
        } else {
            let length = attribute.map_or(1, <[Token]>::len);
            kept.extend_from_slice(&tokens[at..at + length]);
            at += length;
        }
    }
    kept
}

/// The attribute that begins here, with its brackets.
fn attribute<'t, 'a>(tokens: &'t [Token<'a>]) -> Option<&'t [Token<'a>]> {
    let opening = tokens.iter().take(3).map(|token| token.text).collect::<Vec<_>>();
    let is_attribute = matches!(opening[..], ["#", "[", ..] | ["#", "!", "["]);
    is_attribute.then(|| &tokens[..closing(tokens, 1 + usize::from(opening[1] == "!"))])
}

fn is_test_only(attribute: &[Token]) -> bool {
    let has = |word: &str| attribute.iter().any(|token| token.text == word);
    has("cfg") && has("test") && !has("any") && !has("not")
}

/// Just behind the bracket that closes the one at `open`.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    tokens.len()
}

/// What an item begins with that ends with a semicolon, and never with a brace.
const VALUES: &[&str] = &["use", "static", "const", "let"];

/// Just behind the item whose attributes begin here.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while let Some(attribute) = attribute(&tokens[at..]) {
        at += attribute.len();
    }
    // A list of imports and a value may hold braces before their semicolon.
    let mut head = tokens[at..].iter().map(|token| token.text).take_while(|text| *text != "{");
    let to_semicolon = !head.clone().any(|text| text == "fn") && head.any(|text| VALUES.contains(&text));
    while let Some(token) = tokens.get(at) {
        match token.text {
            ";" | "," => return at + 1,
            "{" if !to_semicolon => return closing(tokens, at),
            "(" | "[" | "{" => at = closing(tokens, at),
            ")" | "]" | "}" => return at,
            _ => at += 1,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::{tokens, without_tests};

    fn words(text: &str) -> Vec<&str> {
        tokens(text).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_characters_and_lifetimes_are_no_tokens() {
        assert_eq!(words("a /* b /* c */ d */ e // f\n/// g\nh"), ["a", "e", "h"]);
        assert_eq!(words(r"'x' '\'' b'\\' &'a str '\u{1f}' z"), ["b", "&", "str", "z"]);
    }

    #[test]
    fn a_string_is_one_token_however_it_is_written() {
        assert_eq!(words(r#"f("a::b \" c", b"d")"#), ["f", "(", r#""a::b \" c""#, ",", "b", r#""d""#, ")"]);
        assert_eq!(words("r#\"x \" y\"# r\"z\" r#type::a"), ["r#\"x \" y\"#", "r\"z\"", "type", "::", "a"]);
    }

    #[test]
    fn lines_are_counted_through_strings_and_comments() {
        let found = tokens("a \"x\ny\" /*\n*/ b\nc");
        assert_eq!(found.iter().map(|token| token.line).collect::<Vec<_>>(), [1, 1, 3, 4]);
    }

    #[test]
    fn items_that_only_tests_compile_are_removed() {
        let left = |text| without_tests(&tokens(text)).iter().map(|token| token.text).collect::<Vec<_>>().join(" ");
        assert_eq!(left("#[cfg(test)] mod tests { use crate::a; } b"), "b");
        assert_eq!(left("#[cfg(test)] #[allow(x)] pub use a::{b, c}; d"), "d");
        assert_eq!(left("#[cfg(test)] const A: [u8; 2] = [1, 2]; d"), "d");
        assert_eq!(left("#[cfg(test)] pub const fn a() {} d"), "d");
        assert_eq!(left("#[cfg(test)] mod a; mod b;"), "mod b ;");
        assert_eq!(left("#[cfg(any(test, unix))] mod a;"), "# [ cfg ( any ( test , unix ) ) ] mod a ;");
    }
}
