//! Darter's roles for a benchmark: as users run them, but for their ports and directories.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::containerd::REGISTRY;
use crate::darter::Role;
use crate::netns::Namespace;
use crate::process::Process;

const START: Duration = Duration::from_secs(30);
const SCHEDULER_PORT: u16 = 8002;

/// A proxy that runs.
#[derive(Debug)]
pub(super) struct Node {
    /// Where clients on its host reach its mirror.
    pub(super) mirror: String,
    /// Where other nodes reach it.
    pub(super) peer: String,
    /// Where it stands.
    pub(super) host: Namespace,
    admin: u16,
    process: Process,
}

/// What a proxy is to be.
#[derive(Debug, Clone)]
pub(super) struct Plan<'a> {
    pub(super) name: &'a str,
    pub(super) role: Role,
    /// Where logs and the configuration go.
    pub(super) folder: &'a Path,
    /// Where pieces go.
    pub(super) store: &'a Path,
    /// The registry's URL.
    pub(super) origin: String,
    pub(super) schedulers: Vec<String>,
    /// Several nodes may stand on one host: each has its ten ports. The first is 4000.
    pub(super) place: u16,
}

impl Node {
    /// Starts it on `host` and waits until it is ready.
    pub(super) fn start(host: &Namespace, plan: &Plan<'_>) -> Result<Self> {
        std::fs::create_dir_all(plan.folder)?;
        let first = 4000 + 10 * plan.place;
        let (mirror, peer) = (
            format!("127.0.0.1:{}", first + 1),
            format!("{}:{first}", host.address()),
        );
        let admin = first + 2;
        let file = plan.folder.join(format!("{}.yaml", plan.name));
        let config = configuration(plan, &mirror, &peer, admin);
        std::fs::write(&file, serde_json::to_string_pretty(&config)?)?;
        let log = plan.folder.join(format!("{}.log", plan.name));
        let mut program = host.command(binary()?);
        program.args(["proxy", "run", "--config"]).arg(&file);
        let mut process = Process::start(&format!("darter proxy {}", plan.name), &mut program, &log)?;
        let url = format!("http://127.0.0.1:{admin}/readyz");
        process.ready(START, || host.get(&url).ok())?;
        Ok(Self {
            mirror,
            peer,
            host: host.clone(),
            admin,
            process,
        })
    }

    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.process.id()
    }

    /// The value of one of its metrics that has no labels; 0 while it was never counted.
    pub(super) fn metric(&self, name: &str) -> Result<f64> {
        let text = self
            .host
            .get(&format!("http://127.0.0.1:{}/metrics", self.admin))?;
        let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
        Ok(text.lines().find_map(value).unwrap_or(0.0))
    }
}

fn configuration(plan: &Plan<'_>, mirror: &str, peer: &str, admin: u16) -> Value {
    json!({
        "host": plan.name,
        "role": match plan.role { Role::Peer => "peer", Role::Seed => "seed" },
        "mirror": { "listen": mirror },
        "peer": { "listen": peer, "advertise": peer },
        "admin": { "listen": format!("127.0.0.1:{admin}") },
        "scheduler": { "addresses": plan.schedulers },
        "store": { "dir": plan.store, "freeFloor": "256MiB" },
        "origin": { "registries": { REGISTRY: { "endpoint": plan.origin } } },
    })
}

/// A scheduler that runs.
#[derive(Debug)]
pub(super) struct Scheduler {
    /// `host:port` for nodes.
    pub(super) address: String,
    _process: Process,
}

impl Scheduler {
    /// Starts it on `host` with its files in `folder`.
    pub(super) fn start(host: &Namespace, folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let file = folder.join("scheduler.yaml");
        let address = format!("{}:{SCHEDULER_PORT}", host.address());
        let config = json!({ "listen": address, "admin": { "listen": "127.0.0.1:8003" } });
        std::fs::write(&file, serde_json::to_string_pretty(&config)?)?;
        let mut program = host.command(binary()?);
        program.args(["scheduler", "run", "--config"]).arg(&file);
        let mut process = Process::start("darter scheduler", &mut program, &folder.join("scheduler.log"))?;
        process.ready(START, || host.get("http://127.0.0.1:8003/readyz").ok())?;
        Ok(Self {
            address,
            _process: process,
        })
    }
}

fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("DARTER_BIN").map(PathBuf::from);
    let path = path.context("DARTER_BIN names no darter binary: run this with `cargo xtask bench`")?;
    ensure!(
        path.is_file(),
        "DARTER_BIN names {}, which is not there",
        path.display()
    );
    Ok(path)
}
