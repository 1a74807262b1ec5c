//! Darter's roles as real processes on a host: configuration, start, readiness, metrics.
//!
//! The binary is the one in `DARTER_BIN`, which `cargo xtask e2e` builds and sets.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::containerd::REGISTRY;
use crate::netns::Namespace;
use crate::process::Process;

/// Where a node's containerd asks: the proxy's mirror.
pub const MIRROR: &str = "http://127.0.0.1:4001";

const START: Duration = Duration::from_secs(30);
const SCHEDULER_PORT: u16 = 8002;
const PEER_PORT: u16 = 4000;

/// What a proxy is for the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Serves its own node.
    Peer,
    /// Fetches from the origin for others.
    Seed,
}

/// Which cluster a proxy belongs to.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Schedulers' hosts.
    pub schedulers: Vec<Namespace>,
    /// The registry's URL.
    pub registry: String,
}

/// A running role.
#[derive(Debug)]
pub struct Darter {
    host: Namespace,
    process: Process,
    admin_port: u16,
}

/// One scrape of a role's metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    text: String,
}

/// The proxy's configuration file.
pub fn proxy_config(host: &Namespace, role: Role, store: &Path, surroundings: &Surroundings) -> Value {
    let schedulers = surroundings
        .schedulers
        .iter()
        .map(|host| format!("{}:{SCHEDULER_PORT}", host.address()));
    json!({
        "host": host.name(),
        "role": match role { Role::Peer => "peer", Role::Seed => "seed" },
        "mirror": { "listen": "127.0.0.1:4001" },
        "peer": {
            "listen": format!("0.0.0.0:{PEER_PORT}"),
            "advertise": format!("{}:{PEER_PORT}", host.address()),
        },
        "admin": { "listen": "127.0.0.1:4002" },
        "scheduler": { "addresses": schedulers.collect::<Vec<_>>() },
        // What a node leaves free by default may be more than the machine under test has.
        "store": { "dir": store, "freeFloor": "16MiB" },
        "origin": { "registries": { REGISTRY: { "endpoint": surroundings.registry } } },
    })
}

/// The scheduler's configuration file.
pub fn scheduler_config() -> Value {
    json!({
        "listen": format!("0.0.0.0:{SCHEDULER_PORT}"),
        "admin": { "listen": "127.0.0.1:8003" },
    })
}

impl Darter {
    /// Starts a proxy on `host` with its files in `folder`, and waits until it is ready.
    ///
    /// # Errors
    /// When there is no binary, or it does not become ready.
    pub fn proxy(host: &Namespace, role: Role, folder: &Path, surroundings: &Surroundings) -> Result<Self> {
        let config = proxy_config(host, role, &folder.join("store"), surroundings);
        Self::proxy_as(host, folder, &config, &[])
    }

    /// The same with a configuration of its own, run by `wrapper`, as in `strace -f darter …`; mostly by none.
    ///
    /// # Errors
    /// As [`Self::proxy`].
    pub fn proxy_as(host: &Namespace, folder: &Path, config: &Value, wrapper: &[String]) -> Result<Self> {
        Self::start(host, "proxy", folder, config, 4002, wrapper, &[])
    }

    /// Starts a proxy with a configuration of the test's own (see [`proxy_config`]), and waits until it is ready.
    ///
    /// # Errors
    /// As [`Self::proxy`].
    pub fn configured_proxy(host: &Namespace, folder: &Path, config: &Value) -> Result<Self> {
        Self::proxy_as(host, folder, config, &[])
    }

    /// The same as a worker that another process starts again when it ends or hangs: [`Self::process`] is that one.
    ///
    /// # Errors
    /// As [`Self::proxy`].
    pub fn supervised_proxy(host: &Namespace, folder: &Path, config: &Value) -> Result<Self> {
        Self::start(host, "proxy", folder, config, 4002, &[], &["--supervised"])
    }

    /// Starts a scheduler on `host` with its files in `folder`, and waits until it is ready.
    ///
    /// # Errors
    /// As [`Self::proxy`].
    pub fn scheduler(host: &Namespace, folder: &Path) -> Result<Self> {
        Self::start(host, "scheduler", folder, &scheduler_config(), 8003, &[], &[])
    }

    fn start(
        host: &Namespace,
        role: &str,
        folder: &Path,
        config: &Value,
        admin_port: u16,
        wrapper: &[String],
        more: &[&str],
    ) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let file = folder.join(format!("{role}.yaml"));
        // JSON is YAML.
        std::fs::write(&file, serde_json::to_string_pretty(config)?)?;
        let binary = binary()?;
        let mut program = match wrapper.split_first() {
            None => host.command(binary),
            Some((first, rest)) => {
                let mut program = host.command(first);
                program.args(rest).arg(binary);
                program
            }
        };
        program.args([role, "run", "--config"]).arg(&file).args(more);
        let name = format!("darter {role} on {}", host.name());
        let process = Process::start(&name, &mut program, &folder.join(format!("{role}.log")))?;
        let mut darter = Self {
            host: host.clone(),
            process,
            admin_port,
        };
        let ready = darter.admin_url("/readyz");
        darter.process.ready(START, || host.get(&ready).ok())?;
        Ok(darter)
    }

    /// The host that it runs on.
    pub fn host(&self) -> &Namespace {
        &self.host
    }

    /// The process, for faults.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Its metrics now.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn metrics(&self) -> Result<Metrics> {
        Ok(Metrics {
            text: self.host.get(&self.admin_url("/metrics"))?,
        })
    }

    fn admin_url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.admin_port)
    }
}

impl Metrics {
    /// The sum of the series of `name` that have all of `labels`; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}=\"{value}\""))
            .collect();
        let of_name = self.text.lines().filter_map(|line| line.strip_prefix(name));
        let series = of_name.filter(|rest| rest.starts_with(['{', ' ']));
        let matching = series.filter(|rest| wanted.iter().all(|label| rest.contains(label)));
        matching
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// All of it, as it was scraped.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The binary under test.
///
/// # Errors
/// When `DARTER_BIN` names none.
pub fn binary() -> Result<PathBuf> {
    let path = std::env::var_os("DARTER_BIN").map(PathBuf::from);
    let path = path.context("DARTER_BIN does not name a darter binary: run this with `cargo xtask`")?;
    ensure!(
        path.is_file(),
        "DARTER_BIN names {}, which is not there",
        path.display()
    );
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_added_up_by_label() {
        let text = "# TYPE served counter\nserved_total{source=\"peer\",x=\"1\"} 5\nserved_total{source=\"peer\",x=\"2\"} 7\n\
                    served_total{source=\"origin\"} 100\nserved_total_other 9\nplain 3.5\n";
        let metrics = Metrics {
            text: text.to_owned(),
        };
        assert_eq!(metrics.sum("served_total", &[("source", "peer")]), 12.0);
        assert_eq!(metrics.sum("served_total", &[]), 112.0);
        assert_eq!(metrics.sum("plain", &[]), 3.5);
        assert_eq!(metrics.sum("absent", &[]), 0.0);
    }
}
