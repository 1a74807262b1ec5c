//! The trees in `examples/`: what setup does to them, twice, and back.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use darter_containerd_config::containerd::{Capabilities, Options, plan, undo};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

type Tree = BTreeMap<PathBuf, String>;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn read_tree(base: &Path) -> Tree {
    fn walk(base: &Path, directory: &Path, tree: &mut Tree) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(base, &path, tree),
                false => drop(tree.insert(
                    path.strip_prefix(base).unwrap().into(),
                    fs::read_to_string(&path).unwrap(),
                )),
            }
        }
    }
    let mut tree = Tree::new();
    walk(base, base, &mut tree);
    tree
}

fn write_tree(base: &Path, tree: &Tree) {
    for (path, text) in tree {
        let path = base.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn options(root: &Path, command: &str) -> Options {
    let words: Vec<&str> = command.split_whitespace().collect();
    assert_eq!(words[..3], ["darter", "setup", "containerd"]);
    let mut options = Options::new(root);
    for flag in words[3..].chunks(2) {
        match flag {
            ["--registry", name] => options.registries.push(name.parse().unwrap()),
            ["--mirror", url] => options.mirror = url.parse().unwrap(),
            ["--capabilities", "pull"] => options.capabilities = Capabilities::Pull,
            ["--dial-timeout-ms", millis] => {
                options.dial_timeout = Duration::from_millis(millis.parse().unwrap())
            }
            other => panic!("unknown flag {other:?}"),
        }
    }
    options
}

/// Runs one example and answers the notes of its first plan.
fn run(name: &str) -> Vec<String> {
    let example = examples().join(name);
    let command = fs::read_to_string(example.join("command")).unwrap();
    let before = read_tree(&example.join("before"));
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tree(root.path(), &before);

    let options = options(root.path(), &command);
    let first = plan(&options).unwrap();
    assert_eq!(read_tree(root.path()), before, "{name}: a plan writes nothing");
    first.apply(state.path()).unwrap();
    let after = read_tree(root.path());
    if std::env::var_os("DARTER_BLESS").is_some() {
        let _ = fs::remove_dir_all(example.join("after"));
        write_tree(&example.join("after"), &after);
    }
    assert_eq!(
        after,
        read_tree(&example.join("after")),
        "{name}: not as in its `after`"
    );

    let second = plan(&options).unwrap();
    assert_eq!(second.render(), "", "{name}: the second plan is empty");
    assert!(second.is_empty());

    let back = undo(root.path(), state.path()).unwrap();
    assert!(!back.is_empty());
    back.apply(state.path()).unwrap();
    assert_eq!(
        read_tree(root.path()),
        before,
        "{name}: undo gives the files back"
    );
    assert_eq!(
        fs::read_dir(state.path()).unwrap().count(),
        0,
        "{name}: nothing is left of the record"
    );
    first.notes().iter().map(ToString::to_string).collect()
}

#[test]
fn every_example_is_applied_and_undone() {
    let mut ran = 0;
    for entry in fs::read_dir(examples()).unwrap() {
        let entry = entry.unwrap();
        if entry.path().is_dir() {
            run(entry.file_name().to_str().unwrap());
            ran += 1;
        }
    }
    assert_eq!(ran, 5, "the README of the examples names five");
}

#[test]
fn the_user_is_told_what_else_to_do() {
    let restart = "/etc/containerd/config.toml is read at the start only: restart containerd once (running containers stay)";
    for example in ["containerd-v1", "containerd-v2", "containerd-v3"] {
        assert_eq!(run(example), [restart], "{example}");
    }
    assert_eq!(
        run("k3s"),
        [
            "/var/lib/rancher/k3s/agent/etc/containerd/certs.d/docker.io/hosts.toml is written anew when k3s restarts: \
          run setup again then, or name the mirror in its registries.yaml"
        ]
    );
    assert_eq!(run("existing-hosts"), [""; 0], "config_path is set: no restart");
}
