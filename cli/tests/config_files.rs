//! The files in `config/` are the defaults, all of them, each with a comment above it.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use darter_service::config::{Sources, Validate, load};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn file(role: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../config/{role}.yaml"))
}

fn paths(value: &Value, above: &str, into: &mut BTreeSet<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        let path = format!("{above}{key}");
        paths(value, &format!("{path}."), into);
        into.insert(path);
    }
}

fn is_the_default<T: Serialize + DeserializeOwned + Default + Validate>(role: &str) {
    let path = file(role);
    let sources = Sources {
        role,
        file: Some(&path),
        env: std::iter::empty(),
        set: &[],
    };
    let loaded: T = load(sources).unwrap();
    let default = serde_json::to_value(T::default()).unwrap();
    assert_eq!(serde_json::to_value(loaded).unwrap(), default);

    let text = std::fs::read_to_string(&path).unwrap();
    let written: Value = serde_saphyr::from_str(&text).unwrap();
    let (mut in_file, mut known) = (BTreeSet::new(), BTreeSet::new());
    paths(&written, "", &mut in_file);
    paths(&default, "", &mut known);
    assert_eq!(in_file, known);

    let lines: Vec<&str> = text.lines().collect();
    for pair in lines.windows(2) {
        let is_key = !pair[1].trim_start().starts_with('#') && pair[1].contains(':');
        assert!(
            !is_key || pair[0].trim_start().starts_with('#'),
            "{:?} has no comment",
            pair[1]
        );
    }
}

#[test]
fn proxy_yaml_is_the_default() {
    is_the_default::<darter_proxy::config::Config>("proxy");
}

#[test]
fn manager_yaml_is_the_default() {
    is_the_default::<darter_manager::config::Config>("manager");
}

#[test]
fn scheduler_yaml_is_the_default() {
    is_the_default::<darter_scheduler::config::Config>("scheduler");
}
