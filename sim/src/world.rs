//! A cluster in one thread: real proxies, real schedulers and a registry on simulated hosts, and clients that pull.
//!
//! A test builds a [`World`], orders pulls, injects faults ([`crate::faults`]) and steps time until what it waits for is true;
//! [`World::finish`] then stops everything and asks the oracle. All that happens follows from the seed.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use darter_proxy::config::{Config as NodeConfig, NodeRole};
use darter_scheduler::config::Config as SchedulerConfig;
use darter_service::net::Network;
use darter_service::supervise::Tasks;
use darter_store::MemoryStore;
use darter_testkit::content::{Content, bytes_at};
use darter_testkit::origin::{Access, Origin};
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
/// Where private blobs are put: [`OWNER`] may read them, [`STRANGER`] may not.
pub const PRIVATE_REPOSITORY: &str = "private/app";
/// What the owner of private blobs shows: owner:secret.
pub const OWNER: &str = "Basic b3duZXI6c2VjcmV0";
/// Another user of the registry, without any right: stranger:secret.
pub const STRANGER: &str = "Basic c3RyYW5nZXI6c2VjcmV0";

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
    /// Faults of the world before it; nothing when one was standing at its birth.
    pub(crate) faults_before: Option<u64>,
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

fn address_of(scheduler: &usize) -> String {
    format!("scheduler-{scheduler}:8002")
}

