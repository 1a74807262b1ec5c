//! One open task in memory.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use darter_types::{ByteRange, ChainState, Digest, PieceNumber, PieceSet, TaskId};

use super::Shared;
use super::content::Content;
use crate::sync::lock;
use crate::{ContentFacts, StoreError, StoredTask};

#[derive(Debug)]
pub(super) struct Record {
    pub(super) task: TaskId,
    pub(super) facts: ContentFacts,
    pub(super) content: Mutex<Content>,
    pub(super) handles: AtomicUsize,
    pub(super) last_used: AtomicU64,
}

/// What `open` gives. While it lives the task is not evicted.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) shared: Arc<Shared>,
    pub(super) record: Arc<Record>,
    /// Whether it counts as a use.
    pub(super) uses: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.uses {
            self.record
                .last_used
                .store(self.shared.next_use(), Ordering::Relaxed);
        }
        self.record.handles.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Handle {
    fn broken(&self, action: &'static str) -> StoreError {
        StoreError::Io {
            action,
            path: format!("memory:{}", self.record.task),
            source: io::Error::other("scripted fault"),
        }
    }

    fn absent(&self, range: ByteRange) -> StoreError {
        StoreError::Absent {
            task: self.record.task,
            range,
        }
    }

    /// Takes the next scripted fault of a write of `length` bytes into account.
    fn admit(&self, content: &Content, range: ByteRange) -> Result<(), StoreError> {
        let wanted_bytes = range.len();
        let mut plan = lock(&self.shared.plan);
        if plan.free_bytes < wanted_bytes {
            return Err(StoreError::NoSpace { wanted_bytes });
        }
        let uncharged = content.uncharged(range);
        if !self.shared.account.reserve(None, uncharged, plan.free_bytes) {
            return Err(StoreError::NoSpace {
                wanted_bytes: uncharged,
            });
        }
        if plan.free_bytes != u64::MAX {
            plan.free_bytes -= wanted_bytes;
        }
        Ok(())
    }
}

impl StoredTask for Handle {
    fn task(&self) -> TaskId {
        self.record.task
    }

    fn facts(&self) -> ContentFacts {
        self.record.facts.clone()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), StoreError> {
        let range = self
            .record
            .facts
            .check_write(self.record.task, offset, data.len())?;
        let mut content = lock(&self.record.content);
        if content.gone {
            return Err(StoreError::Gone(self.record.task));
        }
        self.admit(&content, range)?;
        content.charge(range);
        let fault = lock(&self.shared.plan).failing_writes.pop_front();
        let kept = fault.unwrap_or(data.len()).min(data.len());
        content.write(offset, data.get(..kept).unwrap_or(data));
        match fault {
            Some(_) => Err(self.broken("write")),
            None => Ok(()),
        }
    }

    fn mark_present(&self, piece: PieceNumber) -> Result<(), StoreError> {
        let mut content = lock(&self.record.content);
        if content.gone {
            return Err(StoreError::Gone(self.record.task));
        }
        match content.mark_present(piece) {
            true => Ok(()),
            false => Err(self.absent(self.record.facts.layout.piece_range(piece))),
        }
    }

    fn record_attestation(&self, piece: PieceNumber, sum: Digest) -> Result<(), StoreError> {
        let mut content = lock(&self.record.content);
        if content.gone {
            return Err(StoreError::Gone(self.record.task));
        }
        match content.attest(piece, sum) {
            true => Ok(()),
            false => Err(self.absent(self.record.facts.layout.piece_range(piece))),
        }
    }

    fn attestations(&self) -> BTreeMap<PieceNumber, Digest> {
        lock(&self.record.content).sums.clone()
    }

    fn forget(&self, piece: PieceNumber) {
        let mut content = lock(&self.record.content);
        content.sums.remove(&piece);
        content.forget(piece);
    }

    fn present(&self) -> PieceSet {
        lock(&self.record.content).present.clone()
    }

    fn claimed(&self) -> PieceSet {
        lock(&self.record.content).claimed.clone()
    }

    fn read(&self, range: ByteRange) -> Result<Bytes, StoreError> {
        if range.end > self.record.facts.layout.length() {
            return Err(self.absent(range));
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let content = lock(&self.record.content);
        if content.crashed {
            return Err(StoreError::Gone(self.record.task));
        }
        let mut plan = lock(&self.shared.plan);
        if plan.failing_reads > 0 {
            plan.failing_reads -= 1;
            return Err(self.broken("read"));
        }
        content.read(range).ok_or_else(|| self.absent(range))
    }

    fn read_back(&self, range: ByteRange) -> Result<Bytes, StoreError> {
        self.read(range)
    }

    fn record_states(&self, first: u32, states: &[ChainState]) -> Result<(), StoreError> {
        let mut content = lock(&self.record.content);
        if content.gone {
            return Err(StoreError::Gone(self.record.task));
        }
        for (border, state) in (first..self.record.facts.layout.piece_count()).zip(states) {
            if border > 0 {
                content.states.insert(border, *state);
            }
        }
        Ok(())
    }

    fn forget_states(&self, first: u32) -> Result<(), StoreError> {
        let mut content = lock(&self.record.content);
        if content.gone {
            return Err(StoreError::Gone(self.record.task));
        }
        content.states.retain(|border, _| *border < first);
        Ok(())
    }

    fn states(&self) -> Vec<ChainState> {
        let content = lock(&self.record.content);
        (1..)
            .map_while(|border| content.states.get(&border).copied())
            .collect()
    }

    fn record_proved(&self) {
        let mut content = lock(&self.record.content);
        if content.present.is_full() && !content.gone {
            content.proved = true;
        }
    }
}
