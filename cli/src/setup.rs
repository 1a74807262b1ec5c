//! `darter setup`: the command line of `darter-containerd-config`.
//!
//! Each client is a subcommand with the same common options; what it can set besides is in its own arguments.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand};
use darter_containerd_config::lazy::{self, Snapshotter};
use darter_containerd_config::{Error, Mirror, Plan, Registry, buildkit, containers, docker, nydus};

use crate::exit::Usage;
use crate::system;

mod containerd;

/// `darter setup …`
#[derive(Debug, Args)]
pub(crate) struct Setup {
    #[command(subcommand)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum Client {
    /// containerd: a `hosts.toml` for each registry, and `config_path` where it is missing
    Containerd(containerd::Containerd),
    /// Docker: `registry-mirrors` for Docker Hub, and `hosts.toml` files for the containerd image store
    Docker(Docker),
    /// podman, buildah and skopeo: mirrors in `registries.conf`
    Podman(Containers),
    /// CRI-O: the same files as podman's
    Crio(Containers),
    /// A BuildKit daemon of its own: mirrors in `buildkitd.toml`
    Buildkit(WithConfig),
    /// stargz-snapshotter: mirrors in its `config.toml`
    Stargz(WithConfig),
    /// SOCI snapshotter: mirrors in its `config.toml`
    Soci(WithConfig),
    /// nydus-snapshotter: its nydusd reads through the forward proxy, or with --registry through mirrors
    NydusSnapshotter(Nydus),
}

/// What every client's subcommand takes.
#[derive(Debug, Args)]
struct Common {
    /// Address of the mirror
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:4001",
        conflicts_with = "undo"
    )]
    mirror: Mirror,
    /// Show the changes as a diff and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Give back the files as they were before setup
    #[arg(long)]
    undo: bool,
    /// The node's file system, where it is mounted
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// Where the former files are kept for --undo
    #[arg(long, value_name = "DIR", default_value = "/var/lib/darter/setup")]
    state_dir: PathBuf,
}

/// Registries of a client that has no setting for all of them.
#[derive(Debug, Args)]
struct Named {
    /// A registry to pull through the mirror, as images name it; may be repeated [default: docker.io]
    #[arg(long = "registry", value_name = "NAME", conflicts_with = "undo")]
    registries: Vec<Registry>,
}

const DOCKER_EXAMPLES: &str = "\
Examples:
  darter setup docker --dry-run                      shows the changes, writes nothing
  darter setup docker                                Docker Hub
  darter setup docker --registry docker.io --registry ghcr.io
  darter setup docker --proxy http://127.0.0.1:4003  through the forward proxy instead, unread
  darter setup docker --proxy http://127.0.0.1:4003 --ca /etc/darter/interception-ca.pem --registry ghcr.io
  darter setup docker --undo                         gives the former files back";

