//! A cluster in one thread: real proxies, real schedulers and a registry on simulated hosts, and clients that pull.
//!
//! A test builds a [`World`], orders pulls, injects faults ([`crate::faults`]) and steps time until what it waits for is true;
//! [`World::finish`] then stops everything and asks the oracle. All that happens follows from the seed.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use darter_proxy::config::NodeRole;
use darter_scheduler::config::Config as SchedulerConfig;
use darter_service::net::Network;
use darter_service::supervise::Tasks;
use darter_store::MemoryStore;
use darter_testkit::content::{Content, bytes_at};
use darter_testkit::origin::Origin;
use darter_types::{Digest, PieceLayout, TaskId};
use prometheus_client::registry::Registry;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio_util::sync::CancellationToken;

use crate::client::{self, Orders, Pull};
use crate::fate::Fates;
use crate::network::{Rate, TurmoilNetwork};
use crate::node::{NodeSpec, SimNode};
use crate::panics;

/// The registry's name in image references.
pub const REGISTRY: &str = "registry.test";
/// The registry's host.
pub const ORIGIN: &str = "origin";
/// Where blobs are put.
pub const REPOSITORY: &str = "library/app";

const MIB: u64 = 1024 * 1024;
/// After this a scheduler that started empty decides as one that was always there.
const GRACE: Duration = Duration::from_millis(1200);
/// What a node's disk holds.
const QUOTA: u64 = 256 * MIB;
/// Connections and segments that wait; turmoil loses a stream's end beyond it, so it is out of reach.
const TCP_CAPACITY: usize = 8192;

/// How large a world is, and how fast.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Nodes with a client each.
    pub nodes: usize,
    /// Seed peers, without clients.
    pub seeds: usize,
    /// Schedulers.
    pub schedulers: usize,
    /// Uplink of each node, bytes a second.
    pub node_rate: u64,
    /// Uplink of the registry, bytes a second.
    pub origin_rate: u64,
    /// Longest delay of a message; the shortest is 1 ms.
    pub latency_max: Duration,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            nodes: 3,
            seeds: 0,
            schedulers: 1,
            node_rate: 32 * MIB,
            origin_rate: 16 * MIB,
            latency_max: Duration::from_millis(3),
        }
    }
}

/// A blob of the registry, and the truth about it.
#[derive(Clone, Debug)]
pub struct Blob {
    /// `sha256:…`
    pub digest: String,
    /// Where it lies.
    pub repository: String,
    /// Its bytes.
    pub content: Content,
}

impl Blob {
    /// Length in bytes.
    pub fn length(&self) -> u64 {
        self.content.len()
    }

    /// Its task.
    pub fn task(&self) -> TaskId {
        let digest: Digest = self
            .digest
            .parse()
            .expect("the testkit writes digests as OCI does");
        digest.into()
    }

    /// Its pieces.
    pub fn layout(&self) -> PieceLayout {
        PieceLayout::of(self.length()).expect("blobs of the simulation are small")
    }
}

/// A simulated cluster.
pub struct World {
    pub(crate) sim: turmoil::Sim<'static>,
    /// The seed that everything follows from.
    pub seed: u64,
    shape: Shape,
    /// For what a test leaves to chance.
    pub rng: StdRng,
    /// The registry.
    pub origin: Origin,
    /// Uplink of the registry.
    pub origin_rate: Rate,
    pub(crate) nodes: Vec<SimNode>,
    clients: Vec<(String, Orders)>,
    fates: Rc<RefCell<Fates>>,
    /// Faults of the registry may outlast the patience of a client that was handed over to it.
    pub registry_may_refuse: bool,
    /// All pulls that were ordered.
    pub pulls: Vec<Pull>,
    blobs: u64,
    panics: panics::Watch,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("World")
            .field("seed", &self.seed)
            .field("shape", &self.shape)
            .finish_non_exhaustive()
    }
}

