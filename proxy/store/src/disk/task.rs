//! One open task on disk.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use darter_types::{ByteRange, ChainState, Digest, PieceNumber, PieceSet, TaskId};
use rustix::fs::{Timespec, Timestamps, UTIME_NOW};

use super::Shared;
use super::behind::{Newest, Work};
use super::index::{PIECE_CELL, STATE_CELL, SUM_CELL};
use super::map::{long_enough, map_file};
use super::record::{Admitted, Files, Record};
use super::stall;
use super::write::{read_sums, read_up_to, refused};
use crate::sync::{self, lock};
use crate::{ContentFacts, StoreError, StoredTask};

/// What `open` and `find` give. While it lives the task is not evicted.
#[derive(Debug)]
pub(super) struct DiskTask {
    shared: Arc<Shared>,
    record: Arc<Record>,
    files: Arc<Files>,
    /// Whether it counts as a use.
    uses: bool,
}

impl Drop for DiskTask {
    fn drop(&mut self) {
        if !self.uses {
            self.record.handles.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        self.record
            .last_used
            .store(self.shared.next_use(), Ordering::Relaxed);
        if self.record.handles.fetch_sub(1, Ordering::Relaxed) == 1 {
            let now = || Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_NOW,
            };
            let times = Timestamps {
                last_access: now(),
                last_modification: now(),
            };
            // The order of last uses after a restart; without it eviction is less wise, not wrong.
            let _ = rustix::fs::futimens(&self.files.index, &times);
        }
    }
}

impl DiskTask {
    pub(super) fn new(shared: Arc<Shared>, record: Arc<Record>, files: Arc<Files>, uses: bool) -> Self {
        Self {
            shared,
            record,
            files,
            uses,
        }
    }

    fn absent(&self, range: ByteRange) -> StoreError {
        StoreError::Absent {
            task: self.record.task,
            range,
        }
    }

    fn write_index(&self, offset: u64, cell: &[u8]) -> Result<(), StoreError> {
        let work = || Work::Index(offset, Bytes::copy_from_slice(cell));
        let written = match self.queue(work) {
            Ok(false) => {
                let stalls = &self.shared.stalls;
                stalls.guard(|| self.files.index.write_all_at(cell, offset))
            }
            queued => queued.map(drop),
        };
        written.map_err(|source| {
            refused(
                "write the index beside",
                &self.files.path,
                cell.len() as u64,
                source,
            )
        })
    }

    /// Takes the record of a piece back. If that fails the piece is claimed after a restart, and fails its
    /// link then.
    fn erase(&self, piece: PieceNumber) {
        let shape = &self.files.shape;
        let _ = self.write_index(shape.piece_at(piece), &[0; PIECE_CELL]);
        let _ = self.write_index(shape.cells_at(), &[0; PIECE_CELL]);
    }

    /// Whether what is to be done waits for the disk, in memory.
    fn queue(&self, work: impl FnOnce() -> Work) -> io::Result<bool> {
        let slow = self.shared.stalls.is_slow();
        self.shared.behind.take(&self.record, &self.files, slow, work)
    }

    fn write_data(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        if self.queue(|| Work::Data(offset, Bytes::copy_from_slice(bytes)))? {
            return Ok(());
        }
        let write = || self.files.data.write_all_at(bytes, offset);
        self.shared.stalls.guard(write)?;
        let queue = &self.shared.queue;
        queue.wrote(self.record.task, &self.files, bytes.len() as u64);
        Ok(())
    }

    /// A slice of the mapping, which is made at the first call. Whether somebody else has cut the file short since then is
    /// asked each time.
    fn mapped(&self, range: ByteRange) -> Result<Bytes, StoreError> {
        let length = self.record.facts.layout.length();
        let cannot = |source| refused("map", &self.files.path, 0, source);
        let mut map = lock(&self.files.map);
        let whole = match &*map {
            Some(whole) => {
                long_enough(&self.files.data, length).map_err(cannot)?;
                whole
            }
            None => {
                let made = map_file(
                    &self.files.data,
                    length,
                    &self.shared.mappings,
                    &self.files.unreadable,
                );
                map.insert(made.map_err(cannot)?)
            }
        };
        Ok(whole.slice(range.indices()))
    }