/// A simulated cluster.
pub struct World {
    pub(crate) sim: turmoil::Sim<'static>,
    /// The seed that everything follows from.
    pub seed: u64,
    shape: Shape,
    /// What each scheduler believes the ring to be, by its number.
    rings: Vec<Vec<usize>>,
    scheduler_rates: Vec<Rate>,
    edit: fn(&mut NodeConfig),
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
    /// Faults and healings so far, without the registry's.
    pub(crate) faults: u64,
    /// Faults that are not healed.
    pub(crate) standing: BTreeSet<String>,
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
        Self::with(seed, shape, |_| {})
    }

    /// The same, with nodes that are configured in some other way.
    pub fn with(seed: u64, shape: Shape, edit: fn(&mut NodeConfig)) -> Self {
        let all: Vec<usize> = (0..shape.schedulers).collect();
        let mut world = Self::without_nodes(seed, shape, vec![all; shape.schedulers], edit);
        world.begin();
        world
    }

    /// The same, with schedulers that do not agree on who they are: each has a ring of its own.
    pub fn disagreeing(seed: u64, shape: Shape, rings: &[&[usize]]) -> Self {
        let rings = rings.iter().map(|ring| ring.to_vec()).collect();
        let mut world = Self::without_nodes(seed, shape, rings, |_| {});
        world.standing.insert("schedulers disagree".to_owned());
        world.start_all_nodes();
        world.run_for(GRACE * 2);
        world
    }

    fn without_nodes(seed: u64, shape: Shape, rings: Vec<Vec<usize>>, edit: fn(&mut NodeConfig)) -> Self {
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
            rings,
            scheduler_rates: Vec::new(),
            edit,
            rng,
            origin,
            origin_rate: Rate::new(shape.origin_rate),
            nodes: Vec::new(),
            clients: Vec::new(),
            fates: Rc::default(),
            registry_may_refuse: false,
            pulls: Vec::new(),
            blobs: 0,
            faults: 0,
            standing: BTreeSet::new(),
            panics: panics::Watch::begin(),
        };
        world.start_origin();
        for number in 0..shape.schedulers {
            world.start_scheduler(number);
        }
        world
    }

    fn start_all_nodes(&mut self) {
        for number in 0..self.shape.seeds {
            self.start_node(&format!("seed-{number}"), NodeRole::Seed);
        }
        for _ in 0..self.shape.nodes {
            self.add_node();
        }
    }

    fn begin(&mut self) {
        self.start_all_nodes();
        let schedulers = self.shape.schedulers;
        self.run_until(
            Duration::from_secs(10),
            "all nodes have found their schedulers",
            |world| world.nodes_speak_to(schedulers),
        );
        if schedulers > 0 {
            // New schedulers give no leases for a second.
            self.run_for(GRACE);
        }
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
            .map(|number| address_of(&number))
            .collect()
    }

    /// Names of all schedulers.
    pub(crate) fn scheduler_names(&self) -> impl Iterator<Item = String> + use<> {
        (0..self.shape.schedulers).map(|number| format!("scheduler-{number}"))
    }

    fn start_scheduler(&mut self, number: usize) {
        let config = SchedulerConfig {
            advertise: address_of(&number),
            schedulers: self.rings[number].iter().map(address_of).collect(),
            ..SchedulerConfig::default()
        };
        let seed: u64 = self.rng.random();
        // The scheduler sends little; its uplink is never what a test is about.
        let rate = Rate::new(1024 * MIB);
        self.scheduler_rates.push(rate.clone());
        let lives = Rc::new(Cell::new(0u64));
        let (name, fates) = (format!("scheduler-{number}"), Rc::clone(&self.fates));
        self.sim.host(name.clone(), move || {
            let (config, lives, rate) = (config.clone(), Rc::clone(&lives), rate.clone());
            let fate = fates.borrow_mut().begin(&name);
            async move {
                lives.set(lives.get() + 1);
                let incarnation = seed.wrapping_add(lives.get());
                let sockets = TurmoilNetwork::new(rate);
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
        self.start_node_as(name, name, role);
    }

    fn start_node_as(&mut self, name: &str, id: &str, role: NodeRole) {
        let node = SimNode::new(NodeSpec {
            name: name.to_owned(),
            id: id.to_owned(),
            role,
            schedulers: self.schedulers(),
            seed: self.rng.random(),
            rate: Rate::new(self.shape.node_rate),
            store: MemoryStore::new(QUOTA),
            edit: self.edit,
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
        let name = format!("node-{}", self.clients.len());
        self.add_node_as(&name)
    }

    /// The same under a name that another node may have already.
    pub fn add_node_as(&mut self, id: &str) -> usize {
        let number = self.clients.len();
        let name = format!("node-{number}");
        if name != id {
            self.standing.insert(format!("{name} says that it is {id}"));
        }
        self.start_node_as(&name, id, NodeRole::Peer);
        let orders = Orders::default();
        let own = orders.clone();
        // Only what it receives is looked at.
        self.sim.host(format!("client-{number}"), move || {
            client::run(own.clone(), TurmoilNetwork::new(Rate::new(1024 * MIB)))
        });
        self.clients.push((name, orders));
        number
    }

    /// All nodes, in the order in which they came.
    pub fn nodes(&self) -> &[SimNode] {
        &self.nodes
    }

    /// The node of this name.
    pub fn node(&self, name: &str) -> &SimNode {
        self.nodes
            .iter()
            .find(|node| node.spec.name == name)
            .expect("a test names nodes that it made")
    }

    /// The names of all nodes, seeds among them.
    pub fn node_names(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.spec.name.clone()).collect()
    }

    /// Bytes that all schedulers sent.
    pub fn schedulers_sent(&self) -> u64 {
        self.scheduler_rates.iter().map(Rate::sent).sum()
    }

    /// Whether every node runs and speaks to so many schedulers.
    pub fn nodes_speak_to(&self, schedulers: usize) -> bool {
        self.nodes
            .iter()
            .all(|node| node.has_started() && node.schedulers_up() == schedulers)
    }

    /// Puts a new blob into the registry.
    pub fn blob(&mut self, length: u64) -> Blob {
        self.blob_in(REPOSITORY, length)
    }

    /// Puts a new blob into the registry that [`OWNER`] may read and nobody else.
    pub fn private_blob(&mut self, length: u64) -> Blob {
        self.origin.set_access(PRIVATE_REPOSITORY, Access::Basic);
        self.origin.add_user("owner", "secret");
        self.origin.add_user("stranger", "secret");
        self.origin.allow(PRIVATE_REPOSITORY, "owner");
        self.blob_in(PRIVATE_REPOSITORY, length)
    }

    fn blob_in(&mut self, repository: &str, length: u64) -> Blob {
        self.blobs += 1;
        let bytes = bytes_at(
            self.blobs,
            0,
            usize::try_from(length).expect("blobs of the simulation are small"),
        );
        let content = Content::from(bytes);
        let digest = self.origin.add_blob(repository, content.clone());
        let faults_before = self.standing.is_empty().then(|| self.faults_so_far());
        Blob {
            digest,
            repository: repository.to_owned(),
            content,
            faults_before,
        }
    }

    /// Lets the client of node `number` pull a blob.
    pub fn pull(&mut self, number: usize, blob: &Blob) -> Pull {
        self.pull_as(number, blob, None)
    }

    /// The same with this `Authorization`.
    pub fn pull_as(&mut self, number: usize, blob: &Blob, authorization: Option<&str>) -> Pull {
        let (name, orders) = self.clients.get(number).expect("a test names nodes that it made");
        let allowed = self
            .origin
            .may_read(&blob.repository, &blob.digest, authorization);
        let pull = Pull::new(name, blob, authorization, allowed);
        orders.push(pull.clone());
        self.pulls.push(pull.clone());
        pull
    }

    /// Lets the client of node `number` read parts of a blob, one after the other.
    pub fn read(&mut self, number: usize, blob: &Blob, ranges: Vec<std::ops::Range<u64>>) -> Pull {
        let (name, orders) = self.clients.get(number).expect("a test names nodes that it made");
        let pull = Pull::of_ranges(name, blob, ranges);
        orders.push(pull.clone());
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
