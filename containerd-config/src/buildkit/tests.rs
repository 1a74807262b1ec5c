//! Plans for `buildkitd.toml`: every style of table, the order of mirrors, and what is refused.

use super::*;
use proptest::prelude::*;
use std::fs;

fn edited(text: &str) -> Result<String, Error> {
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("etc/buildkit")).unwrap();
    fs::write(root.path().join("etc/buildkit/buildkitd.toml"), text).unwrap();
    let plan = plan(&Options::new(root.path()))?;
    plan.apply(&root.path().join("state")).unwrap();
    Ok(fs::read_to_string(root.path().join("etc/buildkit/buildkitd.toml")).unwrap())
}

fn mirrors(text: &str) -> Vec<String> {
    let document: toml_edit::DocumentMut = text.parse().unwrap();
    let registries = document.get("registry").unwrap();
    assert_eq!(
        registries["127.0.0.1:4001"]["http"].as_bool(),
        Some(true),
        "{text}"
    );
    let mirrors = registries["docker.io"]["mirrors"].as_array().unwrap();
    mirrors
        .iter()
        .map(|value| value.as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn every_style_of_table_is_edited() {
    for text in [
        "",
        "registry.\"docker.io\".mirrors = [\"a\"]\n",
        "[registry]\n\"docker.io\" = { mirrors = [\"a\", \"127.0.0.1:4001\"] }\n",
        "[registry.\"docker.io\"]\nmirrors = [\n  \"a\", # first\n]\n",
        "[registry.\"127.0.0.1:4001\"]\nhttp = false # why\n[registry.\"docker.io\"]\nmirrors = ['127.0.0.1:4001', 'a']\n",
    ] {
        let after = edited(text).unwrap();
        let expected: &[&str] = if text.is_empty() {
            &["127.0.0.1:4001"]
        } else {
            &["127.0.0.1:4001", "a"]
        };
        assert_eq!(mirrors(&after), expected, "{text:?} became {after:?}");
        assert_eq!(edited(&after).unwrap(), after, "a second time");
        let comments = |text: &str| text.matches('#').count();
        assert_eq!(comments(&after), comments(text), "comments stay: {after}");
    }
}

#[test]
fn what_is_not_understood_is_refused() {
    for (text, said) in [
        ("registry = 1", "`registry` is not a table"),
        (
            "[registry]\n\"docker.io\" = 1",
            "`registry.\"docker.io\"` is not a table",
        ),
        (
            "[registry.\"docker.io\"]\nmirrors = \"a\"",
            "mirrors` is not a list of texts",
        ),
        (
            "[registry.\"docker.io\"]\nmirrors = [1]",
            "mirrors` is not a list of texts",
        ),
        (
            "[registry.\"127.0.0.1:4001\"]\nhttp = 1",
            "http` is not true or false",
        ),
        ("a =\n", "buildkitd.toml:1: invalid TOML"),
    ] {
        let error = edited(text).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}

proptest! {
    // Each case writes files and waits for the disk.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_text_is_edited_or_refused(text in "(\\[?\\[?registry(\\.\"docker\\.io\")?\\]?\\]?\n|mirrors ?= ?\\[?\"a\"\\]?\n|[ab=#\n]){0,6}") {
        if let Ok(after) = edited(&text) {
            prop_assert_eq!(edited(&after).unwrap(), after);
        }
    }
}
