//! Plans for whole directory trees: what is written, noted, refused and undone.

use super::*;
use proptest::prelude::*;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

const CONFIG_PATH: &str = "/etc/containerd/config.toml";

struct Node {
    root: tempfile::TempDir,
    state: tempfile::TempDir,
}

impl Node {
    fn new(files: &[(&str, &str)]) -> Self {
        let node = Self {
            root: tempfile::tempdir().unwrap(),
            state: tempfile::tempdir().unwrap(),
        };
        files
            .iter()
            .for_each(|(path, text)| node.write(path, text.as_bytes()));
        node
    }

    fn write(&self, path: &str, bytes: &[u8]) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    fn options(&self, registries: &[&str]) -> Options {
        let registries = registries.iter().map(|name| name.parse().unwrap()).collect();
        Options {
            registries,
            ..Options::new(self.root.path())
        }
    }

    fn plan(&self, registries: &[&str]) -> Result<Plan, Error> {
        plan(&self.options(registries))
    }

    fn apply(&self, registries: &[&str]) {
        self.plan(registries).unwrap().apply(self.state.path()).unwrap();
    }

    fn undo(&self) -> Plan {
        let plan = undo(self.root.path(), self.state.path()).unwrap();
        plan.apply(self.state.path()).unwrap();
        plan
    }
}

const CONFIG: &str = "etc/containerd/config.toml";
const DOCKER: &str = "etc/containerd/certs.d/docker.io/hosts.toml";
const DEFAULT: &str = "etc/containerd/certs.d/_default/hosts.toml";
const V2_SET: &str = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n";

#[test]
fn each_of_both_files_can_be_written_alone() {
    let node = Node::new(&[]);
    let only = |parts| {
        plan(&Options {
            parts,
            ..node.options(&[])
        })
        .unwrap()
    };
    let hosts = only(Parts::Hosts);
    assert_eq!(
        hosts.paths().collect::<Vec<_>>(),
        [Path::new("/etc/containerd/certs.d/_default/hosts.toml")]
    );
    assert_eq!(
        hosts.notes(),
        [Note::NoConfigPath {
            path: CONFIG_PATH.into()
        }]
    );
    let config = only(Parts::ConfigPath);
    assert_eq!(config.paths().collect::<Vec<_>>(), [Path::new(CONFIG_PATH)]);
    config.apply(node.state.path()).unwrap();
    assert_eq!(only(Parts::Hosts).notes(), []);
    assert!(only(Parts::ConfigPath).is_empty());
}

