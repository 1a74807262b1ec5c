//! `darter setup containerd`: what only containerd can be told.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use darter_containerd_config::Registry;
use darter_containerd_config::containerd::{self, Options, Parts};

use super::Common;
use crate::exit::Usage;

const EXAMPLES: &str = "\
Examples:
  darter setup containerd --dry-run                  shows the changes, writes nothing
  darter setup containerd                            all registries
  darter setup containerd --registry docker.io --registry registry.example:5000
  darter setup containerd --only config-path         for a proxy that writes hosts.toml itself
  darter setup containerd --snapshotter              Nydus images by `darter snapshotter` as well
  darter setup containerd --root /host               another root, for example in a DaemonSet
  darter setup containerd --undo                     gives the former files back";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Containerd {
    /// A registry to pull through the mirror, as images name it; may be repeated [default: all]
    #[arg(long = "registry", value_name = "NAME", conflicts_with = "undo")]
    registries: Vec<Registry>,
    /// What containerd may ask the mirror for: contents, and which digest a tag means
    #[arg(
        long,
        value_name = "LIST",
        value_enum,
        value_delimiter = ',',
        default_value = "pull,resolve",
        conflicts_with = "undo"
    )]
    capabilities: Vec<Capability>,
    /// How long containerd waits for a connection to the mirror before it goes on to the registry
    #[arg(long, value_name = "MS", default_value_t = 200, conflicts_with = "undo")]
    dial_timeout_ms: u64,
    /// Write only one of both files
    #[arg(long, value_name = "FILE", value_enum, conflicts_with = "undo")]
    only: Option<Only>,
    /// Let containerd and CRI take their snapshots from `darter snapshotter`, at this socket
    #[arg(
        long,
        value_name = "PATH",
        num_args = 0..=1,
        default_missing_value = containerd::SNAPSHOTTER_SOCKET,
        conflicts_with = "undo"
    )]
    snapshotter: Option<PathBuf>,
    /// The config.toml to use, instead of those that are found
    #[arg(long, value_name = "PATH", conflicts_with = "undo")]
    config: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Capability {
    /// Contents by digest
    Pull,
    /// Which digest a tag means
    Resolve,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Only {
    /// Which mirror is asked for which registry
    Hosts,
    /// Where containerd finds that, in its config.toml
    ConfigPath,
}

impl Containerd {
    pub(super) fn run(&self) -> Result<()> {
        let common = &self.common;
        let plan = match common.undo {
            true => containerd::undo(&common.root, &common.state_dir),
            false => containerd::plan(&self.options()?),
        };
        common.perform("containerd", plan)
    }

    fn options(&self) -> Result<Options> {
        let mut options = Options::new(&self.common.root);
        options.config.clone_from(&self.config);
        options.snapshotter.clone_from(&self.snapshotter);
        options.parts = match self.only {
            None => Parts::All,
            Some(Only::Hosts) => Parts::Hosts,
            Some(Only::ConfigPath) => Parts::ConfigPath,
        };
        options.mirror = self.common.mirror.clone();
        options.registries.clone_from(&self.registries);
        options.dial_timeout = Duration::from_millis(self.dial_timeout_ms);
        options.capabilities = match self.capabilities.contains(&Capability::Resolve) {
            _ if !self.capabilities.contains(&Capability::Pull) => {
                let text =
                    "--capabilities resolve alone would fetch nothing through the mirror: write pull,resolve";
                return Err(Usage(text.to_owned()).into());
            }
            true => containerd::Capabilities::PullAndResolve,
            false => containerd::Capabilities::Pull,
        };
        Ok(options)
    }
}
