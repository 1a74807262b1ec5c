//! Whether the clients that the node has ask the proxy for a registry's images, each by its own configuration.
//!
//! A node pulls with one of them; others come along: podman with CRI-O, containerd with Docker. So one that was never set up is
//! a failure only where no other asks the proxy.

mod containerd;
mod docker;
mod started;

use std::path::Path;

use darter_containerd_config::lazy::{self, Snapshotter};
use darter_containerd_config::{Error, Mirror, Registry, buildkit, containers};
use darter_proxy::forward::ForwardConfig;

use super::finding::{Finding, State};
use super::runtime::{Kind, Runtime};

/// What is asked of each client's files.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question<'q> {
    /// The node's file system.
    pub(super) root: &'q Path,
    /// How clients name the mirror.
    pub(super) mirror: &'q Mirror,
    /// The forward proxy, for clients that know no mirror.
    pub(super) forward: &'q ForwardConfig,
    /// The registry whose images are meant.
    pub(super) registry: &'q Registry,
}

/// What all of them said.
pub(super) struct Answer {
    pub(super) findings: Vec<Finding>,
    /// Those that ask the proxy.
    pub(super) asking: Vec<Kind>,
}

/// What the files of one client say.
struct Judged {
    kind: Kind,
    asks: bool,
    /// Whether somebody meant it to.
    meant: bool,
    findings: Vec<Finding>,
}

impl Question<'_> {
    /// Looks at the files of each of `runtimes`.
    pub(super) fn put(&self, runtimes: &[Runtime]) -> Answer {
        let judged: Vec<Judged> = runtimes
            .iter()
            .map(|one| self.judge(one.kind, runtimes))
            .collect();
        let asking: Vec<Kind> = judged.iter().filter(|one| one.asks).map(|one| one.kind).collect();
        let other = !asking.is_empty();
        Answer {
            findings: judged.into_iter().flat_map(|one| one.told(other)).collect(),
            asking,
        }
    }

    fn judge(&self, kind: Kind, runtimes: &[Runtime]) -> Judged {
        match kind {
            Kind::Containerd => {
                let docker = runtimes.iter().any(|one| one.kind == Kind::Docker);
                containerd::judge(self, docker)
            }
            Kind::Docker => docker::judge(self),
            Kind::Podman | Kind::Crio | Kind::Buildkit | Kind::Stargz | Kind::Soci => self.by_plan(kind),
        }
    }

    /// A client is set up when setup would change nothing.
    fn by_plan(&self, kind: Kind) -> Judged {
        let name = kind.name();
        let (mirror, registry) = (self.mirror, self.registry);
        match self.is_set_up(kind) {
            Err(error) => Judged::broken(kind, &error),
            Ok(true) => Judged {
                kind,
                asks: true,
                meant: true,
                findings: vec![Finding::ok(
                    name,
                    format!("{registry} is pulled through {mirror}"),
                )],
            },
            Ok(false) => {
                let then = match kind {
                    Kind::Podman => "",
                    Kind::Crio => ", then systemctl reload crio",
                    _ => ", then restart it",
                };
                let advice = format!("darter setup {name} --registry {registry} --mirror {mirror}{then}");
                Judged::not_set_up(kind, self, advice)
            }
        }
    }

    fn is_set_up(&self, kind: Kind) -> Result<bool, Error> {
        let (root, mirror, registries) = (self.root, self.mirror.clone(), vec![self.registry.clone()]);
        let lazy = |snapshotter| {
            lazy::plan(&lazy::Options {
                mirror: mirror.clone(),
                registries: registries.clone(),
                ..lazy::Options::new(snapshotter, root)
            })
        };
        let containers = |digest_only| {
            containers::plan(&containers::Options {
                mirror: mirror.clone(),
                registries: registries.clone(),
                digest_only,
                ..containers::Options::new(root)
            })
        };
        let plan = match kind {
            Kind::Stargz => lazy(Snapshotter::Stargz)?,
            Kind::Soci => lazy(Snapshotter::Soci)?,
            Kind::Buildkit => buildkit::plan(&buildkit::Options {
                mirror: mirror.clone(),
                registries: registries.clone(),
                ..buildkit::Options::new(root)
            })?,
            _ => return Ok(containers(false)?.is_empty() || containers(true)?.is_empty()),
        };
        Ok(plan.is_empty())
    }
}

