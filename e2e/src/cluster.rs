//! A registry and nodes with containerd, with or without Darter between them, on capped links.
//!
//! Addresses: registry 10.77.0.1, scheduler .2, seed .3, nodes from .10. Fields are in the order in which they
//! must end: clients, Darter, registry, lab.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::clock::until;
use crate::containerd::{Containerd, Pull, wait_all};
use crate::darter::{Darter, Role, Surroundings};
use crate::image::{Fixtures, Image, Set, prepare};
use crate::lab::Lab;
use crate::netns::{Namespace, Traffic};
use crate::registry::Registry;
use crate::shape::{Cap, limit_upload, limit_upload_fairly};

/// First node's last octet.
const FIRST_NODE: u8 = 10;
/// A pull that has moved nothing for so long is broken.
const PROGRESS: Duration = Duration::from_secs(120);

/// How many nodes, and how fast everybody may send.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Nodes with a containerd each.
    pub nodes: u8,
    /// What the registry may send, Mbit/s on the wire.
    pub origin_mbit: u32,
    /// What every other host may send.
    pub node_mbit: u32,
}

/// A registry and nodes; with [`Cluster::with_darter`] also a scheduler, a seed and a proxy on each node.
#[derive(Debug)]
pub struct Cluster {
    /// Each node's containerd.
    pub nodes: Vec<Containerd>,
    /// Each node's proxy; empty without Darter.
    pub proxies: Vec<Darter>,
    /// The seed, if there is one.
    pub seed: Option<Darter>,
    /// The scheduler, if there is one.
    pub scheduler: Option<Darter>,
    /// The registry, which is the origin.
    pub registry: Registry,
    /// The images that it holds.
    pub fixtures: Fixtures,
    origin: Namespace,
    lab: Lab,
}

/// What left the registry during an action.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Bodies, by the registry's log.
    pub payload: u64,
    /// Everything, by its interface.
    pub wire: u64,
}

impl Cluster {
    /// A registry and nodes whose containerd asks it directly.
    ///
    /// # Errors
    /// When something does not start.
    pub fn direct(size: Size) -> Result<Self> {
        let mut lab = Lab::start()?;
        let fixtures = prepare(Set::Small)?;
        let origin = lab.host("origin", 1)?;
        let registry = Registry::serve(&origin, &fixtures.store, &lab.folder_of("origin"))?;
        let mut nodes = Vec::new();
        for index in 0..size.nodes {
            let host = lab.host(&format!("n{index}"), FIRST_NODE + index)?;
            limit_upload(&host, Cap::mbit(size.node_mbit))?;
            let node = Containerd::start(&host, &lab.folder_of(host.name()), &lab.memory_of(host.name()))?;
            node.set_hosts(&registry.url(), &[])?;
            nodes.push(node);
        }
        let receivers: Vec<Namespace> = nodes.iter().map(|node| node.host().clone()).collect();
        limit_upload_fairly(&origin, Cap::mbit(size.origin_mbit), &receivers)?;
        let none = (Vec::new(), None, None);
        let (proxies, seed, scheduler) = none;
        Ok(Self {
            nodes,
            proxies,
            seed,
            scheduler,
            registry,
            fixtures,
            origin,
            lab,
        })
    }

    /// The same with a scheduler, a seed and a proxy on each node, which its containerd asks first.
    ///
    /// # Errors
    /// When something does not start.
    pub fn with_darter(size: Size) -> Result<Self> {
        let mut cluster = Self::direct(size)?;
        let scheduler = cluster.lab.host("scheduler", 2)?;
        let seed = cluster.lab.host("seed", 3)?;
        limit_upload(&seed, Cap::mbit(size.node_mbit))?;
        let mut receivers: Vec<Namespace> = cluster.nodes.iter().map(|node| node.host().clone()).collect();
        receivers.push(seed.clone());
        limit_upload_fairly(&cluster.origin, Cap::mbit(size.origin_mbit), &receivers)?;

        cluster.scheduler = Some(Darter::scheduler(
            &scheduler,
            &cluster.lab.folder_of("scheduler"),
        )?);
        let around = Surroundings {
            schedulers: vec![scheduler],
            registry: cluster.registry.url(),
        };
        cluster.seed = Some(Darter::proxy(
            &seed,
            Role::Seed,
            &cluster.lab.folder_of("seed"),
            &around,
        )?);
        for node in &cluster.nodes {
            let folder = cluster.lab.folder_of(node.host().name());
            cluster
                .proxies
                .push(Darter::proxy(node.host(), Role::Peer, &folder, &around)?);
            node.set_up()?;
        }
        Ok(cluster)
    }