#[test]
fn a_node_without_any_configuration_gets_both_files_and_loses_them_again() {
    let node = Node::new(&[]);
    let plan = node.plan(&[]).unwrap();
    let expected = "\
--- /dev/null
+++ /etc/containerd/config.toml
@@ -0,0 +1,4 @@
+version = 2
+
+[plugins.\"io.containerd.grpc.v1.cri\".registry]
+config_path = \"/etc/containerd/certs.d\"
--- /dev/null
+++ /etc/containerd/certs.d/_default/hosts.toml
@@ -0,0 +1,4 @@
+# Written by `darter setup containerd`; `darter setup containerd --undo` takes it back.
+[host.\"http://127.0.0.1:4001\"]
+capabilities = [\"pull\", \"resolve\"]
+dial_timeout = \"200ms\"
";
    assert_eq!(plan.render(), expected);
    plan.apply(node.state.path()).unwrap();
    node.undo();
    assert_eq!(
        fs::read_dir(node.root.path()).unwrap().count(),
        0,
        "directories are removed as well"
    );
}

#[test]
fn nothing_to_undo_is_said() {
    let node = Node::new(&[]);
    assert_eq!(node.undo().notes(), [Note::NothingToUndo]);
}

#[test]
fn deprecated_mirrors_are_refused_and_credentials_are_not() {
    let cri = "plugins.\"io.containerd.grpc.v1.cri\".registry";
    for (section, key) in [
        ("mirrors.\"docker.io\"]\nendpoint = [\"https://a\"]", "mirrors"),
        (
            "configs.\"a\".tls]\ninsecure_skip_verify = true",
            "configs.\"a\".tls",
        ),
    ] {
        let node = Node::new(&[(CONFIG, &format!("version = 2\n[{cri}.{section}\n"))]);
        let error = node.plan(&[]).unwrap_err();
        assert!(
            matches!(&error, Error::DeprecatedRegistry { key: found, .. } if found.ends_with(key)),
            "{error}"
        );
        assert!(
            error.to_string().contains("does not start its CRI plugin"),
            "{error}"
        );
    }
    let node = Node::new(&[(
        CONFIG,
        &format!("version = 2\n[{cri}.configs.\"a\".auth]\nusername = \"u\"\n"),
    )]);
    node.apply(&[]);
    assert!(node.read(CONFIG).contains("config_path"));
}

#[test]
fn configurations_that_are_not_understood_are_refused() {
    for (text, message) in [
        ("version = 5", "configuration version 5 is not known"),
        ("version = \"2\"", "`version` is not a whole number"),
        (
            "plugins = 1\nversion = 2",
            "`plugins.io.containerd.grpc.v1.cri.registry` is not a table",
        ),
        (
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = 1",
            "is not a text",
        ),
        ("imports = 1", "`imports` is not a list of paths"),
        ("a =", "/etc/containerd/config.toml:1: invalid TOML"),
    ] {
        let error = Node::new(&[(CONFIG, text)]).plan(&[]).unwrap_err().to_string();
        assert!(error.contains(message), "{text}: {error}");
    }
    let node = Node::new(&[]);
    node.write(CONFIG, b"a = \xff");
    assert!(matches!(node.plan(&[]), Err(Error::NotText { .. })));
}

#[test]
fn config_path_is_set_in_every_style_of_table() {
    for text in [
        "version = 2\n[plugins]\n\"io.containerd.grpc.v1.cri\".sandbox_image = \"a\"\n",
        "version = 2\nplugins = {\"io.containerd.grpc.v1.cri\" = {sandbox_image = \"a\"}}\n",
        "version = 2\nplugins.\"io.containerd.grpc.v1.cri\".sandbox_image = \"a\"\n",
        "version = 3\n",
        "version = 4\n",
        "disabled_plugins = [\"x\"]\n",
        "# only a comment\n",
        "version = 2\r\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\r\nconfig_path = ''\r\n",
    ] {
        let node = Node::new(&[(CONFIG, text)]);
        node.apply(&[]);
        let after = node.read(CONFIG);
        assert!(after.parse::<toml_edit::DocumentMut>().is_ok(), "{after}");
        assert!(
            node.plan(&[]).unwrap().is_empty(),
            "config_path is found again: {after}"
        );
        assert!(after.contains("/etc/containerd/certs.d"), "{after}");
        node.undo();
        assert_eq!(node.read(CONFIG), text);
    }
}

#[test]
fn the_edit_goes_to_the_import_that_has_the_section() {
    let import = "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nenable_cdi = true\n";
    let node = Node::new(&[
        (
            CONFIG,
            "version = 2\nimports = [\"/etc/containerd/conf.d/*.toml\", \"gone.toml\"]\n",
        ),
        ("etc/containerd/conf.d/99-gpu.toml", import),
        ("etc/containerd/conf.d/readme.md", "not TOML"),
    ]);
    let plan = node.plan(&[]).unwrap();
    let paths: Vec<_> = plan.paths().collect();
    assert_eq!(paths[0], Path::new("/etc/containerd/conf.d/99-gpu.toml"));
    plan.apply(node.state.path()).unwrap();
    assert!(node.plan(&[]).unwrap().is_empty());
}

#[test]
fn imports_that_name_each_other_end() {
    let node = Node::new(&[(CONFIG, "version = 2\nimports = [\"config.toml\", \"a.toml\"]\n")]);
    node.write(
        "etc/containerd/a.toml",
        b"version = 2\nimports = [\"/etc/containerd/config.toml\", \"a.toml\"]\n",
    );
    assert!(!node.plan(&[]).unwrap().is_empty());
}

#[test]
fn a_generated_file_without_config_path_is_refused() {
    let path = "var/lib/rancher/rke2/agent/etc/containerd/config.toml";
    let node = Node::new(&[(path, "version = 3\n")]);
    let error = node.plan(&[]).unwrap_err().to_string();
    assert!(error.contains("generated by RKE2"), "{error}");
    assert!(
        error.contains("/var/lib/rancher/rke2/agent/etc/containerd/config-v3.toml.tmpl"),
        "{error}"
    );
}

#[test]
fn a_named_configuration_is_the_only_one() {
    let node = Node::new(&[(CONFIG, "a ="), ("etc/k0s/containerd.toml", "version = 3\n")]);
    let options = Options {
        config: Some("/etc/k0s/containerd.toml".into()),
        ..node.options(&[])
    };
    let plan = plan(&options).unwrap();
    assert_eq!(plan.paths().next(), Some(Path::new("/etc/k0s/containerd.toml")));
}

#[test]
fn a_disabled_cri_and_a_shadowed_default_are_told() {
    let node = Node::new(&[
        (CONFIG, &format!("disabled_plugins = [\"cri\"]\n{V2_SET}")),
        (DEFAULT, "[host.\"https://a\"]\n"),
    ]);
    let plan = node.plan(&["r.example:5000", "r.example:5000"]).unwrap();
    assert_eq!(
        plan.paths().collect::<Vec<_>>(),
        [Path::new("/etc/containerd/certs.d/r.example:5000/hosts.toml")]
    );
    assert_eq!(
        plan.notes(),
        [
            Note::CriDisabled {
                path: format!("/{CONFIG}").into()
            },
            Note::DefaultNoLongerApplies {
                registry: "r.example:5000".into(),
                path: format!("/{DEFAULT}").into()
            },
        ]
    );
}

#[test]
fn a_file_that_changes_between_plan_and_apply_is_not_written() {
    let node = Node::new(&[(CONFIG, V2_SET), (DOCKER, "server = \"https://a\"\n")]);
    let plan = node.plan(&["docker.io"]).unwrap();
    node.write(DOCKER, b"server = \"https://b\"\n");
    assert!(matches!(
        plan.apply(node.state.path()),
        Err(Error::ChangedMeanwhile { .. })
    ));
    assert_eq!(node.read(DOCKER), "server = \"https://b\"\n");
    assert_eq!(fs::read_dir(node.state.path()).unwrap().count(), 0);
}

#[test]
fn undo_leaves_what_somebody_else_changed_and_can_be_tried_again() {
    let node = Node::new(&[(CONFIG, "version = 2\n"), (DOCKER, "server = \"https://a\"\n")]);
    node.apply(&["docker.io", "ghcr.io"]);
    let edited = node.read(DOCKER) + "\n[host.\"https://mine\"]\n";
    node.write(DOCKER, edited.as_bytes());

    let plan = node.undo();
    let [
        Note::ChangedSince {
            path,
            copy: Some(copy),
        },
        Note::RestartNeeded { .. },
    ] = plan.notes()
    else {
        panic!("{:?}", plan.notes());
    };
    assert_eq!(path, &Path::new("/").join(DOCKER));
    assert_eq!(fs::read_to_string(copy).unwrap(), "server = \"https://a\"\n");
    assert_eq!(fs::metadata(copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(node.read(DOCKER), edited);
    assert_eq!(node.read(CONFIG), "version = 2\n");
    assert!(!node.path("etc/containerd/certs.d/ghcr.io").exists());

    node.write(DOCKER, b"server = \"https://a\"\n");
    assert!(node.undo().is_empty());
    assert_eq!(
        fs::read_dir(node.state.path()).unwrap().count(),
        0,
        "the last entry is dealt with"
    );
}

#[test]
fn undo_goes_back_through_several_setups_to_the_first() {
    let node = Node::new(&[(CONFIG, V2_SET), (DOCKER, "server = \"https://a\"\n")]);
    node.apply(&["docker.io"]);
    let again = Options {
        dial_timeout: Duration::from_secs(1),
        ..node.options(&["docker.io"])
    };
    plan(&again).unwrap().apply(node.state.path()).unwrap();
    assert!(node.read(DOCKER).contains("\"1s\""));
    node.undo();
    assert_eq!(node.read(DOCKER), "server = \"https://a\"\n");
}

#[test]
fn an_edit_between_two_setups_survives_the_undo() {
    let node = Node::new(&[(CONFIG, V2_SET), (DOCKER, "server = \"https://a\"\n")]);
    node.apply(&["docker.io"]);
    let edited = node.read(DOCKER) + "\n[host.\"https://mine\"]\n";
    node.write(DOCKER, edited.as_bytes());
    let again = Options {
        capabilities: Capabilities::Pull,
        ..node.options(&["docker.io"])
    };
    plan(&again).unwrap().apply(node.state.path()).unwrap();
    let plan = node.undo();
    assert!(
        matches!(plan.notes(), [Note::ChangedSince { .. }]),
        "{:?}",
        plan.notes()
    );
    assert_eq!(node.read(DOCKER), edited);
}

#[test]
fn a_setup_that_stopped_before_writing_is_undone_to_the_same_files() {
    let node = Node::new(&[(CONFIG, V2_SET), (DOCKER, "server = \"https://a\"\n")]);
    let plan = node.plan(&["docker.io"]).unwrap();
    backup::record(
        node.root.path(),
        &node.state.path().join("containerd"),
        &plan.changes,
    )
    .unwrap();
    node.apply(&["docker.io"]);
    node.undo();
    assert_eq!(node.read(DOCKER), "server = \"https://a\"\n");
}

#[test]
fn a_damaged_record_is_told() {
    let node = Node::new(&[(CONFIG, V2_SET)]);
    for text in [
        "{",
        "{\"version\":9,\"next_copy\":1,\"entries\":[],\"directories\":[]}",
    ] {
        fs::create_dir_all(node.state.path().join("containerd")).unwrap();
        fs::write(node.state.path().join("containerd").join("record.json"), text).unwrap();
        assert!(
            matches!(
                undo(node.root.path(), node.state.path()),
                Err(Error::BadRecord { .. })
            ),
            "{text}"
        );
    }
}

#[test]
fn a_dial_timeout_of_nothing_is_refused() {
    let node = Node::new(&[]);
    let options = Options {
        dial_timeout: Duration::ZERO,
        ..node.options(&[])
    };
    assert!(matches!(plan(&options), Err(Error::ZeroDialTimeout)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn undo_gives_the_exact_bytes_back(
        hosts in prop::option::of("(server = \"https://[a-z]{1,5}\"(\n|\r\n))?(# [a-z]{0,5}\n){0,2}(\n|\\[host\\.\"https://[a-z]{1,3}\"\\]\r?\n( ca = '[a-z]{0,4}'\n)?)?"),
        config in prop::option::of("(version = [23]\n)?(# [a-z]{0,5}\r?\n){0,3}(root = '/[a-z]{1,4}'\n)?(\\[plugins\\]\n)?"),
    ) {
        let node = Node::new(&[]);
        for (path, text) in [(CONFIG, &config), (DOCKER, &hosts)] {
            if let Some(text) = text {
                node.write(path, text.as_bytes());
            }
        }
        node.apply(&["docker.io"]);
        prop_assert!(node.plan(&["docker.io"]).unwrap().is_empty());
        prop_assert!(node.read(DOCKER).contains("127.0.0.1:4001"));
        node.undo();
        for (path, text) in [(CONFIG, config), (DOCKER, hosts)] {
            prop_assert_eq!(fs::read_to_string(node.path(path)).ok(), text);
        }
    }

    #[test]
    fn any_config_is_edited_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let node = Node::new(&[]);
        node.write(CONFIG, &bytes);
        let _ = node.plan(&[]);
    }
}
