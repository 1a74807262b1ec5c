//! What nodes hold: announcements, new pieces, lost pieces, lengths.

use darter_proto::scheduler::{Have, Held};
use darter_types::{Moment, OriginLocator, PieceLayout, PieceRun, TaskId};

use super::{Outbox, Scheduler};
use crate::resource::{HostKey, Peer, TaskKey};

impl Scheduler {
    pub(super) fn announce(&mut self, now: Moment, host: HostKey, held: Vec<Held>, out: &mut Outbox) {
        for held in held {
            let Some(task_key) = self.admit(now, held.task) else {
                self.tally.ignored += 1;
                continue;
            };
            if !self.learn_length(task_key, host, held.length) {
                self.tally.ignored += 1;
                self.forget_if_empty(task_key);
                continue;
            }
            self.note_origin(task_key, held.origin);
            self.hold(task_key, host, &held.runs);
            if let Some(peer) = self.peer_mut(task_key, host) {
                peer.states_offered = held.states_known;
            }
            self.forget_if_empty(task_key);
            self.pump(now, task_key, out);
        }
    }

    pub(super) fn have(&mut self, now: Moment, host: HostKey, have: Have, out: &mut Outbox) {
        let Some(task_key) = self.admit(now, have.task) else {
            self.tally.ignored += 1;
            return;
        };
        if !self.learn_length(task_key, host, have.length) {
            self.tally.ignored += 1;
            self.go_alone(task_key, host, "its length differs from the origin's", out);
            self.forget_if_empty(task_key);
            return;
        }
        self.hold(task_key, host, &have.runs);
        self.renew_lease(now, task_key, host);
        self.note_fed(task_key, host, &have.fed);
        self.forget_if_empty(task_key);
        // While somebody fetches, more pieces change nothing.
        if self.tasks.get(task_key).is_some_and(|task| task.lease.is_none()) {
            self.pump(now, task_key, out);
        }
    }

    fn note_fed(&mut self, task_key: TaskKey, to: HostKey, fed: &[(Option<darter_types::HostId>, u64)]) {
        for (from, bytes) in fed {
            let from = match from {
                None => None,
                Some(id) => match self.hosts.key(id) {
                    Some(key) => Some(key),
                    None => continue,
                },
            };
            if let Some(task) = self.tasks.get_mut(task_key)
                && task.peers.contains_key(&to)
            {
                task.graph.fed(from, to, *bytes);
            }
            if let Some(parent) = from.and_then(|key| self.hosts.get_mut(key)) {
                parent.successes = parent.successes.saturating_add(1);
                parent.failed.remove(&to);
            }
        }
    }

    pub(super) fn withdraw(
        &mut self,
        now: Moment,
        host: HostKey,
        id: &TaskId,
        runs: &[PieceRun],
        out: &mut Outbox,
    ) {
        let Some(task_key) = self.tasks.key(id) else {
            return;
        };
        if let Some(task) = self.tasks.get_mut(task_key) {
            task.unhold(host, runs);
            if let Some(lease) = task.lease.as_mut().filter(|lease| lease.holder == host) {
                // It is to read again what is still waited for.
                lease.first.clear();
            }
        }
        self.remove_peer_if_idle(now, task_key, host, out);
        self.pump(now, task_key, out);
    }

    /// The task of that name, new if there is room and this scheduler owns it.
    pub(super) fn admit(&mut self, now: Moment, id: TaskId) -> Option<TaskKey> {
        if let Some(key) = self.tasks.key(&id) {
            return Some(key);
        }
        if self.other_owner(id).is_some() {
            return None;
        }
        if self.tasks.len() >= self.settings.tasks_max {
            let (_, oldest) = self.unwanted.pop_first()?;
            self.forget_task(oldest);
        }
        let key = self.tasks.key_or_insert(id, now);
        self.unwanted.insert((now, key));
        Some(key)
    }

