//! Links: an upload that is shared by the requests that it serves, a download that lets through what it can.

use std::collections::VecDeque;

use darter_engine::FetchId;
use darter_types::{PieceNumber, PieceRun};

use super::agenda::{Nanos, NodeIndex};

/// How long `bytes` take over a link of `mbps`, rounded up.
pub(super) fn nanos(bytes: u64, mbps: u64) -> Nanos {
    // 1 Mb/s is one bit a microsecond.
    bytes.saturating_mul(8000).div_ceil(mbps.max(1))
}

/// A request that an upload serves or will serve.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) child: NodeIndex,
    pub(super) fetch: FetchId,
    pub(super) next: PieceNumber,
    pub(super) end: PieceNumber,
    /// What the rest of the piece takes if the link is its alone.
    left: Nanos,
}

/// A piece that went out whole.
#[derive(Debug)]
pub(super) struct SentPiece {
    pub(super) child: NodeIndex,
    pub(super) fetch: FetchId,
    pub(super) piece: PieceNumber,
    pub(super) last: bool,
}

/// A node's upload.
#[derive(Debug)]
pub(super) struct Upload {
    slots: usize,
    active: Vec<Sending>,
    waiting: VecDeque<Sending>,
    moved_at: Nanos,
    /// Grows with each change, so that what was planned before is void.
    version: u64,
}

impl Upload {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots: slots.max(1),
            active: Vec::new(),
            waiting: VecDeque::new(),
            moved_at: 0,
            version: 0,
        }
    }

    /// Whether no request would be served at once.
    pub(super) fn is_full(&self) -> bool {
        self.active.len() >= self.slots
    }

    /// Lets time pass: each active request gets an equal share.
    fn advance(&mut self, now: Nanos) {
        let share = (now - self.moved_at) / (self.active.len() as u64).max(1);
        for sending in &mut self.active {
            sending.left = sending.left.saturating_sub(share);
        }
        self.moved_at = now;
    }

    pub(super) fn request(
        &mut self,
        now: Nanos,
        child: NodeIndex,
        fetch: FetchId,
        run: PieceRun,
        piece_nanos: impl Fn(PieceNumber) -> Nanos,
    ) {
        self.advance(now);
        let left = piece_nanos(run.first);
        self.waiting.push_back(Sending {
            child,
            fetch,
            next: run.first,
            end: run.end(),
            left,
        });
        self.fill();
    }

    pub(super) fn withdraw(&mut self, now: Nanos, child: NodeIndex, fetch: FetchId) {
        self.advance(now);
        let other = |sending: &Sending| sending.child != child || sending.fetch != fetch;
        self.active.retain(other);
        self.waiting.retain(other);
        self.fill();
    }

    fn fill(&mut self) {
        self.version += 1;
        while self.active.len() < self.slots {
            let Some(next) = self.waiting.pop_front() else {
                return;
            };
            self.active.push(next);
        }
    }

    /// When the next piece will have gone out, if nothing changes, and the version that this holds for.
    pub(super) fn next_sent(&self) -> Option<(Nanos, u64)> {
        let least = self.active.iter().map(|sending| sending.left).min()?;
        Some((self.moved_at + least * self.active.len() as u64, self.version))
    }

    /// The pieces that went out by `now`, unless `version` is old.
    pub(super) fn sent(
        &mut self,
        now: Nanos,
        version: u64,
        piece_nanos: impl Fn(PieceNumber) -> Nanos,
    ) -> Vec<SentPiece> {
        if version != self.version {
            return Vec::new();
        }
        self.advance(now);
        let mut sent = Vec::new();
        for sending in self.active.iter_mut().filter(|sending| sending.left == 0) {
            let piece = sending.next;
            sending.next += 1;
            let last = sending.next >= sending.end;
            sent.push(SentPiece {
                child: sending.child,
                fetch: sending.fetch,
                piece,
                last,
            });
            sending.left = piece_nanos(sending.next);
        }
        self.active.retain(|sending| sending.next < sending.end);
        self.fill();
        sent
    }
}

/// A node's download: pieces that come faster than it can take them queue up before it.
#[derive(Debug, Default)]
pub(super) struct Download {
    free_at: Nanos,
}

impl Download {
    /// When a piece whose last byte comes in at `now` has passed, if it takes `takes` alone.
    pub(super) fn pass(&mut self, now: Nanos, takes: Nanos) -> Nanos {
        self.free_at = self.free_at.max(now.saturating_sub(takes)) + takes;
        self.free_at.max(now)
    }
}
