//! The container runtimes of the node: which there are, and whether containerd asks the mirror.

use std::path::Path;
use std::time::Duration;

use darter_containerd_config::containerd::{self, Inspection, Options};
use darter_containerd_config::{Mirror, Registry};
use tokio::process::Command;
use tokio::time::timeout;

use super::finding::Finding;

const CHECK: &str = "runtime";
/// A program that does not say its version within this hangs.
const VERSION_PATIENCE: Duration = Duration::from_secs(5);
/// What a wait for a dead mirror may cost each request of a pull.
const DIAL_TIMEOUT_MAX: Duration = Duration::from_secs(1);
/// containerd reads `hosts.toml` since this one.
const CONTAINERD_MIN: (u32, u32) = (1, 5);

/// A runtime: its program, and where it listens.
const RUNTIMES: [(&str, &[&str]); 4] = [
    (
        "containerd",
        &[
            "run/containerd/containerd.sock",
            "run/k3s/containerd/containerd.sock",
        ],
    ),
    ("docker", &["run/docker.sock", "var/run/docker.sock"]),
    ("podman", &[]),
    ("crio", &["run/crio/crio.sock"]),
];

/// Which runtimes there are and which version they say they have.
pub(super) async fn found(root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, sockets) in RUNTIMES {
        let socket = sockets.iter().find(|socket| root.join(socket).exists());
        let version = match program(root, name) {
            Some(path) => version(&path).await,
            None => None,
        };
        findings.extend(runtime(name, sockets, socket.copied(), version.as_deref()));
    }
    if findings.is_empty() {
        let advice = "install containerd, Docker, podman or CRI-O; with --root, name the node's file system";
        findings.push(Finding::fail(CHECK, "no container runtime is found", advice));
    }
    findings
}

fn runtime(name: &str, sockets: &[&str], socket: Option<&str>, version: Option<&str>) -> Option<Finding> {
    let running = match socket {
        Some(socket) => format!(", listens at /{socket}"),
        None if sockets.is_empty() => String::new(),
        None => ", does not run".to_owned(),
    };
    let version = match (version, socket) {
        (Some(version), _) => version,
        (None, Some(_)) => "of an unknown version",
        (None, None) => return None,
    };
    let seen = format!("{name} {version}{running}");
    if name == "containerd" && numbers(version).is_some_and(|found| found < CONTAINERD_MIN) {
        return Some(Finding::fail(
            CHECK,
            seen,
            "containerd reads hosts.toml since 1.5: update it",
        ));
    }
    Some(Finding::ok(CHECK, seen))
}

fn program(root: &Path, name: &str) -> Option<std::path::PathBuf> {
    let folders = ["usr/local/bin", "usr/bin", "bin", "usr/local/sbin", "usr/sbin"];
    let paths = folders.map(|folder| root.join(folder).join(name));
    paths.into_iter().find(|path| path.is_file())
}

/// The first word of `--version` that begins with a digit, maybe behind a `v`.
async fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").kill_on_drop(true).output();
    let output = timeout(VERSION_PATIENCE, output).await.ok()?.ok()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    said.split([' ', ',', '\n', '\t'])
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split(['.', '~', '-', '+']);
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether containerd asks the mirror for a registry's images.
pub(super) fn asks_mirror(root: &Path, mirror: &Mirror, registry: &Registry) -> Vec<Finding> {
    let check = "hosts.toml";
    let mut options = Options::new(root);
    options.mirror = mirror.clone();
    match containerd::inspect(&options, registry) {
        Ok(seen) => seen
            .iter()
            .flat_map(|one| asks(check, one, mirror, registry))
            .collect(),
        Err(error) => {
            let advice = "correct it, then run `darter setup containerd --dry-run` again";
            vec![Finding::fail(check, error.to_string(), advice)]
        }
    }
}

