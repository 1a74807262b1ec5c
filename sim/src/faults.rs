//! What may go wrong in a world besides its registry, whose faults the testkit has.

use std::time::Duration;

use crate::world::{Blob, World};

impl World {
    /// Cuts two hosts off from each other: all that they send from now on is lost, and connections between them are dead
    /// for ever, as behind a firewall that dropped their state.
    pub fn partition(&mut self, one: &str, other: &str) {
        tracing::info!(one, other, "fault: partition");
        self.sim.partition(one, other);
    }

    /// Silences the link between two hosts: nothing arrives and nothing is lost until [`Self::release`].
    pub fn hold(&mut self, one: &str, other: &str) {
        tracing::info!(one, other, "fault: hold");
        self.sim.hold(one, other);
    }

    /// What was held arrives.
    pub fn release(&mut self, one: &str, other: &str) {
        tracing::info!(one, other, "heal: release");
        self.sim.release(one, other);
    }

    /// Ends a partition; new connections work.
    pub fn repair(&mut self, one: &str, other: &str) {
        tracing::info!(one, other, "heal: repair");
        self.sim.repair(one, other);
    }

    /// Every message between two hosts takes so long.
    pub fn slow_link(&mut self, one: &str, other: &str, latency: Duration) {
        tracing::info!(one, other, ?latency, "fault: slow link");
        self.sim.set_link_latency(one, other, latency);
    }

    /// A node answers and tells its news as ever, but of a long answer it sends a byte, then one more after each `pause`.
    pub fn drip(&mut self, name: &str, pause: Duration) {
        tracing::info!(name, ?pause, "fault: drip");
        self.node(name).spec.rate.drip(pause);
    }

    /// `kill -9` of a node: its connections end, its store keeps what was marked, as claimed.
    pub fn kill(&mut self, name: &str) {
        tracing::info!(name, "fault: kill");
        self.end_process(name);
        if let Some(node) = self.nodes.iter().find(|node| node.spec.name == name) {
            node.spec.store.faults().crash();
        }
    }

    /// A power cut: as [`Self::kill`], and nobody is told.
    pub fn power_cut(&mut self, name: &str) {
        tracing::info!(name, "fault: power cut");
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
        self.sim.bounce(name);
    }

    /// Whether a host runs.
    pub fn is_running(&mut self, name: &str) -> bool {
        self.sim.is_host_running(name)
    }

    /// Flips one bit in every piece of a blob that a node has; how many those were.
    pub fn rot(&mut self, name: &str, blob: &Blob) -> usize {
        tracing::info!(name, "fault: every piece has a flipped bit");
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
