//! What will happen, in order of time; what is to happen at one time happens in the order in which it was written
//! down.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use darter_engine::{Event, FetchId};
use darter_proto::scheduler::{NodeMessage, SchedulerMessage};
use darter_types::{PieceNumber, PieceRun};

/// Nanoseconds since the start.
pub(super) type Nanos = u64;
/// Index of a node; the last one is the seed.
pub(super) type NodeIndex = usize;

/// What happens.
#[derive(Debug)]
pub(super) enum Happening {
    /// A node's engine is told something.
    Engine(NodeIndex, Event),
    /// A node's new piece becomes known to those that watch it.
    Announce(NodeIndex, PieceNumber),
    /// A child begins to watch a parent.
    Watch { parent: NodeIndex, child: NodeIndex },
    /// A child no longer watches a parent.
    Unwatch { parent: NodeIndex, child: NodeIndex },
    /// A request reaches a parent.
    Request {
        parent: NodeIndex,
        child: NodeIndex,
        fetch: FetchId,
        run: PieceRun,
    },
    /// A child took its request back.
    Withdraw {
        parent: NodeIndex,
        child: NodeIndex,
        fetch: FetchId,
    },
    /// An upload may have sent a piece; void if the upload changed since.
    Sent(NodeIndex, u64),
    /// A piece arrived from a parent.
    Arrived {
        child: NodeIndex,
        fetch: FetchId,
        piece: PieceNumber,
        last: bool,
    },
    /// A piece arrived from the origin.
    OriginSent {
        node: NodeIndex,
        fetch: FetchId,
        piece: PieceNumber,
        end: PieceNumber,
    },
    /// A node's message reaches the scheduler.
    ToScheduler(NodeIndex, Box<NodeMessage>),
    /// A message of the scheduler reaches a node.
    FromScheduler(NodeIndex, Box<SchedulerMessage>),
    /// The scheduler's clock.
    SchedulerTick,
    /// A node's clock.
    Tick(NodeIndex),
}

#[derive(Debug)]
struct Entry {
    at: Nanos,
    number: u64,
    what: Happening,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives its greatest first.
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Entry {}

/// What will happen.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    entries: BinaryHeap<Entry>,
    number: u64,
}

impl Agenda {
    pub(super) fn add(&mut self, at: Nanos, what: Happening) {
        self.number += 1;
        self.entries.push(Entry {
            at,
            number: self.number,
            what,
        });
    }

    pub(super) fn next(&mut self) -> Option<(Nanos, Happening)> {
        self.entries.pop().map(|entry| (entry.at, entry.what))
    }
}
