//! Pieces that readers wait for by name, wherever the chain is: a seed reads them first, attests them, and all who want the
//! content hear what they are.
//!
//! What must hold: only a seed's word for such a piece is passed on, for there is no chain behind it. A piece is lacking while
//! nobody holds it, or nobody of trust has said what it is; whatever is lacking, the seed that has the lease was asked for. Without
//! a seed, whoever wants nothing but such pieces reads them from the origin itself. Whoever wants the whole is served as ever.

use std::collections::BTreeSet;

use darter_proto::limits::{RUNS_MAX, STATES_MAX};
use darter_proto::scheduler::{Attested, SchedulerMessage, SourceLease};
use darter_types::{Digest, Moment, OriginLocator, PieceNumber, PieceRun};

use super::{Outbox, Scheduler};
use crate::resource::{Host, HostKey, Task, TaskKey};

impl Scheduler {
    /// Does what the wants need that name pieces; true if there are no others.
    pub(super) fn pump_first(&mut self, now: Moment, key: TaskKey, out: &mut Outbox) -> bool {
        let Some(task) = self.tasks.get(key) else {
            return true;
        };
        let (only, lacking) = (task.is_on_demand(), task.lacks_first());
        // Nothing is to be done for those who want the whole.
        let settled = task.is_covered() && task.is_chain_complete();
        match &task.lease {
            Some(lease) if lease.on_demand && !only && !settled => {
                // Somebody wants the whole as well: it is for all from now on.
                let holder = lease.holder;
                if let Some(origin) = self.origin_of(key) {
                    self.grant(now, key, holder, origin, false, out);
                }
            }
            Some(lease) if lacking.is_subset(&lease.first) => {}
            Some(lease) if lease.trusted => self.ask_more(now, key, &lacking, out),
            // Nobody would believe what its holder says of them.
            Some(_) => self.all_on_demand_go_alone(key, &lacking, out),
            None if (only || settled) && !lacking.is_empty() => {
                if now < self.started + self.settings.lease_grace {
                    self.in_grace.insert(key);
                    return only;
                }
                if task.asked.is_some() || self.ask_for_chain(now, key, true, out) {
                    return only;
                }
                let seed = self.tasks.get(key).filter(|task| {
                    let mut wants = task.parked_wants();
                    wants.any(|want| want.public)
                });
                let seed = seed.and_then(|task| self.choose_seed(now, task));
                match seed.zip(self.origin_of(key)) {
                    Some((seed, origin)) => self.grant(now, key, seed, origin, true, out),
                    None => self.all_on_demand_go_alone(key, &lacking, out),
                }
            }
            None => {}
        }
        only
    }

    /// Sends those to the origin that want nothing but pieces of which some are lacking.
    fn all_on_demand_go_alone(&mut self, key: TaskKey, lacking: &BTreeSet<PieceNumber>, out: &mut Outbox) {
        let Some(task) = self.tasks.get(key) else { return };
        let waits = |host: &HostKey| {
            let want = task.peers.get(host).and_then(|peer| peer.want.as_ref());
            want.is_some_and(|want| {
                want.on_demand && want.first_pieces().any(|piece| lacking.contains(&piece))
            })
        };
        let waiting = task.waiting.iter().map(|(_, _, host)| *host);
        let alone: Vec<HostKey> = waiting.filter(waits).collect();
        for host in alone {
            self.go_alone(key, host, "no seed reads it", out);
        }
    }

    fn origin_of(&self, key: TaskKey) -> Option<OriginLocator> {
        let task = self.tasks.get(key)?;
        let mut wants = task.parked_wants();
        wants.find(|want| want.public).map(|want| want.origin.clone())
    }

    /// What a lease that begins is for: the pieces that are lacking, as runs.
    pub(super) fn lease_for(&mut self, key: TaskKey, on_demand: bool) -> Vec<PieceRun> {
        let Some(task) = self.tasks.get_mut(key) else {
            return Vec::new();
        };
        let runs = runs_of(&task.lacks_first());
        if let Some(lease) = &mut task.lease {
            lease.on_demand = on_demand;
            lease.first = runs.iter().flat_map(|run| run.pieces()).collect();
        }
        runs
    }

