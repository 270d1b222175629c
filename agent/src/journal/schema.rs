//! The format of a journal line, in this version and in older ones.
//!
//! Owns the schema's number and the steps between schemas. It never rewrites lines, because hashes bind them: each read converts them.

use std::borrow::Cow;

use postern_core::ledger::Record;
use postern_core::text;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The schema that this version writes. Raise it if an older version cannot read or misreads a line, and add a step to [`STEPS`].
pub(super) const CURRENT: u32 = 3;

/// `STEPS[n]` converts a line of schema `n + 1` to `n + 2`.
const STEPS: [fn(&mut Map<String, Value>); CURRENT as usize - 1] = [from_1, from_2];

/// One line: the record between the schema's number and the hash of the line before.
#[derive(Serialize, Deserialize)]
struct Line {
    schema: u32,
    #[serde(flatten)]
    record: Record,
    prev: String,
}

/// The fields of every schema, even of future ones.
#[derive(Deserialize)]
pub(super) struct Mark {
    /// Schema 1, one file without segments, had no such field.
    #[serde(default = "first")]
    pub schema: u32,
    pub seq: u64,
    /// The hash of the line before.
    pub prev: String,
}

const fn first() -> u32 {
    1
}

/// Appends the line of `record` to `out`, without its end.
pub(super) fn write(record: &Record, prev: &str, out: &mut Vec<u8>) -> serde_json::Result<()> {
    out.extend(written(&Line { schema: CURRENT, record: record.clone(), prev: prev.to_owned() })?.into_bytes());
    Ok(())
}

/// The line as in the file. Characters that must not reach a terminal are escaped. Older versions escaped fewer; their lines mean the same.
fn written(line: &Line) -> serde_json::Result<String> {
    let text = serde_json::to_string(line)?;
    Ok(match text::json(&text) {
        Cow::Borrowed(_) => text,
        Cow::Owned(escaped) => escaped,
    })
}

/// The error quotes the line. posternd's user may have written any text there, and root reads this message on a terminal.
fn unreadable(error: &serde_json::Error) -> String {
    format!("cannot be read ({})", text::shown(&error.to_string()))
}

/// Number and predecessor of a line; other fields are ignored.
pub(super) fn mark(text: &[u8]) -> Result<Mark, String> {
    let mark: Mark = serde_json::from_slice(text).map_err(|e| unreadable(&e))?;
    if mark.schema == 0 { Err("has a schema that never was (0)".into()) } else { Ok(mark) }
}

/// The record of a line of schema `schema`; `None` if that is newer than [`CURRENT`]. A field that would be lost is an error.
pub(super) fn record(text: &[u8], schema: u32) -> Result<Option<Record>, String> {
    let unreadable = |e: serde_json::Error| unreadable(&e);
    if schema > CURRENT {
        return Ok(None);
    }
    if schema == CURRENT {
        let line: Line = serde_json::from_slice(text).map_err(unreadable)?;
        // Reading and writing does not change a line by posternd. Only other lines are compared field by field.
        let same = written(&line).map_err(unreadable)?.as_bytes() == text;
        return if same { Ok(Some(line.record)) } else { whole(serde_json::from_slice(text).map_err(unreadable)?) };
    }
    let mut fields: Map<String, Value> = serde_json::from_slice(text).map_err(unreadable)?;
    for step in STEPS.iter().skip(schema as usize - 1) {
        step(&mut fields);
    }
    whole(Value::Object(fields))
}

/// The record of `value`, if it has every field of `value`.
fn whole(value: Value) -> Result<Option<Record>, String> {
    let unreadable = |e: serde_json::Error| unreadable(&e);
    let line: Line = serde_json::from_value(value.clone()).map_err(unreadable)?;
    match lost(&value, &serde_json::to_value(&line).map_err(unreadable)?) {
        Some(field) => Err(format!("has a field '{}' that no version up to this one wrote", text::shown(&field))),
        None => Ok(Some(line.record)),
    }
}

