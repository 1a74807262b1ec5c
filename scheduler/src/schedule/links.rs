//! Chains: who may publish states, who gets them, and what happens when two authors disagree.

use darter_proto::limits::STATES_MAX;
use darter_proto::scheduler::{KnownLinks, Links, SchedulerMessage};
use darter_types::{Chain, ChainError, Moment};

use super::timer::Timer;
use super::{Outbox, Scheduler};
use crate::resource::task::Asked;
use crate::resource::{Holding, Host, HostKey, KnownChain, Lease, Task, TaskKey};

impl Scheduler {
    pub(super) fn links(&mut self, now: Moment, host: HostKey, links: Links, out: &mut Outbox) {
        let Some(key) = self.tasks.key(&links.task) else {
            self.tally.ignored += 1;
            return;
        };
        if !self.may_publish(now, key, host, links.epoch) || !self.learn_length(key, host, links.length) {
            self.tally.ignored += 1;
            return;
        }
        self.renew_lease(now, key, host);
        match self.extend_chain(key, host, &links) {
            Ok(Some(from)) => self.relay(key, host, from, out),
            Ok(None) => {}
            Err(ChainError::Conflict { .. }) => self.conflict(now, key, host, out),
            Err(_) => self.tally.ignored += 1,
        }
        if let Some(task) = self.tasks.get_mut(key)
            && task.asked.as_ref().is_some_and(|asked| asked.host == host)
        {
            task.asked = None;
            // If it did not help, the next one is asked.
            if !task.is_chain_complete() {
                self.has_no_chain(now, key, host);
            }
        }
        self.pump(now, key, out);
    }

    /// States are taken from the holder of the lease, and without a lease from a holder of pieces who was
    /// asked for them or while nothing is known.
    fn may_publish(&self, now: Moment, key: TaskKey, host: HostKey, epoch: u64) -> bool {
        let Some(task) = self.tasks.get(key) else {
            return false;
        };
        if epoch > 0 {
            return task
                .lease
                .as_ref()
                .is_some_and(|lease| lease.holder == host && lease.epoch == epoch);
        }
        let holds = task
            .peers
            .get(&host)
            .is_some_and(|peer| peer.counted && (peer.held != Holding::Nothing || peer.states_offered > 1));
        let asked = task.asked.as_ref().is_some_and(|asked| asked.host == host);
        // Whoever disappointed is not the next author because it speaks first.
        let fit = self.may_fetch(now, task, host);
        holds && (asked || (fit && task.chain.is_none() && task.lease.is_none()))
    }

    /// Takes states in; gives the first border that is news to somebody.
    fn extend_chain(
        &mut self,
        key: TaskKey,
        host: HostKey,
        links: &Links,
    ) -> Result<Option<u32>, ChainError> {
        let is_seed = self.hosts.get(host).is_some_and(Host::is_seed);
        let Some(task) = self.tasks.get_mut(key) else {
            return Ok(None);
        };
        let Some(layout) = task.layout() else {
            return Ok(None);
        };
        let of_lease = |lease: &Lease| lease.trusted && lease.holder == host && lease.epoch == links.epoch;
        let trusted = is_seed || task.lease.as_deref().is_some_and(of_lease);
        let digest = task.digest();
        let fresh = || {
            Box::new(KnownChain {
                chain: Chain::new(digest, layout),
                trusted: 1,
                author: host,
            })
        };
        let mut known = task.chain.take().unwrap_or_else(fresh);
        let before = known.chain.known();
        let result = known.chain.extend(links.first_border, &links.states);
        let after = known.chain.known();
        let mut first_news = (after > before).then_some(before);
        let end = links
            .first_border
            .saturating_add(u32::try_from(links.states.len()).unwrap_or(u32::MAX));
        if result.is_ok() && trusted && links.first_border <= known.trusted && end > known.trusted {
            first_news = Some(known.trusted.min(before));
            known.trusted = end;
        }
        // A seed that proved the whole vouches for what others published before it as well.
        if result.is_ok() && trusted && links.proved && known.chain.is_complete() && known.trusted < after {
            first_news = Some(known.trusted.min(before));
            known.trusted = after;
        }
        if after > before {
            known.author = host;
        }
        if after > 1 {
            task.chain = Some(known);
        }
        if let Some(peer) = task.peers.get_mut(&host) {
            peer.states_known = peer.states_known.max(after);
            peer.states_offered = peer.states_offered.max(after);
        }
        result.map(|()| first_news)
    }

    /// Sends new states to everybody who wants the task.
    fn relay(&mut self, key: TaskKey, author: HostKey, from: u32, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        let readers: Vec<HostKey> = task
            .peers
            .iter_mut()
            .filter(|(host, peer)| **host != author && peer.want.is_some())
            .map(|(host, peer)| {
                peer.states_known = peer.states_known.min(from);
                *host
            })
            .collect();
        for reader in readers {
            self.send_states(key, reader, out);
        }
    }

    /// Sends a peer the states that it does not know.
    pub(super) fn send_states(&mut self, key: TaskKey, host: HostKey, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        let Some((messages, known)) = unknown_states(task, host) else {
            return;
        };
        if let Some(peer) = task.peers.get_mut(&host) {
            peer.states_known = peer.states_known.max(known);
        }
        for message in messages {
            self.tally.links_relayed += 1;
            self.send(host, SchedulerMessage::Links(message), out);
        }
    }

    /// Two authors disagree: nothing that either said is relayed any more, and both lose leases.
    fn conflict(&mut self, now: Moment, key: TaskKey, host: HostKey, out: &mut Outbox) {
        let author = self
            .tasks
            .get(key)
            .and_then(|task| Some(task.chain.as_ref()?.author));
        let authors: Vec<HostKey> = author.into_iter().chain([host]).collect();
        self.disagree(now, key, &authors, out);
    }

