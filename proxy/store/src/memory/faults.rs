//! Scripted faults: what a disk does to a node, in the order that a test says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use darter_types::{PieceNumber, TaskId};

use super::Shared;
use super::task::Record;
use crate::Pace;
use crate::sync::lock;

/// What will go wrong.
#[derive(Debug)]
pub(super) struct Plan {
    /// Bytes that may still be written.
    pub(super) free_bytes: u64,
    /// For each of the next writes, how many of its bytes are kept before it fails.
    pub(super) failing_writes: VecDeque<usize>,
    /// How many of the next reads fail.
    pub(super) failing_reads: u64,
    /// How writes fare.
    pub(super) pace: Pace,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            free_bytes: u64::MAX,
            failing_writes: VecDeque::new(),
            failing_reads: 0,
            pace: Pace::Ready,
        }
    }
}

/// Makes a [`MemoryStore`](super::MemoryStore) fail. Cheap to clone; faults are used up in the order given.
#[derive(Clone, Debug)]
pub struct Faults {
    shared: Arc<Shared>,
}

impl Faults {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// After `free_bytes` more bytes are written every write and every new whole task is refused with
    /// [`StoreError::NoSpace`](crate::StoreError::NoSpace). Removing tasks does not give space back: it is
    /// somebody else who fills the disk.
    pub fn no_space_after(&self, free_bytes: u64) {
        lock(&self.shared.plan).free_bytes = free_bytes;
    }

    /// Ends [`Self::no_space_after`].
    pub fn space_returns(&self) {
        self.no_space_after(u64::MAX);
    }

    /// The next write fails and leaves nothing.
    pub fn fail_write(&self) {
        self.short_write(0);
    }

    /// The next write leaves its first `kept_bytes` bytes, then fails.
    pub fn short_write(&self, kept_bytes: usize) {
        lock(&self.shared.plan).failing_writes.push_back(kept_bytes);
    }

    /// The next `count` reads fail.
    pub fn fail_reads(&self, count: u64) {
        lock(&self.shared.plan).failing_reads = count;
    }

    /// From now on writes fare so, as those who ask are told; they are taken all the same.
    pub fn set_pace(&self, pace: Pace) {
        lock(&self.shared.plan).pace = pace;
    }

    /// Flips one bit of the byte `at` of a piece that is present or claimed, as failing hardware does; false
    /// if there is no such byte. Slices that were read before keep the right byte.
    pub fn flip_byte(&self, task: TaskId, piece: PieceNumber, at: usize) -> bool {
        lock(&self.shared.tasks)
            .get(&task)
            .is_some_and(|record| lock(&record.content).flip(piece, at))
    }

    /// The process is killed: what was not marked present is lost, what was becomes claimed. Handles from
    /// before are dead: all that they are asked fails.
    pub fn crash(&self) {
        self.restart(false);
    }

    /// The power fails: as [`Self::crash`], and pieces of tasks that were not proved hold zeros.
    pub fn power_cut(&self) {
        self.restart(true);
    }

    fn restart(&self, lose_unsynced: bool) {
        let mut tasks = lock(&self.shared.tasks);
        for record in tasks.values_mut() {
            let mut before = lock(&record.content);
            before.crashed = true;
            before.gone = true;
            let after = before.after_crash(&record.facts, lose_unsynced);
            self.shared.account.release(None, before.charged_bytes());
            self.shared.account.adopt(None, after.charged_bytes());
            drop(before);
            *record = Arc::new(Record {
                task: record.task,
                facts: record.facts.clone(),
                content: Mutex::new(after),
                handles: AtomicUsize::new(0),
                last_used: AtomicU64::new(record.last_used.load(Ordering::Relaxed)),
            });
        }
    }
}
