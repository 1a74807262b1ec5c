//! Parents that failed, and what pieces cost: who is left out, and for how long.

use darter_proto::scheduler::{Failed, FailureReason, Load, PieceCost};
use darter_types::{Moment, PieceRun};

use super::membership::{SLOW, UNREACHABLE, WRONG};
use super::mesh::throughput_key;
use super::{Outbox, Scheduler};
use crate::graph::Changed;
use crate::resource::{HostKey, TaskKey};

/// Hosts that one host may accuse of wrong bytes while they are blocked: one that accuses everybody is wrong
/// itself, or has a wrong chain.
const ACCUSED_MAX: usize = 3;
/// Hosts that must have been failed before anybody is left out for being out of reach.
const FAILED_HOSTS_MIN: usize = 2;
/// Failures in all after which somebody is.
const FAILURES_MIN: u32 = 4;
/// Times that a host must fall silent for a child before the two are parted.
const SILENT_MIN: u32 = 2;
/// Hosts that must doubt the holder of a lease before it passes on.
const DOUBTS_MIN: usize = 2;
/// Most pairs of places whose throughput is remembered.
const THROUGHPUTS_MAX: usize = 100_000;

impl Scheduler {
    pub(super) fn failed(&mut self, now: Moment, child: HostKey, failed: &Failed, out: &mut Outbox) {
        let (Some(key), Some(parent)) = (self.tasks.key(&failed.task), self.hosts.key(&failed.parent)) else {
            return;
        };
        let both_peers = self
            .tasks
            .get(key)
            .is_some_and(|task| task.peers.contains_key(&child) && task.peers.contains_key(&parent));
        if !both_peers || child == parent {
            self.tally.ignored += 1;
            return;
        }
        if let Some(host) = self.hosts.get_mut(parent) {
            host.failures = host.failures.saturating_add(1);
        }
        match failed.reason {
            FailureReason::WrongBytes => self.accuse(now, key, child, parent, out),
            FailureReason::Unreachable => self.doubt(now, key, child, parent, out),
            FailureReason::Silent => self.suspect(now, key, child, parent, out),
            FailureReason::Missing => {
                if let Some(task) = self.tasks.get_mut(key) {
                    task.unhold(parent, &[PieceRun::one(failed.piece)]);
                }
            }
            // Busy is no fault; its load says so as well.
            FailureReason::Refused => {}
        }
        self.pump(now, key, out);
    }

    /// A piece of `parent` did not link: it is blocked at once.
    fn accuse(&mut self, now: Moment, key: TaskKey, child: HostKey, parent: HostKey, out: &mut Outbox) {
        let block = self.settings.block;
        let Some(accuser) = self.hosts.get_mut(child) else {
            return;
        };
        accuser.accused.retain(|_, since| now.since(*since) < block);
        if accuser.accused.len() >= ACCUSED_MAX && !accuser.accused.contains_key(&parent) {
            self.tally.ignored += 1;
            self.part(key, child, parent);
            return;
        }
        accuser.accused.insert(parent, now);
        self.exclude(now, parent, WRONG, true, out);
    }

    /// `child` heard nothing of `parent` for a while. Where links are full that is everybody's lot now and then: whoever
    /// left out such hosts would leave out the whole cluster, and all of it would go to the origin. So it costs the
    /// host nothing but this child, and that only when it happens again. Who reads the origin and gets on is parted from
    /// nobody: a swarm in which few children are left to it has the width of their links, and no more of its own.
    fn suspect(&mut self, now: Moment, key: TaskKey, child: HostKey, parent: HostKey, out: &mut Outbox) {
        let stall = self.settings.lease_stall;
        let gets_on = self
            .tasks
            .get(key)
            .and_then(|task| task.lease.as_ref())
            .is_some_and(|lease| {
                lease.holder == parent && lease.started && now + stall / 2 <= lease.deadline
            });
        if gets_on {
            return;
        }
        let Some(peer) = self
            .tasks
            .get_mut(key)
            .and_then(|task| task.peers.get_mut(&parent))
        else {
            return;
        };
        let times = peer.silent.entry(child).or_insert(0);
        *times += 1;
        if *times >= SILENT_MIN {
            self.part(key, child, parent);
            self.leave_nobody_alone(key, child, out);
        }
        self.doubt_lease(now, key, child, parent, out);
    }