    /// What these authors said of a content does not go together: nothing of it counts any more, and none of them is an author
    /// for a while.
    pub(super) fn disagree(&mut self, now: Moment, key: TaskKey, authors: &[HostKey], out: &mut Outbox) {
        self.drop_chain(key, "two nodes disagree about its content", out);
        for blamed in authors {
            self.deny_leases(now, *blamed);
            if self.holds_lease(key, *blamed) {
                self.pass_lease(now, key, out);
            }
        }
    }

    /// A node without a lease read the registry, and that contradicts the chain. One of the two lies, or was lied to: the
    /// chain goes, whoever waits asks the registry, and the next chain has another author. A node that is wrong itself
    /// costs the cluster one more reading, and is heard once.
    pub(super) fn contradicted(&mut self, now: Moment, key: TaskKey, host: HostKey, out: &mut Outbox) {
        let author = self
            .tasks
            .get_mut(key)
            .filter(|task| task.peers.contains_key(&host))
            .and_then(|task| {
                let author = task.chain.as_ref()?.author;
                (author != host && task.contradicted_by.insert(host)).then_some(author)
            });
        let Some(author) = author else {
            self.tally.ignored += 1;
            return;
        };
        self.drop_chain(key, "the registry contradicts its chain", out);
        if self.holds_lease(key, author) {
            self.pass_lease(now, key, out);
        }
        self.pass_over(now, key, author);
        self.pump(now, key, out);
    }

    /// Forgets a chain, sends those who wait to the origin, and tells everybody to forget it as well.
    pub(super) fn drop_chain(&mut self, key: TaskKey, reason: &str, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        task.forget_proofs();
        task.asked = None;
        let id = task.id;
        let peers: Vec<HostKey> = task.peers.keys().copied().collect();
        for peer in task.peers.values_mut() {
            peer.states_known = 1;
            peer.states_offered = 0;
        }
        self.tally.chains_dropped += 1;
        // First: whoever goes alone does not ask for the next chain.
        self.all_go_alone(key, reason, out);
        for peer in peers {
            self.send(peer, SchedulerMessage::ForgetLinks(id), out);
        }
    }

    /// Asks a holder for the chain, where somebody knows more of it than the scheduler does, or `all` of it; true if an answer is
    /// awaited.
    pub(super) fn ask_for_chain(&mut self, now: Moment, key: TaskKey, all: bool, out: &mut Outbox) -> bool {
        let Some(host) = self.best_author(now, key, all) else {
            return false;
        };
        let deadline = now + self.settings.links_answer;
        let Some(task) = self.tasks.get_mut(key) else {
            return false;
        };
        task.asked = Some(Asked { host, deadline });
        let message = SchedulerMessage::SendLinks(task.id, task.states_known());
        self.set_timer(deadline, Timer::Asked(key));
        self.send(host, message, out);
        true
    }

    fn best_author(&self, now: Moment, key: TaskKey, all: bool) -> Option<HostKey> {
        let task = self.tasks.get(key)?;
        let capacity = task.capacity()?;
        let known = task.states_known();
        let mut best: Option<(bool, u32, HostKey)> = None;
        for (host_key, peer) in &task.peers {
            // Whoever holds everything has linked it or is about to, unless some of it was read out of order.
            let offered = match peer.held {
                Holding::Everything => capacity,
                _ => peer.states_offered.min(capacity),
            };
            if all && offered < capacity {
                continue;
            }
            let mut in_vain = [&task.passed_over, &task.chainless].into_iter();
            let passed = in_vain.any(|hosts| hosts.get(host_key).is_some_and(|until| *until > now));
            if offered <= known || passed || !peer.counted {
                continue;
            }
            let Some(host) = self.hosts.get(*host_key) else {
                continue;
            };
            if host.may_lease(now) {
                best = best.max(Some((host.is_seed(), offered, *host_key)));
            }
        }
        best.map(|(_, _, host)| host)
    }

    pub(super) fn check_asked(&mut self, now: Moment, key: TaskKey, out: &mut Outbox) {
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        if let Some(asked) = &task.asked
            && asked.deadline <= now
        {
            let host = asked.host;
            task.asked = None;
            self.pass_over(now, key, host);
            self.pump(now, key, out);
        }
    }

    /// A host that was asked for the chain does not have it: it may hold all, read out of order, and fetch as well as others.
    fn has_no_chain(&mut self, now: Moment, key: TaskKey, host: HostKey) {
        let until = now + self.settings.lease_pause;
        if let Some(task) = self.tasks.get_mut(key) {
            task.chainless.retain(|_, until| *until > now);
            task.chainless.insert(host, until);
        }
    }
}

/// The states that a peer does not know, as messages, and the border up to which it then knows them.
fn unknown_states(task: &Task, host: HostKey) -> Option<(Vec<KnownLinks>, u32)> {
    let known = task.chain.as_ref()?;
    let end = known.chain.known();
    let mut first = task.peers.get(&host)?.states_known.max(1);
    let mut messages = Vec::new();
    while first < end {
        let trusted = first < known.trusted;
        let border = if trusted { known.trusted.min(end) } else { end };
        let states: Vec<_> = known
            .chain
            .states_from(first)
            .iter()
            .take(((border - first) as usize).min(STATES_MAX))
            .copied()
            .collect();
        let next = first + u32::try_from(states.len()).unwrap_or(u32::MAX);
        messages.push(KnownLinks {
            task: task.id,
            length: known.chain.layout().length(),
            first_border: first,
            states,
            trusted,
        });
        first = next;
    }
    Some((messages, end))
}
