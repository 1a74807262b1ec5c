//! `darter setup`: the command line of `darter-containerd-config`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::{Args, Subcommand, ValueEnum};
use darter_containerd_config::containerd::{self, Options};
use darter_containerd_config::{Error, Mirror, Plan, Registry};

use crate::exit::Usage;
use crate::system;

/// `darter setup …`
#[derive(Debug, Args)]
pub(crate) struct Setup {
    #[command(subcommand)]
    runtime: Runtime,
}

#[derive(Debug, Subcommand)]
enum Runtime {
    /// containerd: a `hosts.toml` for each registry, and `config_path` where it is missing
    Containerd(Containerd),
}

const EXAMPLES: &str = "\
Examples:
  darter setup containerd --dry-run                  shows the changes, writes nothing
  darter setup containerd                            all registries
  darter setup containerd --registry docker.io --registry registry.example:5000
  darter setup containerd --root /host               another root, for example in a DaemonSet
  darter setup containerd --undo                     gives the former files back";

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct Containerd {
    /// A registry to pull through the mirror, as images name it; may be repeated [default: all]
    #[arg(long = "registry", value_name = "NAME", conflicts_with = "undo")]
    registries: Vec<Registry>,
    /// Address of the mirror
    #[arg(
        long,
        value_name = "URL",
        default_value = "http://127.0.0.1:4001",
        conflicts_with = "undo"
    )]
    mirror: Mirror,
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
    /// The config.toml to use, instead of those that are found
    #[arg(long, value_name = "PATH", conflicts_with = "undo")]
    config: Option<PathBuf>,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Capability {
    /// Contents by digest
    Pull,
    /// Which digest a tag means
    Resolve,
}

impl Setup {
    /// Plans, shows and performs.
    pub(crate) fn run(self) -> Result<()> {
        let Runtime::Containerd(arguments) = self.runtime;
        let plan = if arguments.undo {
            containerd::undo(&arguments.root, &arguments.state_dir)
        } else {
            containerd::plan(&arguments.options()?)
        };
        let plan = plan.map_err(usage)?;
        if !arguments.dry_run {
            plan.apply(&arguments.state_dir)?;
        }
        system::print(&arguments.report(&plan))
    }
}

/// A name or address that no setup could use is the command line's fault.
fn usage(error: Error) -> anyhow::Error {
    match error {
        Error::InvalidRegistry { .. } | Error::InvalidMirror { .. } | Error::ZeroDialTimeout => {
            Usage(error.to_string()).into()
        }
        other => other.into(),
    }
}

impl Containerd {
    fn options(&self) -> Result<Options> {
        let mut options = Options::new(&self.root);
        options.config.clone_from(&self.config);
        options.mirror = self.mirror.clone();
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

    /// What happened, or would happen, for the terminal.
    fn report(&self, plan: &Plan) -> String {
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
        text += match (plan.is_empty(), self.dry_run, self.undo) {
            (true, _, true) => "",
            (true, _, false) => "containerd is set up already: nothing to change\n",
            (false, true, _) => "nothing was written; leave --dry-run out to write this\n",
            (false, false, true) => "the former files are back\n",
            (false, false, false) => "to take it back: darter setup containerd --undo\n",
        };
        text
    }
}
