//! What the scheduler decides: a pure state machine over everything that it knows.
//!
//! [`Scheduler::apply`] takes one event at one moment and says what to send to whom. It does no I/O and reads
//! no clock; randomness comes from the seed in [`Settings`]. A want is answered at once with what there is
//! (neighbours, states of the chain), and parked for the rest: whatever changes later is pushed. For each
//! task it keeps one rule above all: as long as somebody waits, either every piece has a live holder and the
//! chain is known, or exactly one node has the lease to fetch what lacks, or whoever waits is told to ask the
//! origin alone. [`crate::invariant`] says the rules as predicates.
//!
//! Start reading at [`Scheduler::apply`], then `pump` in `schedule/lease.rs`.

mod failure;
mod first;
mod holding;
mod lease;
mod links;
mod membership;
mod mesh;
pub mod settings;
#[cfg(test)]
mod tests;
mod timer;
mod want;

use std::collections::{BTreeMap, BTreeSet};

use darter_proto::scheduler::{Hello, NodeMessage, SchedulerMessage};
use darter_types::{HostId, Moment, TaskId};
use rand::SeedableRng as _;
use rand::rngs::SmallRng;

pub use self::settings::{Settings, Tally, Tuning};
use self::timer::Timer;
use crate::evaluator::history::Moving;
use crate::graph::Changed;
use crate::resource::{Connection, HostKey, Hosts, TaskKey, Tasks};

/// What happens to a scheduler.
#[derive(Clone, Debug)]
pub enum Event {
    /// A node says who it is, on a new connection or again on its own.
    Hello(Connection, Hello),
    /// A node says something else.
    Message(Connection, HostId, NodeMessage),
    /// A connection is gone.
    Disconnected(Connection, HostId),
    /// Time passed. Send one several times a second.
    Tick,
}

/// What to send, in order, to whom.
pub type Outbox = Vec<(HostId, SchedulerMessage)>;

/// All that one scheduler knows and decides.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) settings: Settings,
    pub(crate) hosts: Hosts,
    pub(crate) tasks: Tasks,
    /// Wants that are parked.
    pub(crate) parked: usize,
    /// Leases that are held.
    pub(crate) leases: usize,
    tally: Tally,
    timers: BTreeSet<(Moment, Timer)>,
    /// Tasks without wants, longest unwanted first: forgotten when there are too many.
    unwanted: BTreeSet<(Moment, TaskKey)>,
    /// Bytes a second between places, the child's first.
    throughput: BTreeMap<(u32, u32), Moving>,
    /// Peers whose neighbours changed in this event.
    changed: BTreeMap<TaskKey, Changed>,
    /// Tasks whose leases wait until the nodes had time to announce themselves.
    in_grace: BTreeSet<TaskKey>,
    started: Moment,
    turn: u64,
    epoch: u64,
    rng: SmallRng,
    /// The most that `parents_max` ever was: neighbours beyond a smaller one stay until their pulls are over.
    pub(crate) parents_max_ever: usize,
}

impl Scheduler {
    /// Decides by these numbers from now on. Timers that run stay as they are.
    pub fn tune(&mut self, tuning: Tuning) {
        self.parents_max_ever = self.parents_max_ever.max(tuning.parents_max);
        self.settings.tune(tuning);
    }

    /// An empty scheduler that starts now.
    pub fn new(now: Moment, settings: Settings) -> Self {
        let rng = SmallRng::seed_from_u64(settings.seed);
        let grace_over = now + settings.lease_grace;
        Self {
            parents_max_ever: settings.parents_max,
            settings,
            hosts: Hosts::default(),
            tasks: Tasks::default(),
            parked: 0,
            leases: 0,
            tally: Tally::default(),
            timers: BTreeSet::from([(grace_over, Timer::Grace)]),
            unwanted: BTreeSet::new(),
            throughput: BTreeMap::new(),
            changed: BTreeMap::new(),
            in_grace: BTreeSet::new(),
            started: now,
            turn: 0,
            epoch: 0,
            rng,
        }
    }

    /// Takes in one event; what is to be sent is added to `out`.
    pub fn apply(&mut self, now: Moment, event: Event, out: &mut Outbox) {
        match event {
            Event::Hello(connection, hello) => self.hello(now, connection, hello, out),
            Event::Message(connection, id, message) => {
                if let Some(host) = self.connected(connection, &id) {
                    self.message(now, host, message, out);
                }
            }
            Event::Disconnected(connection, id) => {
                if let Some(host) = self.connected(connection, &id) {
                    self.disconnect(now, host, out);
                }
            }
            Event::Tick => self.tick(now, out),
        }
        self.publish_parents(out);
        debug_assert_eq!(crate::invariant::broken(self), None);
    }

    /// The host that speaks on `connection`; `None` if a newer one took its place.
    fn connected(&self, connection: Connection, id: &HostId) -> Option<HostKey> {
        let key = self.hosts.key(id)?;
        (self.hosts.get(key)?.connection == Some(connection)).then_some(key)
    }

    fn message(&mut self, now: Moment, host: HostKey, message: NodeMessage, out: &mut Outbox) {
        match message {
            // The shell makes an event of its own of it.
            NodeMessage::Hello(_) => {}
            NodeMessage::Announce(held) => self.announce(now, host, held, out),
            NodeMessage::Want(want) => self.want(now, host, want, out),
            NodeMessage::Unwant(task) => self.unwant(now, host, &task, out),
            NodeMessage::Have(have) => self.have(now, host, have, out),
            NodeMessage::Withdraw(task, runs) => self.withdraw(now, host, &task, &runs, out),
            NodeMessage::Links(links) => self.links(now, host, links, out),
            NodeMessage::Attested(attested) => self.attested(now, host, attested, out),
            NodeMessage::LeaseEnded(ended) => self.lease_ended(now, host, &ended, out),
            NodeMessage::Failed(failed) => self.failed(now, host, &failed, out),
            NodeMessage::Load(load) => self.load(now, host, load, out),
        }
    }

    /// What it did so far, in numbers.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Connected hosts.
    pub fn hosts_connected(&self) -> usize {
        self.hosts.connected()
    }

    /// Tasks that it knows.
    pub fn tasks_known(&self) -> usize {
        self.tasks.len()
    }

    /// Wants that wait for something to be fetched.
    pub fn wants_parked(&self) -> usize {
        self.parked
    }

    /// Leases that are held.
    pub fn leases_held(&self) -> usize {
        self.leases
    }

    /// Whether another host may connect: known ones always may.
    pub fn admits(&self, id: &HostId) -> bool {
        self.hosts.key(id).is_some() || self.hosts.len() < self.settings.hosts_max
    }

    /// Whether a task's lease waits until the nodes had time to announce themselves.
    pub(crate) fn is_in_grace(&self, task: TaskKey) -> bool {
        self.in_grace.contains(&task)
    }

    fn send(&mut self, host: HostKey, message: SchedulerMessage, out: &mut Outbox) {
        if let Some(host) = self.hosts.get(host)
            && host.connection.is_some()
        {
            out.push((host.id().clone(), message));
        }
    }

    /// Whether another scheduler of the ring owns a task; gives its address.
    fn other_owner(&self, task: TaskId) -> Option<&str> {
        darter_proto::ring::owner(&self.settings.schedulers, task)
            .filter(|owner| *owner != self.settings.advertise)
    }
}