    /// Where the first bytes of `range` are.
    fn ahead(&self, range: ByteRange) -> Result<Newest, StoreError> {
        let newest = self.files.ahead.newest(range);
        // Looked at afterwards: when a write fails this is said before its bytes go from memory.
        if self.files.unreadable.is_said() {
            let source = io::Error::other("the file could not be written or sent");
            return Err(refused("read", &self.files.path, 0, source));
        }
        Ok(newest)
    }

    /// A copy of bytes as the system has them.
    fn copied(&self, range: ByteRange) -> Result<Bytes, StoreError> {
        let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
        let bytes = read_up_to(&self.files.data, range.start, length);
        let bytes = bytes.map_err(|source| refused("read", &self.files.path, 0, source))?;
        match bytes.is_empty() {
            true => Err(self.absent(range)),
            false => Ok(bytes.into()),
        }
    }

    /// Gives the states to `with`, read from the index if they were not yet.
    fn with_states<T>(&self, with: impl FnOnce(&mut BTreeMap<u32, ChainState>) -> T) -> T {
        let mut states = lock(&self.files.states);
        with(states.get_or_insert_with(|| self.load_states()))
    }

    fn with_sums<T>(&self, with: impl FnOnce(&mut BTreeMap<PieceNumber, Digest>) -> T) -> T {
        let mut sums = lock(&self.files.sums);
        with(sums.get_or_insert_with(|| read_sums(&self.files.index, &self.files.shape)))
    }

    /// Takes the attestation of a piece back. If that fails the piece is claimed after a restart, and checked then.
    fn erase_sum(&self, piece: PieceNumber) {
        if self.with_sums(|sums| sums.remove(&piece)).is_some() {
            let _ = self.write_index(self.files.shape.sum_at(piece), &[0; SUM_CELL]);
        }
    }

    fn load_states(&self) -> BTreeMap<u32, ChainState> {
        let shape = &self.files.shape;
        let borders = self.record.facts.layout.last_piece();
        let length = borders as usize * STATE_CELL;
        // What cannot be read is not known: the chain is learnt again.
        let bytes = read_up_to(&self.files.index, shape.state_at(1), length).unwrap_or_default();
        let cells = (1..=borders).zip(bytes.as_chunks::<STATE_CELL>().0);
        cells
            .filter_map(|(border, cell)| Some((border, shape.read_state(border, cell)?)))
            .collect()
    }
}

impl StoredTask for DiskTask {
    fn task(&self) -> TaskId {
        self.record.task
    }

    fn facts(&self) -> ContentFacts {
        self.record.facts.clone()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), StoreError> {
        let mut rest = self
            .record
            .facts
            .check_write(self.record.task, offset, data.len())?;
        if self.shared.stalls.is_slow() || self.files.ahead.is_behind() {
            // Before the gate, behind which nobody may wait for the disk.
            stall::hand_over(|| self.shared.behind.wait_for_room(data.len() as u64));
        }
        let _gate = sync::read(&self.record.gate);
        loop {
            let admitted = lock(&self.record.state)
                .admit(&self.shared, &self.record, rest, |piece| self.erase(piece))?;
            let Admitted::Write(part) = admitted else {
                return Ok(());
            };
            let from = ByteRange::new(part.start - offset, part.end - offset);
            let bytes = data.get(from.indices()).unwrap_or_default();
            let written = self.write_data(part.start, bytes);
            written.map_err(|source| refused("write", &self.files.path, part.len(), source))?;
            rest.start = part.end;
        }
    }

    fn mark_present(&self, piece: PieceNumber) -> Result<(), StoreError> {
        let layout = self.record.facts.layout;
        if piece >= layout.piece_count() {
            return Err(self.absent(layout.piece_range(piece)));
        }
        let _gate = sync::write(&self.record.gate);
        let mut state = lock(&self.record.state);
        if state.gone {
            return Err(StoreError::Gone(self.record.task));
        }
        let attested = || self.with_sums(|sums| sums.contains_key(&piece));
        if !state.present.contains(piece) && (!state.claimed.contains(piece) || attested()) {
            let shape = &self.files.shape;
            self.write_index(shape.piece_at(piece), &shape.piece_cell(piece))?;
        }
        state.claimed.remove(piece);
        state.present.insert(piece);
        self.erase_sum(piece);
        Ok(())
    }

