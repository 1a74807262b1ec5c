//! `darter doctor`: looks at a node as an experienced operator would, and says what to do about what it finds.
//!
//! Each file below looks at one thing and gives [`Finding`]s; nothing is changed but by `--pull`. What must hold: every
//! check has an end of its own, so that a dead network costs seconds; a check that cannot be made says so.

mod asks;
mod canary;
mod cluster;
mod environment;
mod finding;
mod identity;
mod mirror;
mod registry;
mod runtime;
mod store;
#[cfg(test)]
mod testing;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;
use darter_containerd_config::{Mirror, Registry};
use darter_proxy::config::Config;
use darter_service::net::Address;
use darter_types::{HostId, RegistryName};

use crate::exit::{Ended, Usage};
use crate::query::client::block_on;
use crate::role::ConfigArguments;
use crate::up::reachable;
use crate::{proxy, system};

use asks::Question;
use canary::{Canary, Puller};
use finding::Finding;

/// Where a proxy's configuration is, by the units.
const CONFIG_FILE: &str = "/etc/darter/proxy.yaml";

const EXAMPLES: &str = "\
Examples:
  darter doctor
  darter doctor --config /etc/darter/proxy.yaml --registry registry.example:5000
  darter doctor --pull docker.io/library/busybox:latest     with a pull by the node's runtime, as root
  darter doctor --pull docker.io/library/busybox:latest --with podman
  darter doctor --json | jq '.findings[] | select(.state != \"ok\")'

It ends with 1 when something failed, with 0 when there were warnings at most.";

/// `darter doctor`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Doctor {
    #[command(flatten)]
    config: ConfigArguments,
    /// The registry whose images are looked at, as they name it
    #[arg(long, value_name = "NAME", default_value = "docker.io")]
    registry: Registry,
    /// Pull this image, say where its bytes came from, and remove it again
    #[arg(long, value_name = "IMAGE")]
    pull: Option<String>,
    /// What --pull pulls with [default: the client that asks the proxy]
    #[arg(long, value_name = "PROGRAM", value_enum, requires = "pull")]
    with: Option<Puller>,
    /// Give this to `ctr images pull`; may be repeated
    #[arg(long, value_name = "FLAG", requires = "pull", allow_hyphen_values = true)]
    ctr: Vec<String>,
    /// Where the runtime's hosts.toml files are, for --pull
    #[arg(long, value_name = "DIR", default_value = "/etc/containerd/certs.d")]
    hosts_dir: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The node's file system, where it is mounted
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl Doctor {
    /// Looks, prints; an error when something failed.
    pub(crate) fn run(mut self) -> Result<()> {
        let usual = Path::new(CONFIG_FILE);
        if self.config.config.is_none() && usual.exists() {
            self.config.config = Some(usual.to_path_buf());
        }
        // What is wrong with it is told as by every other command.
        let config: Config = self.config.load(proxy::ROLE)?;
        let host = config.host.clone().map_or_else(system::host_name, Ok)?;
        let findings = block_on(async { self.look(&config, &host).await })?;
        system::print(&match self.json {
            true => finding::json(&findings),
            false => finding::text(&findings, std::io::stdout().is_terminal()),
        })?;
        match finding::healthy(&findings) {
            true => Ok(()),
            false => Err(Ended(1).into()),
        }
    }

    async fn look(&self, config: &Config, host: &HostId) -> Result<Vec<Finding>> {
        let mirror = mirror_url(&config.mirror.listen);
        let name = self.registry.to_string();
        let registry: RegistryName = name
            .parse()
            .map_err(|_| Usage(format!("--registry {name}: it is no registry's name")))?;
        let (runtimes, cluster, registry) = tokio::join!(
            runtime::found(&self.root),
            cluster::check(config, host.as_str()),
            registry::check(config, &registry),
        );
        let mut findings = runtime::findings(&runtimes);
        let mut asking = Vec::new();
        if let Some(mirror) = &mirror {
            let question = Question {
                root: &self.root,
                mirror,
                forward: &config.forward,
                registry: &self.registry,
            };
            let answer = question.put(&runtimes);
            findings.extend(answer.findings);
            asking = answer.asking;
            findings.extend(environment::check(&self.root, mirror));
        }
        findings.push(mirror::answers(&config.mirror.listen));
        findings.push(mirror::ready(&config.admin.listen));
        findings.extend(store::check(&self.root, &config.store));
        findings.extend(identity::check(config, host, wall_clock()));
        findings.extend(cluster);
        findings.extend(registry);
        if let Some(image) = &self.pull {
            let there = runtimes.iter().map(|one| one.kind);
            let canary = Canary {
                image,
                puller: self
                    .with
                    .unwrap_or_else(|| Puller::of(asking.into_iter().chain(there))),
                hosts_dir: &self.hosts_dir,
                proxy: &config.admin.listen,
                more: &self.ctr,
            };
            findings.push(canary.pull().await);
        }
        Ok(findings)
    }
}

/// What a `hosts.toml` names; nothing for the file of a socket, which only a program of its own reaches.
fn mirror_url(listen: &Address) -> Option<Mirror> {
    match listen {
        Address::Tcp(authority) => format!("http://{}", reachable(authority)).parse().ok(),
        Address::Unix(_) => None,
    }
}

/// Certificates and tokens live by it.
#[expect(clippy::disallowed_methods, reason = "the wall clock is what is looked at")]
pub(crate) fn wall_clock() -> std::time::SystemTime {
    std::time::SystemTime::now()
}
