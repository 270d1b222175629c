//! Values and sections of the file, each with its place.
//!
//! Owns turning TOML values into plain ones, with a [`Problem`](super::Problem) for each wrong value, and refusing unknown keys.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;
use std::str::FromStr;

use postern_core::text;
use postern_core::time::Seconds;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::keys;
use super::problem::{Report, nearest, suggestion};

const DURATION: &str = "a duration in whole seconds, for example \"90m\" or \"3h\"";

/// A value, with its place and its name.
#[derive(Clone)]
pub(super) struct Value<'a> {
    value: &'a DeValue<'a>,
    span: Range<usize>,
    field: String,
    report: &'a Report<'a>,
}

impl<'a> Value<'a> {
    pub(super) fn wrong(&self, message: impl Display) {
        self.report.add(&self.span, &self.field, message);
    }

    /// As [`Self::wrong`], and returns `None`.
    fn refuse<T>(&self, message: impl Display) -> Option<T> {
        self.wrong(message);
        None
    }

    fn not_a<T>(&self, expected: impl Display) -> Option<T> {
        self.refuse(format!("{} where {expected} belongs", described(self.value)))
    }

    pub(super) fn is_text(&self) -> bool {
        self.value.is_str()
    }

    pub(super) fn is_array(&self) -> bool {
        self.value.is_array()
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        self.value.as_str().or_else(|| self.not_a("a text in quotes"))
    }

    /// A text that is parsed; `expected` describes the text.
    pub(super) fn parsed<T: FromStr>(&self, expected: &str) -> Option<T> {
        let text = self.value.as_str().or_else(|| self.not_a(expected))?;
        text.parse().ok().or_else(|| self.refuse(format!("'{text}' is not {expected}")))
    }

    pub(super) fn truth(&self) -> Option<bool> {
        self.value.as_bool().or_else(|| self.not_a("true or false"))
    }

    pub(super) fn number(&self, range: RangeInclusive<u32>) -> Option<u32> {
        let (least, most) = range.into_inner();
        // If the setting has no upper bound, the message must not name the bound of `u32`.
        let most = if most == u32::MAX { u64::MAX } else { most.into() };
        let number = self.whole(least.into()..=most)?;
        u32::try_from(number).ok().or_else(|| self.refuse(format!("{number} is more than {}", u32::MAX)))
    }

    /// As [`Self::number`], up to 64 bits.
    pub(super) fn whole(&self, range: RangeInclusive<u64>) -> Option<u64> {
        let Some(integer) = self.value.as_integer() else { return self.not_a("a whole number") };
        let number = i128::from_str_radix(integer.as_str(), integer.radix()).ok();
        let fits = number.and_then(|n| u64::try_from(n).ok()).filter(|n| range.contains(n));
        let out = || match *range.end() {
            u64::MAX => format!("{integer} is not {} or more", range.start()),
            end => format!("{integer} is not from {} to {end}", range.start()),
        };
        fits.or_else(|| self.refuse(out()))
    }

    pub(super) fn duration(&self) -> Option<Seconds> {
        let text = self.value.as_str().or_else(|| self.not_a(DURATION))?;
        self.duration_of(text)
    }

    /// As [`Self::duration`], of a part of the value.
    pub(super) fn duration_of(&self, text: &str) -> Option<Seconds> {
        text::seconds(text).map(Seconds).or_else(|| self.refuse(format!("'{text}' is not {DURATION}")))
    }