impl World {
    /// Builds a cluster and lets it start.
    pub fn new(seed: u64, shape: Shape) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let sim = turmoil::Builder::new()
            .rng_seed(rng.random())
            .epoch(std::time::SystemTime::UNIX_EPOCH)
            .tick_duration(Duration::from_millis(1))
            .simulation_duration(Duration::from_secs(24 * 3600))
            .min_message_latency(Duration::from_millis(1))
            .max_message_latency(shape.latency_max)
            .tcp_capacity(TCP_CAPACITY)
            .build();
        let origin = Origin::new();
        origin.seed(rng.random());
        let mut world = Self {
            sim,
            seed,
            shape,
            rng,
            origin,
            origin_rate: Rate::new(shape.origin_rate),
            nodes: Vec::new(),
            clients: Vec::new(),
            fates: Rc::default(),
            registry_may_refuse: false,
            pulls: Vec::new(),
            blobs: 0,
            panics: panics::Watch::begin(),
        };
        world.start_origin();
        for number in 0..shape.schedulers {
            world.start_scheduler(number);
        }
        for number in 0..shape.seeds {
            world.start_node(&format!("seed-{number}"), NodeRole::Seed);
        }
        for _ in 0..shape.nodes {
            world.add_node();
        }
        world.run_until(
            Duration::from_secs(10),
            "all nodes have found their schedulers",
            |world| {
                world
                    .nodes
                    .iter()
                    .all(|node| node.has_started() && node.schedulers_up() == shape.schedulers)
            },
        );
        if shape.schedulers > 0 {
            // New schedulers give no leases for a second.
            world.run_for(GRACE);
        }
        world
    }

    fn start_origin(&mut self) {
        let (origin, rate) = (self.origin.clone(), self.origin_rate.clone());
        self.sim.host(ORIGIN, move || {
            let (origin, network) = (origin.clone(), TurmoilNetwork::new(rate.clone()));
            async move {
                let tasks = Tasks::new();
                let mut listener = network.bind(&"0.0.0.0:80".parse()?).await?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    let origin = origin.clone();
                    tasks.spawn("registry connection", async move {
                        origin.serve_connection(stream).await
                    });
                }
            }
        });
    }

    /// Addresses of all schedulers.
    fn schedulers(&self) -> Vec<String> {
        (0..self.shape.schedulers)
            .map(|number| format!("scheduler-{number}:8002"))
            .collect()
    }

    /// Names of all schedulers.
    pub(crate) fn scheduler_names(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.shape.schedulers).map(|number| format!("scheduler-{number}"))
    }

    fn start_scheduler(&mut self, number: usize) {
        let config = SchedulerConfig {
            advertise: format!("scheduler-{number}:8002"),
            schedulers: self.schedulers(),
            ..SchedulerConfig::default()
        };
        let seed: u64 = self.rng.random();
        let lives = Rc::new(Cell::new(0u64));
        let (name, fates) = (format!("scheduler-{number}"), Rc::clone(&self.fates));
        self.sim.host(name.clone(), move || {
            let (config, lives) = (config.clone(), Rc::clone(&lives));
            let fate = fates.borrow_mut().begin(&name);
            async move {
                lives.set(lives.get() + 1);
                let incarnation = seed.wrapping_add(lives.get());
                // The scheduler sends little; its uplink is never what a test is about.
                let sockets = TurmoilNetwork::new(Rate::new(1024 * MIB));
                let network: Arc<dyn Network> = Arc::new(sockets.clone());
                let (mut registry, stop) = (Registry::default(), CancellationToken::new());
                let run = darter_scheduler::app::run(
                    config,
                    network,
                    &mut registry,
                    incarnation,
                    incarnation,
                    stop,
                );
                Ok(fate.or(&sockets, run).await?)
            }
        });
    }

    fn start_node(&mut self, name: &str, role: NodeRole) {
        let node = SimNode::new(NodeSpec {
            name: name.to_owned(),
            role,
            schedulers: self.schedulers(),
            seed: self.rng.random(),
            rate: Rate::new(self.shape.node_rate),
            store: MemoryStore::new(QUOTA),
        });
        self.nodes.push(node.clone());
        let (fates, host) = (Rc::clone(&self.fates), name.to_owned());
        self.sim.host(name, move || {
            let fate = fates.borrow_mut().begin(&host);
            node.clone().live(fate)
        });
    }

    /// Adds a node with its client, and returns its number.
    pub fn add_node(&mut self) -> usize {
        let number = self.clients.len();
        let name = format!("node-{number}");
        self.start_node(&name, NodeRole::Peer);
        let orders = Orders::default();
        let own = orders.clone();
        // Only what it receives is looked at.
        self.sim.host(format!("client-{number}"), move || {
            client::run(own.clone(), TurmoilNetwork::new(Rate::new(1024 * MIB)))
        });
        self.clients.push((name, orders));
        number
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> &SimNode {
        self.nodes
            .iter()
            .find(|node| node.spec.name == name)
            .expect("a test names nodes that it made")
    }

    /// Puts a new blob into the registry.
    pub fn blob(&mut self, length: u64) -> Blob {
        self.blobs += 1;
        let bytes = bytes_at(
            self.blobs,
            0,
            usize::try_from(length).expect("blobs of the simulation are small"),
        );
        let content = Content::from(bytes);
        let digest = self.origin.add_blob(REPOSITORY, content.clone());
        Blob {
            digest,
            repository: REPOSITORY.to_owned(),
            content,
        }
    }

    /// Lets the client of node `number` pull a blob.
    pub fn pull(&mut self, number: usize, blob: &Blob) -> Pull {
        self.pull_as(number, blob, None)
    }

    /// The same with this `Authorization`.
    pub fn pull_as(&mut self, number: usize, blob: &Blob, authorization: Option<&str>) -> Pull {
        let (name, orders) = self.clients.get(number).expect("a test names nodes that it made");
        let pull = Pull::new(name, blob, authorization);
        orders.push(pull.clone());
        self.pulls.push(pull.clone());
        pull
    }

    /// Lets time pass.
    pub fn run_for(&mut self, time: Duration) {
        let end = self.sim.elapsed() + time;
        while self.sim.elapsed() < end {
            self.step();
        }
    }

    /// Lets time pass until `done`. Panics if that takes longer than `bound`.
    pub fn run_until(&mut self, bound: Duration, what: &str, done: impl Fn(&Self) -> bool) {
        let end = self.sim.elapsed() + bound;
        while !done(self) {
            assert!(
                self.sim.elapsed() < end,
                "not within {bound:?}: {what}; {}",
                self.state()
            );
            self.step();
        }
    }

    /// Lets time pass until all pulls have ended. Panics if that takes longer than `bound`.
    pub fn settle(&mut self, bound: Duration) {
        self.run_until(bound, "all pulls have ended", |world| {
            world.pulls.iter().all(Pull::is_over)
        });
    }

    fn step(&mut self) {
        if let Err(error) = self.sim.step() {
            panic!("a host failed: {error}");
        }
        self.panics.check();
    }

    /// Ends the process of a host. The last thing that it does, a moment before, is to end its connections.
    pub(crate) fn end_process(&mut self, name: &str) {
        if self.sim.is_host_running(name) {
            self.fates.borrow().kill(name);
            self.step();
            // The order in which a runtime drops its tasks is not the same in each run. Nothing follows from it any more.
            tracing::subscriber::with_default(tracing::subscriber::NoSubscriber::new(), || {
                self.sim.crash(name)
            });
        }
    }

    /// Simulated time since the start.
    pub fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    /// What to look at when something did not happen.
    pub fn state(&self) -> String {
        let pulls = self.pulls.iter().filter(|pull| !pull.is_done());
        let pulls: Vec<String> = pulls
            .map(|pull| format!("{}: {:?}", pull.node, pull.progress()))
            .collect();
        format!("at {:?}; pulls that are not done: {pulls:#?}", self.elapsed())
    }
}
