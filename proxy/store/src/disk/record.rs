//! What the store keeps in memory of each task, open or not: facts, which pieces count, what it costs.
//! Files and mappings are there only while somebody has the task open, so that a store of many tasks needs
//! neither many descriptors nor many mappings.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};

use bytes::Bytes;
use darter_types::{ByteRange, ChainState, Digest, PieceNumber, PieceSet, TaskId};

use super::Shared;
use super::behind::Ahead;
use super::index::Shape;
use super::map::Unreadable;
use super::recover::Found;
use super::write;
use crate::evict::Candidate;
use crate::sync::lock;
use crate::{ContentFacts, StoreError, TaskSummary};

#[derive(Debug)]
pub(super) struct Record {
    pub(super) task: TaskId,
    pub(super) facts: ContentFacts,
    pub(super) handles: AtomicUsize,
    pub(super) last_used: AtomicU64,
    /// Whether its files exist.
    created: AtomicBool,
    files: Mutex<Weak<Files>>,
    pub(super) state: Mutex<State>,
    /// Held for reading while bytes are written, for writing while a piece becomes present: so no byte of a
    /// present piece is ever under way to the file.
    pub(super) gate: RwLock<()>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) present: PieceSet,
    pub(super) claimed: PieceSet,
    /// Pieces of a lazy task that space was reserved for.
    pub(super) charged: PieceSet,
    pub(super) charged_bytes: u64,
    pub(super) proved: bool,
    /// Dropped from the store: handles read on, but write no more.
    pub(super) gone: bool,
}

