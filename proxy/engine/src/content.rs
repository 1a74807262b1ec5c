//! What is known of a content once its length is: cut, chain, and which pieces are where.
//!
//! What must hold: a piece is released only if it is present and linked by an author of trust, or the whole is
//! proved; the last piece only when the whole is proved.

use darter_types::{Chain, ChainError, ChainState, Digest, PieceLayout, PieceNumber, PieceRun, PieceSet};

#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) chain: Chain,
    /// Borders `0..trusted` were vouched for by an author of trust.
    pub(crate) trusted: u32,
    pub(crate) present: PieceSet,
    /// In the store since before a restart, not linked since.
    pub(crate) claimed: PieceSet,
    pub(crate) released: PieceSet,
}

impl Content {
    pub(crate) fn new(digest: Digest, layout: PieceLayout) -> Self {
        let count = layout.piece_count();
        Self {
            chain: Chain::new(digest, layout),
            trusted: 1,
            present: PieceSet::new(count),
            claimed: PieceSet::new(count),
            released: PieceSet::new(count),
        }
    }

    pub(crate) fn layout(&self) -> PieceLayout {
        self.chain.layout()
    }

    pub(crate) fn is_proved(&self) -> bool {
        self.present.is_full()
    }

    /// Takes in states and says which were new.
    pub(crate) fn learn(
        &mut self,
        first: u32,
        states: &[ChainState],
        trusted: bool,
    ) -> Result<(), ChainError> {
        self.chain.extend(first, states)?;
        let end = first.saturating_add(u32::try_from(states.len()).unwrap_or(u32::MAX));
        if trusted && first <= self.trusted {
            self.trusted = self.trusted.max(end);
        }
        Ok(())
    }

    /// Whether the piece is neither here nor waiting to be linked again.
    pub(crate) fn is_missing(&self, piece: PieceNumber) -> bool {
        !self.present.contains(piece) && !self.claimed.contains(piece)
    }

    /// Whether the piece can be checked alone.
    pub(crate) fn is_linkable(&self, piece: PieceNumber) -> bool {
        let known = self.chain.known();
        piece.saturating_add(1) < known || (piece == self.layout().last_piece() && piece < known)
    }

    /// Whether readers may have it.
    fn may_release(&self, piece: PieceNumber) -> bool {
        self.is_proved()
            || (self.present.contains(piece)
                && piece != self.layout().last_piece()
                && piece + 1 < self.trusted)
    }

    /// Marks what became releasable and returns it as runs.
    pub(crate) fn release(&mut self) -> Vec<PieceRun> {
        let mut new = PieceSet::new(self.present.capacity());
        for piece in self.present.iter() {
            if !self.released.contains(piece) && self.may_release(piece) {
                new.insert(piece);
            }
        }
        self.released.insert_all(&new);
        new.runs().collect()
    }

    /// Like [`Self::release`] for one piece only, when nothing else can have changed.
    pub(crate) fn release_one(&mut self, piece: PieceNumber) -> Option<PieceRun> {
        (self.may_release(piece) && self.released.insert(piece)).then(|| PieceRun::one(piece))
    }
}
