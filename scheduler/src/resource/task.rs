//! One content: its peers, its lease, its chain.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use darter_proto::scheduler::Urgency;
use darter_types::{
    Chain, Digest, Moment, OriginLocator, PieceLayout, PieceNumber, PieceRun, PieceSet, TaskId,
};
use indexmap::IndexMap;

use super::index::PeerIndex;
use super::{Coverage, Holding, HostKey, Named, Peer, Slab, TaskKey};
use crate::graph::Graph;

/// The right to fetch a task from its origin.
#[derive(Clone, Debug)]
pub struct Lease {
    /// Who has it.
    pub holder: HostKey,
    /// Which one it is; greater than that of every earlier lease of this scheduler.
    pub epoch: u64,
    /// When it passes on if nothing comes.
    pub deadline: Moment,
    /// Something came under it.
    pub started: bool,
    /// Its holder was a seed when it got it: what it publishes under it has a seed's word, though it steps down.
    pub trusted: bool,
    /// Hosts that could not reach its holder.
    pub doubted: BTreeSet<HostKey>,
    /// It is for nothing but `first`.
    pub on_demand: bool,
    /// Pieces that its holder was told to read first.
    pub first: BTreeSet<PieceNumber>,
}

/// The chain of a task as far as it was published.
#[derive(Clone, Debug)]
pub struct KnownChain {
    /// The states.
    pub chain: Chain,
    /// Borders whose states a seed published.
    pub trusted: u32,
    /// Who published states last.
    pub author: HostKey,
}

/// Who was asked for the chain.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The host.
    pub host: HostKey,
    /// When it is given up.
    pub deadline: Moment,
}

/// A parked want: readers first, then in the order in which they came.
pub type Turn = (Reverse<Urgency>, u64, HostKey);

/// One content.
#[derive(Debug)]
pub struct Task {
    /// Its name.
    pub id: TaskId,
    /// Where it may be fetched, once somebody said it.
    pub origin: Option<OriginLocator>,
    /// Its length in bytes, once a holder said it.
    pub length: Option<u64>,
    /// The length comes from the holder of a lease, so it is the origin's.
    pub length_from_origin: bool,
    /// Everybody who holds or wants it, and whoever has the lease.
    pub peers: IndexMap<HostKey, Peer>,
    /// Which pieces have a live holder.
    pub coverage: Coverage,
    /// Who exchanges with whom, and who fed whom.
    pub graph: Graph,
    /// Peers by place, for a task with many of them.
    pub index: Option<Box<PeerIndex>>,
    /// The chain as far as it is known.
    pub chain: Option<Box<KnownChain>>,
    /// What seeds said of pieces that they read out of order, and which one said it.
    pub attested: BTreeMap<PieceNumber, (Digest, HostKey)>,
    /// The pieces that parked wants name.
    pub named: Named,
    /// Open wants that name pieces of their own, or want nothing else.
    pub special_wants: usize,
    /// The lease.
    pub lease: Option<Box<Lease>>,
    /// Who was asked for the chain.
    pub asked: Option<Asked>,
    /// Who disappointed with a lease, and until when that counts.
    pub passed_over: BTreeMap<HostKey, Moment>,
    /// Who was asked for the chain in vain, and until when that counts.
    pub chainless: BTreeMap<HostKey, Moment>,
    /// Who read the registry without a lease and contradicted the chain: each is heard once.
    pub contradicted_by: BTreeSet<HostKey>,
    /// Leases that ended since the last progress under one.
    pub leases_in_vain: u32,
    /// Wants for which something is still to be fetched.
    pub waiting: BTreeSet<Turn>,
    /// Wants that are open, those that were sent to the origin alone included.
    pub wants: usize,
    /// When it was wanted last.
    pub last_wanted: Moment,
}

impl Task {
    fn new(id: TaskId, now: Moment) -> Self {
        Self {
            id,
            origin: None,
            length: None,
            length_from_origin: false,
            peers: IndexMap::new(),
            coverage: Coverage::default(),
            graph: Graph::default(),
            index: None,
            chain: None,
            lease: None,
            asked: None,
            passed_over: BTreeMap::new(),
            chainless: BTreeMap::new(),
            contradicted_by: BTreeSet::new(),
            attested: BTreeMap::new(),
            named: Named::default(),
            special_wants: 0,
            leases_in_vain: 0,
            waiting: BTreeSet::new(),
            wants: 0,
            last_wanted: now,
        }
    }

    /// The digest in its name.
    pub fn digest(&self) -> Digest {
        let (TaskId::Content(digest) | TaskId::Url(digest)) = self.id;
        digest
    }

    /// Its cut, once the length is known.
    pub fn layout(&self) -> Option<PieceLayout> {
        PieceLayout::of(self.length?).ok()
    }

    /// How many pieces it has, once the length is known.
    pub fn capacity(&self) -> Option<u32> {
        Some(self.layout()?.piece_count())
    }

    /// Whether every piece has a live holder.
    pub fn is_covered(&self) -> bool {
        self.capacity()
            .is_some_and(|capacity| self.coverage.is_complete(capacity))
    }

    /// The pieces that nobody holds; `None` while the length is not known, which means all of them.
    pub fn missing(&self) -> Option<PieceSet> {
        Some(self.coverage.missing(self.capacity()?))
    }

    /// How many borders have known states, the first included. The chain of a single piece needs none.
    pub fn states_known(&self) -> u32 {
        self.chain.as_ref().map_or(1, |known| known.chain.known())
    }

