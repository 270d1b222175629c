//! Tests of the escapes: nothing hidden passes, and nothing is lost.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// The characters to escape, from the Unicode standard's charts.
const FORBIDDEN: &[(u32, u32)] = &[
    (0x00, 0x1f),
    (0x7f, 0x9f),
    (0xad, 0xad),
    (0x34f, 0x34f),
    (0x61c, 0x61c),
    (0x115f, 0x1160),
    (0x17b4, 0x17b5),
    (0x180b, 0x180f),
    (0x200b, 0x200f),
    (0x2028, 0x202f),
    (0x205f, 0x206f),
    (0x2800, 0x2800),
    (0x3164, 0x3164),
    (0xe000, 0xf8ff),
    (0xfe00, 0xfe0f),
    (0xfeff, 0xfeff),
    (0xffa0, 0xffa0),
    (0xfff0, 0xfffb),
    (0xfdd0, 0xfdef),
    (0xfffe, 0xffff),
    (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a),
    (0xe0000, 0xe0fff),
    (0xf0000, 0x10_ffff),
];

fn forbidden(c: char) -> bool {
    FORBIDDEN.iter().any(|(first, last)| (*first..=*last).contains(&u32::from(c)))
}

/// The original text; `None` if [`Shown`] cannot write this.
fn read_back(shown: &str) -> Option<String> {
    let (mut out, mut rest) = (String::new(), shown);
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            out.push(c);
        } else if let Some(after) = rest.strip_prefix('\\') {
            out.push('\\');
            rest = after;
        } else {
            let (number, after) = rest.strip_prefix("u{")?.split_once('}')?;
            out.push(char::from_u32(u32::from_str_radix(number, 16).ok()?)?);
            rest = after;
        }
    }
    Some(out)
}

fn texts() -> impl Strategy<Value = String> {
    let ranges = prop::sample::select(FORBIDDEN).prop_flat_map(|(first, last)| first..=last);
    let bad = ranges.prop_filter_map("a surrogate", char::from_u32);
    let known =
        prop::sample::select(&['\\', 'u', '{', '}', '[', ']', '"', '\'', ' ', 'a', '7', 'ü', '語', 'א', '😀'][..]);
    prop::collection::vec(prop_oneof![2 => bad, 2 => known, 1 => any::<char>()], 0..60)
        .prop_map(|all| all.into_iter().collect())
}

proptest! {
    #[test]
    fn nothing_forbidden_is_shown_and_all_of_it_can_be_read_back(text in texts(), most in 0..80_usize) {
        let shown = shown(&text);
        prop_assert!(!shown.contains(forbidden), "{shown:?}");
        prop_assert_eq!(read_back(&shown), Some(text.clone()));
        let ascii = Shown::new(&text).in_ascii().to_string();
        prop_assert!(ascii.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()), "{ascii:?}");
        prop_assert_eq!(read_back(&ascii), Some(text.clone()));
        let short = Shown::new(&text).at_most(most).to_string();
        let count = text.chars().count();
        if count > most {
            let mark = format!("\\[{} more]", count - most);
            let start = short.strip_suffix(&mark).and_then(read_back);
            prop_assert_eq!(start, Some(text.chars().take(most).collect::<String>()));
        } else {
            prop_assert_eq!(short, shown);
        }
    }

    #[test]
    fn the_last_step_lets_nothing_forbidden_pass_and_leaves_what_is_shown(text in texts()) {
        prop_assert!(!line(&text).contains(forbidden));
        prop_assert!(!lines(&text).contains(|c| c != '\n' && forbidden(c)));
        prop_assert_eq!(lines(&text).matches('\n').count(), text.matches('\n').count());
        let shown = shown(&text);
        prop_assert_eq!(&*line(&shown), &*shown);
        prop_assert_eq!(&*lines(&shown), &*shown);
    }

    #[test]
    fn json_says_the_same_without_anything_forbidden(text in texts()) {
        let value = serde_json::json!({ &text: [&text] });
        for plain in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            let escaped = json(&plain);
            prop_assert!(!escaped.contains(|c| c != '\n' && forbidden(c)), "{escaped:?}");
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value.clone());
        }
    }
}

#[test]
fn each_forbidden_character_is_hidden_and_letters_are_not() {
    let missed: BTreeSet<String> = FORBIDDEN
        .iter()
        .flat_map(|(first, last)| *first..=*last)
        .filter_map(char::from_u32)
        .filter(|c| !is_hidden(*c))
        .map(|c| c.escape_unicode().to_string())
        .collect();
    assert!(missed.is_empty(), "{missed:?}");
    for c in "aZ09 ~ßüÉłжעع語한ไ😀€u\u{308}…–“\u{301}".chars() {
        assert!(!is_hidden(c), "{c:?}");
    }
    assert!('\0'.is_control() && ('\0'..=char::MAX).filter(|c| commands(*c)).all(is_hidden));
}

#[test]
fn what_is_shown_reads_well() {
    assert_eq!(shown("Grüße an 語"), "Grüße an 語");
    assert_eq!(shown("a\u{1b}[2Jb\r\nc\u{202e}d"), "a\\u{1b}[2Jb\\u{d}\\u{a}c\\u{202e}d");
    assert_eq!(shown("DOMAIN\\alice"), "DOMAIN\\\\alice");
    assert_eq!(Shown::new("abcdef").at_most(3).to_string(), "abc\\[3 more]");
    assert_eq!(lines("a\n\u{202e}b"), "a\n\\u{202e}b");
    assert_eq!(json("\"\u{202e}\u{e0041}\""), "\"\\u202e\\udb40\\udc41\"");
}
