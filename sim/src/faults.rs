//! What may go wrong in a world besides its registry, whose faults the testkit has.
//!
//! Each fault and each healing is counted, so that the oracle knows which blobs lived without any.

use std::time::Duration;

use darter_store::{ContentFacts, PieceStore as _};
use darter_testkit::content::bytes_at;
use darter_types::{Algorithm, ContentKind, OriginLocator, PieceHasher};

use crate::world::{Blob, REGISTRY, World};

/// What poisoned stores hold; no blob is made of it.
const FORGED: u64 = u64::MAX;

impl World {
    /// Faults and healings so far, the registry's faults among them.
    pub(crate) fn faults_so_far(&self) -> u64 {
        self.faults + self.origin.fired_total()
    }

    fn begins(&mut self, fault: String) {
        self.faults += 1;
        self.standing.insert(fault);
    }

    fn ends(&mut self, fault: &str) {
        self.faults += 1;
        self.standing.remove(fault);
    }

    /// Cuts two hosts off from each other: all that they send from now on is lost, and connections between them are dead
    /// for ever, as behind a firewall that dropped their state.
    pub fn partition(&mut self, one: &str, other: &str) {
        tracing::info!(one, other, "fault: partition");
        self.begins(format!("{one} apart from {other}"));
        self.sim.partition(one, other);
    }

    /// Silences the link between two hosts: nothing arrives and nothing is lost until [`Self::release`].
    pub fn hold(&mut self, one: &str, other: &str) {
        tracing::info!(one, other, "fault: hold");
        self.begins(format!("{one} held from {other}"));
        self.sim.hold(one, other);
    }

    /// What was held arrives.
    pub fn release(&mut self, one: &str, other: &str) {
        tracing::info!(one, other, "heal: release");
        self.ends(&format!("{one} held from {other}"));
        self.sim.release(one, other);
    }

    /// Ends a partition; new connections work.
    pub fn repair(&mut self, one: &str, other: &str) {
        tracing::info!(one, other, "heal: repair");
        self.ends(&format!("{one} apart from {other}"));
        self.sim.repair(one, other);
    }

    /// Every message between two hosts takes so long.
    pub fn slow_link(&mut self, one: &str, other: &str, latency: Duration) {
        tracing::info!(one, other, ?latency, "fault: slow link");
        self.begins(format!("{one} slow to {other}"));
        self.sim.set_link_latency(one, other, latency);
    }

    /// A node answers and tells its news as ever, but of a long answer it sends a byte, then one more after each `pause`.
    pub fn drip(&mut self, name: &str, pause: Duration) {
        tracing::info!(name, ?pause, "fault: drip");
        self.begins(format!("{name} drips"));
        self.node(name).spec.rate.drip(pause);
    }

    /// `kill -9` of a node: its connections end, its store keeps what was marked, as claimed.
    pub fn kill(&mut self, name: &str) {
        tracing::info!(name, "fault: kill");
        self.begins(format!("{name} dead"));
        self.end_process(name);
        if let Some(node) = self.nodes.iter().find(|node| node.spec.name == name) {
            node.spec.store.faults().crash();
        }
    }

    /// A power cut: as [`Self::kill`], and nobody is told.
    pub fn power_cut(&mut self, name: &str) {
        tracing::info!(name, "fault: power cut");
        self.begins(format!("{name} dead"));
        let others: Vec<String> = self.hosts().into_iter().filter(|host| host != name).collect();
        for other in &others {
            self.sim.partition(name, other.as_str());
        }
        self.end_process(name);
        if let Some(node) = self.nodes.iter().find(|node| node.spec.name == name) {
            node.spec.store.faults().power_cut();
        }
        for other in &others {
            self.sim.repair(name, other.as_str());
        }
    }

    /// Starts a host again that was killed. A scheduler knows nothing then.
    pub fn restart(&mut self, name: &str) {
        tracing::info!(name, "heal: restart");
        self.ends(&format!("{name} dead"));
        self.sim.bounce(name);
    }

