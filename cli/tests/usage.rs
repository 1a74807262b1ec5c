//! The command line from outside: what it says, and with which status it ends.

#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test that cannot go on fails the test"
)]

use std::process::{Command, Output};

fn darter(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_darter"));
    command.args(arguments).env_clear().output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn bad_usage_ends_with_64() {
    let wrong: [&[&str]; 12] = [
        &[],
        &["bogus"],
        &["proxy", "run", "--bogus"],
        &["up", "--mirror", "nowhere"],
        &["proxy", "run", "--log", "loud=loud=loud"],
        &["proxy", "run", "--config", "/nonexistent.yaml"],
        &["proxy", "role", "leader"],
        &["proxy", "role", "--admin", "4002"],
        &["setup", "containerd", "--registry", "../etc"],
        &["setup", "containerd", "--capabilities", "resolve"],
        &["setup", "podman", "--registry", "_default"],
        &["setup", "buildkit", "--mirror", "http://127.0.0.1:4001/path"],
    ];
    for arguments in wrong {
        let output = darter(arguments);
        assert_eq!(
            output.status.code(),
            Some(64),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        assert!(
            !output.stderr.is_empty() && output.stdout.is_empty(),
            "{arguments:?}"
        );
    }
}

#[test]
fn a_wrong_proxy_is_told_without_its_password() {
    let output = darter(&["setup", "docker", "--proxy", "http://anna:canary@h:4003/path"]);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(
        said.contains("http://anna:***@h:4003/path") && !said.contains("canary"),
        "{said}"
    );
}

#[test]
fn help_has_examples_that_are_commands() {
    for arguments in [
        &["--help"][..],
        &["up", "--help"],
        &["proxy", "run", "--help"],
        &["proxy", "role", "--help"],
        &["scheduler", "run", "--help"],
        &["scheduler", "task", "--help"],
        &["setup", "containerd", "--help"],
        &["setup", "docker", "--help"],
        &["setup", "podman", "--help"],
        &["setup", "crio", "--help"],
        &["setup", "buildkit", "--help"],
        &["setup", "stargz", "--help"],
        &["setup", "soci", "--help"],
    ] {
        let output = darter(arguments);
        assert_eq!(output.status.code(), Some(0));
        let help = text(&output.stdout);
        let examples = help.split_once("Examples:\n").expect(&help).1;
        assert!(examples.contains("  darter "), "{help}");
    }
}

/// The program in a folder of its own.
fn darter_in(folder: &std::path::Path) -> Command {
    let (own, there) = (env!("CARGO_BIN_EXE_darter"), folder.join("darter"));
    std::fs::hard_link(own, &there)
        .or_else(|_| std::fs::copy(own, &there).map(|_| ()))
        .unwrap();
    Command::new(there)
}

#[test]
fn mounts_are_the_work_of_the_bridge_beside_the_program() {
    let folder = tempfile::tempdir().unwrap();
    let mut darter = darter_in(folder.path());
    let missing = darter.args(["umount", "/mnt"]).output().unwrap();
    assert_eq!(missing.status.code(), Some(1));
    let said = text(&missing.stderr);
    assert!(
        said.contains("darter-bridge") && said.contains("install it"),
        "{said}"
    );

    let bridge = folder.path().join("darter-bridge");
    std::fs::write(&bridge, "#!/bin/sh\necho \"$@\"\nexit 7\n").unwrap();
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&bridge, executable).unwrap();
    for arguments in [
        &["mount", "--mirror", "x:1", "image", "/mnt"][..],
        &["mount", "--help"],
        &["umount", "-h"],
        &["nydusd", "fuse", "--mountpoint", "/mnt", "--apisock", "/run/x"],
        &["nydusd", "--version"],
    ] {
        let there = Command::new(folder.path().join("darter"))
            .args(arguments)
            .output()
            .unwrap();
        assert_eq!(there.status.code(), Some(7), "{arguments:?}");
        assert_eq!(text(&there.stdout).trim(), arguments.join(" "));
    }
}

#[test]
fn the_version_names_the_protocol() {
    let said = text(&darter(&["version"]).stdout);
    assert!(
        said.starts_with(&format!("darter {}", env!("CARGO_PKG_VERSION"))),
        "{said}"
    );
    assert!(said.contains("wire protocol 1\n"), "{said}");
}

#[test]
fn no_scheduler_is_a_failure_with_advice() {
    let free = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let output = darter(&["scheduler", "tasks", "--address", &free]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("is it running?"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn the_environment_is_stronger_than_the_file_and_weaker_than_set() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("proxy.yaml");
    std::fs::write(&file, "host: file\nstore: { quota: 1GiB, freeFloor: 2GiB }\n").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_darter"))
        .args(["proxy", "print-config", "--set", "host=flag", "--config"])
        .arg(&file)
        .env_clear()
        .env("DARTER_PROXY__HOST", "environment")
        .env("DARTER_PROXY__STORE__FREE_FLOOR", "3GiB")
        .output()
        .unwrap();
    let said = text(&output.stdout);
    for line in ["host: flag\n", "  quota: 1GiB\n", "  freeFloor: 3GiB\n"] {
        assert!(said.contains(line), "{line:?} is not in:\n{said}");
    }
}

#[test]
fn containerd_is_set_up_and_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let (root, state) = (dir.path().join("root"), dir.path().join("state"));
    std::fs::create_dir_all(root.join("etc/containerd")).unwrap();
    std::fs::write(root.join("etc/containerd/config.toml"), "version = 2\n").unwrap();
    let (root, state) = (root.display().to_string(), state.display().to_string());
    let setup = |more: &[&str]| {
        let common = ["setup", "containerd", "--root", &root, "--state-dir", &state];
        let output = darter(&[&common, more].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    let hosts = format!("{root}/etc/containerd/certs.d/ghcr.io/hosts.toml");
    let registry = ["--registry", "ghcr.io"];

    let shown = setup(&[&registry[..], &["--dry-run"]].concat());
    assert!(
        shown.contains("+++ /etc/containerd/certs.d/ghcr.io/hosts.toml"),
        "{shown}"
    );
    assert!(!std::fs::exists(&hosts).unwrap());

    let said = setup(&registry);
    assert!(said.contains("changed /etc/containerd/config.toml\n"), "{said}");
    assert!(
        said.contains("note: /etc/containerd/config.toml is read at the start only"),
        "{said}"
    );
    assert!(
        std::fs::read_to_string(&hosts)
            .unwrap()
            .contains("http://127.0.0.1:4001")
    );
    assert!(setup(&registry).contains("nothing to change"));

    assert!(setup(&["--undo"]).contains("the former files are back"));
    assert!(!std::fs::exists(&hosts).unwrap());
    assert!(setup(&["--undo"]).contains("nothing to undo"));
}

/// Each client's command shows, writes, tells what to do next, finds nothing to do the second time, and takes it back.
#[test]
fn every_other_client_is_set_up_and_taken_back() {
    for (client, file, next) in [
        ("docker", "etc/docker/daemon.json", "systemctl reload docker"),
        (
            "podman",
            "etc/containers/registries.conf.d/50-darter.conf",
            "at each pull",
        ),
        (
            "crio",
            "etc/containers/registries.conf.d/50-darter.conf",
            "systemctl reload crio",
        ),
        ("buildkit", "etc/buildkit/buildkitd.toml", "restart buildkitd"),
        (
            "stargz",
            "etc/containerd-stargz-grpc/config.toml",
            "restart containerd-stargz-grpc",
        ),
        (
            "soci",
            "etc/soci-snapshotter-grpc/config.toml",
            "restart soci-snapshotter-grpc",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let (root, state) = (dir.path().join("root"), dir.path().join("state"));
        std::fs::create_dir(&root).unwrap();
        let (root, state) = (root.display().to_string(), state.display().to_string());
        let setup = |more: &[&str]| {
            let common = ["setup", client, "--root", &root, "--state-dir", &state];
            let output = darter(&[&common, more].concat());
            assert!(output.status.success(), "{client}: {}", text(&output.stderr));
            text(&output.stdout)
        };
        let written = format!("{root}/{file}");

        assert!(
            setup(&["--dry-run"]).contains(&format!("+++ /{file}")),
            "{client}"
        );
        assert!(!std::fs::exists(&written).unwrap(), "{client}");
        let said = setup(&[]);
        assert!(
            said.contains(&format!("changed /{file}\n")) && said.contains(next),
            "{said}"
        );
        assert!(
            std::fs::read_to_string(&written)
                .unwrap()
                .contains("127.0.0.1:4001"),
            "{client}"
        );
        assert!(setup(&[]).contains("nothing to change"), "{client}");
        let back = setup(&["--undo"]);
        assert!(
            back.contains("the former files are back") && back.contains(next),
            "{back}"
        );
        assert!(!std::fs::exists(&written).unwrap(), "{client}");
    }
}

#[test]
fn a_file_that_is_not_understood_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("etc/docker/daemon.json");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "{\n  \"debug\": true,\n}\n").unwrap();
    let output = darter(&["setup", "docker", "--root", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("/etc/docker/daemon.json:3: invalid JSON"), "{said}");
    assert_eq!(
        std::fs::read_to_string(&file).unwrap(),
        "{\n  \"debug\": true,\n}\n"
    );
}
