//! Neighbours: who is sampled, who is chosen, who is told.

use darter_proto::scheduler::{Parent, Parents, SchedulerMessage};
use darter_types::Moment;
use indexmap::IndexSet;
use rand::RngExt as _;
use rand::seq::SliceRandom as _;

use super::{Outbox, Scheduler};
use crate::evaluator::{Facts, Nearness, Ranked, rank};
use crate::graph::Changed;
use crate::resource::index::PeerIndex;
use crate::resource::{Holding, Host, HostKey, Peer, Task, TaskKey};

/// Peers of a task above which candidates are sampled from indexes.
const SMALL: usize = 32;
/// Failures of a parent towards one child in one task after which it is not offered to it again.
const FAILED_MAX: u32 = 3;

impl Scheduler {
    /// Gives a peer neighbours, as far as it lacks them.
    pub(super) fn join_mesh(&mut self, key: TaskKey, host: HostKey) {
        let Some(task) = self.tasks.get(key) else {
            return;
        };
        if task.wants == 0 || !self.hosts.is_live(host) || !task.peers.contains_key(&host) {
            return;
        }
        if task.graph.degree(host) >= self.degree_max(task, host) {
            return;
        }
        let candidates = self.candidates(key, host);
        let order = self.order_of(key, host, &candidates);
        let Some(mut task) = self.tasks.get_mut(key) else {
            return;
        };
        let mut graph = std::mem::take(&mut task.graph);
        let mut changed = Changed::new();
        let mut rng = self.rng.clone();
        if let Some(task) = self.tasks.get(key) {
            let cap = |peer| self.degree_max(task, peer);
            graph.join(host, &order, cap, &mut rng, &mut changed);
        }
        self.rng = rng;
        task = match self.tasks.get_mut(key) {
            Some(task) => task,
            None => return,
        };
        task.graph = graph;
        self.changed.entry(key).or_default().extend(changed);
    }

    /// Most neighbours of a peer: one that only serves may have twice as many.
    fn degree_max(&self, task: &Task, host: HostKey) -> usize {
        let wants = task.peers.get(&host).is_some_and(|peer| peer.want.is_some());
        let leased = task.lease.as_ref().is_some_and(|lease| lease.holder == host);
        if wants && !leased {
            self.settings.parents_max
        } else {
            self.settings.parents_max * 2
        }
    }

    /// A bounded choice of the peers that `host` could exchange with.
    fn candidates(&mut self, key: TaskKey, host: HostKey) -> Vec<HostKey> {
        let mut sample = IndexSet::new();
        let Some(task) = self.tasks.get(key) else {
            return Vec::new();
        };
        match &task.index {
            None => sample.extend(task.peers.keys().copied()),
            Some(index) => {
                let place = self.hosts.get(host).map(|host| host.place.as_slice());
                index.sample(place.unwrap_or(&[]), &mut self.rng, &mut sample);
                for _ in 0..PeerIndex::SAMPLE_EACH {
                    let any = self.rng.random_range(0..task.peers.len());
                    sample.extend(task.peers.get_index(any).map(|(peer, _)| *peer));
                }
                sample.extend(task.lease.as_ref().map(|lease| lease.holder));
            }
        }
        let fits = |times: u32| {
            let mut chosen: Vec<HostKey> = sample.iter().copied().collect();
            chosen.retain(|other| self.may_exchange(task, host, *other, times));
            chosen
        };
        let fresh = fits(1);
        // Whoever failed this node before is better than nobody.
        if fresh.is_empty() && task.graph.degree(host) == 0 {
            fits(FAILED_MAX)
        } else {
            fresh
        }
    }

    fn may_exchange(&self, task: &Task, host: HostKey, other: HostKey, failures: u32) -> bool {
        let (Some(peer), Some(mine)) = (task.peers.get(&other), task.peers.get(&host)) else {
            return false;
        };
        let Some(other_host) = self.hosts.get(other) else {
            return false;
        };
        let failed = |peer: &Peer, by| peer.failed.get(&by).copied().unwrap_or(0) >= failures;
        let leased = task.lease.as_ref().is_some_and(|lease| lease.holder == other);
        other != host
            && other_host.is_live()
            && (peer.want.is_some() || mine.want.is_some())
            && (peer.want.is_some() || peer.held != Holding::Nothing || leased)
            && !failed(peer, host)
            && !failed(mine, other)
            && (other_host.excluded.is_none() || !self.others_hold_all(task, other))
    }