    /// The image `e2e/NAME:TAG`.
    ///
    /// # Errors
    /// When the fixtures have none.
    pub fn image(&self, name: &str, tag: &str) -> Result<Image> {
        self.fixtures.image(name, tag).cloned()
    }

    /// Starts fetching `image` on every node at once, without unpacking it.
    ///
    /// # Errors
    /// When a client cannot be started.
    pub fn start_fetches(&mut self, image: &Image) -> Result<Vec<Pull>> {
        self.nodes.iter_mut().map(|node| node.fetch(image)).collect()
    }

    /// The same, but the first node unpacks it as well, so that it can be run.
    ///
    /// # Errors
    /// When a client cannot be started.
    pub fn start_pulls(&mut self, image: &Image) -> Result<Vec<Pull>> {
        let start = |(index, node): (usize, &mut Containerd)| match index {
            0 => node.pull(image),
            _ => node.fetch(image),
        };
        self.nodes.iter_mut().enumerate().map(start).collect()
    }

    /// Waits for the pulls and checks that every node holds the image whole.
    ///
    /// # Errors
    /// When a pull fails or a content differs.
    pub fn finish_pulls(&self, pulls: Vec<Pull>, image: &Image) -> Result<()> {
        wait_all(pulls)?;
        self.nodes.iter().try_for_each(|node| node.verify(image))
    }

    /// Pulls `image` on every node at once, to the end, and gives what left the registry meanwhile.
    ///
    /// # Errors
    /// When a pull fails or a content differs.
    pub fn pull_everywhere(&mut self, image: &Image) -> Result<Sent> {
        let before = self.sent()?;
        let pulls = self.start_pulls(image)?;
        self.finish_pulls(pulls, image)?;
        let after = self.sent()?;
        Ok(Sent {
            payload: after.payload - before.payload,
            wire: after.wire - before.wire,
        })
    }

    /// Unpacks an image on every node at once and runs a container of it on each; what each said.
    ///
    /// # Errors
    /// When a pull or a container fails.
    pub fn run_everywhere(&mut self, image: &Image, words: &[&str]) -> Result<Vec<String>> {
        let pulls: Result<Vec<Pull>> = self.nodes.iter_mut().map(|node| node.pull(image)).collect();
        self.finish_pulls(pulls?, image)?;
        self.nodes.iter().map(|node| node.run(image, words)).collect()
    }

    /// What left the registry since it started; waits until it is quiet.
    ///
    /// # Errors
    /// When the registry does not become quiet.
    pub fn sent(&self) -> Result<Sent> {
        self.registry.settle()?;
        Ok(Sent {
            payload: self.registry.payload_sent()?,
            wire: self.origin.traffic()?.sent,
        })
    }

    /// The registry's interface now, without waiting.
    ///
    /// # Errors
    /// When the namespace is gone.
    pub fn origin_traffic(&self) -> Result<Traffic> {
        self.origin.traffic()
    }

    /// Waits until `percent` of the image has left the registry: the pull is in its middle.
    ///
    /// # Errors
    /// When it does not come so far, or a pull ends before.
    pub fn wait_for_progress(&self, image: &Image, percent: u64, pulls: &mut [Pull]) -> Result<()> {
        let goal = image.bytes() * percent / 100;
        until("the pull to be in its middle", PROGRESS, || {
            Ok((self.origin.traffic()?.sent >= goal).then_some(()))
        })?;
        for pull in pulls {
            ensure!(
                pull.is_running()?,
                "a pull ended before {percent} % of the image had left the registry"
            );
        }
        Ok(())
    }

    /// The proxy that has sent most so far, by its interface; waits until one has sent `bytes` to others.
    ///
    /// # Errors
    /// When no proxy sends that much.
    pub fn wait_for_server(&self, bytes: u64) -> Result<usize> {
        until("a proxy to serve others", PROGRESS, || {
            let mut best = (0, 0);
            for (index, proxy) in self.proxies.iter().enumerate() {
                best = best.max((proxy.host().traffic()?.sent, index));
            }
            Ok((best.0 >= bytes).then_some(best.1))
        })
    }

    /// Kills every process of Darter.
    ///
    /// # Errors
    /// When one had ended by itself.
    pub fn kill_darter(&mut self) -> Result<()> {
        let others = self.scheduler.iter_mut().chain(self.seed.iter_mut());
        for darter in others.chain(self.proxies.iter_mut()) {
            darter.process().kill()?;
        }
        Ok(())
    }

    /// Each node's containerd by its number.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn node(&self, index: usize) -> Result<&Containerd> {
        self.nodes
            .get(index)
            .with_context(|| format!("there is no node {index}"))
    }

    /// The test reached its end.
    pub fn passed(mut self) {
        self.lab.passed();
    }
}
