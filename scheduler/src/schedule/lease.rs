//! Leases: who fetches from the origin, for how long, and who comes next.

use darter_proto::limits::RUNS_MAX;
use darter_proto::ring::weight;
use darter_proto::scheduler::{LeaseEnded, LeaseOutcome, SchedulerMessage, SourceLease, Want};
use darter_types::{Moment, OriginLocator, PieceRun};

use super::timer::Timer;
use super::{Outbox, Scheduler};
use crate::resource::{Host, HostKey, Lease, Task, TaskKey};

/// Seeds that are tried for one task before those who ask fetch themselves.
const SEEDS_TRIED_MAX: usize = 2;
/// Leases of one task without any progress after which whoever waits is sent to the origin.
const LEASES_IN_VAIN_MAX: u32 = 4;
/// Highest number of a lease that is taken over. Schedulers count from one and never come so far; a number above it is made
/// up, and would leave nothing to count on with.
const EPOCH_MAX: u64 = u64::MAX / 2;
/// Parked wants that are looked at for one that is public.
const WAITING_LOOKED_AT: usize = 64;

impl Scheduler {
    pub(super) fn holds_lease(&self, key: TaskKey, host: HostKey) -> bool {
        self.tasks
            .get(key)
            .and_then(|task| task.lease.as_ref())
            .is_some_and(|lease| lease.holder == host)
    }

    /// Does what a task needs: nothing while nobody waits, somebody fetches, or all is there; else the chain
    /// is asked for, a lease is given, or those who wait are sent to the origin.
    pub(super) fn pump(&mut self, now: Moment, key: TaskKey, out: &mut Outbox) {
        let Some(task) = self.tasks.get(key) else {
            return;
        };
        if task.special_wants > 0 && self.pump_first(now, key, out) {
            return;
        }
        let Some(task) = self.tasks.get(key) else {
            return;
        };
        let at_rest = task.waiting.is_empty() || task.lease.is_some() || task.asked.is_some();
        if at_rest || (task.is_covered() && task.is_chain_complete()) {
            return;
        }
        if now < self.started + self.settings.lease_grace {
            self.in_grace.insert(key);
            return;
        }
        if self.ask_for_chain(now, key, false, out) {
            return;
        }
        if self.too_many_in_vain(key) {
            return self.all_go_alone(key, "several nodes failed to fetch it from the origin", out);
        }
        match self.choose_holder(now, key) {
            Some((holder, origin)) => self.grant(now, key, holder, origin, false, out),
            None => self.all_go_alone(key, "nobody could fetch it from the origin", out),
        }
    }

    /// Whether leases were given again and again and nothing came; counts from the start then.
    fn too_many_in_vain(&mut self, key: TaskKey) -> bool {
        let Some(task) = self.tasks.get_mut(key) else {
            return false;
        };
        let too_many = task.leases_in_vain >= LEASES_IN_VAIN_MAX;
        if too_many {
            task.leases_in_vain = 0;
        }
        too_many
    }

    /// Who gets the lease: a seed for a content that anybody may have, else whoever waits longest.
    fn choose_holder(&self, now: Moment, key: TaskKey) -> Option<(HostKey, OriginLocator)> {
        let task = self.tasks.get(key)?;
        let mut waiting = task
            .waiting
            .iter()
            .filter_map(|(_, _, host)| Some((*host, task.peers.get(host)?.want.as_ref()?)));
        let public = waiting
            .clone()
            .take(WAITING_LOOKED_AT)
            .find(|(_, want)| want.public);
        if let Some((_, want)) = public
            && let Some(seed) = self.choose_seed(now, task)
        {
            return Some((seed, want.origin.clone()));
        }
        waiting
            .find(|(host, _)| self.may_fetch(now, task, *host))
            .map(|(host, want)| (host, want.origin.clone()))
    }

    pub(super) fn choose_seed(&self, now: Moment, task: &Task) -> Option<HostKey> {
        let tried = task.passed_over.keys().filter(|host| self.is_seed(**host));
        if tried.count() >= SEEDS_TRIED_MAX {
            return None;
        }
        self.hosts
            .seeds()
            .filter(|seed| self.may_fetch(now, task, *seed))
            .filter_map(|seed| Some((self.hosts.get(seed)?.id(), seed)))
            .max_by_key(|(id, _)| (weight(id.as_str(), task.id), *id))
            .map(|(_, seed)| seed)
    }

    fn is_seed(&self, host: HostKey) -> bool {
        self.hosts.get(host).is_some_and(Host::is_seed)
    }

    pub(super) fn may_fetch(&self, now: Moment, task: &Task, host: HostKey) -> bool {
        let passed = task.passed_over.get(&host).is_some_and(|until| *until > now);
        !passed && self.hosts.get(host).is_some_and(|host| host.may_lease(now))
    }

