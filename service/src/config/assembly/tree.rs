//! Paths in a tree of values.

use serde_json::{Map, Value};
use serde_path_to_error::{Path, Segment};

/// The value at a path.
pub(super) fn lookup<'a>(tree: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(tree, |tree, key| tree.as_object()?.get(key))
}

/// Puts a value at a path; a map is merged into the map that is there, and what is on the way becomes one.
pub(super) fn put(tree: &mut Value, path: &[String], value: Value) {
    let Some((key, rest)) = path.split_first() else {
        return merge(tree, value);
    };
    if !tree.is_object() {
        *tree = Value::Object(Map::new());
    }
    if let Some(map) = tree.as_object_mut() {
        put(map.entry(key.clone()).or_insert(Value::Null), rest, value);
    }
}

fn merge(tree: &mut Value, value: Value) {
    match (tree, value) {
        (Value::Object(map), Value::Object(more)) => {
            for (key, value) in more {
                merge(map.entry(key).or_insert(Value::Null), value);
            }
        }
        (tree, value) => *tree = value,
    }
}

/// Takes out what is at a path; whether there was something. The whole is not taken out.
pub(super) fn remove(tree: &mut Value, path: &[String]) -> bool {
    let Some((key, above)) = path.split_last() else {
        return false;
    };
    let map = above
        .iter()
        .try_fold(tree, |tree, key| tree.as_object_mut()?.get_mut(key))
        .and_then(Value::as_object_mut);
    map.is_some_and(|map| map.remove(key).is_some())
}

/// A path for people, and for `--set`: a key with dots stands in quotes.
pub(super) fn shown(path: &[String]) -> String {
    let quoted = |key: &String| {
        if key.contains('.') {
            format!("\"{key}\"")
        } else {
            key.clone()
        }
    };
    path.iter().map(quoted).collect::<Vec<_>>().join(".")
}

/// The keys of a path, and whether it has nothing else (such as an index into a list).
pub(super) fn keys(path: &Path) -> (Vec<String>, bool) {
    let plain = path.iter().all(|segment| matches!(segment, Segment::Map { .. }));
    let keys = path.iter().filter_map(|segment| match segment {
        Segment::Map { key } => Some(key.clone()),
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    (keys.collect(), plain)
}

/// `RATE_LIMIT` as a key: `rateLimit`.
pub(super) fn camel(part: &str) -> String {
    let mut key = String::new();
    for word in part.split('_').filter(|word| !word.is_empty()) {
        let word = word.to_ascii_lowercase();
        let mut letters = word.chars();
        match letters.next() {
            Some(first) if !key.is_empty() => key.push(first.to_ascii_uppercase()),
            Some(first) => key.push(first),
            None => {}
        }
        key.extend(letters);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn path(keys: &[&str]) -> Vec<String> {
        keys.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn maps_merge_and_all_else_replaces() {
        let mut tree = json!({"a": {"b": 1, "c": [1, 2]}, "d": null});
        put(&mut tree, &path(&["a"]), json!({"c": [3]}));
        put(&mut tree, &path(&["d", "e"]), json!(5));
        assert_eq!(tree, json!({"a": {"b": 1, "c": [3]}, "d": {"e": 5}}));
        assert_eq!(lookup(&tree, &path(&["d", "e"])), Some(&json!(5)));
        assert_eq!(lookup(&tree, &path(&["d", "x"])), None);
    }

    #[test]
    fn only_what_is_there_is_taken_out() {
        let mut tree = json!({"a": {"b": 1}});
        assert!(!remove(&mut tree, &path(&[])));
        assert!(!remove(&mut tree, &path(&["a", "x"])));
        assert!(!remove(&mut tree, &path(&["a", "b", "c"])));
        assert!(remove(&mut tree, &path(&["a", "b"])));
        assert_eq!(tree, json!({"a": {}}));
    }

    #[test]
    fn names_of_variables_become_keys() {
        assert_eq!(camel("RATE_LIMIT"), "rateLimit");
        assert_eq!(camel("TLS"), "tls");
        assert_eq!(camel("_A__B_"), "aB");
    }

    #[test]
    fn keys_with_dots_are_quoted() {
        assert_eq!(
            shown(&path(&["registries", "docker.io", "tls"])),
            "registries.\"docker.io\".tls"
        );
    }
}
