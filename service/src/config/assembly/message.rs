//! What is said of a wrong value: what is expected first, then what is there.

use super::super::suggest::nearest;

/// Says that a key is unknown, with the one that may have been meant, or all that there are.
pub(super) fn unknown_among<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> String {
    let mut known: Vec<&str> = known.collect();
    known.sort_unstable();
    match nearest(key, known.iter().copied()) {
        Some(meant) => format!("unknown key {key:?}; did you mean {meant:?}?"),
        None if known.is_empty() => format!("unknown key {key:?}"),
        None => format!("unknown key {key:?}; known here: {}", known.join(", ")),
    }
}

/// Puts serde's standard messages into one form; others stay as they are.
pub(super) fn reworded(message: &str) -> String {
    let wrong = ["invalid type: ", "invalid value: "]
        .iter()
        .find_map(|start| message.strip_prefix(start));
    if let Some((got, expected)) = wrong.and_then(|rest| rest.rsplit_once(", expected ")) {
        return format!("expected {}, got {}", expectation(expected), found(got));
    }
    match message
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split_once('`'))
    {
        // What follows names the known ones in backticks.
        Some((key, rest)) => unknown_among(key, rest.split('`').skip(1).step_by(2)),
        None => message.to_owned(),
    }
}

/// Rust's names of types, for those who do not write Rust.
fn expectation(expected: &str) -> &str {
    match expected {
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number from 0",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "a text",
        "a sequence" => "a list",
        other => other,
    }
}

fn found(got: &str) -> &str {
    let quoted = |kind: &str| got.strip_prefix(kind)?.strip_prefix(" `")?.strip_suffix('`');
    let number = ["integer", "floating point", "boolean"]
        .into_iter()
        .find_map(quoted);
    number.or_else(|| got.strip_prefix("string ")).unwrap_or(got)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_expected_first() {
        for (serde, ours) in [
            (
                "invalid type: string \"a, expected b\", expected u8",
                "expected a whole number from 0 to 255, got \"a, expected b\"",
            ),
            (
                "invalid type: null, expected a string",
                "expected a text, got null",
            ),
            (
                "invalid type: integer `7`, expected a boolean",
                "expected true or false, got 7",
            ),
            (
                "invalid type: map, expected something",
                "expected something, got map",
            ),
            (
                "unknown field `xyz`, expected one of `b`, `c`",
                "unknown key \"xyz\"; known here: b, c",
            ),
            (
                "unknown field `a_b`, expected `aB`",
                "unknown key \"a_b\"; did you mean \"aB\"?",
            ),
            ("unknown field `a`, there are no fields", "unknown key \"a\""),
            ("something else", "something else"),
        ] {
            assert_eq!(reworded(serde), ours);
        }
    }
}