/// The open files of a task.
pub(super) struct Files {
    pub(super) data: Arc<File>,
    pub(super) index: File,
    pub(super) shape: Shape,
    /// Where the data file was when it was opened, for messages.
    pub(super) path: PathBuf,
    /// The whole data file, mapped at the first read.
    pub(super) map: Mutex<Option<Bytes>>,
    /// Whether who sends from the mapping could not.
    pub(super) unreadable: Unreadable,
    /// The chain's states, read at first need.
    pub(super) states: Mutex<Option<BTreeMap<u32, ChainState>>>,
    /// What attests pieces that are not linked, read at first need.
    pub(super) sums: Mutex<Option<BTreeMap<PieceNumber, Digest>>>,
    /// Bytes written since the last write-back was started.
    pub(super) unsynced_bytes: AtomicU64,
    /// What the files do not have yet.
    pub(super) ahead: Ahead,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Record {
    /// A task whose files are yet to be made.
    pub(super) fn new(task: TaskId, facts: ContentFacts) -> Self {
        let claimed = PieceSet::new(facts.layout.piece_count());
        Self::with(task, facts, claimed, false, 0)
    }

    /// A task whose files were found at start; `used` is its place in the order of last uses.
    pub(super) fn recovered(found: Found, used: u64) -> Self {
        let record = Self::with(found.task, found.facts, found.claimed, found.proved, used);
        record.created.store(true, Ordering::Relaxed);
        lock(&record.state).charged_bytes = found.stored_bytes;
        record
    }

    fn with(task: TaskId, facts: ContentFacts, claimed: PieceSet, proved: bool, used: u64) -> Self {
        let state = State {
            present: PieceSet::new(facts.layout.piece_count()),
            charged: claimed.clone(),
            claimed,
            charged_bytes: 0,
            proved,
            gone: false,
        };
        Self {
            task,
            facts,
            handles: AtomicUsize::new(0),
            last_used: AtomicU64::new(used),
            created: AtomicBool::new(false),
            files: Mutex::default(),
            state: Mutex::new(state),
            gate: RwLock::new(()),
        }
    }

    pub(super) fn is_created(&self) -> bool {
        self.created.load(Ordering::Acquire)
    }

    /// The open files: those that another handle has, or opened now, or made now.
    pub(super) fn files(&self, shared: &Shared) -> Result<Arc<Files>, StoreError> {
        let mut slot = lock(&self.files);
        if lock(&self.state).gone {
            return Err(StoreError::Gone(self.task));
        }
        if let Some(files) = slot.upgrade() {
            return Ok(files);
        }
        let dir = shared.root.task_dir(self.task);
        let files = if self.is_created() {
            Arc::new(write::open_files(&dir, &self.facts)?)
        } else {
            let files = self.create(shared, &dir)?;
            self.created.store(true, Ordering::Release);
            Arc::new(files)
        };
        *slot = Arc::downgrade(&files);
        Ok(files)
    }

    fn create(&self, shared: &Shared, dir: &std::path::Path) -> Result<Files, StoreError> {
        let (registry, wanted_bytes) = (self.facts.registry(), self.facts.allocated_bytes());
        let free_bytes = shared.root.free_bytes();
        if !shared.account.reserve(registry, wanted_bytes, free_bytes) {
            return Err(StoreError::NoSpace { wanted_bytes });
        }
        match write::create_files(dir, self.task, &self.facts) {
            Ok(files) => {
                lock(&self.state).charged_bytes = wanted_bytes;
                Ok(files)
            }
            Err(error) => {
                shared.account.release(registry, wanted_bytes);
                if matches!(error, StoreError::NoSpace { .. }) {
                    shared.account.file_system_was_full();
                }
                // What cannot be deleted now is an orphan at the next start.
                let _ = std::fs::remove_dir_all(dir);
                Err(error)
            }
        }
    }

    /// Ends the record: nothing is written through its handles any more, its bytes are no longer counted, and
    /// its files are buried where the result says.
    pub(super) fn retire(&self, shared: &Shared) -> Result<PathBuf, StoreError> {
        // Waits for a creation under way, so that no file appears after the burial.
        let _files = lock(&self.files);
        let buried = shared.root.bury(self.task)?;
        let mut state = lock(&self.state);
        state.gone = true;
        shared.account.release(self.facts.registry(), state.charged_bytes);
        state.charged_bytes = 0;
        Ok(buried)
    }

    /// Takes all pieces back from the handles of a record whose files failed.
    pub(super) fn disown(&self) {
        let mut state = lock(&self.state);
        let pieces = self.facts.layout.piece_count();
        state.present = PieceSet::new(pieces);
        state.claimed = PieceSet::new(pieces);
        state.proved = false;
    }

    pub(super) fn candidate(&self) -> Candidate {
        let state = lock(&self.state);
        Candidate {
            task: self.task,
            stored_bytes: state.charged_bytes,
            last_used: self.last_used.load(Ordering::Relaxed),
            proved: state.proved,
            open: self.handles.load(Ordering::Relaxed) > 0,
        }
    }

    pub(super) fn summary(&self) -> TaskSummary {
        let state = lock(&self.state);
        let mut held = state.present.clone();
        held.insert_all(&state.claimed);
        TaskSummary {
            task: self.task,
            facts: self.facts.clone(),
            held,
            stored_bytes: state.charged_bytes,
            proved: state.proved,
        }
    }
}

/// The next part of a write that may go to the file.
pub(super) enum Admitted {
    /// These bytes.
    Write(ByteRange),
    /// None: the rest lies in present pieces.
    Nothing,
}

impl State {
    /// Finds the first part of `range` that lies in no present piece, reserves space for it, and ends the
    /// claims on it; the pieces that were claimed go to `disclaim`.
    pub(super) fn admit(
        &mut self,
        shared: &Shared,
        record: &Record,
        range: ByteRange,
        mut disclaim: impl FnMut(u32),
    ) -> Result<Admitted, StoreError> {
        if self.gone {
            return Err(StoreError::Gone(record.task));
        }
        let layout = record.facts.layout;
        let run = layout.pieces_of(range);
        let first = self.present.next_missing(run.first);
        if run.count == 0 || first >= run.end() {
            return Ok(Admitted::Nothing);
        }
        let end = self
            .present
            .next_present(first)
            .unwrap_or(run.end())
            .min(run.end());
        let part = ByteRange::new(layout.piece_range(first).start, layout.piece_range(end - 1).end);
        if !record.facts.whole {
            self.charge(shared, record, first..end)?;
        }
        for piece in first..end {
            if self.claimed.remove(piece) {
                self.proved = false;
                disclaim(piece);
            }
        }
        Ok(Admitted::Write(part.intersect(range)))
    }

    fn charge(
        &mut self,
        shared: &Shared,
        record: &Record,
        pieces: std::ops::Range<u32>,
    ) -> Result<(), StoreError> {
        let uncharged = pieces.clone().filter(|piece| !self.charged.contains(*piece));
        let wanted_bytes = uncharged
            .map(|piece| record.facts.layout.piece_range(piece).len())
            .sum();
        if wanted_bytes == 0 {
            return Ok(());
        }
        let (registry, free_bytes) = (record.facts.registry(), shared.root.free_bytes());
        if !shared.account.reserve(registry, wanted_bytes, free_bytes) {
            return Err(StoreError::NoSpace { wanted_bytes });
        }
        for piece in pieces {
            self.charged.insert(piece);
        }
        self.charged_bytes += wanted_bytes;
        Ok(())
    }
}