    pub(super) fn choice<T: Copy>(&self, choices: &[(&'static str, T)]) -> Option<T> {
        let words = || choices.iter().map(|(word, _)| *word);
        let listed = words().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        let text = self.value.as_str().or_else(|| self.not_a(format!("one of {listed}")))?;
        let found = choices.iter().find(|(word, _)| *word == text).map(|(_, choice)| *choice);
        found.or_else(|| self.refuse(format!("'{text}' is none of {listed}{}", suggestion(text, words()))))
    }

    /// An absolute path.
    pub(super) fn path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.starts_with('/') {
            Some(text.into())
        } else {
            self.refuse(format!("'{text}' is not a path that begins with /"))
        }
    }

    pub(super) fn line(&self) -> usize {
        self.report.line(self.span.start)
    }

    pub(super) fn items(&self) -> Option<Vec<Self>> {
        let array = self.value.as_array().or_else(|| self.not_a("a list in [ ]"))?;
        Some(
            array
                .iter()
                .enumerate()
                .map(|(index, item)| self.child(item, format!("{}[{index}]", self.field)))
                .collect(),
        )
    }

    /// The items that `read` accepts; `read` reports the others.
    pub(super) fn list<T>(&self, read: impl Fn(&Self) -> Option<T>) -> Option<Vec<T>> {
        Some(self.items()?.iter().filter_map(read).collect())
    }

    /// A list of texts that are not blank.
    pub(super) fn texts(&self) -> Option<Vec<String>> {
        self.list(|item| {
            let text = item.text()?;
            if text.trim().is_empty() {
                item.refuse("an empty text names nobody and nothing")
            } else {
                Some(text.to_owned())
            }
        })
    }

    pub(super) fn section(&self, place: keys::Place) -> Option<Section<'a>> {
        let table = self.value.as_table().or_else(|| self.not_a(format!("the table {}", place.name)))?;
        Some(Section::new(table, self.span.clone(), self.field.clone(), place, self.report))
    }

    fn child(&self, value: &'a Spanned<DeValue<'a>>, field: String) -> Self {
        Self { value: value.get_ref(), span: value.span(), field, report: self.report }
    }
}

fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the text '{text}'"),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(value) => format!("{value}"),
        DeValue::Datetime(time) => format!("the date or time {time}"),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

pub(super) struct Section<'a> {
    table: &'a DeTable<'a>,
    span: Range<usize>,
    field: String,
    place: keys::Place,
    report: &'a Report<'a>,
}

impl<'a> Section<'a> {
    /// Reports every unknown key.
    pub(super) fn new(
        table: &'a DeTable<'a>,
        span: Range<usize>,
        field: String,
        place: keys::Place,
        report: &'a Report<'a>,
    ) -> Self {
        let section = Self { table, span, field, place, report };
        for key in section.unknown() {
            let word = key.get_ref().as_ref();
            report.add(&key.span(), &section.name_of(word), keys::unknown(word, place));
        }
        section
    }

    fn unknown(&self) -> impl Iterator<Item = &'a Spanned<DeString<'a>>> {
        let known = self.place.keys;
        self.table.keys().filter(move |key| !known.contains(&key.get_ref().as_ref()))
    }

    fn name_of(&self, key: &str) -> String {
        if self.field.is_empty() { key.to_owned() } else { format!("{}.{key}", self.field) }
    }

    pub(super) fn get(&self, key: &'static str) -> Option<Value<'a>> {
        debug_assert!(self.place.keys.contains(&key), "{key} is not listed in config/keys.rs");
        let value = self.table.get(key)?;
        Some(Value { value: value.get_ref(), span: value.span(), field: self.name_of(key), report: self.report })
    }

    /// The value of `key`, which is required.
    pub(super) fn need(&self, key: &'static str) -> Option<Value<'a>> {
        let value = self.get(key);
        // A misspelt key is reported already.
        let misspelt =
            || self.unknown().any(|word| nearest(word.get_ref(), self.place.keys.iter().copied()) == Some(key));
        if value.is_none() && !misspelt() {
            self.report.add(&self.span, &self.name_of(key), format!("is missing; {} needs it", self.place.name));
        }
        value
    }

    /// The tables of `[[key]]`.
    pub(super) fn tables(&self, key: &'static str, place: keys::Place) -> Vec<Self> {
        let Some(value) = self.get(key) else { return Vec::new() };
        if !value.is_array() {
            value.wrong(format!("is written {}, with double brackets: there may be several", place.name));
            return Vec::new();
        }
        value.items().unwrap_or_default().iter().filter_map(|item| item.section(place)).collect()
    }
}
