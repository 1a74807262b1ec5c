//! The clients of registries on the node: which there are, and in which version.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;
use tokio::time::timeout;

use super::finding::Finding;

const CHECK: &str = "runtime";
/// A program that does not say its version within this hangs.
const VERSION_PATIENCE: Duration = Duration::from_secs(5);
/// containerd reads `hosts.toml` since this one.
const CONTAINERD_MIN: (u32, u32) = (1, 5);

/// A client of registries that `darter setup` knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Containerd,
    Docker,
    /// And buildah and skopeo, which share its files.
    Podman,
    Crio,
    Buildkit,
    Stargz,
    Soci,
}

/// What tells that a client is there: one of its programs, sockets or files.
struct Signs {
    kind: Kind,
    programs: &'static [&'static str],
    sockets: &'static [&'static str],
    files: &'static [&'static str],
}

const SIGNS: [Signs; 7] = [
    Signs {
        kind: Kind::Containerd,
        programs: &["containerd"],
        sockets: &[
            "run/containerd/containerd.sock",
            "run/k3s/containerd/containerd.sock",
        ],
        files: &[],
    },
    Signs {
        kind: Kind::Docker,
        programs: &["dockerd"],
        sockets: &["run/docker.sock", "var/run/docker.sock"],
        files: &[],
    },
    Signs {
        kind: Kind::Podman,
        programs: &["podman", "buildah", "skopeo"],
        sockets: &[],
        files: &[],
    },
    Signs {
        kind: Kind::Crio,
        programs: &["crio"],
        sockets: &["run/crio/crio.sock"],
        files: &[],
    },
    Signs {
        kind: Kind::Buildkit,
        programs: &["buildkitd"],
        sockets: &["run/buildkit/buildkitd.sock"],
        files: &["etc/buildkit/buildkitd.toml"],
    },
    Signs {
        kind: Kind::Stargz,
        programs: &["containerd-stargz-grpc"],
        sockets: &["run/containerd-stargz-grpc/containerd-stargz-grpc.sock"],
        files: &["etc/containerd-stargz-grpc/config.toml"],
    },
    Signs {
        kind: Kind::Soci,
        programs: &["soci-snapshotter-grpc"],
        sockets: &["run/soci-snapshotter-grpc/soci-snapshotter-grpc.sock"],
        files: &["etc/soci-snapshotter-grpc/config.toml"],
    },
];

/// A client that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Runtime {
    pub(super) kind: Kind,
    name: &'static str,
    version: Option<String>,
    /// `Some` if it is one that listens: where, if it runs.
    listens: Option<Option<&'static str>>,
}

impl Kind {
    /// As `darter setup` and its own documentation name it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Containerd => "containerd",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Crio => "crio",
            Self::Buildkit => "buildkit",
            Self::Stargz => "stargz",
            Self::Soci => "soci",
        }
    }
}

/// Which clients there are, and which version they say they have.
pub(super) async fn found(root: &Path) -> Vec<Runtime> {
    let mut runtimes = Vec::new();
    for signs in &SIGNS {
        runtimes.extend(signs.look(root).await);
    }
    runtimes
}

impl Signs {
    async fn look(&self, root: &Path) -> Option<Runtime> {
        let there = |paths: &[&'static str]| paths.iter().copied().find(|path| root.join(path).exists());
        let socket = there(self.sockets);
        let mut programs = self.programs.iter();
        let program = programs.find_map(|name| Some((*name, program(root, name)?)));
        if socket.is_none() && program.is_none() && there(self.files).is_none() {
            return None;
        }
        let version = match &program {
            Some((_, path)) => version(path).await,
            None => None,
        };
        let name = match (self.kind, program) {
            (Kind::Podman, Some((name, _))) => name,
            _ => self.kind.name(),
        };
        Some(Runtime {
            kind: self.kind,
            name,
            version,
            listens: (!self.sockets.is_empty()).then_some(socket),
        })
    }
}

/// A line for each of them.
pub(super) fn findings(runtimes: &[Runtime]) -> Vec<Finding> {
    if runtimes.is_empty() {
        let advice = "install containerd, Docker, podman or CRI-O; with --root, name the node's file system";
        return vec![Finding::fail(CHECK, "no container runtime is found", advice)];
    }
    runtimes.iter().map(finding).collect()
}

fn finding(runtime: &Runtime) -> Finding {
    let running = match runtime.listens {
        Some(Some(socket)) => format!(", listens at /{socket}"),
        Some(None) => ", does not run".to_owned(),
        None => String::new(),
    };
    let version = runtime.version.as_deref();
    let seen = format!(
        "{} {}{running}",
        runtime.name,
        version.unwrap_or("of an unknown version")
    );
    let old = version
        .and_then(numbers)
        .is_some_and(|found| found < CONTAINERD_MIN);
    match runtime.kind == Kind::Containerd && old {
        true => Finding::fail(CHECK, seen, "containerd reads hosts.toml since 1.5: update it"),
        false => Finding::ok(CHECK, seen),
    }
}

fn program(root: &Path, name: &str) -> Option<PathBuf> {
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::finding::State;
    use super::super::testing::{node, told};
    use super::*;

    #[tokio::test]
    async fn clients_are_found_by_their_programs_sockets_and_files() {
        let nothing = findings(&found(node(&[]).path()).await);
        told(&nothing, State::Fail, "no container runtime");
        let root = node(&[
            (
                "usr/bin/containerd",
                "#!/bin/sh\necho 'containerd github.com/containerd/containerd v1.4.9 abc'\n",
            ),
            ("usr/bin/skopeo", "#!/bin/sh\necho 'skopeo version 1.9.3'\n"),
            ("run/docker.sock", ""),
            ("etc/buildkit/buildkitd.toml", ""),
        ]);
        for program in ["containerd", "skopeo"] {
            let program = root.path().join("usr/bin").join(program);
            std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let runtimes = found(root.path()).await;
        let kinds: Vec<Kind> = runtimes.iter().map(|one| one.kind).collect();
        assert_eq!(
            kinds,
            [Kind::Containerd, Kind::Docker, Kind::Podman, Kind::Buildkit]
        );
        let findings = findings(&runtimes);
        told(&findings, State::Fail, "containerd 1.4.9, does not run");
        told(
            &findings,
            State::Ok,
            "docker of an unknown version, listens at /run/docker.sock",
        );
        told(&findings, State::Ok, "skopeo 1.9.3");
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(numbers("1.6.20~ds1"), Some((1, 6)));
        assert_eq!(numbers("2.1.0"), Some((2, 1)));
    }
}
