//! The seam: what the proxy asks of a store.
//!
//! All calls are synchronous: writes land in the page cache and reads are slices of a mapping, both cheaper
//! than a hop to another thread (`docs/bench.md`). A store never blocks on `fsync` on these paths.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;
use darter_types::{
    ByteRange, ChainState, Digest, OriginLocator, PieceLayout, PieceNumber, PieceSet, RegistryName, TaskId,
};
use thiserror::Error;

/// What is known of a content when its task is created in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentFacts {
    /// How it is cut; fixes its length.
    pub layout: PieceLayout,
    /// Where it was fetched from, kept so that a restarted node can tell which registry vouched for it.
    pub origin: Option<OriginLocator>,
    /// The media type that the origin gave, for contents that are served with one (manifests).
    pub media_type: Option<String>,
    /// Whether the whole will be fetched: the file is then allocated at once. Lazy tasks stay sparse.
    pub whole: bool,
    /// Whether the origin gives it to anybody; other content is never shared between nodes in plaintext.
    pub public: bool,
}

impl ContentFacts {
    /// The registry whose quota it counts against.
    pub fn registry(&self) -> Option<&RegistryName> {
        self.origin.as_ref().map(|origin| &origin.registry)
    }

    /// Bytes that are taken at once when its task is created.
    pub fn allocated_bytes(&self) -> u64 {
        match self.whole {
            true => self.layout.length(),
            false => 0,
        }
    }

    /// Refuses facts of another length for the same content.
    pub(crate) fn check_length(&self, task: TaskId, offered: &Self) -> Result<(), StoreError> {
        let (known, offered) = (self.layout.length(), offered.layout.length());
        match known == offered {
            true => Ok(()),
            false => Err(StoreError::LengthConflict { task, known, offered }),
        }
    }

    /// The range of a write; an error if it passes the end of the content.
    pub(crate) fn check_write(
        &self,
        task: TaskId,
        offset: u64,
        length: usize,
    ) -> Result<ByteRange, StoreError> {
        let range = ByteRange::new(offset, offset.saturating_add(length as u64));
        match range.end <= self.layout.length() {
            true => Ok(range),
            false => Err(StoreError::Absent { task, range }),
        }
    }
}

/// One line of what a store holds.
#[derive(Clone, Debug)]
pub struct TaskSummary {
    /// Its name.
    pub task: TaskId,
    /// What was known when it was created.
    pub facts: ContentFacts,
    /// Pieces present or claimed.
    pub held: PieceSet,
    /// Bytes that it takes on disk.
    pub stored_bytes: u64,
    /// Whether the whole was proved and no piece was lost since. After a restart its pieces are claimed all
    /// the same.
    pub proved: bool,
}

/// What a store occupies and may occupy, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes held by tasks, accounted by the store itself.
    pub stored_bytes: u64,
    /// Most bytes that it may hold.
    pub quota_bytes: u64,
    /// Free bytes on the file system.
    pub free_bytes: u64,
    /// Number of tasks.
    pub tasks: u64,
    /// Bytes that wait in memory for a slow disk.
    pub unwritten_bytes: u64,
    /// What was refused since the start.
    pub refusals: Refusals,
}

/// How often there was no room, by what had run out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// The quota of the whole store.
    pub quota: u64,
    /// The quota of a registry.
    pub registry_quota: u64,
    /// The floor of free space.
    pub free_floor: u64,
    /// The file system itself.
    pub file_system: u64,
}

/// How far what is written may run ahead of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteBehind {
    /// Most bytes that wait in memory for a slow disk.
    pub bytes_max: u64,
    /// A disk that takes less than this, while so much waits for it, is too slow to be waited for; `None` = it never is.
    pub slow_bytes_per_second: Option<u64>,
}

impl Default for WriteBehind {
    fn default() -> Self {
        Self {
            bytes_max: 16 * 1024 * 1024,
            slow_bytes_per_second: Some(4 * 1024 * 1024),
        }
    }
}

/// How a write would fare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// It is taken at once.
    Ready,
    /// It waits for the disk.
    Waits,
    /// It waits for a disk that is too slow to be waited for.
    TooSlow,
}

