//! What `darter proxy` and `darter scheduler` have in common: where their configuration comes from, and the log.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use darter_service::config::{self, Sources, Validate};
use darter_service::log::{self, LogConfig, LogHandle};
use darter_service::traces::{Traces, TracesConfig};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::exit::Usage;
use crate::system;

/// Where a role's configuration comes from: defaults < file < environment (`DARTER_<ROLE>__SECTION__KEY`) < `--set`.
#[derive(Debug, Args)]
pub(crate) struct ConfigArguments {
    /// YAML file; without it the defaults apply
    #[arg(long, short, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Set one key, over the file and the environment; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

/// What is logged.
#[derive(Debug, Args)]
pub(crate) struct LogArguments {
    /// What is logged: a level, or levels by module, such as info,darter_proxy::pull=debug
    #[arg(long, value_name = "FILTER")]
    pub(crate) log: Option<String>,
}

/// The environment; what is not Unicode cannot be a setting of ours.
pub(crate) fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

impl ConfigArguments {
    /// The configuration, or everything that is wrong with it.
    pub(crate) fn load<T>(&self, role: &str) -> Result<T>
    where
        T: Serialize + DeserializeOwned + Default + Validate,
    {
        Ok(config::load(Sources {
            role,
            file: self.config.as_deref(),
            env: environment(),
            set: &self.set,
        })?)
    }

    /// `check-config`: says that it can be used.
    pub(crate) fn check<T>(&self, role: &str) -> Result<()>
    where
        T: Serialize + DeserializeOwned + Default + Validate,
    {
        self.load::<T>(role)?;
        system::print("the configuration can be used\n")
    }

    /// `print-config`: the configuration as it would be used, complete, secrets hidden.
    pub(crate) fn show<T>(&self, role: &str) -> Result<()>
    where
        T: Serialize + DeserializeOwned + Default + Validate,
    {
        system::print(&config::to_yaml(&self.load::<T>(role)?)?)
    }
}

/// The log of the process, and where its traces go.
#[derive(Debug)]
pub(crate) struct Installed {
    /// Changes what is logged.
    pub(crate) handle: LogHandle,
    traces: Option<Traces>,
}

impl LogArguments {
    /// Installs the log of the process. Must be called in a runtime.
    pub(crate) fn install(
        &self,
        config: &LogConfig,
        traces: &TracesConfig,
        role: &'static str,
    ) -> Result<Installed> {
        let env = std::env::var("DARTER_LOG").ok();
        let traces = Traces::start(traces, role)?;
        let setup = log::Setup {
            config,
            flag: self.log.as_deref(),
            env: env.as_deref(),
            traces: traces.as_ref(),
        };
        let handle = setup.install().map_err(|error| match error {
            log::LogError::Filter { .. } => Usage(error.to_string()).into(),
            other => anyhow::Error::from(other),
        })?;
        Ok(Installed { handle, traces })
    }
}

impl Installed {
    /// Sends the last spans.
    pub(crate) async fn shut_down(&self) {
        if let Some(traces) = &self.traces {
            traces.shut_down().await;
        }
    }
}
