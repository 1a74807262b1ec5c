//! `darter proxy`: the mirror that runs on each node, or a seed peer.

use std::sync::Arc;

use anyhow::Result;
use clap::{Args, Subcommand};
use darter_proxy::config::{Config, NodeRole};
use darter_proxy::run::{self, RunParts};
use darter_service::log::LogHandle;
use darter_service::net::{Address, TokioNetwork};
use darter_service::notify::Notifier;
use darter_service::shutdown::Stop;
use darter_service::traces::TracesConfig;
use http::Method;

use crate::role::{ConfigArguments, LogArguments};
use crate::{admin, guarded, system};

/// Names the environment variables: `DARTER_PROXY__…`.
pub(crate) const ROLE: &str = "proxy";

/// `darter proxy …`
#[derive(Debug, Args)]
pub(crate) struct Proxy {
    #[command(subcommand)]
    action: Action,
}

const EXAMPLES: &str = "\
Examples:
  darter proxy run --config /etc/darter/proxy.yaml
  darter proxy run --set scheduler.addresses='[\"10.0.0.5:8002\"]' --set peer.advertise=10.0.0.7:4000
  darter proxy run --set role=seed --log info,darter_proxy::pull=debug
  DARTER_PROXY__STORE__QUOTA=20GiB darter proxy print-config
  darter proxy check-config --config /etc/darter/proxy.yaml

The file has all keys with their meaning: config/proxy.yaml. Order: defaults, file, environment, --set.";

const ROLE_EXAMPLES: &str = "\
Examples:
  darter proxy role
  darter proxy role seed
  darter proxy role peer --admin 10.0.0.7:4002

Schedulers hear of it at once. What the node holds and fetches stays as it is. Its next start begins with
the role of its configuration: write it there as well if it is to last.";

#[derive(Debug, Subcommand)]
enum Action {
    /// Run until SIGTERM or Ctrl-C; a second one stops at once
    #[command(after_help = EXAMPLES)]
    Run {
        #[command(flatten)]
        config: ConfigArguments,
        #[command(flatten)]
        log: LogArguments,
        /// Run it in a process of its own that is started again when it ends or hangs; for machines without systemd
        #[arg(long)]
        supervised: bool,
    },
    /// Say everything that is wrong with the configuration, and end with 64 if something is
    #[command(after_help = EXAMPLES)]
    CheckConfig(ConfigArguments),
    /// Print the configuration as it would be used, complete
    #[command(after_help = EXAMPLES)]
    PrintConfig(ConfigArguments),
    /// Show the role of a running node, or change it until its next start
    #[command(after_help = ROLE_EXAMPLES)]
    Role {
        /// seed: it fetches from registries on behalf of the cluster; peer: for itself alone
        #[arg(value_name = "seed|peer")]
        role: Option<NodeRole>,
        /// The node's admin port (admin.listen)
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:4002")]
        admin: Address,
    },
}

impl Proxy {
    /// Does what was asked.
    pub(crate) fn run(self) -> Result<()> {
        match self.action {
            Action::Run {
                config,
                log,
                supervised: true,
            } => supervise(&config.load(ROLE)?, &log),
            Action::Run { config, log, .. } => run(config.load(ROLE)?, &log),
            Action::CheckConfig(config) => config.check::<Config>(ROLE),
            Action::PrintConfig(config) => config.show::<Config>(ROLE),
            Action::Role { role, admin } => tell_role(role, &admin),
        }
    }
}

/// Says the role that the node has, after the change where one was asked for.
fn tell_role(role: Option<NodeRole>, address: &Address) -> Result<()> {
    let (method, body) = match role {
        Some(role) => (Method::PUT, role.to_string()),
        None => (Method::GET, String::new()),
    };
    let said = admin::ask(address, method, darter_proxy::role::PATH, body)?;
    system::print(&format!("{said}\n"))
}

fn run(config: Config, log: &LogArguments) -> Result<()> {
    system::run_until_signalled(async |stop| {
        let installed = log.install(&config.log, &config.traces, "proxy")?;
        let mut parts = parts(config, installed.handle.clone(), stop)?;
        parts.notify = system::notifier()?;
        let ended = run::run(parts, |_| {}).await;
        installed.shut_down().await;
        Ok(ended?)
    })
}

/// The parent of the process that does the work.
fn supervise(config: &Config, log: &LogArguments) -> Result<()> {
    guarded::run(config.watchdog.patience, async || {
        log.install(&config.log, &TracesConfig::default(), "proxy")
    })
}

/// What this process gives to a node.
pub(crate) fn parts(config: Config, log: LogHandle, stop: Stop) -> Result<RunParts> {
    Ok(RunParts {
        host: config.host.clone().map_or_else(system::host_name, Ok)?,
        network: Arc::new(TokioNetwork),
        seed: system::random(),
        secret: system::secret()?,
        notify: Notifier::none(),
        config,
        log,
        stop,
    })
}