    /// Pieces that a node waits for by name, and that nobody holds or nobody of trust has said what they are. Nothing while the
    /// wants that are parked name none.
    pub fn lacks_first(&self) -> BTreeSet<PieceNumber> {
        if self.special_wants == 0 {
            return BTreeSet::new();
        }
        self.named.pieces().filter(self.lacks()).collect()
    }

    /// Counts anew what the want of a host names, after that or what the host holds has changed.
    pub fn count_named(&mut self, host: HostKey) {
        let part = self.peers.get(&host).and_then(Peer::named);
        if part.is_some() || self.named.has(host) {
            self.named.set(host, part);
        }
    }

    /// Whether a piece is not held by anybody, or cannot be checked by the word of an author of trust.
    pub fn lacks(&self) -> impl Fn(&PieceNumber) -> bool {
        let (missing, last) = (
            self.missing(),
            self.capacity().map(|capacity| capacity.saturating_sub(1)),
        );
        let trusted = self.chain.as_ref().map_or(1, |known| known.trusted);
        move |piece| {
            let linkable = piece.saturating_add(1) < trusted || (Some(*piece) == last && *piece < trusted);
            let here = missing.as_ref().is_some_and(|missing| !missing.contains(*piece));
            !here || !(linkable || self.attested.contains_key(piece))
        }
    }

    /// Forgets what is known of its bytes, so that the holder of the lease is asked for all of it again.
    pub fn forget_proofs(&mut self) {
        self.chain = None;
        self.attested.clear();
        if let Some(lease) = &mut self.lease {
            lease.first.clear();
        }
    }

    /// Wants for which something is still to be fetched.
    pub fn parked_wants(&self) -> impl Iterator<Item = &super::OpenWant> {
        let peers = self
            .waiting
            .iter()
            .filter_map(|(_, _, host)| self.peers.get(host));
        peers.filter_map(|peer| peer.want.as_deref())
    }

    /// Whether nothing is wanted but pieces by name.
    pub fn is_on_demand(&self) -> bool {
        self.special_wants > 0 && self.named.only() == self.waiting.len()
    }

    /// Whether every piece can be checked.
    pub fn is_chain_complete(&self) -> bool {
        self.capacity()
            .is_some_and(|capacity| self.states_known() >= capacity)
    }

    /// Notes that a peer got pieces; true if any of them is new. Nothing while the length is not known.
    pub fn hold(&mut self, host: HostKey, runs: &[PieceRun]) -> bool {
        let (Some(capacity), Some(peer)) = (self.capacity(), self.peers.get_mut(&host)) else {
            return false;
        };
        let fresh = peer.held.fresh(runs, capacity);
        if fresh.is_empty() {
            return false;
        }
        if peer.counted {
            fresh.iter().for_each(|run| self.coverage.add_run(*run, capacity));
        }
        peer.held.insert(&fresh, capacity);
        if peer.counted && peer.held == Holding::Everything {
            self.coverage.add(&Holding::Everything, capacity);
            self.coverage.remove_run(PieceRun {
                first: 0,
                count: capacity,
            });
        }
        self.count_named(host);
        true
    }

    /// Notes that a peer lost pieces; no runs = all of them.
    pub fn unhold(&mut self, host: HostKey, runs: &[PieceRun]) {
        let (Some(capacity), Some(peer)) = (self.capacity(), self.peers.get_mut(&host)) else {
            return;
        };
        if peer.counted {
            self.coverage.remove(&peer.held);
        }
        peer.held.remove(runs, capacity);
        if peer.counted {
            self.coverage.add(&peer.held, capacity);
        }
        self.count_named(host);
    }

    /// Counts what a peer holds, or does not count it any more.
    pub fn set_counted(&mut self, host: HostKey, counted: bool) {
        let capacity = self.capacity().unwrap_or(0);
        if let Some(peer) = self.peers.get_mut(&host)
            && peer.counted != counted
        {
            peer.counted = counted;
            if counted {
                self.coverage.add(&peer.held, capacity);
            } else {
                self.coverage.remove(&peer.held);
            }
        }
    }

    /// Whether it may be forgotten.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.lease.is_none()
    }
}

/// All tasks.
#[derive(Debug, Default)]
pub struct Tasks {
    keys: BTreeMap<TaskId, TaskKey>,
    slots: Slab<Task>,
}

impl Tasks {
    /// The number of a task.
    pub fn key(&self, id: &TaskId) -> Option<TaskKey> {
        self.keys.get(id).copied()
    }

    /// The number of a task, which is made if it is new.
    pub fn key_or_insert(&mut self, id: TaskId, now: Moment) -> TaskKey {
        if let Some(key) = self.key(&id) {
            return key;
        }
        let key = TaskKey(self.slots.insert(Task::new(id, now)));
        self.keys.insert(id, key);
        key
    }

    /// Forgets a task.
    pub fn remove(&mut self, key: TaskKey) {
        if let Some(task) = self.slots.remove(key.0) {
            self.keys.remove(&task.id);
        }
    }

    /// The task under a number.
    pub fn get(&self, key: TaskKey) -> Option<&Task> {
        self.slots.get(key.0)
    }

    /// The task under a number, to change it.
    pub fn get_mut(&mut self, key: TaskKey) -> Option<&mut Task> {
        self.slots.get_mut(key.0)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Tasks whose names come after `after`, by name.
    pub fn after(&self, after: Option<TaskId>) -> impl Iterator<Item = &Task> {
        use std::ops::Bound;
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.keys
            .range((start, Bound::Unbounded))
            .filter_map(|(_, key)| self.get(*key))
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (TaskKey, &Task)> {
        self.slots.iter().map(|(number, task)| (TaskKey(number), task))
    }
}