    fn record_attestation(&self, piece: PieceNumber, sum: Digest) -> Result<(), StoreError> {
        let layout = self.record.facts.layout;
        if piece >= layout.piece_count() {
            return Err(self.absent(layout.piece_range(piece)));
        }
        let mut state = lock(&self.record.state);
        if state.gone {
            return Err(StoreError::Gone(self.record.task));
        }
        if state.present.contains(piece) {
            return Ok(());
        }
        let shape = &self.files.shape;
        self.write_index(shape.sum_at(piece), &shape.sum_cell(piece, sum))?;
        state.claimed.remove(piece);
        self.with_sums(|sums| sums.insert(piece, sum));
        Ok(())
    }

    fn attestations(&self) -> BTreeMap<PieceNumber, Digest> {
        self.with_sums(|sums| sums.clone())
    }

    fn forget(&self, piece: PieceNumber) {
        self.erase_sum(piece);
        let mut state = lock(&self.record.state);
        let present = state.present.remove(piece);
        let claimed = state.claimed.remove(piece);
        if present || claimed {
            state.proved = false;
            self.erase(piece);
        }
    }

    fn present(&self) -> PieceSet {
        lock(&self.record.state).present.clone()
    }

    fn claimed(&self) -> PieceSet {
        lock(&self.record.state).claimed.clone()
    }

    fn read(&self, range: ByteRange) -> Result<Bytes, StoreError> {
        let layout = self.record.facts.layout;
        if range.end > layout.length() {
            return Err(self.absent(range));
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let range = match self.ahead(range)? {
            Newest::Memory(bytes) => return Ok(bytes),
            Newest::File(range) => range,
        };
        let first = layout.piece_at(range.start);
        let claimed = lock(&self.record.state).claimed.next_present(first);
        match claimed.map(|piece| layout.piece_range(piece)) {
            Some(piece) if piece.contains(range.start) => self.copied(range.intersect(piece)),
            Some(piece) => self.mapped(ByteRange::new(range.start, range.end.min(piece.start))),
            None => self.mapped(range),
        }
    }

    fn read_back(&self, range: ByteRange) -> Result<Bytes, StoreError> {
        let layout = self.record.facts.layout;
        if range.end > layout.length() {
            return Err(self.absent(range));
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        match self.ahead(range)? {
            // The disk cannot say anything of it yet.
            Newest::Memory(bytes) => Ok(bytes),
            Newest::File(range) => {
                self.copied(range.intersect(layout.piece_range(layout.piece_at(range.start))))
            }
        }
    }

    fn record_states(&self, first: u32, states: &[ChainState]) -> Result<(), StoreError> {
        if lock(&self.record.state).gone {
            return Err(StoreError::Gone(self.record.task));
        }
        let shape = &self.files.shape;
        let borders = (first..self.record.facts.layout.piece_count()).zip(states);
        let kept = borders.skip_while(|(border, _)| *border == 0);
        let cells: Vec<u8> = kept
            .clone()
            .flat_map(|(border, state)| shape.state_cell(border, *state))
            .collect();
        self.with_states(|known| {
            self.write_index(shape.state_at(first.max(1)), &cells)?;
            known.extend(kept.map(|(border, state)| (border, *state)));
            Ok(())
        })
    }

    fn forget_states(&self, first: u32) -> Result<(), StoreError> {
        if lock(&self.record.state).gone {
            return Err(StoreError::Gone(self.record.task));
        }
        let (shape, borders) = (&self.files.shape, self.record.facts.layout.piece_count());
        let first = first.clamp(1, borders);
        // All of them: those behind the first would count again as soon as it has a state again.
        let nothing = vec![0; (borders - first) as usize * STATE_CELL];
        self.with_states(|known| {
            self.write_index(shape.state_at(first), &nothing)?;
            known.retain(|border, _| *border < first);
            Ok(())
        })
    }

    fn states(&self) -> Vec<ChainState> {
        self.with_states(|known| (1..).map_while(|border| known.get(&border).copied()).collect())
    }

    fn record_proved(&self) {
        let mut state = lock(&self.record.state);
        if state.present.is_full() && !state.gone && !state.proved {
            state.proved = true;
            let behind = &self.shared.behind;
            // Where it cannot be queued any more the store is closed.
            if let Ok(false) = behind.take(&self.record, &self.files, false, || Work::Proved) {
                self.shared.queue.make_durable(&self.record, &self.files);
            }
        }
    }
}