#[derive(Debug, Args)]
#[command(after_help = DOCKER_EXAMPLES)]
struct Docker {
    #[command(flatten)]
    named: Named,
    /// How long the containerd image store waits for a connection to the mirror
    #[arg(long, value_name = "MS", default_value_t = 200, conflicts_with = "undo")]
    dial_timeout_ms: u64,
    /// The daemon.json to use, instead of /etc/docker/daemon.json
    #[arg(long, value_name = "PATH", conflicts_with = "undo")]
    config: Option<PathBuf>,
    /// Use the forward proxy at this address (http://user:password@host:port where it asks), instead of mirrors
    // Read later: what is wrong with it must be told without its password.
    #[arg(long, value_name = "URL", conflicts_with = "undo")]
    proxy: Option<String>,
    /// The certificate of the forward proxy's authority, for Docker to trust at each --registry
    #[arg(long, value_name = "PATH", requires = "proxy", requires = "registries")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

const CONTAINERS_EXAMPLES: &str = "\
Examples:
  darter setup podman --dry-run                      shows the changes, writes nothing
  darter setup podman --registry docker.io --registry quay.io
  darter setup crio --digest-only                    tags are asked of the registry itself
  darter setup podman --undo                         gives the former files back";

#[derive(Debug, Args)]
#[command(after_help = CONTAINERS_EXAMPLES)]
struct Containers {
    #[command(flatten)]
    named: Named,
    /// Pull only what is named by digest through the mirror
    #[arg(long, conflicts_with = "undo")]
    digest_only: bool,
    #[command(flatten)]
    common: Common,
}

const CONFIG_EXAMPLES: &str = "\
Examples:
  darter setup buildkit --registry docker.io --registry ghcr.io
  darter setup stargz --config /etc/other/config.toml --dry-run
  darter setup soci --undo                           gives the former file back";

#[derive(Debug, Args)]
#[command(after_help = CONFIG_EXAMPLES)]
struct WithConfig {
    #[command(flatten)]
    named: Named,
    /// The configuration file to use, instead of the usual one
    #[arg(long, value_name = "PATH", conflicts_with = "undo")]
    config: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

const NYDUS_EXAMPLES: &str = "\
Examples:
  darter setup nydus-snapshotter --dry-run           shows the changes, writes nothing
  darter setup nydus-snapshotter                     all registries, through the forward proxy
  darter setup nydus-snapshotter --registry ghcr.io  that one alone, through the mirror
  darter setup nydus-snapshotter --undo              gives the former files back";

#[derive(Debug, Args)]
#[command(after_help = NYDUS_EXAMPLES)]
struct Nydus {
    /// A registry to read through the mirror, as images name it, instead of all through the forward proxy; may be repeated
    #[arg(long = "registry", value_name = "NAME", conflicts_with_all = ["undo", "proxy"])]
    registries: Vec<Registry>,
    /// Address of the forward proxy
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:4003",
        conflicts_with = "undo"
    )]
    proxy: Mirror,
    /// The snapshotter's configuration file, instead of /etc/nydus/config.toml
    #[arg(long, value_name = "PATH", conflicts_with = "undo")]
    config: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

impl Nydus {
    fn run(&self) -> Result<()> {
        let common = &self.common;
        let through = match self.registries.as_slice() {
            [] => nydus::Through::Proxy(self.proxy.clone()),
            named => nydus::Through::Mirror(named.to_vec()),
        };
        let plan = match common.undo {
            true => nydus::undo(&common.root, &common.state_dir),
            false => nydus::plan(&nydus::Options {
                root: common.root.clone(),
                config: self.config.clone(),
                mirror: common.mirror.clone(),
                through,
            }),
        };
        common.perform("nydus-snapshotter", plan)
    }
}

impl Setup {
    /// Plans, shows and performs.
    pub(crate) fn run(self) -> Result<()> {
        match &self.client {
            Client::Containerd(arguments) => arguments.run(),
            Client::Docker(arguments) => arguments.run(),
            Client::Podman(arguments) => arguments.run("podman"),
            Client::Crio(arguments) => arguments.run("crio"),
            Client::Buildkit(arguments) => arguments.run_buildkit(),
            Client::Stargz(arguments) => arguments.run_lazy("stargz", Snapshotter::Stargz),
            Client::Soci(arguments) => arguments.run_lazy("soci", Snapshotter::Soci),
            Client::NydusSnapshotter(arguments) => arguments.run(),
        }
    }
}

impl Docker {
    fn run(&self) -> Result<()> {
        let common = &self.common;
        let proxy = self.proxy.as_deref().map(str::parse).transpose();
        let plan = match (common.undo, proxy.map_err(usage)?) {
            (true, _) => docker::undo(&common.root, &common.state_dir),
            (false, Some(proxy)) => docker::proxy::plan(&docker::proxy::Options {
                root: common.root.clone(),
                config: self.config.clone(),
                proxy,
                ca_file: self.ca.clone(),
                registries: self.named.registries.clone(),
            }),
            (false, None) => docker::plan(&docker::Options {
                config: self.config.clone(),
                mirror: common.mirror.clone(),
                registries: self.named.registries.clone(),
                dial_timeout: Duration::from_millis(self.dial_timeout_ms),
                ..docker::Options::new(&common.root)
            }),
        };
        common.perform("docker", plan)
    }
}

impl Containers {
    fn run(&self, client: &str) -> Result<()> {
        let common = &self.common;
        let plan = match common.undo {
            true => containers::undo(&common.root, &common.state_dir),
            false => containers::plan(&containers::Options {
                mirror: common.mirror.clone(),
                registries: self.named.registries.clone(),
                digest_only: self.digest_only,
                ..containers::Options::new(&common.root)
            }),
        };
        common.perform(client, plan)
    }
}

impl WithConfig {
    fn run_buildkit(&self) -> Result<()> {
        let common = &self.common;
        let plan = match common.undo {
            true => buildkit::undo(&common.root, &common.state_dir),
            false => buildkit::plan(&buildkit::Options {
                config: self.config.clone(),
                mirror: common.mirror.clone(),
                registries: self.named.registries.clone(),
                ..buildkit::Options::new(&common.root)
            }),
        };
        common.perform("buildkit", plan)
    }

    fn run_lazy(&self, client: &str, snapshotter: Snapshotter) -> Result<()> {
        let common = &self.common;
        let plan = match common.undo {
            true => lazy::undo(snapshotter, &common.root, &common.state_dir),
            false => lazy::plan(&lazy::Options {
                config: self.config.clone(),
                mirror: common.mirror.clone(),
                registries: self.named.registries.clone(),
                ..lazy::Options::new(snapshotter, &common.root)
            }),
        };
        common.perform(client, plan)
    }
}

impl Common {
    /// Applies the plan unless it is a dry run, and says what happened. `client` is the subcommand's name.
    fn perform(&self, client: &str, plan: Result<Plan, Error>) -> Result<()> {
        let plan = plan.map_err(usage)?;
        if !self.dry_run {
            plan.apply(&self.state_dir)?;
        }
        system::print(&self.report(client, &plan))
    }

    /// What happened, or would happen, for the terminal.
    fn report(&self, client: &str, plan: &Plan) -> String {
        let mut text = String::new();
        if self.dry_run {
            text += &plan.render();
        } else {
            let lines: Vec<String> = plan
                .paths()
                .map(|path| format!("changed {}\n", path.display()))
                .collect();
            text += &lines.concat();
        }
        for note in plan.notes() {
            text += &format!("note: {note}\n");
        }
        text += &match (plan.is_empty(), self.dry_run, self.undo) {
            (true, _, true) => String::new(),
            (true, _, false) => format!("{client} is set up already: nothing to change\n"),
            (false, true, _) => "nothing was written; leave --dry-run out to write this\n".to_owned(),
            (false, false, true) => "the former files are back\n".to_owned(),
            (false, false, false) => format!("to take it back: darter setup {client} --undo\n"),
        };
        text
    }
}

/// A name or address that no setup could use is the command line's fault.
fn usage(error: Error) -> anyhow::Error {
    match error {
        Error::InvalidRegistry { .. }
        | Error::InvalidMirror { .. }
        | Error::InvalidProxy { .. }
        | Error::ZeroDialTimeout => Usage(error.to_string()).into(),
        other => other.into(),
    }
}
