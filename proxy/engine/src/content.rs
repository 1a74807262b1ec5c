//! What is known of a content once its length is: cut, chain, and which pieces are where.
//!
//! What must hold: a piece is released only if it is present and either linked by an author of trust or read from
//! the origin by this node; the last piece only when the whole is proved.

use darter_types::{Chain, ChainError, ChainState, Digest, PieceLayout, PieceNumber, PieceRun, PieceSet};

#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) chain: Chain,
    /// Borders `0..trusted` were vouched for by an author of trust.
    pub(crate) trusted: u32,
    /// Borders `0..kept` were handed to the store: those that are trusted, and at the end all.
    kept: u32,
    /// Borders `0..told` are known to the scheduler.
    told: u32,
    pub(crate) present: PieceSet,
    /// Pieces that this node read from the origin itself: it needs nobody's word for them.
    vouched: PieceSet,
    /// In the store since before a restart, not linked since.
    pub(crate) claimed: PieceSet,
    pub(crate) released: PieceSet,
}

/// States from a border on.
pub(crate) type States = (u32, Vec<ChainState>);

impl Content {
    pub(crate) fn new(digest: Digest, layout: PieceLayout) -> Self {
        let none = PieceSet::new(layout.piece_count());
        Self {
            chain: Chain::new(digest, layout),
            trusted: 1,
            kept: 1,
            told: 1,
            present: none.clone(),
            vouched: none.clone(),
            claimed: none.clone(),
            released: none,
        }
    }

    /// Takes over what the store kept: states that were trusted, pieces that were linked by them.
    pub(crate) fn restore(&mut self, states: &[ChainState], claimed: &PieceSet, present: &PieceSet) {
        if self.learn(1, states, true).is_ok() {
            self.kept = self.trusted;
            self.claimed.insert_all(claimed);
            self.present.insert_all(present);
            for piece in present.iter() {
                self.claimed.remove(piece);
            }
        }
    }

    pub(crate) fn layout(&self) -> PieceLayout {
        self.chain.layout()
    }

    pub(crate) fn is_proved(&self) -> bool {
        self.present.is_full()
    }

    /// Takes in states. Trust grows only without a gap: a word for later borders says nothing of earlier ones.
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

    /// States that the store shall keep and was not given yet. States of doubtful authors are kept only when the
    /// whole is proved, so that whatever the store has after a restart may be trusted.
    pub(crate) fn take_states_to_keep(&mut self) -> Option<States> {
        let end = if self.is_proved() {
            self.chain.known()
        } else {
            self.trusted
        };
        let first = self.kept;
        self.kept = first.max(end);
        self.states(first, end)
    }

    /// Trusted states that the scheduler was not told yet.
    pub(crate) fn take_states_to_tell(&mut self) -> Option<States> {
        let first = self.told;
        self.told = first.max(self.trusted);
        self.states(first, self.trusted)
    }

    /// The scheduler knows the borders before `end`; 1 = it forgot all.
    pub(crate) fn scheduler_knows(&mut self, end: u32) {
        self.told = if end <= 1 { 1 } else { self.told.max(end) };
    }

    fn states(&self, first: u32, end: u32) -> Option<States> {
        let count = end.checked_sub(first).filter(|count| *count > 0)?;
        let states = self.chain.states_from(first).iter().take(count as usize);
        Some((first, states.copied().collect()))
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

    /// A piece is here, linked and written; false if it was before.
    pub(crate) fn arrived(&mut self, piece: PieceNumber, from_origin: bool) -> bool {
        self.claimed.remove(piece);
        if from_origin {
            self.vouched.insert(piece);
        }
        self.present.insert(piece)
    }

    /// Whether readers may have it.
    pub(crate) fn may_release(&self, piece: PieceNumber) -> bool {
        let vouched = piece.saturating_add(1) < self.trusted || self.vouched.contains(piece);
        self.is_proved() || (self.present.contains(piece) && piece != self.layout().last_piece() && vouched)
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
