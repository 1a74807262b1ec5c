//! One cold content on many nodes: the real engine and the real scheduler over simulated links.
//!
//! Every node runs a [`darter_engine::Task`], a seed fetches from the origin and shows its pieces by
//! [`darter_engine::Offers`], a [`darter_scheduler::schedule::Scheduler`] names neighbours and relays the chain.
//! Links are fluid: an upload is shared by the requests that it serves at the moment, everything takes the latency.
//! Nothing is hashed and no byte exists: states of the chain are counters, which is all that the engine compares.
//!
//! What must hold: the same options give the same result, bit for bit.

mod agenda;
mod engine;
mod link;
mod node;
mod world;

use std::time::Duration;

use darter_engine::Limits;

use self::world::World;

/// What is simulated.
#[derive(Clone, Debug)]
pub struct SwarmOptions {
    /// Nodes that want the content, all at the same moment; the seed comes on top.
    pub nodes: u32,
    /// Length of the content in bytes.
    pub length: u64,
    /// Upload of every node and of the seed, in Mb/s (10^6 bits).
    pub up_mbps: u64,
    /// Download of every node and of the seed, in Mb/s.
    pub down_mbps: u64,
    /// What the origin sends to one reader, in Mb/s.
    pub origin_mbps: u64,
    /// One way between any two of nodes, scheduler and origin.
    pub latency: Duration,
    /// Seed of all randomness.
    pub seed: u64,
    /// Requests that a node serves at the same time; the others wait in order.
    pub upload_slots: usize,
    /// Whether the seed shows each piece once before it shows any twice.
    pub super_seeding: bool,
    /// Whether every node has a reader at the first byte that takes what is released at once; else all fetch in the
    /// background, without any order to keep.
    pub readers: bool,
    /// Bounds of the engine.
    pub limits: Limits,
}

impl SwarmOptions {
    /// A swarm of `nodes` over links of 1 Gb/s and 1 ms, as the product is set up.
    pub fn of(nodes: u32, length: u64) -> Self {
        Self {
            nodes,
            length,
            up_mbps: 1000,
            down_mbps: 1000,
            origin_mbps: 1000,
            latency: Duration::from_millis(1),
            seed: 1,
            upload_slots: 2,
            super_seeding: true,
            readers: true,
            limits: Limits::default(),
        }
    }

    /// No schedule can be faster (Kumar and Ross, 2006): the origin must send all once, every node must receive
    /// all, and all that is received must be sent.
    pub fn fluid_bound(&self) -> Duration {
        let bytes = |mbps: u64| link::nanos(self.length, mbps);
        let nodes = u64::from(self.nodes);
        let together = link::nanos(self.length * nodes, self.origin_mbps + nodes * self.up_mbps);
        Duration::from_nanos(bytes(self.origin_mbps).max(bytes(self.down_mbps)).max(together))
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct SwarmResult {
    /// Nodes that proved the content.
    pub finished: u32,
    /// Until the last node had everything.
    pub time: Duration,
    /// That, over the fluid bound.
    pub time_over_bound: f64,
    /// Until half of the nodes had everything, over the fluid bound.
    pub median_over_bound: f64,
    /// Bytes that the origin sent, over the length.
    pub origin_bytes_over_size: f64,
    /// How many times its content the seed sent.
    pub origin_copies_sent: f64,
    /// Bytes that came to nodes which had them already, over all that came.
    pub wasted: f64,
    /// Longest that a request waited for its first piece.
    pub longest_wait: Duration,
    /// Longest until a node's first piece was released.
    pub first_release: Duration,
    /// Events that the engines applied.
    pub events: u64,
}

/// Virtual time after which a swarm that has not finished is given up, in fluid bounds.
const BOUNDS_MAX: u32 = 20;

/// Runs a swarm until every node has everything, or far too long.
pub fn run(options: &SwarmOptions) -> SwarmResult {
    let mut world = World::new(options);
    world.run();
    world.result()
}

#[cfg(test)]
mod tests;