/// Why a store could not do what it was asked.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Quota, free-space floor or file system is exhausted and nothing may be evicted. The pull goes on
    /// past the store.
    #[error("no space left in the store for {wanted_bytes} more bytes")]
    NoSpace {
        /// What was asked for.
        wanted_bytes: u64,
    },
    /// The task was evicted or never existed.
    #[error("the store does not hold {0}")]
    Gone(TaskId),
    /// Two nodes or origins disagree about the length of one content.
    #[error("{task} has {known} bytes in the store, not {offered}")]
    LengthConflict {
        /// The content.
        task: TaskId,
        /// The length that the store has.
        known: u64,
        /// The length that was offered.
        offered: u64,
    },
    /// The range lies beyond the content or is not present.
    #[error("bytes {range} of {task} are not in the store")]
    Absent {
        /// The content.
        task: TaskId,
        /// The range that was asked for.
        range: ByteRange,
    },
    /// The operating system refused.
    #[error("store: {action} {path}")]
    Io {
        /// What was tried, as a verb: "write", "open", ….
        action: &'static str,
        /// The file.
        path: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// A place for the pieces of many tasks. Cheap to share; every method may be called from any thread.
pub trait PieceStore: Send + Sync + Debug + 'static {
    /// Opens a task, creating it with `facts` if it is not there. An existing task keeps its own facts; a
    /// different length is [`StoreError::LengthConflict`]. While the handle lives the task is not evicted.
    fn open(&self, task: TaskId, facts: &ContentFacts) -> Result<Arc<dyn StoredTask>, StoreError>;

    /// Opens a task only if it is there.
    fn find(&self, task: TaskId) -> Option<Arc<dyn StoredTask>>;

    /// The same, only to look after it: that is no use of it, so eviction keeps its order.
    fn inspect(&self, task: TaskId) -> Option<Arc<dyn StoredTask>>;

    /// Everything it holds, ordered by name.
    fn list(&self) -> Vec<TaskSummary>;

    /// Drops a task. Handles that exist go on reading what they mapped, and refuse to write with
    /// [`StoreError::Gone`]; new calls find nothing.
    fn remove(&self, task: TaskId) -> Result<(), StoreError>;

    /// Evicts least recently used tasks without handles until usage is within quota and floor with
    /// `wanted_bytes` to spare; returns what was dropped, so that it can be withdrawn from the scheduler.
    fn make_room(&self, wanted_bytes: u64) -> Vec<TaskId>;

    /// The same for a content of `registry`, within the quota of that as well. Nothing is dropped for what never fits.
    fn make_room_for(&self, registry: Option<&RegistryName>, wanted_bytes: u64) -> Vec<TaskId> {
        let _ = registry;
        self.make_room(wanted_bytes)
    }

    /// What it occupies now.
    fn usage(&self) -> Usage;

    /// Whether `bytes` more of a content of `registry` would fit now, within quotas and floor. No refusal is counted.
    fn has_room(&self, registry: Option<&RegistryName>, bytes: u64) -> bool;

    /// How a write of `bytes` would fare now. Those that cannot wait without harm ask before they write.
    fn pace(&self, bytes: u64) -> Pace;
}

/// One open task of a store.
pub trait StoredTask: Send + Sync + Debug {
    /// Its name.
    fn task(&self) -> TaskId;

    /// What was known when it was created.
    fn facts(&self) -> ContentFacts;

    /// Writes bytes at an offset. They do not count until [`Self::mark_present`]. What falls into a present
    /// piece is left out without an error: linked bytes never change. What falls into a claimed piece ends
    /// that claim. A range beyond the content is [`StoreError::Absent`], and nothing of it is written; after
    /// any other error the touched pieces hold anything.
    fn write(&self, offset: u64, data: &[u8]) -> Result<(), StoreError>;

    /// Records that `piece` was linked and all its bytes are written; [`StoreError::Absent`] if there is no
    /// such piece, or if the store can tell that bytes of it were never written (the one in memory can).
    fn mark_present(&self, piece: PieceNumber) -> Result<(), StoreError>;

    /// Keeps what attests a piece that is written but not linked: its SHA-256. After a restart the piece is claimed, and is
    /// what it was if it still fits; until then it is not among the claimed. [`Self::mark_present`] and [`Self::forget`]
    /// take the record back.
    fn record_attestation(&self, piece: PieceNumber, sum: Digest) -> Result<(), StoreError>;

    /// The attestations that are kept.
    fn attestations(&self) -> BTreeMap<PieceNumber, Digest>;

    /// Takes a piece back: it failed to link again.
    fn forget(&self, piece: PieceNumber);

    /// Pieces that may be used.
    fn present(&self) -> PieceSet;

    /// Pieces recorded before a restart and not linked since. They become present by
    /// [`Self::mark_present`] or vanish by [`Self::forget`].
    fn claimed(&self) -> PieceSet;

    /// Reads written bytes, present or not (the caller knows what it may release). The result may be shorter
    /// than `range` (never empty unless `range` is): read on from where it ends. For the disk store it is a
    /// slice of a mapping, no copy, but for claimed pieces, which are read one at a time into memory, so
    /// that a bad sector is an error here and not a signal. A range beyond the content is
    /// [`StoreError::Absent`]; bytes that were never written are that or zeros.
    fn read(&self, range: ByteRange) -> Result<Bytes, StoreError>;

    /// The same as the disk says it now, into memory, one piece at a time: a bad sector is an error here and not a signal.
    fn read_back(&self, range: ByteRange) -> Result<Bytes, StoreError>;

    /// Keeps the chain's states of borders `first`, `first + 1`, … beside the pieces, over what was kept
    /// for them before. Border 0 and borders that the layout does not have are left out.
    fn record_states(&self, first: u32, states: &[ChainState]) -> Result<(), StoreError>;

    /// Forgets the states of borders `first` and above: their author is not believed any more. After an error they may
    /// be there still.
    fn forget_states(&self, first: u32) -> Result<(), StoreError>;

    /// The states that are kept, from border 1 on, without gaps.
    fn states(&self) -> Vec<ChainState>;

    /// Records that the whole was proved against its digest; data is made durable in the background. Does
    /// nothing while a piece is not present. A later [`Self::forget`] takes the record back.
    fn record_proved(&self);
}