    /// Tells the holder of the lease of further pieces that somebody waits for.
    fn ask_more(&mut self, now: Moment, key: TaskKey, lacking: &BTreeSet<PieceNumber>, out: &mut Outbox) {
        let deadline = now + self.settings.lease_first_byte;
        let Some(origin) = self.origin_of(key) else { return };
        let rests = self.tasks.get(key).is_some_and(|task| self.is_lease_done(task));
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        let (id, length) = (task.id, task.length);
        let Some(lease) = &mut task.lease else { return };
        let news: BTreeSet<PieceNumber> = lacking.difference(&lease.first).copied().collect();
        let runs = runs_of(&news);
        lease.first.extend(runs.iter().flat_map(|run| run.pieces()));
        // One that owes earlier pieces gets no more time for them by being asked for others.
        if lease.on_demand && rests {
            lease.deadline = deadline;
        }
        let (holder, epoch) = (lease.holder, lease.epoch);
        let more = SourceLease {
            task: id,
            origin,
            epoch,
            length,
            runs: Vec::new(),
            first: runs,
            on_demand: true,
        };
        self.send(holder, SchedulerMessage::SourceLease(more), out);
    }

    /// Whether a lease that its holder calls done is.
    pub(super) fn is_lease_done(&self, task: &Task) -> bool {
        match &task.lease {
            Some(lease) if lease.on_demand => !lease.first.iter().any(task.lacks()),
            _ => task.is_covered() && task.is_chain_complete(),
        }
    }

    /// A seed, or whoever was one when it got the lease, says what pieces are.
    pub(super) fn attested(&mut self, now: Moment, host: HostKey, attested: Attested, out: &mut Outbox) {
        let is_seed = self.hosts.get(host).is_some_and(Host::is_seed);
        let Some(key) = self.tasks.key(&attested.task) else {
            self.tally.ignored += 1;
            return;
        };
        let of_lease = self
            .tasks
            .get(key)
            .and_then(|task| task.lease.as_ref())
            .is_some_and(|lease| lease.holder == host && lease.epoch == attested.epoch && lease.trusted);
        // A seed's word counts also when its lease ended on the way.
        let is_author = is_seed && self.hosts.get(host).is_some_and(|host| host.may_lease(now));
        if !(of_lease || is_author) || !self.learn_length(key, host, attested.length) {
            self.tally.ignored += 1;
            return;
        }
        self.renew_lease(now, key, host);
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        let pieces = task.capacity().unwrap_or(0);
        let sums: Vec<_> = attested
            .sums
            .into_iter()
            .filter(|(piece, _)| *piece < pieces)
            .collect();
        let differs = |(piece, sum): &(PieceNumber, Digest)| {
            let known = task.attested.get(piece);
            known.filter(|(known, _)| known != sum).map(|(_, author)| *author)
        };
        if let Some(author) = sums.iter().find_map(differs) {
            return self.disagree(now, key, &[author, host], out);
        }
        for (piece, sum) in &sums {
            task.attested.entry(*piece).or_insert((*sum, host));
        }
        let (id, length) = (task.id, attested.length);
        let others: Vec<HostKey> = task
            .peers
            .iter()
            .filter(|(other, peer)| **other != host && peer.want.is_some())
            .map(|(other, _)| *other)
            .collect();
        for other in others {
            self.tally.links_relayed += 1;
            self.send(
                other,
                SchedulerMessage::Attestations(id, length, sums.clone()),
                out,
            );
        }
    }

    /// Tells a node what is known of the pieces that it waits for by name.
    pub(super) fn send_attested(&mut self, key: TaskKey, host: HostKey, out: &mut Outbox) {
        let Some(task) = self.tasks.get(key).filter(|task| !task.attested.is_empty()) else {
            return;
        };
        let want = task.peers.get(&host).and_then(|peer| peer.want.as_ref());
        let (Some(want), Some(length)) = (want, task.length) else {
            return;
        };
        let sums: Vec<_> = want
            .first_pieces()
            .filter_map(|piece| Some((piece, task.attested.get(&piece)?.0)))
            .take(STATES_MAX)
            .collect();
        let id = task.id;
        if !sums.is_empty() {
            self.send(host, SchedulerMessage::Attestations(id, length, sums), out);
        }
    }
}

fn runs_of(pieces: &BTreeSet<PieceNumber>) -> Vec<PieceRun> {
    let mut runs: Vec<PieceRun> = Vec::new();
    for piece in pieces {
        match runs.last_mut() {
            Some(run) if run.end() == *piece => run.count += 1,
            _ => runs.push(PieceRun::one(*piece)),
        }
    }
    runs.truncate(RUNS_MAX);
    runs
}
