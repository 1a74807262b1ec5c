//! The nodes: who is connected, where it stands, how it has behaved.

use std::collections::{BTreeMap, BTreeSet};

use darter_proto::scheduler::{Hello, Load, Role};
use darter_types::{HostId, Moment};

use super::index::{Place, Places};
use super::{Connection, HostKey, Slab, TaskKey};
use crate::evaluator::history::CostHistory;

/// Why and until when a host is not chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exclusion {
    /// It comes back, on trial, at this moment.
    pub until: Moment,
    /// Why.
    pub why: &'static str,
    /// Whether what it holds does not count either. A slow node's pieces count still.
    pub dead: bool,
}

/// One node.
#[derive(Debug)]
pub struct Host {
    /// What it said of itself last.
    pub hello: Hello,
    /// Its connection; `None` while it has none.
    pub connection: Option<Connection>,
    /// Where it stands, as numbers.
    pub place: Place,
    /// What it said that it is doing.
    pub load: Load,
    /// What its pieces cost others.
    pub costs: CostHistory,
    /// Tasks in which it has a part.
    pub tasks: BTreeSet<TaskKey>,
    /// Why it is not chosen at the moment.
    pub excluded: Option<Exclusion>,
    /// It was excluded and has not shown yet that it is well again.
    pub on_trial: bool,
    /// How often it was excluded since it last passed a trial: each time for longer.
    pub exclusions: u32,
    /// Who said that it failed them since it last served well.
    pub failed: BTreeMap<HostKey, u32>,
    /// Times that it served somebody.
    pub successes: u32,
    /// Times that it failed somebody.
    pub failures: u32,
    /// It gets no leases until then: what it published was wrong.
    pub no_leases_until: Option<Moment>,
    /// Hosts that it accused of wrong bytes, with when.
    pub accused: BTreeMap<HostKey, Moment>,
    /// When it was connected last.
    pub last_seen: Moment,
}

impl Host {
    /// Its name.
    pub fn id(&self) -> &HostId {
        &self.hello.host
    }

    /// Whether it is connected as a seed.
    pub fn is_seed(&self) -> bool {
        self.hello.role == Role::Seed
    }

    /// Whether it can be given something to do.
    pub fn is_live(&self) -> bool {
        self.connection.is_some() && self.excluded.as_ref().is_none_or(|exclusion| !exclusion.dead)
    }

    /// Whether it may hold leases.
    pub fn may_lease(&self, now: Moment) -> bool {
        self.is_live() && self.no_leases_until.is_none_or(|until| until <= now)
    }
}

/// All nodes, those that left lately included.
#[derive(Debug, Default)]
pub struct Hosts {
    keys: BTreeMap<HostId, HostKey>,
    slots: Slab<Host>,
    seeds: BTreeSet<HostKey>,
    connected: usize,
    /// Localities as numbers.
    pub places: Places,
}

impl Hosts {
    /// Takes in a connection's `Hello`.
    pub fn hello(&mut self, now: Moment, connection: Connection, hello: Hello) -> HostKey {
        let place = self.places.place(&hello.locality);
        let key = match self.keys.get(&hello.host) {
            Some(key) => *key,
            None => self.insert(hello.clone(), place.clone()),
        };
        if let Some(host) = self.slots.get_mut(key.0) {
            self.connected += usize::from(host.connection.is_none());
            host.connection = Some(connection);
            host.place = place;
            host.hello = hello;
            host.last_seen = now;
            if host.is_seed() {
                self.seeds.insert(key);
            } else {
                self.seeds.remove(&key);
            }
        }
        key
    }

    fn insert(&mut self, hello: Hello, place: Place) -> HostKey {
        let id = hello.host.clone();
        let key = HostKey(self.slots.insert(Host {
            hello,
            connection: None,
            place,
            load: Load::default(),
            costs: CostHistory::default(),
            tasks: BTreeSet::new(),
            excluded: None,
            on_trial: false,
            exclusions: 0,
            failed: BTreeMap::new(),
            successes: 0,
            failures: 0,
            no_leases_until: None,
            accused: BTreeMap::new(),
            last_seen: Moment::START,
        }));
        self.keys.insert(id, key);
        key
    }

    /// Notes that a host has no connection any more.
    pub fn disconnect(&mut self, now: Moment, key: HostKey) {
        if let Some(host) = self.slots.get_mut(key.0)
            && host.connection.take().is_some()
        {
            host.last_seen = now;
            host.load = Load::default();
            self.connected -= 1;
            self.seeds.remove(&key);
        }
    }

    /// Forgets a host that has no connection.
    pub fn forget(&mut self, key: HostKey) {
        if self.get(key).is_some_and(|host| host.connection.is_none())
            && let Some(host) = self.slots.remove(key.0)
        {
            self.keys.remove(host.id());
        }
    }

    /// The number of the host of that name.
    pub fn key(&self, id: &HostId) -> Option<HostKey> {
        self.keys.get(id).copied()
    }

    /// The host under a number.
    pub fn get(&self, key: HostKey) -> Option<&Host> {
        self.slots.get(key.0)
    }

    /// The host under a number, to change it.
    pub fn get_mut(&mut self, key: HostKey) -> Option<&mut Host> {
        self.slots.get_mut(key.0)
    }

    /// Whether the host can be given something to do.
    pub fn is_live(&self, key: HostKey) -> bool {
        self.get(key).is_some_and(Host::is_live)
    }

    /// Connected seeds.
    pub fn seeds(&self) -> impl Iterator<Item = HostKey> + '_ {
        self.seeds.iter().copied()
    }

    /// How many are connected.
    pub fn connected(&self) -> usize {
        self.connected
    }

    /// How many are remembered.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All that are remembered, by name.
    pub fn iter(&self) -> impl Iterator<Item = (HostKey, &Host)> + Clone {
        self.keys.values().filter_map(|key| Some((*key, self.get(*key)?)))
    }
}
