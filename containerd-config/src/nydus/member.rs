//! One member of nested JSON objects, set with everything else as it was. Pure.

use std::path::Path;

use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value};

use crate::Error;
use crate::document::wrong_type;

/// How new members are set in.
const INDENT: &str = "  ";

/// The text with the member that `keys` lead to; the very same text if it is there already: with that value, or, unless it
/// must be that `always`, with any.
pub(super) fn set(
    path: &Path,
    text: &str,
    keys: &[&str],
    value: &Value,
    always: bool,
) -> Result<String, Error> {
    let text = if text.trim().is_empty() { "{}\n" } else { text };
    let whole: Value = serde_json::from_str(text).map_err(|error| Error::InvalidJson {
        path: path.to_path_buf(),
        line: error.line(),
        message: error.to_string(),
    })?;
    let held = keys.iter().try_fold(&whole, |object, key| object.get(key));
    if held.is_some_and(|held| held == value || !always) {
        return Ok(text.to_owned());
    }
    let (mut start, mut rest, mut depth) = (text.len() - text.trim_start().len(), keys, 0);
    while let Some((key, deeper)) = rest.split_first() {
        let wrong = || {
            let name = keys.get(..depth).unwrap_or_default().join(".");
            wrong_type(path, &name, "an object")
        };
        if !text.get(start..).is_some_and(|object| object.starts_with('{')) {
            return Err(wrong());
        }
        match member(text, start, key) {
            Some((from, to)) if deeper.is_empty() => {
                let (before, after) = (text.get(..from), text.get(to..));
                return Ok(format!(
                    "{}{value}{}",
                    before.unwrap_or_default(),
                    after.unwrap_or_default()
                ));
            }
            Some((from, _)) => start = from,
            None => return Ok(insert(text, start, key, &nested(deeper, value))),
        }
        (rest, depth) = (deeper, depth + 1);
    }
    Ok(text.to_owned())
}

/// The value below more keys.
fn nested(keys: &[&str], value: &Value) -> Value {
    keys.iter().rev().fold(value.clone(), |value, key| {
        Value::Object(Map::from_iter([((*key).to_owned(), value)]))
    })
}

/// Puts a member in front of the others of the object at `start`, laid out like them.
fn insert(text: &str, start: usize, key: &str, value: &Value) -> String {
    let (head, body) = text.split_at_checked(start + 1).unwrap_or((text, ""));
    let rest = body.trim_start();
    let member = format!("{}: {value}", Value::from(key));
    if rest.starts_with('}') {
        let outer = head.rsplit('\n').next().unwrap_or_default();
        let blanks: String = outer.chars().take_while(|c| c.is_ascii_whitespace()).collect();
        return format!("{head}\n{blanks}{INDENT}{member}\n{blanks}{rest}");
    }
    let blanks = body.get(..body.len() - rest.len()).unwrap_or_default();
    let gap = if blanks.is_empty() { " " } else { blanks };
    format!("{head}{blanks}{member},{gap}{rest}")
}

/// Where the value of the last member `key` of the object at `start` begins and ends: of two, that one holds.
fn member(text: &str, start: usize, key: &str) -> Option<(usize, usize)> {
    let (mut found, mut at) = (None, start + 1);
    loop {
        at = skip(text, at, &[',']);
        if text.get(at..)?.starts_with('}') {
            return found;
        }
        let (name, end) = read::<String>(text, at)?;
        let from = skip(text, end, &[':']);
        let (_, to) = read::<IgnoredAny>(text, from)?;
        if name == key {
            found = Some((from, to));
        }
        at = to;
    }
}

/// The first place from `at` on that is neither blank nor one of `marks`.
fn skip(text: &str, at: usize, marks: &[char]) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    let skipped = rest.trim_start_matches(|c: char| c.is_ascii_whitespace() || marks.contains(&c));
    text.len() - skipped.len()
}

/// One JSON value at `at`, and where it ends.
fn read<T: DeserializeOwned>(text: &str, at: usize) -> Option<(T, usize)> {
    let mut values = serde_json::Deserializer::from_str(text.get(at..)?).into_iter::<T>();
    let value = values.next()?.ok()?;
    Some((value, at + values.byte_offset()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn put(text: &str, value: &Value, always: bool) -> Result<String, Error> {
        set(Path::new("/x.json"), text, &["a", "b", "c"], value, always)
    }

    #[test]
    fn only_that_member_changes() {
        for (before, after) in [
            ("", "{\n  \"a\": {\"b\":{\"c\":1}}\n}\n"),
            (
                "{\"z\": 0, \"a\": { } }",
                "{\"z\": 0, \"a\": {\n  \"b\": {\"c\":1}\n} }",
            ),
            (
                "{ \"a\": {\"b\" : {\"x\":[{\"c\":5}], \"c\" : 7}}}",
                "{ \"a\": {\"b\" : {\"x\":[{\"c\":5}], \"c\" : 1}}}",
            ),
            (
                "{\n\t\"a\": {\n\t\t\"b\": {\n\t\t\t\"x\": 1\n\t\t}\n\t}\n}",
                "{\n\t\"a\": {\n\t\t\"b\": {\n\t\t\t\"c\": 1,\n\t\t\t\"x\": 1\n\t\t}\n\t}\n}",
            ),
        ] {
            let changed = put(before, &json!(1), true).unwrap();
            assert_eq!(changed, after);
            assert_eq!(put(&changed, &json!(1), true).unwrap(), after, "a second time");
            assert_eq!(put(&changed, &json!(2), false).unwrap(), after, "it is there");
        }
    }

    #[test]
    fn what_is_no_object_is_told() {
        for wrong in ["[]", "{\"a\": 1}", "{\"a\": {\"b\": \"c\"}}", "{", "{} {}"] {
            assert!(put(wrong, &json!(1), true).is_err(), "{wrong}");
        }
    }
}
