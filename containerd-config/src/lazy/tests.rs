//! Plans for the lazy snapshotters: the proxy is the first mirror and is told the registry where that is possible.

use super::*;
use std::fs;

const PATH: &str = "/etc/containerd-stargz-grpc/config.toml";

fn planned(snapshotter: Snapshotter, text: &str, registry: &str) -> Result<(Plan, String), Error> {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("config.toml");
    fs::write(&path, text).unwrap();
    let options = Options {
        config: Some("/config.toml".into()),
        registries: vec![registry.parse().unwrap()],
        ..Options::new(snapshotter, root.path())
    };
    let first = plan(&options)?;
    first.apply(&root.path().join("state")).unwrap();
    assert!(plan(&options)?.is_empty(), "a second time");
    let after = fs::read_to_string(path).unwrap();
    undo(snapshotter, root.path(), &root.path().join("state"))
        .unwrap()
        .apply(&root.path().join("state"))
        .unwrap();
    assert_eq!(fs::read_to_string(root.path().join("config.toml")).unwrap(), text);
    Ok((first, after))
}

fn hosts(text: &str) -> Vec<String> {
    let document: toml_edit::DocumentMut = text.parse().unwrap();
    let mirrors = &document["resolver"]["host"]["quay.io"]["mirrors"];
    let value = |item: &dyn TableLike| item.get("host").unwrap().as_str().unwrap().to_owned();
    match mirrors {
        Item::ArrayOfTables(tables) => tables.iter().map(|table| value(table)).collect(),
        other => {
            let tables = other.as_array().unwrap().iter();
            tables
                .map(|table| value(table.as_inline_table().unwrap()))
                .collect()
        }
    }
}

#[test]
fn the_proxy_comes_first_in_every_style() {
    for (text, expected) in [
        ("", &["127.0.0.1:4001"][..]),
        (
            "[resolver.host.\"quay.io\"]\nmirrors = [{host = \"a\"}]\n",
            &["127.0.0.1:4001", "a"],
        ),
        (
            "[resolver]\nhost.\"quay.io\".mirrors = [{host = \"a\"}, {host = \"127.0.0.1:4001\"}]\n",
            &["127.0.0.1:4001", "a"],
        ),
        (
            "[[resolver.host.\"quay.io\".mirrors]]\nhost = \"a\"\n[[resolver.host.\"quay.io\".mirrors]]\n\
             host = \"127.0.0.1:4001\"\n",
            &["127.0.0.1:4001", "a"],
        ),
    ] {
        let (_, after) = planned(Snapshotter::Stargz, text, "quay.io").unwrap();
        assert_eq!(hosts(&after), expected, "{text:?} became {after:?}");
        assert!(after.contains("X-Darter-Registry = \"quay.io\""), "{after}");
    }
}

#[test]
fn other_headers_stay() {
    let text = "[[resolver.host.\"quay.io\".mirrors]]\nhost = \"127.0.0.1:4001\"\n\
                [resolver.host.\"quay.io\".mirrors.header]\nX-Site = \"north\"\n";
    let (_, after) = planned(Snapshotter::Stargz, text, "quay.io").unwrap();
    assert!(
        after.contains("X-Site = \"north\"\nX-Darter-Registry = \"quay.io\""),
        "{after}"
    );
}

#[test]
fn soci_names_no_registry_and_that_is_told() {
    let (plan, after) = planned(Snapshotter::Soci, "", "quay.io").unwrap();
    assert!(!after.contains("Darter-Registry"), "{after}");
    let told = Note::NamesNoRegistry {
        registry: "quay.io".to_owned(),
    };
    assert!(plan.notes().contains(&told));
    let (plan, _) = planned(Snapshotter::Soci, "", "docker.io").unwrap();
    assert_eq!(plan.notes().len(), 1, "docker.io is the proxy's default");
}

#[test]
fn each_has_its_own_file_and_bad_ones_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let plan = plan(&Options::new(Snapshotter::Stargz, root.path())).unwrap();
    assert_eq!(plan.paths().collect::<Vec<_>>(), [Path::new(PATH)]);
    for (text, said) in [
        ("resolver = 1", "is not a table"),
        ("[resolver.host]\n\"quay.io\" = 1", "is not a table"),
        (
            "[resolver.host.\"quay.io\"]\nmirrors = 1",
            "mirrors` is not a list of tables",
        ),
    ] {
        let error = planned(Snapshotter::Soci, text, "quay.io")
            .unwrap_err()
            .to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
}
