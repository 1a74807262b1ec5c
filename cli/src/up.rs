//! `darter up`: a seed and a scheduler in one process, with no configuration: for a first look, and for one machine.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use darter_proxy::config::{Config as ProxyConfig, StoreConfig};
use darter_proxy::run::Ports as ProxyPorts;
use darter_scheduler::config::Config as SchedulerConfig;
use darter_scheduler::run::Ports as SchedulerPorts;
use darter_service::config::{Sources, load};
use darter_service::net::Address;
use darter_service::shutdown::Stop;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::role::{LogArguments, environment};
use crate::{proxy, scheduler, system};

/// What is logged unless somebody asks for more: the terminal is for what to do next.
const LOG: &str = "warn,darter_proxy::pull=info";

const EXAMPLES: &str = "\
Examples:
  darter up
  darter up --mirror 0.0.0.0:5001 --store /data/darter
  darter up --set store.quota=20GiB --set 'origin.registries.\"registry.test:5000\".plainHttp=true'

Every key of the proxy (config/proxy.yaml) can be set with --set or DARTER_PROXY__SECTION__KEY,
those of the scheduler with DARTER_SCHEDULER__SECTION__KEY.";

/// `darter up …`
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Up {
    /// Where the mirror listens [default: 127.0.0.1:4001]
    #[arg(long, value_name = "HOST:PORT")]
    mirror: Option<Address>,
    /// Where contents are kept [default: /var/lib/darter/store as root, else ~/.local/share/darter/store]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Set one key of the proxy's configuration; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    log: LogArguments,
}

impl Up {
    /// Runs both roles until Ctrl-C.
    pub(crate) fn run(mut self) -> Result<()> {
        let (mut scheduler, proxy) = (self.scheduler_config()?, self.proxy_config()?);
        // One process, one identity: a scheduler without it would be an open door beside a locked one.
        if scheduler.tls.is_off() {
            scheduler.tls = proxy.tls.clone();
        }
        self.log
            .log
            .get_or_insert_with(|| std::env::var("DARTER_LOG").unwrap_or_else(|_| LOG.to_owned()));
        system::run_until_signalled(async |stop| run(proxy, scheduler, &self.log, stop).await)
    }

    fn scheduler_config(&self) -> Result<SchedulerConfig> {
        Ok(load(Sources {
            role: scheduler::ROLE,
            file: None,
            env: environment(),
            set: &[],
        })?)
    }

    /// The defaults of `up` are weaker than the environment, the flags are stronger.
    fn proxy_config(&self) -> Result<ProxyConfig> {
        let mut env = BTreeMap::from([("DARTER_PROXY__ROLE".to_owned(), "seed".to_owned())]);
        if self.store.is_none() {
            let dir = system::data_dir(system::is_root(), |name| std::env::var(name).ok())?.join("store");
            env.insert("DARTER_PROXY__STORE__DIR".to_owned(), dir.display().to_string());
        }
        env.extend(environment());
        let mut set = Vec::new();
        set.extend(
            self.mirror
                .as_ref()
                .map(|mirror| format!("mirror.listen={mirror}")),
        );
        if let Some(store) = &self.store {
            let store = std::path::absolute(store).context("--store")?;
            set.push(format!("store.dir={}", store.display()));
        }
        set.extend(self.set.iter().cloned());
        Ok(load(Sources {
            role: proxy::ROLE,
            file: None,
            env: env.into_iter(),
            set: &set,
        })?)
    }
}

/// Where this machine reaches what listens on `listen`.
pub(crate) fn reachable(listen: &str) -> String {
    match listen.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => format!("127.0.0.1:{}", address.port()),
        _ => listen.to_owned(),
    }
}

/// Both roles, the scheduler first; the end of one is the end of both.
async fn run(proxy: ProxyConfig, scheduler: SchedulerConfig, log: &LogArguments, stop: Stop) -> Result<()> {
    let installed = log.install(&proxy.log, &proxy.traces, "up")?;
    let store = proxy.store.clone();
    let scheduler = scheduler::parts(scheduler, installed.handle.clone(), stop.stop.clone())?;
    let mut proxy = proxy::parts(proxy, installed.handle.clone(), stop.clone())?;

    let (tell, started) = oneshot::channel();
    let scheduler = ending(&stop.stop, async {
        Ok(darter_scheduler::run::run(scheduler, |ports| drop(tell.send(ports.clone()))).await?)
    });
    let proxy = ending(&stop.stop, async {
        // It did not start: its own error says why.
        let Ok(scheduler) = started.await else {
            return Ok(());
        };
        if proxy.config.scheduler.addresses.is_empty() {
            proxy.config.scheduler.addresses.push(reachable(&scheduler.grpc));
        }
        let greet = |ports: &ProxyPorts| drop(system::print(&greeting(ports, &scheduler, &store)));
        Ok(darter_proxy::run::run(proxy, greet).await?)
    });
    let (scheduler, proxy) = tokio::join!(scheduler, proxy);
    installed.shut_down().await;
    scheduler.and(proxy)
}

/// Runs a role, and stops the other one when it ends.
async fn ending(stop: &CancellationToken, role: impl Future<Output = Result<()>>) -> Result<()> {
    let ended = role.await;
    stop.cancel();
    ended
}

/// What runs where, and what to type next.
fn greeting(proxy: &ProxyPorts, scheduler: &SchedulerPorts, store: &StoreConfig) -> String {
    let (mirror, admin) = (&proxy.mirror, &proxy.admin);
    let setup = match mirror.as_str() {
        "127.0.0.1:4001" => String::new(),
        other => format!(" --mirror http://{other}"),
    };
    let tasks = match reachable(&scheduler.grpc).as_str() {
        "127.0.0.1:8002" => String::new(),
        other => format!(" --address {other}"),
    };
    format!(
        "\
Darter is running: a mirror, a seed and a scheduler in this process. Ctrl-C ends it.

  mirror     {:<24}for the container runtimes of this machine
  scheduler  {:<24}for other nodes, and `darter scheduler tasks`
  pieces     {:<24}for other nodes
  metrics    http://{admin}/metrics, http://{}/metrics
  store      {}, at most {}

Next, in another terminal. Make containerd pull through it (as root; --dry-run only shows what changes):

  darter setup containerd{setup}
  ctr images pull --hosts-dir /etc/containerd/certs.d docker.io/library/busybox:latest

See what it has, and who fetched what from whom:

  darter scheduler tasks{tasks}

No containerd here? This asks for a manifest as containerd would:

  curl 'http://{mirror}/v2/library/busybox/manifests/latest?ns=docker.io'

",
        format!("http://{mirror}"),
        scheduler.grpc,
        proxy.peer,
        scheduler.admin,
        store.dir.display(),
        store.quota,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_reached_by_loopback() {
        assert_eq!(reachable("0.0.0.0:8002"), "127.0.0.1:8002");
        assert_eq!(reachable("[::]:8002"), "127.0.0.1:8002");
        assert_eq!(reachable("10.0.0.5:8002"), "10.0.0.5:8002");
    }
}
