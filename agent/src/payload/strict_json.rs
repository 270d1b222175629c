//! The shape of every signed payload: one JSON object whose values are strings or lists of strings.
//!
//! Owns that check before the generated decoder. It also refuses repeated fields, and durations that are not whole seconds.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// The most digits of a duration in seconds; [`super::whole_seconds`] bounds the value.
const MOST_DIGITS: usize = 12;

/// Decodes strict JSON in the shape of a payload. The error has line and column.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice::<Shape>(bytes)?;
    serde_json::from_slice(bytes)
}

struct Shape;

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ShapeVisitor)
    }
}

struct ShapeVisitor;

impl<'de> Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(name) = map.next_key::<String>()? {
            let value = map.next_value::<Value>()?;
            if name == "duration" && !value.is_whole_seconds() {
                return Err(A::Error::custom("duration has to be whole seconds, for example \"1800s\""));
            }
            if !seen.insert(name.clone()) {
                return Err(A::Error::custom(format_args!("duplicate field {name:?}")));
            }
        }
        Ok(Shape)
    }
}

/// A string, or `None` for a list of strings.
struct Value(Option<String>);

impl Value {
    fn is_whole_seconds(&self) -> bool {
        let digits = self.0.as_ref().and_then(|text| text.strip_suffix('s'));
        digits.is_some_and(|d| (1..=MOST_DIGITS).contains(&d.len()) && d.bytes().all(|b| b.is_ascii_digit()))
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string or a list of strings")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value(Some(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        while items.next_element::<String>()?.is_some() {}
        Ok(Value(None))
    }
}