    /// Too many who cannot hear the holder of a lease move it.
    fn doubt_lease(&mut self, now: Moment, key: TaskKey, child: HostKey, parent: HostKey, out: &mut Outbox) {
        let doubted = self
            .tasks
            .get_mut(key)
            .and_then(|task| task.lease.as_mut())
            .filter(|lease| lease.holder == parent)
            .is_some_and(|lease| lease.doubted.insert(child) && lease.doubted.len() >= DOUBTS_MIN);
        if doubted {
            self.pass_lease(now, key, out);
        }
    }

    /// `child` could not reach `parent`.
    fn doubt(&mut self, now: Moment, key: TaskKey, child: HostKey, parent: HostKey, out: &mut Outbox) {
        self.part(key, child, parent);
        self.doubt_lease(now, key, child, parent, out);
        let Some(host) = self.hosts.get_mut(parent) else {
            return;
        };
        *host.failed.entry(child).or_insert(0) += 1;
        if host.failed.len() >= FAILED_HOSTS_MIN && host.failed.values().sum::<u32>() >= FAILURES_MIN {
            self.exclude(now, parent, UNREACHABLE, true, out);
        }
        self.leave_nobody_alone(key, child, out);
    }

    /// Two nodes that cannot exchange are not neighbours, and the one that said so gets others.
    fn part(&mut self, key: TaskKey, child: HostKey, parent: HostKey) {
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        if let Some(peer) = task.peers.get_mut(&parent) {
            *peer.failed.entry(child).or_insert(0) += 1;
        }
        let mut changed = Changed::new();
        task.graph.disconnect(child, parent, &mut changed);
        self.changed.entry(key).or_default().extend(changed);
        for host in [child, parent] {
            self.join_mesh(key, host);
        }
    }

    /// A node that waits for pieces which others hold, and can reach none of them, asks the origin.
    fn leave_nobody_alone(&mut self, key: TaskKey, child: HostKey, out: &mut Outbox) {
        let stranded = self
            .tasks
            .get(key)
            .is_some_and(|task| task.lease.is_none() && task.is_covered() && task.graph.degree(child) == 0);
        if stranded {
            self.go_alone(key, child, "none of its holders could be reached", out);
        }
    }

    pub(super) fn load(&mut self, now: Moment, host: HostKey, mut load: Load, out: &mut Outbox) {
        for cost in std::mem::take(&mut load.costs) {
            self.cost(now, host, &cost, out);
        }
        if let Some(host) = self.hosts.get_mut(host) {
            host.load = load;
        }
    }

    fn cost(&mut self, now: Moment, child: HostKey, cost: &PieceCost, out: &mut Outbox) {
        let Some(parent) = self.hosts.key(&cost.parent) else {
            return;
        };
        if cost.pieces == 0 || parent == child {
            return;
        }
        self.note_throughput(child, parent, cost.nanos_per_byte);
        let Some(host) = self.hosts.get_mut(parent) else {
            return;
        };
        let outlier = host.costs.is_outlier(cost.nanos_per_byte);
        // A sample that is out of the ordinary becomes part of the history only when it comes again on trial:
        // then that is how the node is now.
        if !outlier || host.on_trial {
            host.costs.record(cost.nanos_per_byte);
        }
        if outlier {
            self.exclude(now, parent, SLOW, false, out);
        } else if host.excluded.is_none() {
            host.on_trial = false;
            host.exclusions = 0;
            host.failed.clear();
        }
    }

    fn note_throughput(&mut self, child: HostKey, parent: HostKey, nanos_per_byte: f64) {
        let (Some(child), Some(parent)) = (self.hosts.get(child), self.hosts.get(parent)) else {
            return;
        };
        let key = throughput_key(child, parent);
        if nanos_per_byte > 0.0
            && (self.throughput.len() < THROUGHPUTS_MAX || self.throughput.contains_key(&key))
        {
            let bytes_per_second = 1e9 / nanos_per_byte;
            self.throughput.entry(key).or_default().record(bytes_per_second);
        }
    }
}