    /// Whether somebody besides `host` holds everything.
    pub(super) fn others_hold_all(&self, task: &Task, host: HostKey) -> bool {
        let itself = task
            .peers
            .get(&host)
            .is_some_and(|peer| peer.counted && peer.held == Holding::Everything);
        task.coverage.full_holders() > u32::from(itself)
    }

    /// The order in which neighbours are taken: most of them the best, the rest by chance, so that nodes of
    /// one place do not keep to themselves.
    fn order_of(&mut self, key: TaskKey, host: HostKey, candidates: &[HostKey]) -> Vec<HostKey> {
        let ranked = self.rank(key, host, candidates);
        let mut order: Vec<HostKey> = ranked
            .iter()
            .filter_map(|ranked| candidates.get(ranked.index).copied())
            .collect();
        let best = self.settings.parents_max.div_ceil(3) * 2;
        if let Some(rest) = order.get_mut(best..) {
            rest.shuffle(&mut self.rng);
        }
        order
    }

    /// Ranks peers as parents of `host`.
    pub(crate) fn rank(&self, key: TaskKey, host: HostKey, peers: &[HostKey]) -> Vec<Ranked> {
        let (Some(task), Some(child)) = (self.tasks.get(key), self.hosts.get(host)) else {
            return Vec::new();
        };
        let facts: Vec<Facts<'_>> = peers
            .iter()
            .filter_map(|peer| self.facts(task, child, *peer))
            .collect();
        // A peer without a host would shift the numbers; there is none while the invariants hold.
        debug_assert_eq!(facts.len(), peers.len(), "every peer has a host");
        rank(&self.settings.weights, &facts)
    }

