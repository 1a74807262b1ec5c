//! Questions to a running scheduler: tasks, one task, hosts. Tables for people, `--json` for programs.

mod client;
mod show;

use anyhow::Result;
use clap::Args;

use crate::system;

/// Which scheduler, and how its answer looks.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The scheduler to ask
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8002")]
    address: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `darter scheduler tasks`
#[derive(Debug, Args)]
pub(crate) struct Tasks {
    #[command(flatten)]
    target: Target,
}

/// `darter scheduler task`
#[derive(Debug, Args)]
pub(crate) struct Task {
    /// The task: a digest such as sha256:0123abcd…, or its beginning
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    target: Target,
}

/// `darter scheduler hosts`
#[derive(Debug, Args)]
pub(crate) struct Hosts {
    #[command(flatten)]
    target: Target,
}

impl Tasks {
    /// Asks and prints.
    pub(crate) fn run(self) -> Result<()> {
        let Target { address, json } = self.target;
        let tasks = client::block_on(async { client::Client::connect(&address).await?.tasks().await })?;
        system::print(&if json {
            show::tasks_json(&tasks)
        } else {
            show::tasks(&tasks)
        })
    }
}

impl Task {
    /// Asks and prints.
    pub(crate) fn run(self) -> Result<()> {
        let Target { address, json } = self.target;
        let answer = client::block_on(async {
            let mut client = client::Client::connect(&address).await?;
            let id = client.complete(&self.id).await?;
            client.task(&id).await
        })?;
        system::print(&if json {
            show::task_json(&answer)
        } else {
            show::task(&answer)
        })
    }
}

impl Hosts {
    /// Asks and prints.
    pub(crate) fn run(self) -> Result<()> {
        let Target { address, json } = self.target;
        let hosts = client::block_on(async { client::Client::connect(&address).await?.hosts().await })?;
        system::print(&if json {
            show::hosts_json(&hosts)
        } else {
            show::hosts(&hosts)
        })
    }
}
