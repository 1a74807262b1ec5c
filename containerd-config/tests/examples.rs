//! The trees in `examples/`: what setup does to them, twice, and back.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use darter_containerd_config::containerd::Capabilities;
use darter_containerd_config::lazy::Snapshotter;
use darter_containerd_config::{
    Mirror, Plan, Registry, buildkit, containerd, containers, docker, lazy, nydus,
};
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

type Undo = dyn Fn(&Path, &Path) -> Plan;

/// One client's `plan` and `undo` with the options that a command line gives.
struct Setup {
    plan: Box<dyn Fn() -> Plan>,
    undo: Box<Undo>,
}

/// The flags of a command, each with its values.
struct Flags(BTreeMap<String, Vec<String>>);

impl Flags {
    fn of(words: &[&str]) -> Self {
        let mut flags: BTreeMap<String, Vec<String>> = BTreeMap::new();
        let mut name = String::new();
        for word in words {
            match word.strip_prefix("--") {
                Some(flag) => {
                    name = flag.to_owned();
                    flags.entry(name.clone()).or_default();
                }
                None => flags.get_mut(&name).unwrap().push((*word).to_owned()),
            }
        }
        Self(flags)
    }

    fn one(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(String::as_str)
    }

    fn registries(&self) -> Vec<Registry> {
        let named = self.0.get("registry").into_iter().flatten();
        named.map(|name| name.parse().unwrap()).collect()
    }

    fn mirror(&self) -> Mirror {
        self.one("mirror")
            .map_or_else(Mirror::default, |url| url.parse().unwrap())
    }

    fn dial_timeout(&self) -> Duration {
        Duration::from_millis(
            self.one("dial-timeout-ms")
                .map_or(200, |text| text.parse().unwrap()),
        )
    }
}

fn setup(root: &Path, command: &str) -> Setup {
    let words: Vec<&str> = command.split_whitespace().collect();
    assert_eq!(words[..2], ["darter", "setup"]);
    let (flags, root) = (Flags::of(&words[3..]), root.to_owned());
    match words[2] {
        "containerd" => containerd_setup(&flags, &root),
        "docker" => {
            let options = docker::Options {
                registries: flags.registries(),
                mirror: flags.mirror(),
                dial_timeout: flags.dial_timeout(),
                ..docker::Options::new(&root)
            };
            Setup {
                plan: Box::new(move || docker::plan(&options).unwrap()),
                undo: Box::new(|root, state| docker::undo(root, state).unwrap()),
            }
        }
        "podman" | "crio" => {
            let options = containers::Options {
                registries: flags.registries(),
                mirror: flags.mirror(),
                digest_only: flags.0.contains_key("digest-only"),
                ..containers::Options::new(&root)
            };
            Setup {
                plan: Box::new(move || containers::plan(&options).unwrap()),
                undo: Box::new(|root, state| containers::undo(root, state).unwrap()),
            }
        }
        "buildkit" => {
            let options = buildkit::Options {
                registries: flags.registries(),
                mirror: flags.mirror(),
                ..buildkit::Options::new(&root)
            };
            Setup {
                plan: Box::new(move || buildkit::plan(&options).unwrap()),
                undo: Box::new(|root, state| buildkit::undo(root, state).unwrap()),
            }
        }
        "stargz" => lazy_setup(&flags, &root, Snapshotter::Stargz),
        "soci" => lazy_setup(&flags, &root, Snapshotter::Soci),
        "nydus-snapshotter" => nydus_setup(&flags, &root),
        other => panic!("unknown client {other}"),
    }
}

fn containerd_setup(flags: &Flags, root: &Path) -> Setup {
    let mut options = containerd::Options::new(root);
    options.registries = flags.registries();
    options.mirror = flags.mirror();
    options.dial_timeout = flags.dial_timeout();
    if flags.0.contains_key("snapshotter") {
        let socket = flags.one("snapshotter").unwrap_or(containerd::SNAPSHOTTER_SOCKET);
        options.snapshotter = Some(socket.into());
    }
    if flags.one("capabilities") == Some("pull") {
        options.capabilities = Capabilities::Pull;
    }
    Setup {
        plan: Box::new(move || containerd::plan(&options).unwrap()),
        undo: Box::new(|root, state| containerd::undo(root, state).unwrap()),
    }
}

fn lazy_setup(flags: &Flags, root: &Path, snapshotter: Snapshotter) -> Setup {
    let options = lazy::Options {
        registries: flags.registries(),
        mirror: flags.mirror(),
        ..lazy::Options::new(snapshotter, root)
    };
    Setup {
        plan: Box::new(move || lazy::plan(&options).unwrap()),
        undo: Box::new(move |root, state| lazy::undo(snapshotter, root, state).unwrap()),
    }
}

fn nydus_setup(flags: &Flags, root: &Path) -> Setup {
    let mut options = nydus::Options::new(root).unwrap();
    options.mirror = flags.mirror();
    if flags.0.contains_key("registry") {
        options.through = nydus::Through::Mirror(flags.registries());
    }
    Setup {
        plan: Box::new(move || nydus::plan(&options).unwrap()),
        undo: Box::new(|root, state| nydus::undo(root, state).unwrap()),
    }
}

/// Runs one example and answers the notes of its first plan.
fn run(name: &str) -> Vec<String> {
    let example = examples().join(name);
    let command = fs::read_to_string(example.join("command")).unwrap();
    let before = read_tree(&example.join("before"));
    let (root, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_tree(root.path(), &before);

    let setup = setup(root.path(), &command);
    let first = (setup.plan)();
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

    let second = (setup.plan)();
    assert_eq!(second.render(), "", "{name}: the second plan is empty");
    assert!(second.is_empty());

    let back = (setup.undo)(root.path(), state.path());
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
    assert_eq!(ran, 18, "the README of the examples names eighteen");
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
    let notes = run("nydus-proxy");
    assert!(
        notes.iter().any(|note| note.contains("forward.listen")) && notes[0].contains("nydusd.json"),
        "{notes:?}"
    );
    assert_eq!(run("existing-hosts"), [""; 0], "config_path is set: no restart");
}
