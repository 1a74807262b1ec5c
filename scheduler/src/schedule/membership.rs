//! Hosts that come, change, go, are left out and are let in again.

use darter_proto::WIRE_VERSION;
use darter_proto::scheduler::{Hello, SchedulerMessage, Welcome};
use darter_types::Moment;

use super::timer::Timer;
use super::{Outbox, Scheduler};
use crate::resource::{Connection, Exclusion, HostKey, TaskKey};

impl Scheduler {
    pub(super) fn hello(&mut self, now: Moment, connection: Connection, hello: Hello, out: &mut Outbox) {
        let current = self
            .hosts
            .key(&hello.host)
            .and_then(|key| Some((key, self.hosts.get(key)?.connection?)));
        match current {
            Some((_, newer)) if newer > connection => {
                self.tally.ignored += 1;
                return;
            }
            // What the node said on its old connection is forgotten: it says everything again.
            Some((key, older)) if older < connection => self.disconnect(now, key, out),
            Some((key, _)) => return self.hello_again(now, key, connection, hello),
            None => {}
        }
        let key = self.hosts.hello(now, connection, hello);
        let welcome = Welcome {
            wire_version: WIRE_VERSION,
            schedulers: self.settings.schedulers.clone(),
            incarnation: self.settings.incarnation,
        };
        self.send(key, SchedulerMessage::Welcome(welcome), out);
    }

    /// A connected node changed its role, address or place.
    fn hello_again(&mut self, now: Moment, key: HostKey, connection: Connection, hello: Hello) {
        let Some(old) = self.hosts.get(key).map(|host| host.place.clone()) else {
            return;
        };
        self.hosts.hello(now, connection, hello);
        let Some(host) = self.hosts.get(key) else {
            return;
        };
        for task_key in &host.tasks {
            let Some(task) = self.tasks.get_mut(*task_key) else {
                continue;
            };
            if let Some(index) = &mut task.index {
                index.remove(key, &old);
                index.insert(key, &host.place);
            }
            let changed = self.changed.entry(*task_key).or_default();
            changed.extend(task.graph.neighbours(key));
        }
    }

    pub(super) fn disconnect(&mut self, now: Moment, key: HostKey, out: &mut Outbox) {
        self.hosts.disconnect(now, key);
        for task in self.tasks_of(key) {
            self.remove_peer(now, task, key, out);
            self.pump(now, task, out);
        }
        self.set_timer(now + self.settings.host_forget, Timer::Gone(key));
    }

    pub(super) fn tasks_of(&self, key: HostKey) -> Vec<TaskKey> {
        self.hosts
            .get(key)
            .map(|host| host.tasks.iter().copied().collect())
            .unwrap_or_default()
    }

    pub(super) fn check_gone(&mut self, now: Moment, key: HostKey) {
        let gone = self
            .hosts
            .get(key)
            .is_some_and(|host| now.since(host.last_seen) >= self.settings.host_forget);
        if gone {
            self.hosts.forget(key);
        }
    }

    /// Leaves a host out. If `dead`, what it holds does not count either and it gets nothing to do.
    pub(super) fn exclude(
        &mut self,
        now: Moment,
        key: HostKey,
        why: &'static str,
        dead: bool,
        out: &mut Outbox,
    ) {
        let block = self.settings.block;
        let first = self.settings.trial_after;
        let Some(host) = self.hosts.get_mut(key) else {
            return;
        };
        let times = host.exclusions.min(16);
        let pause = if why == WRONG {
            block
        } else {
            (first * 2_u32.pow(times)).min(block)
        };
        let until = now + pause;
        if host
            .excluded
            .as_ref()
            .is_some_and(|old| old.until >= until && (old.dead || !dead))
        {
            return;
        }
        host.exclusions = host.exclusions.saturating_add(1);
        host.failed.clear();
        host.excluded = Some(Exclusion { until, why, dead });
        self.tally.excluded += 1;
        self.set_timer(until, Timer::Excluded(key));
        for task in self.tasks_of(key) {
            if dead {
                self.cut_off(now, task, key, out);
            } else {
                self.avoid(task, key);
            }
            self.pump(now, task, out);
        }
    }

    /// What a blocked host holds is not offered, and it is offered nothing.
    fn cut_off(&mut self, now: Moment, task_key: TaskKey, key: HostKey, out: &mut Outbox) {
        self.go_alone(task_key, key, "this node is left out for a while", out);
        if let Some(task) = self.tasks.get_mut(task_key) {
            task.set_counted(key, false);
        }
        self.leave_mesh(task_key, key);
        if self.holds_lease(task_key, key) {
            self.pass_lease(now, task_key, out);
        }
    }

    /// A slow host that only serves is replaced where somebody else holds everything.
    fn avoid(&mut self, task_key: TaskKey, key: HostKey) {
        let replaceable = self.tasks.get(task_key).is_some_and(|task| {
            let wants = task.peers.get(&key).is_some_and(|peer| peer.want.is_some());
            !wants && self.others_hold_all(task, key) && !self.holds_lease(task_key, key)
        });
        if replaceable {
            self.leave_mesh(task_key, key);
        }
    }

    pub(super) fn check_excluded(&mut self, now: Moment, key: HostKey, out: &mut Outbox) {
        let Some(host) = self.hosts.get_mut(key) else {
            return;
        };
        if host
            .excluded
            .as_ref()
            .is_none_or(|exclusion| exclusion.until > now)
        {
            return;
        }
        host.excluded = None;
        host.on_trial = true;
        let tasks: Vec<TaskKey> = host.tasks.iter().copied().collect();
        for task_key in tasks {
            if let Some(task) = self.tasks.get_mut(task_key) {
                task.set_counted(key, true);
            }
            self.join_mesh(task_key, key);
            self.pump(now, task_key, out);
        }
    }
}

/// Why a host is left out that sent bytes which do not link.
pub(super) const WRONG: &str = "sent wrong bytes";
/// Why a host is left out that several others could not reach.
pub(super) const UNREACHABLE: &str = "failed several nodes";
/// Why a host is left out whose pieces became expensive.
pub(super) const SLOW: &str = "slow against its own history";