    fn facts<'a>(&'a self, task: &Task, child: &Host, peer_key: HostKey) -> Option<Facts<'a>> {
        let host = self.hosts.get(peer_key)?;
        let peer = task.peers.get(&peer_key)?;
        let held = match task.capacity() {
            Some(capacity) => f64::from(peer.held.count(capacity)) / f64::from(capacity.max(1)),
            None => 0.0,
        };
        Some(Facts {
            name: host.id(),
            upload_free: upload_free(host, task.graph.degree(peer_key)),
            throughput: self.throughput_between(child, host),
            nearness: nearness(child, host),
            held,
            success: f64::from(host.successes + 1) / f64::from(host.successes + host.failures + 1),
            on_trial: host.on_trial,
            slow: host.excluded.is_some(),
        })
    }

    pub(super) fn throughput_between(&self, child: &Host, parent: &Host) -> Option<f64> {
        self.throughput.get(&throughput_key(child, parent))?.value()
    }

    /// Takes a peer's edges away and gives those who lost one another.
    pub(super) fn leave_mesh(&mut self, key: TaskKey, host: HostKey) {
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        let mut changed = Changed::new();
        let lonely = task.graph.remove(host, &mut changed);
        self.changed.entry(key).or_default().extend(changed);
        for other in lonely {
            if self
                .tasks
                .get(key)
                .and_then(|task| task.peers.get(&other))
                .is_some_and(|peer| peer.want.is_some())
            {
                self.join_mesh(key, other);
            }
        }
    }

    /// Takes a host out of a task, with its lease.
    pub(super) fn remove_peer(&mut self, now: Moment, key: TaskKey, host_key: HostKey, out: &mut Outbox) {
        self.close_want(now, key, host_key);
        if self.holds_lease(key, host_key) {
            self.drop_lease(key);
            self.tally.leases_passed += 1;
        }
        let (Some(task), Some(host)) = (self.tasks.get_mut(key), self.hosts.get_mut(host_key)) else {
            return;
        };
        host.tasks.remove(&key);
        task.set_counted(host_key, false);
        if let Some(index) = &mut task.index {
            index.remove(host_key, &host.place);
        }
        task.peers.swap_remove(&host_key);
        if task.peers.len() <= SMALL / 2 {
            task.index = None;
        }
        if task.asked.as_ref().is_some_and(|asked| asked.host == host_key) {
            task.asked = None;
        }
        self.leave_mesh(key, host_key);
        self.changed.entry(key).or_default().remove(&host_key);
        let _ = out;
        self.forget_if_empty(key);
    }

    pub(super) fn remove_peer_if_idle(&mut self, now: Moment, key: TaskKey, host: HostKey, out: &mut Outbox) {
        let idle = self
            .tasks
            .get(key)
            .and_then(|task| task.peers.get(&host))
            .is_some_and(|peer| peer.is_idle());
        if idle && !self.holds_lease(key, host) {
            self.remove_peer(now, key, host, out);
        }
    }

    /// Puts a new peer into the task's index, or makes one when the task has grown.
    pub(super) fn index_peer(&mut self, key: TaskKey, host: HostKey) {
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        if let Some(index) = &mut task.index {
            if let Some(host_of) = self.hosts.get(host) {
                index.insert(host, &host_of.place);
            }
        } else if task.peers.len() > SMALL {
            let mut index = PeerIndex::default();
            for peer in task.peers.keys() {
                if let Some(host) = self.hosts.get(*peer) {
                    index.insert(*peer, &host.place);
                }
            }
            task.index = Some(Box::new(index));
        }
    }

    /// Sends everybody whose neighbours changed in this event its new set.
    pub(super) fn publish_parents(&mut self, out: &mut Outbox) {
        for (key, changed) in std::mem::take(&mut self.changed) {
            for host in changed {
                self.note_room(key, host);
                if let Some(parents) = self.parents_of(key, host) {
                    self.tally.parents += 1;
                    self.send(host, SchedulerMessage::Parents(parents), out);
                }
            }
        }
    }

    fn note_room(&mut self, key: TaskKey, host: HostKey) {
        let Some(task) = self.tasks.get(key) else {
            return;
        };
        let room = task.graph.degree(host) < self.degree_max(task, host);
        if let Some(index) = self.tasks.get_mut(key).and_then(|task| task.index.as_mut()) {
            index.set_open(host, room);
        }
    }

    /// The set of parents of a peer that wants the task; `None` for others, and if it never had any.
    fn parents_of(&mut self, key: TaskKey, host: HostKey) -> Option<Parents> {
        let task = self.tasks.get(key)?;
        let peer = task.peers.get(&host)?;
        let neighbours = task.graph.neighbours(host).to_vec();
        if peer.want.is_none() || (neighbours.is_empty() && !peer.has_parents) {
            return None;
        }
        let ranked = self.rank(key, host, &neighbours);
        let parents = Parents {
            task: task.id,
            length: task.length,
            parents: ranked
                .iter()
                .filter_map(|ranked| self.parent(*neighbours.get(ranked.index)?, ranked.score))
                .collect(),
        };
        if let Some(peer) = self.peer_mut(key, host) {
            peer.has_parents = !parents.parents.is_empty();
        }
        Some(parents)
    }

    fn parent(&self, key: HostKey, score: f64) -> Option<Parent> {
        let host = self.hosts.get(key)?;
        Some(Parent {
            host: host.id().clone(),
            address: host.hello.address.clone(),
            seed: host.is_seed(),
            score,
        })
    }
}

/// Share of a host's upload capacity that is free, as it measured it; by its queue where it has no limit.
fn upload_free(host: &Host, degree: usize) -> f64 {
    if let Some(max) = host.hello.upload_bytes_per_second_max {
        #[expect(clippy::cast_precision_loss, reason = "a share needs no precision")]
        let used = host.load.upload_bytes_per_second as f64 / max.max(1) as f64;
        return 1.0 - used.min(1.0);
    }
    let busy = host
        .load
        .uploads_running
        .saturating_add(host.load.uploads_waiting.saturating_mul(2));
    let degree = u32::try_from(degree).unwrap_or(u32::MAX);
    1.0 / (1.0 + f64::from(busy) / 8.0 + f64::from(degree) / 20.0)
}

fn nearness(a: &Host, b: &Host) -> Nearness {
    if machine(a) == machine(b) {
        return Nearness::Host;
    }
    Nearness::of_shared_levels(a.hello.locality.shared_levels(&b.hello.locality))
}

/// The address of a host without the port.
fn machine(host: &Host) -> Option<&str> {
    host.hello.address.rsplit_once(':').map(|(machine, _)| machine)
}

/// Between which places throughput is measured; a host without a locality stands nowhere.
pub(super) fn throughput_key(child: &Host, parent: &Host) -> (u32, u32) {
    let place = |host: &Host| host.place.last().copied().unwrap_or(u32::MAX);
    (place(child), place(parent))
}
