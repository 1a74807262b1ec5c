//! What must be true of every world, whatever happened in it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use darter_store::PieceStore as _;

use crate::client::{Outcome, Pull};
use crate::world::{Blob, REPOSITORY, World};

/// How long everything together may take to stop.
const STOP: Duration = Duration::from_secs(20);

impl World {
    /// Asks the oracle, stops all nodes, and asks again. Every pull must have ended ([`World::settle`]).
    pub fn finish(mut self) {
        self.no_wrong_bytes();
        self.all_pulls_done();
        self.nobody_reads_without_the_right();
        self.private_bytes_stay_where_they_were_fetched();
        self.calm_blobs_left_the_registry_once();
        self.received_is_what_was_sent();
        self.stop_all();
    }

    /// No client ever got a byte that is not the truth's.
    pub fn no_wrong_bytes(&self) {
        for pull in &self.pulls {
            let progress = pull.progress();
            assert_eq!(
                progress.wrong_bytes, 0,
                "{} got wrong bytes: {progress:?}",
                pull.node
            );
            assert!(progress.bytes <= pull.blob.length());
        }
    }

    /// Every pull that the registry would serve has all its bytes; [`World::registry_may_refuse`] makes one exception.
    pub fn all_pulls_done(&self) {
        for pull in self.pulls.iter().filter(|pull| pull.allowed) {
            let progress = pull.progress();
            let excused = self.registry_may_refuse && progress.outcome == Some(Outcome::RegistryRefused);
            let done = progress.outcome == Some(Outcome::Done) && progress.bytes == pull.blob.length();
            assert!(done || excused, "pull through {}: {progress:?}", pull.node);
        }
    }

    /// Whom the registry would refuse gets no byte, from whoever holds it (invariant 5).
    pub fn nobody_reads_without_the_right(&self) {
        for pull in self.pulls.iter().filter(|pull| !pull.allowed) {
            let progress = pull.progress();
            assert_eq!(progress.bytes, 0, "{} served a stranger: {progress:?}", pull.node);
            assert_ne!(
                progress.outcome,
                Some(Outcome::Done),
                "{}: {progress:?}",
                pull.node
            );
        }
    }

    /// Without certificates private bytes never travel between nodes: none has any that no reader of its own could ask for.
    fn private_bytes_stay_where_they_were_fetched(&self) {
        let private: Vec<&Pull> = self
            .pulls
            .iter()
            .filter(|pull| pull.blob.repository != REPOSITORY && pull.allowed)
            .collect();
        for node in &self.nodes {
            let held = node.spec.store.list();
            for pull in &private {
                let task = pull.blob.task();
                let holds = held.iter().any(|it| it.task == task && !it.held.is_empty());
                let asked =
                    |other: &&&Pull| other.node == node.spec.name && other.blob.digest == pull.blob.digest;
                assert!(
                    !holds || private.iter().any(|other| asked(&other)),
                    "{} holds {}, which nobody there may read",
                    node.spec.name,
                    pull.blob.digest
                );
            }
        }
    }

    /// What has not seen a fault in its life left the registry once for all nodes (invariant 4).
    fn calm_blobs_left_the_registry_once(&self) {
        if self.scheduler_names().next().is_none() {
            return;
        }
        let calm = Some(self.faults_so_far());
        let mut seen = BTreeSet::new();
        for blob in self.pulls.iter().map(|pull| &pull.blob) {
            let is_public = blob.repository == REPOSITORY;
            if is_public && blob.faults_before == calm && seen.insert(&blob.digest) {
                self.sent_once_to_nodes(blob);
            }
        }
    }

    /// Payload bytes of a blob that the registry sent to nodes; what clients fetched themselves is not in it.
    pub fn origin_bytes(&self, blob: &Blob) -> u64 {
        let same = |pull: &&Pull| pull.blob.digest == blob.digest;
        let direct: u64 = self
            .pulls
            .iter()
            .filter(same)
            .map(|pull| pull.progress().direct_bytes)
            .sum();
        self.origin.bytes_sent_for(&blob.digest).saturating_sub(direct)
    }

    /// The registry sent a blob to nodes once: at most 1.02 times its bytes.
    pub fn sent_once_to_nodes(&self, blob: &Blob) {
        let sent = self.origin_bytes(blob);
        let most = blob.length() + blob.length() / 50;
        assert!(
            sent <= most,
            "the registry sent {sent} bytes of a blob of {}",
            blob.length()
        );
    }

    /// The same, and no client had to ask it.
    pub fn sent_once(&self, blob: &Blob) {
        self.sent_once_to_nodes(blob);
        let direct: u64 = self.pulls.iter().map(|pull| pull.progress().direct_bytes).sum();
        assert_eq!(direct, 0, "a client had to go to the registry: {}", self.state());
    }

    /// Nodes count no more bytes from one another than they count as sent.
    fn received_is_what_was_sent(&self) {
        let sum = |name: &str, label: &str| {
            self.nodes
                .iter()
                .map(|node| node.metric(name, label))
                .sum::<u64>()
        };
        let from_peers = sum("darter_proxy_received_bytes_total", "source=\"peer\"");
        let sent = sum("darter_proxy_peer_sent_bytes_total", "");
        assert!(
            from_peers <= sent,
            "nodes received {from_peers} bytes from peers, which sent {sent}"
        );
        let from_origin = sum("darter_proxy_received_bytes_total", "source=\"origin\"");
        let sent = self.origin.bytes_sent();
        assert!(
            from_origin <= sent,
            "nodes received {from_origin} bytes from a registry that sent {sent}"
        );
    }

    /// Stops all nodes that run; nothing of them may stay behind.
    fn stop_all(&mut self) {
        let names: Vec<String> = self.nodes.iter().map(|node| node.spec.name.clone()).collect();
        let running: Vec<String> = names
            .into_iter()
            .filter(|name| self.sim.is_host_running(name.as_str()))
            .collect();
        let stopped = |world: &Self| {
            running
                .iter()
                .all(|name| world.node(name).left_running().is_some())
        };
        let end = self.elapsed() + STOP;
        while !stopped(self) && self.elapsed() < end {
            // Again each time: a host that was just started has no life yet that could be stopped.
            running.iter().for_each(|name| self.node(name).stop());
            self.run_for(Duration::from_millis(10));
        }
        for name in &running {
            let node = self.node(name);
            assert!(
                node.left_running().is_some(),
                "{name} does not stop, it runs {:?}",
                node.running()
            );
        }
        for name in &running {
            let left = self.node(name).left_running();
            assert_eq!(
                left,
                Some(BTreeMap::new()),
                "{name} stopped and left something running"
            );
        }
    }
}