fn asks(check: &'static str, seen: &Inspection, mirror: &Mirror, registry: &Registry) -> Vec<Finding> {
    let mut findings = Vec::new();
    let setup = "darter setup containerd, then restart containerd if it says so";
    if !seen.config_path {
        let text = format!(
            "{} sets no config_path: hosts.toml is not read",
            seen.config.display()
        );
        findings.push(Finding::fail(check, text, setup));
    }
    if seen.cri_disabled {
        let text = format!("{} disables the CRI plugin", seen.config.display());
        let advice = "for Kubernetes, take cri out of disabled_plugins";
        findings.push(Finding::warn(check, text, advice));
    }
    let Some(hosts) = &seen.hosts else {
        let text = format!("there is no hosts.toml for {registry}");
        findings.push(Finding::fail(check, text, setup));
        return findings;
    };
    let hosts = hosts.display();
    let Some(entry) = &seen.entry else {
        let text = format!("{hosts} does not name {mirror}");
        let advice = format!("darter setup containerd --registry {registry} --mirror {mirror}");
        findings.push(Finding::fail(check, text, advice));
        return findings;
    };
    if !entry.first {
        let advice = "put its [host] table first in the file";
        findings.push(Finding::warn(
            check,
            format!("{hosts} names another host before {mirror}"),
            advice,
        ));
    }
    let written = entry.dial_timeout.as_deref();
    match written.map(|text| (text, go_duration(text))) {
        Some((_, Some(time))) if time <= DIAL_TIMEOUT_MAX => {}
        other => {
            let waits = other.map_or("30s, its default", |(text, _)| text);
            let text =
                format!("{hosts}: containerd waits {waits} for a mirror that is dead, at each request");
            findings.push(Finding::warn(
                check,
                text,
                "set dial_timeout = \"200ms\" there, or run darter setup containerd",
            ));
        }
    }
    if findings.is_empty() {
        let text = format!("{registry} is pulled through {mirror} ({hosts})");
        findings.push(Finding::ok(check, text));
    }
    findings
}

/// Go's notation with one unit, which is what setup and people write.
fn go_duration(text: &str) -> Option<Duration> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::super::finding::State;
    use super::*;

    fn node(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        root
    }

    fn told(findings: &[Finding], state: State, words: &str) {
        let found = findings.iter().any(|one| {
            one.state == state && one.seen.contains(words) && (state == State::Ok || one.advice.is_some())
        });
        assert!(found, "{state:?} {words}: {findings:#?}");
    }

    fn hosts(files: &[(&str, &str)]) -> Vec<Finding> {
        let root = node(files);
        let mirror = "http://127.0.0.1:4001".parse().unwrap();
        asks_mirror(root.path(), &mirror, &"docker.io".parse().unwrap())
    }

    const CONFIG: (&str, &str) = (
        "etc/containerd/config.toml",
        "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n",
    );
    const HOSTS: &str = "etc/containerd/certs.d/docker.io/hosts.toml";

    #[test]
    fn what_is_wrong_with_hosts_toml_is_told() {
        told(&hosts(&[]), State::Fail, "no config_path");
        told(&hosts(&[CONFIG]), State::Fail, "no hosts.toml for docker.io");
        told(
            &hosts(&[CONFIG, (HOSTS, "server = \"https://x\"\n")]),
            State::Fail,
            "does not name",
        );
        let ours = "[host.\"http://127.0.0.1:4001\"]\n";
        told(&hosts(&[CONFIG, (HOSTS, ours)]), State::Warn, "30s");
        let slow = format!("{ours}dial_timeout = \"5s\"\n");
        told(&hosts(&[CONFIG, (HOSTS, &slow)]), State::Warn, "waits 5s");
        let second = format!("[host.\"https://x\"]\n{ours}dial_timeout = \"200ms\"\n");
        told(
            &hosts(&[CONFIG, (HOSTS, &second)]),
            State::Warn,
            "another host before",
        );
        let good = format!("{ours}dial_timeout = \"200ms\"\n");
        told(
            &hosts(&[CONFIG, (HOSTS, &good)]),
            State::Ok,
            "docker.io is pulled through",
        );
        told(&hosts(&[CONFIG, (HOSTS, "not toml")]), State::Fail, "hosts.toml");
        let disabled = ("etc/containerd/config.toml", "disabled_plugins = [\"cri\"]\n");
        told(&hosts(&[disabled]), State::Warn, "disables the CRI plugin");
    }

    #[tokio::test]
    async fn runtimes_are_found_by_their_programs_and_sockets() {
        told(
            &found(node(&[]).path()).await,
            State::Fail,
            "no container runtime",
        );
        let root = node(&[
            (
                "usr/bin/containerd",
                "#!/bin/sh\necho 'containerd github.com/containerd/containerd v1.4.9 abc'\n",
            ),
            ("run/docker.sock", ""),
        ]);
        let program = root.path().join("usr/bin/containerd");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(program, mode).unwrap();
        let findings = found(root.path()).await;
        told(&findings, State::Fail, "containerd 1.4.9");
        told(
            &findings,
            State::Ok,
            "docker of an unknown version, listens at /run/docker.sock",
        );
    }

    #[test]
    fn versions_and_durations_are_read() {
        assert_eq!(numbers("1.6.20~ds1"), Some((1, 6)));
        assert_eq!(numbers("2.1.0"), Some((2, 1)));
        assert_eq!(go_duration("200ms"), Some(Duration::from_millis(200)));
        assert_eq!(go_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(go_duration("soon"), None);
    }
}