impl Judged {
    /// Its files cannot be read, or its client would refuse them.
    fn broken(kind: Kind, error: &Error) -> Self {
        let advice = format!(
            "correct it, then run `darter setup {} --dry-run` again",
            kind.name()
        );
        Self {
            kind,
            asks: false,
            meant: true,
            findings: vec![Finding::fail(kind.name(), error.to_string(), advice)],
        }
    }

    /// Nothing in its files is about the proxy.
    fn not_set_up(kind: Kind, question: &Question<'_>, advice: String) -> Self {
        let (mirror, registry) = (question.mirror, question.registry);
        let seen = format!("{} does not ask {mirror} for {registry}", kind.name());
        Self {
            kind,
            asks: false,
            meant: false,
            findings: vec![Finding::fail(kind.name(), seen, advice)],
        }
    }

    /// What is said of it; `other` where another client asks the proxy.
    fn told(self, other: bool) -> Vec<Finding> {
        let mut findings = self.findings;
        if other && !self.meant {
            for finding in findings.iter_mut().filter(|one| one.state == State::Fail) {
                finding.state = State::Warn;
            }
        }
        findings
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::healthy;
    use super::super::runtime;
    use super::super::testing::{node, told};
    use super::*;

    async fn put(files: &[(&str, &str)]) -> Answer {
        let root = node(files);
        let question = Question {
            root: root.path(),
            mirror: &Mirror::default(),
            forward: &ForwardConfig::default(),
            registry: &"docker.io".parse().unwrap(),
        };
        question.put(&runtime::found(root.path()).await)
    }

    const PODMAN: (&str, &str) = ("usr/bin/podman", "");
    const SKOPEO: (&str, &str) = ("usr/bin/skopeo", "");
    const CRIO: (&str, &str) = ("run/crio/crio.sock", "");
    const REGISTRIES: (&str, &str) = (
        "etc/containers/registries.conf",
        "[[registry]]\nlocation = \"docker.io\"\n[[registry.mirror]]\n\
         location = \"127.0.0.1:4001/docker.io\"\ninsecure = true\n",
    );

    #[tokio::test]
    async fn a_node_with_only_podman_is_not_asked_for_containerds_files() {
        let good = put(&[PODMAN, REGISTRIES]).await;
        assert!(healthy(&good.findings), "{:#?}", good.findings);
        assert_eq!((good.asking, good.findings.len()), (vec![Kind::Podman], 1));
        let bare = put(&[PODMAN]).await;
        told(&bare.findings, State::Fail, "podman does not ask");
        assert_eq!((bare.asking, bare.findings.len()), (vec![], 1));
        let broken = put(&[PODMAN, ("etc/containers/registries.conf", "not toml")]).await;
        told(&broken.findings, State::Fail, "registries.conf");
    }

    #[tokio::test]
    async fn an_entry_for_digests_alone_counts() {
        let digests = REGISTRIES.1.to_owned() + "pull-from-mirror = \"digest-only\"\n";
        let found = put(&[SKOPEO, (REGISTRIES.0, &digests)]).await;
        told(&found.findings, State::Ok, "is pulled through");
    }

    #[tokio::test]
    async fn what_came_along_is_a_warning_where_another_asks() {
        let containerd = ("usr/bin/containerd", "");
        let found = put(&[CRIO, SKOPEO, REGISTRIES, containerd]).await;
        assert!(healthy(&found.findings), "{:#?}", found.findings);
        assert_eq!(found.asking, [Kind::Podman, Kind::Crio]);
        told(&found.findings, State::Warn, "no config_path");
        let alone = put(&[CRIO, containerd]).await;
        told(&alone.findings, State::Fail, "no config_path");
        told(&alone.findings, State::Fail, "crio does not ask");
    }

    #[tokio::test]
    async fn builders_and_snapshotters_have_files_of_their_own() {
        let found = put(&[
            ("etc/buildkit/buildkitd.toml", ""),
            (
                "etc/containerd-stargz-grpc/config.toml",
                "[[resolver.host.\"docker.io\".mirrors]]\nhost = \"127.0.0.1:4001\"\ninsecure = true\n\
                 header = { X-Darter-Registry = \"docker.io\" }\n",
            ),
            ("etc/soci-snapshotter-grpc/config.toml", ""),
        ])
        .await;
        assert_eq!(found.asking, [Kind::Stargz]);
        told(&found.findings, State::Warn, "buildkit does not ask");
        told(&found.findings, State::Warn, "soci does not ask");
    }
}