    pub(super) fn grant(
        &mut self,
        now: Moment,
        key: TaskKey,
        holder: HostKey,
        origin: OriginLocator,
        on_demand: bool,
        out: &mut Outbox,
    ) {
        if !self.add_peer(key, holder) {
            self.all_go_alone(key, "the task has too many peers", out);
            return;
        }
        let old = self.tasks.get(key).and_then(|task| task.lease.as_ref());
        // A lease that becomes one for more keeps its name: what its holder told and tells under it counts.
        let epoch = match old.filter(|lease| lease.holder == holder) {
            Some(lease) => lease.epoch,
            None => {
                self.epoch += 1;
                self.tally.leases += 1;
                self.epoch
            }
        };
        self.set_lease(now, key, holder, epoch);
        let first = self.lease_for(key, on_demand);
        // Offered at once, before it has anything, so that everybody is connected when it has.
        self.join_mesh(key, holder);
        self.send_states(key, holder, out);
        let Some(task) = self.tasks.get(key) else {
            return;
        };
        let lease = SourceLease {
            task: task.id,
            origin,
            epoch,
            length: task.length.or_else(|| {
                task.parked_wants()
                    .find_map(|want| want.length.filter(|_| on_demand))
            }),
            runs: if on_demand {
                Vec::new()
            } else {
                runs_to_fetch(task)
            },
            first,
            on_demand,
        };
        self.send(holder, SchedulerMessage::SourceLease(lease), out);
    }

    fn set_lease(&mut self, now: Moment, key: TaskKey, holder: HostKey, epoch: u64) {
        let deadline = now + self.settings.lease_first_byte;
        let is_seed = self.is_seed(holder);
        if let Some(task) = self.tasks.get_mut(key) {
            self.leases += usize::from(task.lease.is_none());
            let before = task.lease.as_deref();
            let same = before.filter(|lease| lease.holder == holder && lease.epoch == epoch);
            let trusted = is_seed || same.is_some_and(|lease| lease.trusted);
            task.lease = Some(Box::new(Lease {
                holder,
                epoch,
                deadline,
                started: false,
                trusted,
                doubted: std::collections::BTreeSet::new(),
                on_demand: false,
                first: std::collections::BTreeSet::new(),
            }));
        }
        self.set_timer(deadline, Timer::Lease(key));
    }

    /// Takes over a lease that a node had from an earlier life of the scheduler.
    pub(super) fn adopt_lease(
        &mut self,
        now: Moment,
        key: TaskKey,
        host: HostKey,
        want: &Want,
        out: &mut Outbox,
    ) {
        let (Some(epoch), Some(task)) = (want.lease_epoch, self.tasks.get(key)) else {
            return;
        };
        match &task.lease {
            Some(lease) if lease.holder == host && lease.epoch == epoch => {}
            Some(_) => {
                let id = task.id;
                self.send(host, SchedulerMessage::LeaseRevoked(id, epoch), out);
            }
            // No scheduler gave it.
            None if epoch > EPOCH_MAX => {
                let id = task.id;
                self.send(host, SchedulerMessage::LeaseRevoked(id, epoch), out);
            }
            None if self.hosts.get(host).is_some_and(|host| host.may_lease(now)) => {
                self.epoch = self.epoch.max(epoch);
                self.set_lease(now, key, host, epoch);
                // Whoever fetches nothing but single pieces was given no more than that.
                if let Some(lease) = self.tasks.get_mut(key).and_then(|task| task.lease.as_mut()) {
                    lease.on_demand = want.on_demand;
                }
            }
            None => {}
        }
    }

    /// The holder of a lease showed that it goes on.
    pub(super) fn renew_lease(&mut self, now: Moment, key: TaskKey, host: HostKey) {
        let stall = self.settings.lease_stall;
        let Some(task) = self.tasks.get_mut(key) else {
            return;
        };
        let Some(lease) = &mut task.lease else {
            return;
        };
        if lease.holder == host {
            task.leases_in_vain = 0;
            let first = !lease.started;
            lease.started = true;
            lease.deadline = now + stall;
            if first {
                // The timer that runs is for the first byte; it may be later than this.
                self.set_timer(now + stall, Timer::Lease(key));
            }
        }
    }

    pub(super) fn check_lease(&mut self, now: Moment, key: TaskKey, out: &mut Outbox) {
        let Some(lease) = self.tasks.get(key).and_then(|task| task.lease.as_ref()) else {
            return;
        };
        if lease.deadline > now {
            let again = lease.deadline;
            self.set_timer(again, Timer::Lease(key));
            return;
        }
        let is_idle = |task: &Task| {
            let on_demand = task.lease.as_ref().is_some_and(|lease| lease.on_demand);
            on_demand && self.is_lease_done(task)
        };
        if self.tasks.get(key).is_some_and(is_idle) {
            // All that was asked for came. Its holder ends it when no more is asked for.
            return self.set_timer(now + self.settings.lease_stall, Timer::Lease(key));
        }
        self.pass_lease(now, key, out);
        self.pump(now, key, out);
    }

    /// Takes the lease from its holder, who disappointed.
    pub(super) fn pass_lease(&mut self, now: Moment, key: TaskKey, out: &mut Outbox) {
        let Some(task) = self.tasks.get(key) else {
            return;
        };
        let Some(lease) = &task.lease else {
            return;
        };
        let (id, holder, epoch) = (task.id, lease.holder, lease.epoch);
        self.tally.leases_passed += 1;
        self.end_lease(now, key, holder, true, out);
        self.send(holder, SchedulerMessage::LeaseRevoked(id, epoch), out);
    }

