//! Questions to a running scheduler: tasks, one task, hosts. Tables for people, `--json` for programs.

pub(crate) mod client;
mod show;

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use darter_service::tls::TlsConfig;

use crate::system;

/// Which scheduler, and how its answer looks.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The scheduler to ask
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8002")]
    address: String,
    /// With a scheduler that has certificates: one of the same CA, in PEM
    #[arg(long, value_name = "FILE", requires = "key_file", requires = "ca_file")]
    cert_file: Option<PathBuf>,
    /// The private key of --cert-file
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
    /// The CA of nodes and schedulers
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    ca_file: Option<PathBuf>,
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

impl Target {
    async fn connect(&self) -> Result<client::Client> {
        let tls = TlsConfig {
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            ca_file: self.ca_file.clone(),
            ..TlsConfig::default()
        };
        client::Client::connect(&self.address, &tls).await
    }
}

impl Tasks {
    /// Asks and prints.
    pub(crate) fn run(self) -> Result<()> {
        let json = self.target.json;
        let tasks = client::block_on(async { self.target.connect().await?.tasks().await })?;
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
        let json = self.target.json;
        let answer = client::block_on(async {
            let mut client = self.target.connect().await?;
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
        let json = self.target.json;
        let hosts = client::block_on(async { self.target.connect().await?.hosts().await })?;
        system::print(&if json {
            show::hosts_json(&hosts)
        } else {
            show::hosts(&hosts)
        })
    }
}
