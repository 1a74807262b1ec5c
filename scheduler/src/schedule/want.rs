//! Wants: parked, answered, sent to the origin alone, taken back.

use std::cmp::Reverse;

use darter_proto::scheduler::{Redirect, SchedulerMessage, Want};
use darter_types::{Moment, TaskId};

use super::holding::names;
use super::timer::Timer;
use super::{Outbox, Scheduler};
use crate::graph::Changed;
use crate::resource::{HostKey, OpenWant, TaskKey};

impl Scheduler {
    pub(super) fn want(&mut self, now: Moment, host: HostKey, want: Want, out: &mut Outbox) {
        if let Some(owner) = self.other_owner(want.task).map(str::to_owned) {
            self.tally.redirected += 1;
            let redirect = Redirect {
                task: want.task,
                scheduler: owner,
                schedulers: self.settings.schedulers.clone(),
            };
            return self.send(host, SchedulerMessage::Redirect(redirect), out);
        }
        match self.take_want(now, host, &want) {
            Ok(key) => {
                self.adopt_lease(now, key, host, &want, out);
                self.join_mesh(key, host);
                self.changed.entry(key).or_default().insert(host);
                self.send_states(key, host, out);
                self.send_attested(key, host, out);
                self.pump(now, key, out);
            }
            Err(reason) => {
                self.tally.alone += 1;
                self.send(host, SchedulerMessage::GoAlone(want.task, reason.to_owned()), out);
                if let Some(key) = self.tasks.key(&want.task) {
                    self.forget_if_empty(key);
                }
            }
        }
    }

    /// Notes a want, or says why nothing can be done for it.
    fn take_want(&mut self, now: Moment, host: HostKey, want: &Want) -> Result<TaskKey, &'static str> {
        if !names(&want.task, &want.origin) {
            return Err("the origin that it named has another digest");
        }
        if !self.hosts.is_live(host) {
            return Err("this node is left out for a while");
        }
        if self.parked >= self.settings.wants_parked_max {
            return Err("the scheduler has too many parked wants");
        }
        let key = self
            .admit(now, want.task)
            .ok_or("the scheduler has too many tasks")?;
        let known = self.tasks.get(key).and_then(|task| task.length);
        match (known, want.length) {
            (Some(known), Some(length)) if known != length => {
                return Err("its length differs from the origin's");
            }
            (None, Some(length)) if !want.held.is_empty() => {
                self.learn_length(key, host, length);
            }
            _ => {}
        }
        if !self.add_peer(key, host) {
            return Err("the task has too many peers");
        }
        self.note_origin(key, Some(want.origin.clone()));
        self.hold(key, host, &want.held);
        self.park(key, host, want);
        Ok(key)
    }

    fn park(&mut self, key: TaskKey, host: HostKey, want: &Want) {
        let turn = self.turn;
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        let Some(peer) = task.peers.get_mut(&host) else {
            return;
        };
        peer.states_known = want.states_known.max(1);
        peer.states_offered = peer.states_offered.max(want.states_known);
        let old = peer.want.take();
        let opened = OpenWant {
            // A want that is repeated keeps its turn.
            turn: old.as_ref().map_or(turn, |old| old.turn),
            urgency: want.urgency,
            public: want.public,
            origin: want.origin.clone(),
            alone: false,
            first: want.first.clone(),
            on_demand: want.on_demand,
            length: want.length,
        };
        let was_special = old.as_ref().is_some_and(|old| old.is_special());
        task.special_wants += usize::from(opened.is_special());
        task.special_wants -= usize::from(was_special);
        if let Some(old) = &old {
            self.parked -= usize::from(task.waiting.remove(&(Reverse(old.urgency), old.turn, host)));
        } else {
            if task.wants == 0 {
                self.unwanted.remove(&(task.last_wanted, key));
            }
            task.wants += 1;
        }
        task.waiting.insert((Reverse(opened.urgency), opened.turn, host));
        peer.want = Some(Box::new(opened));
        task.count_named(host);
        self.parked += 1;
        self.turn += 1;
        self.tally.parked += 1;
    }

    pub(super) fn unwant(&mut self, now: Moment, host: HostKey, id: &TaskId, out: &mut Outbox) {
        let Some(key) = self.tasks.key(id) else {
            return;
        };
        if !self.close_want(now, key, host) {
            return;
        }
        // Two nodes that want nothing have nothing to exchange.
        if let Some(task) = self.tasks.get_mut(key) {
            let mut changed = Changed::new();
            for other in task.graph.neighbours(host).to_vec() {
                if task.peers.get(&other).is_none_or(|peer| peer.want.is_none()) {
                    task.graph.disconnect(host, other, &mut changed);
                }
            }
        }
        self.remove_peer_if_idle(now, key, host, out);
        self.pump(now, key, out);
    }

    /// Takes a want back; false if there was none.
    pub(super) fn close_want(&mut self, now: Moment, key: TaskKey, host: HostKey) -> bool {
        let Some(task) = self.tasks.get_mut(key) else {
            return false;
        };
        let Some(want) = task.peers.get_mut(&host).and_then(|peer| peer.want.take()) else {
            return false;
        };
        self.parked -= usize::from(task.waiting.remove(&(Reverse(want.urgency), want.turn, host)));
        task.wants -= 1;
        task.special_wants -= usize::from(want.is_special());
        task.count_named(host);
        if task.wants == 0 {
            task.last_wanted = now;
            self.unwanted.insert((now, key));
            let idle = now + self.settings.chain_idle;
            self.set_timer(idle, Timer::Idle(key));
        }
        true
    }

    /// Tells a node that waits to ask the origin itself. It keeps its neighbours.
    pub(super) fn go_alone(&mut self, key: TaskKey, host: HostKey, reason: &str, out: &mut Outbox) {
        if self.stop_waiting(key, host) {
            self.tally.alone += 1;
            if let Some(id) = self.tasks.get(key).map(|task| task.id) {
                self.send(host, SchedulerMessage::GoAlone(id, reason.to_owned()), out);
            }
        }
    }

    /// Fetches nothing for a node any more; false if it did not wait.
    pub(super) fn stop_waiting(&mut self, key: TaskKey, host: HostKey) -> bool {
        let Some(task) = self.tasks.get_mut(key) else {
            return false;
        };
        let Some(want) = task
            .peers
            .get_mut(&host)
            .and_then(|peer| peer.want.as_deref_mut())
        else {
            return false;
        };
        want.alone = true;
        let waited = task.waiting.remove(&(Reverse(want.urgency), want.turn, host));
        self.parked -= usize::from(waited);
        task.count_named(host);
        waited
    }

    /// Tells everybody who waits for a task to ask the origin.
    pub(super) fn all_go_alone(&mut self, key: TaskKey, reason: &str, out: &mut Outbox) {
        for host in self.waiting(key) {
            self.go_alone(key, host, reason, out);
        }
    }

    /// Those who wait, in their order.
    pub(super) fn waiting(&self, key: TaskKey) -> Vec<HostKey> {
        self.tasks.get(key).map_or_else(Vec::new, |task| {
            task.waiting.iter().map(|(_, _, host)| *host).collect()
        })
    }
}
