//! `darter manager`: one place to see and steer clusters.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use darter_manager::config::Config;
use darter_manager::run::{self, RunParts, Started};
use darter_service::net::TokioNetwork;

use crate::role::{ConfigArguments, LogArguments};
use crate::system;

/// Names the environment variables: `DARTER_MANAGER__…`.
const ROLE: &str = "manager";

/// `darter manager …`
#[derive(Debug, Args)]
pub(crate) struct Manager {
    #[command(subcommand)]
    action: Action,
}

const EXAMPLES: &str = "\
Examples:
  darter manager run
  darter manager run --config /etc/darter/manager.yaml
  DARTER_MANAGER__DATABASE__URL=postgres://darter:secret@db/darter darter manager run
  darter manager check-config --config /etc/darter/manager.yaml

At its first start it makes the user admin and prints the password, once.
The file has all keys with their meaning: config/manager.yaml. Order: defaults, file, environment, --set.";

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
}

impl Manager {
    /// Does what was asked.
    pub(crate) fn run(self) -> Result<()> {
        match self.action {
            Action::Run { config, log } => run(config.load(ROLE)?, &log),
            Action::CheckConfig(config) => config.check::<Config>(ROLE),
            Action::PrintConfig(config) => config.show::<Config>(ROLE),
        }
    }
}

fn run(config: Config, log: &LogArguments) -> Result<()> {
    system::run_until_signalled(async |stop| {
        let installed = log.install(&config.log, &config.traces, ROLE)?;
        let parts = RunParts {
            network: Arc::new(TokioNetwork),
            log: installed.handle.clone(),
            stop: stop.stop.clone(),
            notify: system::notifier()?,
            clock: Arc::new(now),
            config,
        };
        let mut said = Ok(());
        let ready = |started: &Started| {
            said = say_password(started);
            if said.is_err() {
                stop.stop.cancel();
            }
        };
        let ended = run::run(parts, ready).await;
        installed.shut_down().await;
        ended?;
        said.context("nobody was told the password of admin: remove the database, and start again")
    })
}

/// On standard output, which is no log: nobody keeps it but whoever started it.
fn say_password(started: &Started) -> Result<()> {
    let Some(password) = &started.first_password else {
        return Ok(());
    };
    system::print(&format!(
        "The user admin was made, with the password\n  {}\nIt is shown this once. Change it: PUT /api/v1/session/password at {}\n",
        password.expose(),
        started.web,
    ))
}

/// Milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "the edge: the manager is given it")]
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
