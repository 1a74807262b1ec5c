//! Plans for Docker: the layout of `daemon.json` stays, both stores get what they read, and what would stop the
//! daemon is refused.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;

const DAEMON: &str = "etc/docker/daemon.json";

fn node(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn planned(files: &[(&str, &str)], registries: &[&str]) -> Result<Plan, Error> {
    let root = node(files);
    let registries = registries.iter().map(|name| name.parse().unwrap()).collect();
    plan(&Options {
        registries,
        ..Options::new(root.path())
    })
}

fn with_mirror(text: &str) -> String {
    let daemon = Daemon::parse(Path::new("/daemon.json"), text.as_bytes()).unwrap();
    daemon.with_mirror_first(&Mirror::default()).unwrap()
}

#[test]
fn the_layout_of_the_file_stays() {
    let ours = "\"http://127.0.0.1:4001\"";
    for (before, after) in [
        ("", format!("{{\n  \"registry-mirrors\": [{ours}]\n}}\n")),
        ("{}", format!("{{\n  \"registry-mirrors\": [{ours}]\n}}\n")),
        (
            "{\"a\":1}",
            format!("{{\"registry-mirrors\": [{ours}], \"a\":1}}"),
        ),
        (
            "{\r\n\t\"a\": {\"registry-mirrors\": [\"no\"]}\r\n}\r\n",
            format!(
                "{{\r\n\t\"registry-mirrors\": [{ours}],\r\n\t\"a\": {{\"registry-mirrors\": [\"no\"]}}\r\n}}\r\n"
            ),
        ),
        (
            "{\"registry-mirrors\":[]}",
            format!("{{\"registry-mirrors\":[{ours}]}}"),
        ),
        (
            "{\"registry-mirrors\": [\n    \"https://a\"\n  ], \"b\": 2}",
            format!("{{\"registry-mirrors\": [\n    {ours},\n    \"https://a\"\n  ], \"b\": 2}}"),
        ),
        (
            "{\"registry-mirrors\": [\"https://a\", \"http://127.0.0.1:4001/\", \"https://b\"]}",
            format!("{{\"registry-mirrors\": [{ours}, \"https://a\", \"https://b\"]}}"),
        ),
        // The daemon takes the last of two.
        (
            "{\"registry-mirrors\": [\"https://a\"], \"registry-mirrors\": [\"https://b\"]}",
            format!(
                "{{\"registry-mirrors\": [\"https://a\"], \"registry-mirrors\": [{ours}, \"https://b\"]}}"
            ),
        ),
    ] {
        assert_eq!(with_mirror(before), after, "{before}");
        assert_eq!(with_mirror(&after), after, "a second time");
    }
}

#[test]
fn files_that_the_daemon_would_refuse_are_told_with_their_line() {
    for (text, said) in [
        ("{\n  \"a\": 1,\n}", "/etc/docker/daemon.json:3: invalid JSON"),
        ("[]", "daemon.json:1: invalid JSON"),
        (
            "{\"registry-mirrors\": \"https://a\"}",
            "`registry-mirrors` is not a list of texts",
        ),
        (
            "{\"features\": {\"containerd-snapshotter\": \"yes\"}}",
            "`features` is not an object",
        ),
        ("{\"data-root\": 7}", "`data-root` is not a text"),
    ] {
        let error = planned(&[(DAEMON, text)], &[]).unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
    }
    let root = node(&[]);
    fs::create_dir_all(root.path().join("etc/docker")).unwrap();
    fs::write(root.path().join(DAEMON), b"\xff{}").unwrap();
    assert!(matches!(
        plan(&Options::new(root.path())),
        Err(Error::NotText { .. })
    ));
}

#[test]
fn a_flag_that_would_stop_the_daemon_is_found() {
    let drop_in = "etc/systemd/system/docker.service.d/10-mirror.conf";
    let flag = "[Service]\nExecStart=/usr/bin/dockerd --registry-mirror=https://m.example\n";
    let error = planned(&[(drop_in, flag)], &[]).unwrap_err();
    assert!(
        matches!(&error, Error::FlagConflict { path, .. } if path == &Path::new("/").join(drop_in)),
        "{error}"
    );
    let comment = "# DOCKER_OPTS=\"--registry-mirror=https://m.example\"\n";
    assert!(planned(&[("etc/default/docker", comment)], &[]).is_ok());
}

#[test]
fn each_store_gets_what_it_reads() {
    let files =
        |plan: &Plan| -> Vec<String> { plan.paths().map(|path| path.display().to_string()).collect() };
    let (daemon, hosts) = (
        "/etc/docker/daemon.json",
        "/etc/docker/certs.d/ghcr.io/hosts.toml",
    );

    for classic in [
        "{\"features\": {\"containerd-snapshotter\": false}}",
        "{\"storage-driver\": \"overlay2\"}",
    ] {
        let plan = planned(&[(DAEMON, classic)], &["docker.io", "ghcr.io"]).unwrap();
        assert_eq!(files(&plan), [daemon], "{classic}");
        assert!(
            matches!(
                plan.notes(),
                [Note::DockerHubOnly { .. }, Note::RestartNeeded { .. }]
            ),
            "{classic}"
        );
    }
    let layers = ("srv/docker/overlay2/l/x", "");
    let plan = planned(&[(DAEMON, "{\"data-root\": \"/srv/docker\"}"), layers], &[]).unwrap();
    assert_eq!(files(&plan), [daemon], "an upgraded daemon keeps its store");

    let on = "{\"features\": {\"containerd-snapshotter\": true}}";
    let plan = planned(&[(DAEMON, on)], &["ghcr.io"]).unwrap();
    assert_eq!(
        files(&plan),
        [hosts],
        "mirrors in daemon.json are for docker.io only"
    );
    assert!(matches!(plan.notes(), [Note::ContainerdStore { .. }]));

    let plan = planned(&[], &["ghcr.io"]).unwrap();
    assert!(matches!(plan.notes(), [Note::UnknownStore { .. }]));
}

#[test]
fn what_docker_would_stop_applying_is_refused() {
    let on =
        "{\"features\": {\"containerd-snapshotter\": true}, \"insecure-registries\": [\"r.example:5000\"]}";
    let error = planned(&[(DAEMON, on)], &["r.example:5000"]).unwrap_err();
    assert!(
        matches!(&error, Error::InsecureRegistry { registry, .. } if registry == "r.example:5000"),
        "{error}"
    );
    assert!(planned(&[(DAEMON, on)], &["ghcr.io"]).is_ok());
    assert!(matches!(
        planned(&[], &["_default"]),
        Err(Error::InvalidRegistry { .. })
    ));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z\\[\\]{}\",: ]{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z\"{}]{0,4}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn only_the_mirrors_change(
        mut map in prop::collection::btree_map("[a-z\"{}]{0,4}", any_json(), 0..5),
        mirrors in prop::option::of(prop::collection::vec("https://[a-z]{1,3}", 0..3)),
        pretty: bool,
    ) {
        if let Some(mirrors) = &mirrors {
            map.insert("registry-mirrors".to_owned(), json!(mirrors));
        }
        let text = if pretty { serde_json::to_string_pretty(&map) } else { serde_json::to_string(&map) }.unwrap();
        let after = with_mirror(&text);
        let mut expected = vec!["http://127.0.0.1:4001".to_owned()];
        expected.extend(mirrors.unwrap_or_default());
        map.insert("registry-mirrors".to_owned(), json!(expected));
        prop_assert_eq!(serde_json::from_str::<Value>(&after).unwrap(), json!(map));
        prop_assert_eq!(with_mirror(&after), after);
    }

    #[test]
    fn any_bytes_are_edited_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..48)) {
        if let Ok(daemon) = Daemon::parse(Path::new("/d"), &bytes) {
            let _ = daemon.with_mirror_first(&Mirror::default());
        }
    }
}
