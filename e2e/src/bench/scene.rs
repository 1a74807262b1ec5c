//! What most benchmarks stand on: one host with a registry, or a cluster over capped links.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::nginx::Nginx;
use super::node::{Node, Plan, Scheduler};
use crate::clock::pause;
use crate::darter::Role;
use crate::lab::Lab;
use crate::netns::Namespace;
use crate::shape::{Cap, limit_download, limit_upload, limit_upload_fairly};

/// First node's last octet.
const FIRST_NODE: u8 = 10;
/// Until a new scheduler gives leases, and every node has told it what it holds.
const SETTLING: Duration = Duration::from_secs(3);

/// One host: a registry, and processes that reach it over loopback.
#[derive(Debug)]
pub(super) struct Alone {
    pub(super) registry: Nginx,
    pub(super) host: Namespace,
    /// The registry's directory.
    pub(super) root: PathBuf,
    lab: Lab,
}

impl Alone {
    pub(super) fn start() -> Result<Self> {
        let mut lab = Lab::start()?;
        let host = lab.host("alone", 1)?;
        let root = lab.folder().join("registry");
        std::fs::create_dir_all(&root)?;
        let registry = Nginx::start(&host, &root, &lab.folder_of("alone").join("nginx"))?;
        Ok(Self {
            registry,
            host,
            root,
            lab,
        })
    }

    /// A proxy of its own with an empty store; its files are in `folder(name)`.
    pub(super) fn node(&self, name: &str, place: u16, schedulers: &[String]) -> Result<Node> {
        let folder = self.folder(name);
        let plan = Plan {
            name,
            role: Role::Peer,
            folder: &folder,
            store: &folder.join("store"),
            origin: self.registry.url(),
            schedulers: schedulers.to_vec(),
            place,
        };
        Node::start(&self.host, &plan)
    }

    /// A scheduler beside it.
    pub(super) fn scheduler(&self) -> Result<Scheduler> {
        Scheduler::start(&self.host, &self.folder("scheduler"))
    }

    /// Where the files of the process `name` go.
    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.lab.folder().join(name)
    }

    /// Everything was measured.
    pub(super) fn passed(mut self) {
        self.lab.passed();
    }
}

/// Hosts over capped links: a registry, and with [`Cluster::start_darter`] a scheduler, a seed and a proxy on each node.
#[derive(Debug)]
pub(super) struct Cluster {
    darter: Option<Darter>,
    pub(super) registry: Nginx,
    pub(super) nodes: Vec<Namespace>,
    seed: Namespace,
    scheduler: Namespace,
    lab: Lab,
}

/// Darter's processes in a cluster.
#[derive(Debug)]
pub(super) struct Darter {
    pub(super) nodes: Vec<Node>,
    pub(super) seed: Node,
    _scheduler: Scheduler,
}

/// Size of a cluster.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub(super) nodes: u8,
    /// What each host may send and receive, Mbit/s on the wire; none for links as fast as the machine.
    pub(super) mbit: Option<u32>,
}

impl Cluster {
    /// Hosts and the registry over `root`.
    pub(super) fn start(shape: Shape, root: &Path) -> Result<Self> {
        let mut lab = Lab::start()?;
        let (origin, scheduler) = (lab.host("origin", 1)?, lab.host("scheduler", 2)?);
        let seed = lab.host("seed", 3)?;
        let mut nodes = Vec::new();
        for index in 0..shape.nodes {
            nodes.push(lab.host(&format!("n{index}"), FIRST_NODE + index)?);
        }
        if let Some(mbit) = shape.mbit {
            cap(&origin, &seed, &nodes, Cap::mbit(mbit))?;
        }
        let registry = Nginx::start(&origin, root, &lab.folder_of("origin"))?;
        Ok(Self {
            darter: None,
            registry,
            nodes,
            seed,
            scheduler,
            lab,
        })
    }

    /// Touches as much memory as the stores will take: a virtual machine may have to ask for it first, which would cost
    /// the first run seconds a gibibyte.
    pub(super) fn warm_up(&self, bytes: u64) -> Result<()> {
        let path = self.lab.folder().join("warm-up");
        let mut file = std::fs::File::create(&path)?;
        let zeros = vec![0; 1 << 20];
        for _ in 0..bytes.div_ceil(1 << 20) {
            file.write_all(&zeros)?;
        }
        Ok(std::fs::remove_file(&path)?)
    }

    /// Starts Darter with empty stores, in place of the one before. The nodes know each other when this returns.
    pub(super) fn start_darter(&mut self) -> Result<&Darter> {
        self.stop_darter()?;
        let scheduler = Scheduler::start(&self.scheduler, &self.lab.folder_of("scheduler"))?;
        let seed = self.proxy(&self.seed, Role::Seed, &scheduler)?;
        let nodes: Result<Vec<Node>> = self
            .nodes
            .iter()
            .map(|host| self.proxy(host, Role::Peer, &scheduler))
            .collect();
        let darter = Darter {
            nodes: nodes?,
            seed,
            _scheduler: scheduler,
        };
        pause(SETTLING);
        Ok(self.darter.insert(darter))
    }

    /// Ends Darter and removes its stores.
    pub(super) fn stop_darter(&mut self) -> Result<()> {
        self.darter = None;
        for host in self.nodes.iter().chain([&self.seed]) {
            let store = self.lab.folder_of(host.name()).join("store");
            if store.exists() {
                std::fs::remove_dir_all(store)?;
            }
        }
        Ok(())
    }

    fn proxy(&self, host: &Namespace, role: Role, scheduler: &Scheduler) -> Result<Node> {
        let plan = Plan {
            name: host.name(),
            role,
            folder: &self.lab.folder_of(host.name()),
            // Not in memory: there, room for a blob is made by zeroing every page of it, which a disk does not.
            store: &self.lab.folder_of(host.name()).join("store"),
            origin: self.registry.url(),
            schedulers: vec![scheduler.address.clone()],
            place: 0,
        };
        Node::start(host, &plan)
    }

    /// Everything was measured.
    pub(super) fn passed(mut self) {
        self.lab.passed();
    }
}

/// Caps what every host sends and receives.
fn cap(origin: &Namespace, seed: &Namespace, nodes: &[Namespace], cap: Cap) -> Result<()> {
    for host in nodes.iter().chain([seed]) {
        limit_upload(host, cap)?;
        limit_download(host, cap)?;
    }
    let receivers: Vec<Namespace> = nodes.iter().chain([seed]).cloned().collect();
    limit_upload_fairly(origin, cap, &receivers)
}