/// The first field of `from` that `to` lacks or has with another value.
fn lost(from: &Value, to: &Value) -> Option<String> {
    let inside = |name: String, from: &Value, to: Option<&Value>| match to {
        None => Some(name),
        Some(to) => lost(from, to).map(|field| if field.is_empty() { name.clone() } else { format!("{name}.{field}") }),
    };
    match (from, to) {
        (Value::Object(from), Value::Object(to)) => from.iter().find_map(|(k, v)| inside(k.clone(), v, to.get(k))),
        (Value::Array(from), Value::Array(to)) if from.len() == to.len() => {
            from.iter().zip(to).enumerate().find_map(|(n, (from, to))| inside(n.to_string(), from, Some(to)))
        }
        _ => (from != to).then(String::new),
    }
}

/// Schema 2 adds the schema's number, and segments.
fn from_1(line: &mut Map<String, Value>) {
    line.insert("schema".into(), 2.into());
}

/// Schema 3 adds lines of the kind `refusals`.
fn from_2(line: &mut Map<String, Value>) {
    line.insert("schema".into(), 3.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_line_is_one_line() {
        let good = SCHEMA_1.lines().next().unwrap();
        let forged = |from: &str, to: &str| good.replacen(from, to, 1);
        for line in [
            forged("\"event\":\"", "\"event\":\"x\\nposternd: forged\\u001b[2J"),
            forged("{", "{\"x\\nposternd: forged\\u001b[2J\":1,"),
        ] {
            let why = record(line.as_bytes(), 1).unwrap_err();
            assert!(why.contains("forged") && !why.contains(text::is_hidden), "{why}");
        }
    }

    /// Lines as the first version wrote them, one of each kind of event that it had.
    pub(crate) const SCHEMA_1: &str = include_str!("fixtures/schema-1.jsonl");

    #[test]
    fn each_line_of_the_first_schema_is_brought_forward_whole() {
        let mut kinds = std::collections::BTreeSet::new();
        for text in SCHEMA_1.lines() {
            let mark = mark(text.as_bytes()).unwrap();
            assert_eq!(mark.schema, 1);
            let record = record(text.as_bytes(), 1).unwrap().unwrap();
            assert_eq!(record.seq, mark.seq);
            kinds.insert(record.event.kind());
            // A line of today has the same fields and more.
            let mut now = Vec::new();
            write(&record, &mark.prev, &mut now).unwrap();
            let (old, now): (Value, Value) =
                (serde_json::from_str(text).unwrap(), serde_json::from_slice(&now).unwrap());
            assert_eq!((lost(&old, &now), &now["schema"]), (None, &Value::from(CURRENT)));
        }
        assert_eq!(kinds.len(), 8, "{kinds:?}");
    }

    #[test]
    fn what_a_version_to_come_adds_is_refused_and_never_dropped() {
        let text = SCHEMA_1.lines().find(|line| line.contains("\"granted\"")).unwrap();
        let read = |text: &str| record(text.as_bytes(), mark(text.as_bytes()).unwrap().schema);
        let mut line = Vec::new();
        write(&read(text).unwrap().unwrap(), &"0".repeat(64), &mut line).unwrap();
        let line = String::from_utf8(line).unwrap();
        assert!(read(&line).unwrap().is_some());
        for (from, to, field) in [
            ("\"prev\":", "\"extra\":1,\"prev\":", "'extra'"),
            ("\"ticket\":", "\"urgent\":true,\"ticket\":", "'grant.urgent'"),
            ("\"signer\":{", "\"signer\":{\"seen\":null,", "'grant.signer.seen'"),
            ("\"granted\"", "\"granted-twice\"", "unknown variant `granted-twice`"),
        ] {
            for base in [text, &line] {
                let changed = base.replacen(from, to, 1);
                assert_ne!(changed, base, "{from}");
                let refused = read(&changed).expect_err(&changed);
                assert!(refused.contains(field), "{refused}");
            }
        }
        let newer = line.replacen("\"schema\":3", "\"schema\":4", 1);
        assert_eq!(read(&newer), Ok(None), "not read at all");
        assert!(mark(line.replacen("\"schema\":3", "\"schema\":0", 1).as_bytes()).is_err());
        let older = line.replacen("\"schema\":3", "\"schema\":2", 1);
        assert_eq!(read(&older), read(&line), "schema 2 has the same records");
    }
}