    /// A node's uplink is so slow from now on.
    pub fn slow_down(&mut self, name: &str, bytes_per_second: u64) {
        tracing::info!(name, bytes_per_second, "fault: slow uplink");
        self.begins(format!("{name} slow"));
        self.node(name).spec.rate.set(bytes_per_second);
    }

    /// A node's uplink has this speed again.
    pub fn speed_up(&mut self, name: &str, bytes_per_second: u64) {
        tracing::info!(name, bytes_per_second, "heal: uplink");
        self.ends(&format!("{name} slow"));
        self.node(name).spec.rate.set(bytes_per_second);
    }

    /// A node's disk takes so many more bytes and is full then.
    pub fn fill_disk(&mut self, name: &str, free_bytes: u64) {
        tracing::info!(name, free_bytes, "fault: disk full");
        self.begins(format!("{name} full"));
        self.node(name).spec.store.faults().no_space_after(free_bytes);
    }

    /// A node's disk has room again.
    pub fn empty_disk(&mut self, name: &str) {
        tracing::info!(name, "heal: disk has room");
        self.ends(&format!("{name} full"));
        self.node(name).spec.store.faults().space_returns();
    }

    /// Puts other bytes of the same length into a node's store, linked and said to be proved: with what a stolen key can say,
    /// and to those who listen only to the next Hello.
    pub fn poison(&mut self, name: &str, blob: &Blob) {
        tracing::info!(name, "fault: poisoned store");
        self.faults += 1;
        let layout = blob.layout();
        let forged = bytes_at(FORGED, 0, usize::try_from(blob.length()).unwrap_or(usize::MAX));
        let facts = ContentFacts {
            layout,
            origin: Some(OriginLocator {
                registry: REGISTRY.parse().expect("a name"),
                repository: blob.repository.parse().expect("a name"),
                kind: ContentKind::Blob,
                digest: blob.digest.parse().expect("a digest"),
            }),
            media_type: None,
            whole: true,
            public: true,
        };
        let stored = self
            .node(name)
            .spec
            .store
            .open(blob.task(), &facts)
            .expect("an empty store has room");
        stored.write(0, &forged).expect("an empty store has room");
        let mut hasher = PieceHasher::start(Algorithm::Sha256);
        let mut states = Vec::new();
        for piece in 0..layout.piece_count() {
            stored.mark_present(piece).expect("all is written");
            let range = layout.piece_range(piece);
            let bytes = forged
                .iter()
                .skip(usize::try_from(range.start).unwrap_or(usize::MAX));
            let bytes: Vec<u8> = bytes
                .take(usize::try_from(range.len()).unwrap_or(usize::MAX))
                .copied()
                .collect();
            hasher.update(&bytes);
            states.extend(hasher.state());
        }
        stored.record_states(1, &states).expect("an empty store has room");
        stored.record_proved();
    }

    /// Whether a host runs.
    pub fn is_running(&mut self, name: &str) -> bool {
        self.sim.is_host_running(name)
    }

    /// Flips one bit in every piece of a blob that a node has; how many those were.
    pub fn rot(&mut self, name: &str, blob: &Blob) -> usize {
        tracing::info!(name, "fault: every piece has a flipped bit");
        self.faults += 1;
        let faults = self.node(name).spec.store.faults();
        let pieces = 0..blob.layout().piece_count();
        let task = blob.task();
        pieces
            .filter(|piece| faults.flip_byte(task, *piece, 1000))
            .count()
    }

    /// All hosts but the clients'.
    pub fn hosts(&self) -> Vec<String> {
        let nodes = self.nodes.iter().map(|node| node.spec.name.clone());
        nodes
            .chain(self.scheduler_names())
            .chain([crate::world::ORIGIN.to_owned()])
            .collect()
    }
}
