//! What one task in memory holds: chunks of its content by piece, and which of them count.

use std::collections::BTreeMap;

use bytes::Bytes;
use darter_types::{ByteRange, ChainState, Digest, PieceLayout, PieceNumber, PieceSet};

use crate::ContentFacts;

#[derive(Debug)]
pub(super) struct Content {
    layout: PieceLayout,
    whole: bool,
    chunks: BTreeMap<PieceNumber, Chunk>,
    pub(super) present: PieceSet,
    pub(super) claimed: PieceSet,
    /// Pieces of a lazy task that space was reserved for.
    charged: PieceSet,
    charged_bytes: u64,
    pub(super) states: BTreeMap<u32, ChainState>,
    /// What attests pieces that are not linked.
    pub(super) sums: BTreeMap<PieceNumber, Digest>,
    pub(super) proved: bool,
    /// Dropped from the store: handles read on, but write no more.
    pub(super) gone: bool,
    /// The node that held the handle is dead.
    pub(super) crashed: bool,
}

/// Bytes of one piece: while they come, or at rest.
#[derive(Clone, Debug)]
enum Chunk {
    Filling { bytes: Vec<u8>, written: Spans },
    AtRest(Bytes),
}

/// Written parts of a piece: sorted, neither touching nor overlapping.
#[derive(Clone, Debug, Default)]
struct Spans(Vec<(usize, usize)>);

impl Spans {
    fn insert(&mut self, mut start: usize, mut end: usize) {
        self.0.retain(|(first, last)| {
            let apart = *last < start || *first > end;
            if !apart {
                start = start.min(*first);
                end = end.max(*last);
            }
            apart
        });
        let at = self.0.partition_point(|(first, _)| *first < start);
        self.0.insert(at, (start, end));
    }

    /// Where the written part around `offset` ends; `None` if that byte was not written.
    fn end_at(&self, offset: usize) -> Option<usize> {
        self.0
            .iter()
            .find_map(|(start, end)| (*start <= offset && offset < *end).then_some(*end))
    }
}

impl Chunk {
    fn new() -> Self {
        Self::Filling {
            bytes: Vec::new(),
            written: Spans::default(),
        }
    }

    fn write(&mut self, at: usize, data: &[u8]) {
        if let Self::AtRest(rest) = self {
            let mut written = Spans::default();
            written.insert(0, rest.len());
            *self = Self::Filling {
                bytes: rest.to_vec(),
                written,
            };
        }
        let Self::Filling { bytes, written } = self else {
            return;
        };
        let end = at + data.len();
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        if let Some(part) = bytes.get_mut(at..end) {
            part.copy_from_slice(data);
        }
        written.insert(at, end);
    }

    /// Bytes `at..end` as far as they were written; `None` if the first was not.
    fn read(&self, at: usize, end: usize) -> Option<Bytes> {
        match self {
            Self::AtRest(bytes) => (at < bytes.len()).then(|| bytes.slice(at..end.min(bytes.len()))),
            Self::Filling { bytes, written } => {
                let end = end.min(written.end_at(at)?);
                bytes.get(at..end).map(Bytes::copy_from_slice)
            }
        }
    }

    /// Whether all `length` bytes are there; they then become cheap to read.
    fn settle(&mut self, length: usize) -> bool {
        match self {
            Self::AtRest(bytes) => bytes.len() == length,
            Self::Filling { bytes, written } => {
                let whole = length == 0 || written.end_at(0) == Some(length);
                if whole {
                    *self = Self::AtRest(std::mem::take(bytes).into());
                }
                whole
            }
        }
    }
}

