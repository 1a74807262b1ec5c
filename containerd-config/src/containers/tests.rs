//! Plans for `registries.conf` and its drop-ins: the entry that counts is edited, all else stays.

use super::*;
use proptest::prelude::*;
use std::fs;

const OWN: &str = "etc/containers/registries.conf.d/50-darter.conf";

struct Node {
    root: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Node {
    fn new(files: &[(&str, &str)]) -> Self {
        let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self { root, state }
    }

    fn options(&self, registries: &[&str]) -> Options {
        Options {
            registries: registries.iter().map(|name| name.parse().unwrap()).collect(),
            ..Options::new(self.root.path())
        }
    }

    fn plan(&self, registries: &[&str]) -> Result<Plan, Error> {
        plan(&self.options(registries))
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root.path().join(path)).unwrap()
    }
}

#[test]
fn a_later_setup_updates_its_own_entry_and_adds_others() {
    let node = Node::new(&[]);
    let digests = Options {
        digest_only: true,
        ..node.options(&["ghcr.io"])
    };
    plan(&digests).unwrap().apply(node.state.path()).unwrap();
    assert!(node.read(OWN).contains("pull-from-mirror = \"digest-only\""));

    let both = node.plan(&["ghcr.io", "quay.io"]).unwrap();
    both.apply(node.state.path()).unwrap();
    let text = node.read(OWN);
    assert!(!text.contains("digest-only"), "{text}");
    assert_eq!(text.matches("[[registry.mirror]]").count(), 2, "{text}");
    assert!(node.plan(&["quay.io", "ghcr.io"]).unwrap().is_empty());

    undo(node.root.path(), node.state.path())
        .unwrap()
        .apply(node.state.path())
        .unwrap();
    assert!(!node.root.path().join("etc").exists());
}

#[test]
fn a_mirror_with_tls_is_not_insecure() {
    let node = Node::new(&[]);
    let options = Options {
        mirror: "https://mirror.example".parse().unwrap(),
        ..node.options(&["ghcr.io"])
    };
    plan(&options).unwrap().apply(node.state.path()).unwrap();
    let text = node.read(OWN);
    assert!(text.contains("location = \"mirror.example/ghcr.io\""), "{text}");
    assert!(!text.contains("insecure"), "{text}");
}

/// containers/image refuses a mirror's name with a colon in its path.
#[test]
fn a_port_is_written_with_an_underscore() {
    let node = Node::new(&[]);
    node.plan(&["registry.example:5000"])
        .unwrap()
        .apply(node.state.path())
        .unwrap();
    let text = node.read(OWN);
    assert!(text.contains("location = \"registry.example:5000\""), "{text}");
    assert!(
        text.contains("location = \"127.0.0.1:4001/registry.example_5000\""),
        "{text}"
    );
    assert!(node.plan(&["registry.example:5000"]).unwrap().is_empty());
}

#[test]
fn the_last_entry_for_a_prefix_is_the_one_that_counts() {
    let entry = "[[registry]]\nlocation = \"quay.io\"\n";
    let node = Node::new(&[
        ("etc/containers/registries.conf", entry),
        ("etc/containers/registries.conf.d/99-last.conf", entry),
    ]);
    let plan = node.plan(&["quay.io"]).unwrap();
    let paths: Vec<&Path> = plan.paths().collect();
    assert_eq!(
        paths,
        [Path::new("/etc/containers/registries.conf.d/99-last.conf")]
    );
}

#[test]
fn what_is_not_pulled_through_the_mirror_is_told() {
    let text = "[[registry]]\nprefix = \"quay.io/site\"\nlocation = \"quay.io/site\"\n\
                [[registry]]\nprefix = \"quay.io\"\nlocation = \"cache.example:5000/quay\"\ninsecure = true\n";
    let node = Node::new(&[("etc/containers/registries.conf", text)]);
    let plan = node.plan(&["quay.io"]).unwrap();
    let path = PathBuf::from("/etc/containers/registries.conf");
    let (narrower, insecure) = (
        Note::NarrowerPrefix {
            prefix: "quay.io/site".to_owned(),
            path: path.clone(),
        },
        Note::InsecureRegistry {
            registry: "cache.example:5000".to_owned(),
            path: path.clone(),
        },
    );
    assert_eq!(
        plan.notes(),
        [
            narrower,
            insecure,
            Note::RestartNeeded {
                path,
                runtime: Runtime::Containers
            }
        ]
    );
}

#[test]
fn what_is_not_understood_is_refused() {
    let main = "etc/containers/registries.conf";
    for (text, said) in [
        (
            "registry = [{location = \"a\"}]",
            "`registry` is not written as [[registry]] entries",
        ),
        (
            "[registry]\nlocation = \"a\"",
            "`registry` is not written as [[registry]] entries",
        ),
        (
            "[[registry]]\nlocation = \"quay.io\"\nmirror = \"a\"",
            "`registry.mirror` is not a list of tables",
        ),
        (
            "[[registry]]\nlocation = \"quay.io\"\nmirror = [\"a\"]",
            "`registry.mirror` is not a list of tables",
        ),
        ("[[registry]\n", "registries.conf:1: invalid TOML"),
    ] {
        let error = Node::new(&[(main, text)])
            .plan(&["quay.io"])
            .unwrap_err()
            .to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    let node = Node::new(&[]);
    assert!(matches!(
        node.plan(&["_default"]),
        Err(Error::InvalidRegistry { .. })
    ));
    let path = Options {
        mirror: "http://127.0.0.1:4001/x".parse().unwrap(),
        ..node.options(&[])
    };
    assert!(matches!(plan(&path), Err(Error::InvalidMirror { .. })));
}

proptest! {
    // Each case writes files and waits for the disk.
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn an_entry_in_any_place_is_found_again(
        before in prop::collection::vec(prop_oneof![
            Just("[[registry]]\nlocation = \"a.example\"\n"),
            Just("[[registry]]\nprefix = \"quay.io\"\nlocation = \"b.example\"\n"),
            Just("[aliases]\n\"x\" = \"y\"\n"),
            Just("# text\n"),
        ], 0..4),
    ) {
        let text = before.concat();
        let node = Node::new(&[("etc/containers/registries.conf", &text)]);
        if let Ok(plan) = node.plan(&["quay.io"]) {
            plan.apply(node.state.path()).unwrap();
            prop_assert!(node.plan(&["quay.io"]).unwrap().is_empty());
            undo(node.root.path(), node.state.path()).unwrap().apply(node.state.path()).unwrap();
            prop_assert_eq!(node.read("etc/containers/registries.conf"), text);
        }
    }
}
