//! One node of a scene: its host, its proxy, the wire before it, and clients beside it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use darter_testkit::client::{self, Response};
use darter_testkit::puller::{self, Errand, Tcp, Watch};
use rustix::process::Pid;
use serde_json::{Value, json};

use super::island::Island;
use super::liar::{self, Liar};
use crate::clock::until;
use crate::command::output;
use crate::containerd::Containerd;
use crate::darter::{Darter, Role, Surroundings, proxy_config};
use crate::lab::Lab;
use crate::netns::Namespace;

/// Until a process is there.
const START: Duration = Duration::from_secs(30);

/// How one node is configured; changed before it is started again.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) name: String,
    pub(super) role: Role,
    /// The registry that it is told of.
    pub(super) registry: String,
    pub(super) schedulers: Vec<Namespace>,
    /// Other nodes reach it through its [`Liar`].
    pub(super) wire: bool,
    pub(super) store: PathBuf,
    /// Laid over the configuration.
    pub(super) more: Value,
    /// What runs it, as `strace`.
    pub(super) wrapper: Vec<String>,
    /// It runs in a process of its own that is started again when it ends or hangs.
    pub(super) supervised: bool,
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) containerd: Option<Containerd>,
    pub(super) darter: Option<Darter>,
    pub(super) liar: Liar,
    pub(super) island: Island,
    pub(super) host: Namespace,
    pub(super) settings: Settings,
    folder: PathBuf,
}

impl Node {
    pub(super) fn add(lab: &mut Lab, settings: Settings, octet: u8) -> Result<Self> {
        let host = lab.host(&settings.name, octet)?;
        let folder = lab.folder_of(host.name());
        let island = Island::start(&host)?;
        let liar = Liar::start(&island)?;
        let settings = Settings {
            store: folder.join("store"),
            ..settings
        };
        Ok(Self {
            containerd: None,
            darter: None,
            liar,
            island,
            host,
            settings,
            folder,
        })
    }

    /// Starts its proxy, again if it runs, on what its store kept.
    pub(super) fn start(&mut self) -> Result<()> {
        self.darter = None;
        let around = Surroundings {
            schedulers: self.settings.schedulers.clone(),
            registry: self.settings.registry.clone(),
        };
        let mut config = proxy_config(&self.host, self.settings.role, &self.settings.store, &around);
        let usual = json!({ "host": self.settings.name, "store": { "quota": "4GiB", "freeFloor": "16MiB" } });
        lay_over(&mut config, &usual);
        if self.settings.wire {
            let address = format!("{}:{}", self.host.address(), liar::PORT);
            lay_over(&mut config, &json!({ "peer": { "advertise": address } }));
        }
        lay_over(&mut config, &self.settings.more);
        self.darter = Some(match &self.settings {
            Settings { supervised: true, .. } => Darter::supervised_proxy(&self.host, &self.folder, &config)?,
            Settings { wrapper, .. } => Darter::proxy_as(&self.host, &self.folder, &config, wrapper)?,
        });
        Ok(())
    }

    pub(super) fn darter(&mut self) -> Result<&mut Darter> {
        self.darter.as_mut().context("the node's proxy does not run")
    }

    /// The process that does the work of one that is supervised, once it is there.
    pub(super) fn worker(&mut self) -> Result<Pid> {
        let guardian = self.darter()?.process().id();
        until("a worker to be there", START, || {
            let path = format!("/proc/{guardian}/task/{guardian}/children");
            let children = std::fs::read_to_string(path)?;
            let first = children.split_whitespace().next().map(str::parse::<i32>);
            Ok(first.transpose()?.and_then(Pid::from_raw))
        })
    }

    /// Waits until its mirror answers.
    pub(super) fn answers(&self, within: Duration) -> Result<()> {
        until("the mirror to answer", within, || {
            let answer = self.get("/v2/");
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })
    }

    pub(super) fn kill(&mut self) -> Result<()> {
        self.darter()?.process().kill()?;
        self.darter = None;
        Ok(())
    }

    /// Ends its proxy in order.
    pub(super) fn stop(&mut self) -> Result<()> {
        let status = self.darter()?.process().stop()?;
        self.darter = None;
        ensure!(
            status.success(),
            "a proxy that was asked to end did with {status}"
        );
        Ok(())
    }

    pub(super) fn metric(&mut self, name: &str, labels: &[(&str, &str)]) -> Result<f64> {
        Ok(self.darter()?.metrics()?.sum(name, labels))
    }

    /// Removes what it stored; it must not run.
    pub(super) fn empty_store(&self) -> Result<()> {
        if self.settings.store.exists() {
            std::fs::remove_dir_all(&self.settings.store)?;
        }
        Ok(())
    }

    pub(super) fn containerd(&mut self) -> Result<&mut Containerd> {
        self.containerd.as_mut().context("a node without containerd")
    }

    /// Lets its client read, as what runs.
    pub(super) fn begin(&self, errand: Errand) -> Watch {
        let watch = Watch::default();
        let own = watch.clone();
        self.island
            .spawn(async move { puller::pull(&Tcp, &errand, &own).await });
        watch
    }

    /// What the node's mirror answers to a client on its host.
    pub(super) fn get(&self, target: &str) -> Result<Response> {
        let target = target.to_owned();
        let asked = self.island.run(async move {
            let address = ([127, 0, 0, 1], 4001).into();
            client::get(address, &target, &[]).await
        })?;
        Ok(asked?)
    }

    /// The same for a client that sends these headers, there or to another host at `address`.
    pub(super) fn get_with(
        &self,
        address: &str,
        target: &str,
        headers: &[(&'static str, String)],
    ) -> Result<Response> {
        let (address, target, headers) = (address.parse()?, target.to_owned(), headers.to_vec());
        let asked = self.island.run(async move {
            let headers: Vec<_> = headers
                .iter()
                .map(|(name, value)| (*name, value.as_str()))
                .collect();
            client::get(address, &target, &headers).await
        })?;
        Ok(asked?)
    }

    /// What the node answers to another one that asks for these bytes.
    pub(super) fn get_pieces(&self, digest: &str, range: std::ops::Range<u64>) -> Result<Response> {
        let target = format!("/v1/tasks/{digest}/pieces");
        let range = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        let asked = self.island.run(async move {
            let address = ([127, 0, 0, 1], 4000).into();
            client::get(address, &target, &[("range", &range)]).await
        })?;
        Ok(asked?)
    }

    /// Packets that rules of its input have dropped.
    pub(super) fn packets_dropped(&self) -> Result<u64> {
        let list = output(self.host.command("iptables").args(["--wait", "-nvxL", "INPUT"]))?;
        let rules = list.lines().filter(|line| line.contains("DROP"));
        let counts = rules.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(counts.sum())
    }

    pub(super) fn iptables(&self, words: &[&str]) -> Result<()> {
        crate::command::run(self.host.command("iptables").arg("--wait").args(words))
    }
}

/// Objects are merged, all else is replaced.
fn lay_over(below: &mut Value, above: &Value) {
    match (below, above) {
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                lay_over(below.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above.clone(),
    }
}