fn index(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl Content {
    pub(super) fn new(facts: &ContentFacts) -> Self {
        let pieces = facts.layout.piece_count();
        Self {
            layout: facts.layout,
            whole: facts.whole,
            chunks: BTreeMap::new(),
            present: PieceSet::new(pieces),
            claimed: PieceSet::new(pieces),
            charged: PieceSet::new(pieces),
            charged_bytes: facts.allocated_bytes(),
            states: BTreeMap::new(),
            sums: BTreeMap::new(),
            proved: false,
            gone: false,
            crashed: false,
        }
    }

    pub(super) fn charged_bytes(&self) -> u64 {
        self.charged_bytes
    }

    /// Pieces of `range` that no space was reserved for yet, and their bytes.
    pub(super) fn uncharged(&self, range: ByteRange) -> u64 {
        if self.whole {
            return 0;
        }
        let pieces = self.layout.pieces_of(range).pieces();
        pieces
            .filter(|piece| !self.charged.contains(*piece))
            .map(|piece| self.layout.piece_range(piece).len())
            .sum()
    }

    pub(super) fn charge(&mut self, range: ByteRange) {
        self.charged_bytes += self.uncharged(range);
        self.charged.insert_run(self.layout.pieces_of(range));
    }

    /// Writes `data` at `offset`, but for what falls into present pieces. The range was checked.
    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        let range = ByteRange::new(offset, offset + data.len() as u64);
        for piece in self.layout.pieces_of(range).pieces() {
            if self.present.contains(piece) {
                continue;
            }
            self.forget(piece);
            let whole = self.layout.piece_range(piece);
            let part = range.intersect(whole);
            let from = ByteRange::new(part.start - offset, part.end - offset);
            let bytes = data.get(from.indices()).unwrap_or_default();
            let chunk = self.chunks.entry(piece).or_insert_with(Chunk::new);
            chunk.write(index(part.start - whole.start), bytes);
        }
    }

    /// Bytes from the start of `range` on, up to the end of their piece at most.
    pub(super) fn read(&self, range: ByteRange) -> Option<Bytes> {
        let piece = self.layout.piece_at(range.start);
        let whole = self.layout.piece_range(piece);
        let part = range.intersect(whole);
        let chunk = self.chunks.get(&piece)?;
        chunk.read(index(part.start - whole.start), index(part.end - whole.start))
    }

    /// Whether the piece exists and all its bytes are there.
    pub(super) fn mark_present(&mut self, piece: PieceNumber) -> bool {
        if piece >= self.layout.piece_count() {
            return false;
        }
        let length = index(self.layout.piece_range(piece).len());
        let chunk = self.chunks.entry(piece).or_insert_with(Chunk::new);
        if !chunk.settle(length) {
            return false;
        }
        self.claimed.remove(piece);
        self.present.insert(piece);
        self.sums.remove(&piece);
        true
    }

    /// Whether the piece exists and all its bytes are there.
    pub(super) fn attest(&mut self, piece: PieceNumber, sum: Digest) -> bool {
        let length = index(self.layout.piece_range(piece).len());
        let settled = self
            .chunks
            .get_mut(&piece)
            .is_some_and(|chunk| chunk.settle(length));
        if settled && !self.present.contains(piece) {
            self.claimed.remove(piece);
            self.sums.insert(piece, sum);
        }
        settled
    }

    pub(super) fn forget(&mut self, piece: PieceNumber) {
        let present = self.present.remove(piece);
        let claimed = self.claimed.remove(piece);
        if present || claimed {
            self.proved = false;
        }
    }

    /// Flips one bit of the byte at `at` of a piece at rest; false if it is not there.
    pub(super) fn flip(&mut self, piece: PieceNumber, at: usize) -> bool {
        let Some(Chunk::AtRest(bytes)) = self.chunks.get_mut(&piece) else {
            return false;
        };
        let mut flipped = bytes.to_vec();
        let Some(byte) = flipped.get_mut(at) else {
            return false;
        };
        *byte ^= 1;
        *bytes = flipped.into();
        true
    }

    /// What a restarted process finds: marked pieces, claimed now; with `lose_unsynced` their bytes are zeros
    /// unless the whole was proved and so made durable.
    pub(super) fn after_crash(&self, facts: &ContentFacts, lose_unsynced: bool) -> Self {
        let mut after = Self::new(facts);
        after.claimed = self.present.clone();
        after.claimed.insert_all(&self.claimed);
        for piece in self.sums.keys() {
            after.claimed.insert(*piece);
        }
        after.sums = self.sums.clone();
        after.states = self.states.clone();
        after.proved = self.proved;
        for piece in after.claimed.clone().iter() {
            let range = self.layout.piece_range(piece);
            after.charge(range);
            let chunk = match self.chunks.get(&piece) {
                Some(chunk) if !lose_unsynced || self.proved => chunk.clone(),
                _ => Chunk::AtRest(vec![0; index(range.len())].into()),
            };
            after.chunks.insert(piece, chunk);
        }
        after
    }
}