    /// Ends a lease; its holder is passed over for a while if it disappointed.
    pub(super) fn end_lease(
        &mut self,
        now: Moment,
        key: TaskKey,
        holder: HostKey,
        disappointed: bool,
        out: &mut Outbox,
    ) {
        self.drop_lease(key);
        if disappointed {
            self.pass_over(now, key, holder);
            if let Some(task) = self.tasks.get_mut(key) {
                task.leases_in_vain += 1;
            }
        }
        self.remove_peer_if_idle(now, key, holder, out);
    }

    pub(super) fn drop_lease(&mut self, key: TaskKey) {
        if let Some(task) = self.tasks.get_mut(key) {
            self.leases -= usize::from(task.lease.take().is_some());
        }
    }

    pub(super) fn pass_over(&mut self, now: Moment, key: TaskKey, host: HostKey) {
        let until = now + self.settings.lease_pause;
        if let Some(task) = self.tasks.get_mut(key) {
            task.passed_over.retain(|_, until| *until > now);
            task.passed_over.insert(host, until);
        }
    }

    pub(super) fn lease_ended(&mut self, now: Moment, host: HostKey, ended: &LeaseEnded, out: &mut Outbox) {
        let Some(key) = self.tasks.key(&ended.task) else {
            return;
        };
        if ended.epoch == 0 && ended.outcome == LeaseOutcome::WrongContent {
            return self.contradicted(now, key, host, out);
        }
        let current = self
            .tasks
            .get(key)
            .and_then(|task| task.lease.as_ref())
            .is_some_and(|lease| lease.holder == host && lease.epoch == ended.epoch);
        if !current {
            self.tally.ignored += 1;
            return;
        }
        match ended.outcome {
            LeaseOutcome::Done => {
                let done = self.tasks.get(key).is_some_and(|task| self.is_lease_done(task));
                // More may have been asked for meanwhile: that is nobody's fault, and the next lease is for it.
                let crossed = self.tasks.get(key).and_then(|task| task.lease.as_ref());
                let crossed = crossed.is_some_and(|lease| lease.on_demand && lease.started);
                self.end_lease(now, key, host, !done && !crossed, out);
            }
            LeaseOutcome::Failed => self.end_lease(now, key, host, true, out),
            LeaseOutcome::Refused => self.lease_refused(now, key, host, out),
            LeaseOutcome::Absent => {
                self.end_lease(now, key, host, false, out);
                self.all_go_alone(key, "the origin does not have it", out);
            }
            LeaseOutcome::WrongContent => {
                self.end_lease(now, key, host, true, out);
                self.deny_leases(now, host);
                // What it read may be right, and the chain wrong that it was given.
                let author = self
                    .tasks
                    .get(key)
                    .and_then(|task| Some(task.chain.as_ref()?.author));
                self.drop_chain(key, "the content is not what its digest says", out);
                if let Some(author) = author {
                    self.pass_over(now, key, author);
                }
            }
            LeaseOutcome::Changed => {
                // Nobody's fault but the origin's; whoever begins anew gets one version of it.
                self.end_lease(now, key, host, true, out);
                self.drop_chain(key, "the origin changed the content while it was read", out);
            }
        }
        self.pump(now, key, out);
    }

    /// The origin refused the caller. That is this caller's alone, or, if a seed was refused, everybody's
    /// who said that anybody may have it.
    fn lease_refused(&mut self, now: Moment, key: TaskKey, host: HostKey, out: &mut Outbox) {
        let asked_for_others = self.peer_mut(key, host).is_some_and(|peer| peer.want.is_none());
        // It has the registry's answer for its own reader already.
        self.stop_waiting(key, host);
        self.end_lease(now, key, host, true, out);
        if let Some(task) = self.tasks.get_mut(key)
            && asked_for_others
        {
            for peer in task.peers.values_mut() {
                if let Some(want) = &mut peer.want {
                    want.public = false;
                }
            }
        }
    }

    /// A host that published what is wrong gets no leases for a while.
    pub(super) fn deny_leases(&mut self, now: Moment, host: HostKey) {
        let until = now + self.settings.block;
        if let Some(host) = self.hosts.get_mut(host) {
            host.no_leases_until = Some(until);
        }
    }
}

/// What the holder of a lease is to fetch; nothing means everything. From where the known chain ends all is, also what somebody
/// holds, by the word of somebody: states are computed from one piece to the next.
fn runs_to_fetch(task: &Task) -> Vec<PieceRun> {
    let (Some(mut missing), Some(capacity)) = (task.missing(), task.capacity()) else {
        return Vec::new();
    };
    if !task.is_chain_complete() {
        let first = task.states_known().saturating_sub(1);
        missing.insert_run(PieceRun {
            first,
            count: capacity.saturating_sub(first),
        });
    }
    if missing.is_full() {
        return Vec::new();
    }
    let runs: Vec<PieceRun> = missing.runs().take(RUNS_MAX + 1).collect();
    if runs.len() > RUNS_MAX { Vec::new() } else { runs }
}
