//! `darter scheduler`: the scheduler, and questions to a running one.

use std::sync::Arc;

use anyhow::Result;
use clap::{Args, Subcommand};
use darter_scheduler::config::Config;
use darter_scheduler::run::{self, RunParts};
use darter_service::log::LogHandle;
use darter_service::net::TokioNetwork;
use darter_service::notify::Notifier;
use tokio_util::sync::CancellationToken;

use crate::query;
use crate::role::{ConfigArguments, LogArguments};
use crate::system;

/// Names the environment variables: `DARTER_SCHEDULER__…`.
pub(crate) const ROLE: &str = "scheduler";

/// `darter scheduler …`
#[derive(Debug, Args)]
pub(crate) struct Scheduler {
    #[command(subcommand)]
    action: Action,
}

const EXAMPLES: &str = "\
Examples:
  darter scheduler run
  darter scheduler run --config /etc/darter/scheduler.yaml --set parents.countMax=8
  DARTER_SCHEDULER__LISTEN=10.0.0.5:8002 darter scheduler run
  darter scheduler check-config --config /etc/darter/scheduler.yaml

The file has all keys with their meaning: config/scheduler.yaml. Order: defaults, file, environment, --set.";

const QUESTIONS: &str = "\
Examples:
  darter scheduler tasks
  darter scheduler task sha256:3f2a              the beginning is enough
  darter scheduler task 3f2a --json | jq .edges
  darter scheduler hosts --address 10.0.0.5:8002
  darter scheduler hosts --cert-file node.pem --key-file node.key --ca-file ca.pem";

#[derive(Debug, Subcommand)]
enum Action {
    /// Run until SIGTERM or Ctrl-C; a second one stops at once
    #[command(after_help = EXAMPLES)]
    Run {
        #[command(flatten)]
        config: ConfigArguments,
        #[command(flatten)]
        log: LogArguments,
    },
    /// Say everything that is wrong with the configuration, and end with 64 if something is
    #[command(after_help = EXAMPLES)]
    CheckConfig(ConfigArguments),
    /// Print the configuration as it would be used, complete
    #[command(after_help = EXAMPLES)]
    PrintConfig(ConfigArguments),
    /// List the contents that nodes hold or wait for
    #[command(after_help = QUESTIONS)]
    Tasks(query::Tasks),
    /// Show one content: who has how much of it, who fed whom, why each parent was chosen
    #[command(after_help = QUESTIONS)]
    Task(query::Task),
    /// List the nodes
    #[command(after_help = QUESTIONS)]
    Hosts(query::Hosts),
}

impl Scheduler {
    /// Does what was asked.
    pub(crate) fn run(self) -> Result<()> {
        match self.action {
            Action::Run { config, log } => run(config.load(ROLE)?, &log),
            Action::CheckConfig(config) => config.check::<Config>(ROLE),
            Action::PrintConfig(config) => config.show::<Config>(ROLE),
            Action::Tasks(tasks) => tasks.run(),
            Action::Task(task) => task.run(),
            Action::Hosts(hosts) => hosts.run(),
        }
    }
}

fn run(config: Config, log: &LogArguments) -> Result<()> {
    system::run_until_signalled(async |stop| {
        let installed = log.install(&config.log, &config.traces, "scheduler")?;
        let mut parts = parts(config, installed.handle.clone(), stop.stop)?;
        parts.notify = system::notifier()?;
        let ended = run::run(parts, |_| {}).await;
        installed.shut_down().await;
        Ok(ended?)
    })
}

/// What this process gives to a scheduler.
pub(crate) fn parts(config: Config, log: LogHandle, stop: CancellationToken) -> Result<RunParts> {
    Ok(RunParts {
        host: system::host_name()?,
        network: Arc::new(TokioNetwork),
        incarnation: system::random(),
        seed: system::random(),
        notify: Notifier::none(),
        config,
        log,
        stop,
    })
}