    /// Forgets a task that nobody wants.
    pub(super) fn forget_task(&mut self, key: TaskKey) {
        let Some(task) = self.tasks.get(key) else {
            return;
        };
        self.leases -= usize::from(task.lease.is_some());
        self.unwanted.remove(&(task.last_wanted, key));
        for peer in task.peers.keys() {
            if let Some(host) = self.hosts.get_mut(*peer) {
                host.tasks.remove(&key);
            }
        }
        self.changed.remove(&key);
        self.in_grace.remove(&key);
        self.tasks.remove(key);
    }

    pub(super) fn forget_if_empty(&mut self, key: TaskKey) {
        if self.tasks.get(key).is_some_and(|task| task.is_empty()) {
            self.forget_task(key);
        }
    }

    /// Notes where a task may be fetched; a locator that names another content is not one of it.
    pub(super) fn note_origin(&mut self, key: TaskKey, origin: Option<OriginLocator>) {
        if let (Some(task), Some(origin)) = (self.tasks.get_mut(key), origin)
            && task.origin.is_none()
            && names(&task.id, &origin)
        {
            task.origin = Some(origin);
        }
    }

    /// Takes in a length from a holder; false if another one is known. What the holder of a lease says is
    /// the origin's own word and replaces what others announced.
    pub(super) fn learn_length(&mut self, key: TaskKey, host: HostKey, length: u64) -> bool {
        let leased = self.holds_lease(key, host);
        let Some(task) = self.tasks.get_mut(key) else {
            return false;
        };
        let Ok(layout) = PieceLayout::of(length) else {
            return false;
        };
        match task.length {
            Some(known) if known == length => {
                task.length_from_origin |= leased;
                true
            }
            Some(_) if !leased || task.length_from_origin => false,
            _ => {
                // Holdings are meaningless under another cut.
                let holders: Vec<HostKey> = task.peers.keys().copied().collect();
                holders.iter().for_each(|holder| task.unhold(*holder, &[]));
                task.coverage = crate::resource::Coverage::default();
                task.forget_proofs();
                task.length = Some(length);
                task.length_from_origin = leased;
                if layout.piece_count() == 1 {
                    // No links will tell it to those who wait, and without it they can ask nobody for the piece.
                    let waiting = task.peers.iter().filter(|(_, peer)| peer.want.is_some());
                    let waiting = waiting.map(|(host, _)| *host);
                    self.changed.entry(key).or_default().extend(waiting);
                }
                true
            }
        }
    }

    /// Notes pieces of a host, which becomes a peer of the task.
    pub(super) fn hold(&mut self, key: TaskKey, host: HostKey, runs: &[PieceRun]) {
        if runs.is_empty() {
            return;
        }
        if !self.add_peer(key, host) {
            self.tally.ignored += 1;
            return;
        }
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        let first = task
            .peers
            .get(&host)
            .is_some_and(|peer| peer.is_idle() && peer.want.is_none());
        if task.hold(host, runs) && first {
            self.join_mesh(key, host);
        }
    }

    /// Makes a host a peer of a task; false if the task has too many.
    pub(super) fn add_peer(&mut self, key: TaskKey, host_key: HostKey) -> bool {
        let (Some(task), Some(host)) = (self.tasks.get_mut(key), self.hosts.get_mut(host_key)) else {
            return false;
        };
        if task.peers.contains_key(&host_key) {
            return true;
        }
        if task.peers.len() >= self.settings.peers_per_task_max {
            return false;
        }
        host.tasks.insert(key);
        let peer = Peer {
            counted: host.is_live(),
            ..Peer::default()
        };
        task.peers.insert(host_key, peer);
        self.index_peer(key, host_key);
        true
    }

    pub(super) fn peer_mut(&mut self, key: TaskKey, host: HostKey) -> Option<&mut Peer> {
        self.tasks.get_mut(key)?.peers.get_mut(&host)
    }
}

/// Whether a locator names the content of a task.
pub(super) fn names(task: &TaskId, origin: &OriginLocator) -> bool {
    task.digest().is_none_or(|digest| digest == origin.digest)
}
