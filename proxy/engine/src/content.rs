//! What is known of a content once its length is: cut, chain, and which pieces are where.
//!
//! What must hold: a piece is released only if it is present and either linked by an author of trust or read from
//! the origin by this node; the last piece only when the whole is proved, but to readers of ranges. Where [`Release::Proved`] is the
//! rule, what holds of the last piece holds of all. A piece that is only attested is apart: never present, and for readers of ranges
//! alone.

use std::collections::BTreeMap;

use darter_types::{
    Chain, ChainError, ChainState, Digest, PieceLayout, PieceNumber, PieceProof, PieceRun, PieceSet,
};

use crate::Release;

#[derive(Debug)]
pub(crate) struct Content {
    rule: Release,
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
    /// Linked pieces that readers of ranges have and others wait for: the last one, or by the rule all.
    to_ranges: PieceSet,
    /// Here, attested, not linked yet.
    pub(crate) apart: PieceSet,
    /// What authors of trust say of pieces that are not linked; this node is one for itself.
    attested: BTreeMap<PieceNumber, Digest>,
    /// One of those was wrong: none but this node's own are taken any more.
    doubts_attestations: bool,
    /// A chain that counts no more, but by which readers got bytes.
    doubted: Option<Doubted>,
}

/// States of a forgotten chain, up to the border behind the last piece of it that readers got.
#[derive(Debug)]
struct Doubted {
    states: Vec<ChainState>,
}

/// The part of `run` from piece `first` on.
fn behind(run: PieceRun, first: PieceNumber) -> Option<PieceRun> {
    let start = run.first.max(first);
    let count = run.end().checked_sub(start).filter(|count| *count > 0)?;
    Some(PieceRun { first: start, count })
}

/// States from a border on.
pub(crate) type States = (u32, Vec<ChainState>);

impl Content {
    pub(crate) fn new(digest: Digest, layout: PieceLayout, rule: Release) -> Self {
        let none = PieceSet::new(layout.piece_count());
        Self {
            rule,
            chain: Chain::new(digest, layout),
            trusted: 1,
            kept: 1,
            told: 1,
            present: none.clone(),
            vouched: none.clone(),
            claimed: none.clone(),
            released: none.clone(),
            to_ranges: none.clone(),
            apart: none,
            attested: BTreeMap::new(),
            doubts_attestations: false,
            doubted: None,
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

    /// Takes over attestations that the store kept; their pieces are checked again before anybody gets them.
    pub(crate) fn restore_attested(&mut self, sums: &BTreeMap<PieceNumber, Digest>) {
        for (piece, sum) in sums {
            if *piece < self.present.capacity() && !self.present.contains(*piece) {
                self.attested.insert(*piece, *sum);
                self.claimed.insert(*piece);
            }
        }
    }

    /// Takes in what an author of trust says of a piece; `own` is what this node read from the origin itself, and beats
    /// what others said. False if it is not taken.
    pub(crate) fn attest(&mut self, piece: PieceNumber, sum: Digest, own: bool) -> bool {
        if piece >= self.present.capacity() || self.present.contains(piece) {
            return false;
        }
        match self.attested.get(&piece) {
            Some(known) if *known == sum => return true,
            Some(_) => self.doubt_attestations(),
            None => {}
        }
        let taken = own || !self.doubts_attestations;
        if taken {
            self.attested.insert(piece, sum);
        }
        taken
    }

    /// What was attested and is not here yet counts no more.
    fn doubt_attestations(&mut self) {
        self.doubts_attestations = true;
        let apart = &self.apart;
        self.attested.retain(|piece, _| apart.contains(*piece));
    }

    pub(crate) fn attestation(&self, piece: PieceNumber) -> Option<Digest> {
        self.attested.get(&piece).copied()
    }

    /// A piece is here and fits its attestation; false if it was here before.
    pub(crate) fn arrived_apart(&mut self, piece: PieceNumber) -> bool {
        self.claimed.remove(piece);
        !self.present.contains(piece) && self.apart.insert(piece)
    }

    /// A piece that was attested does not link: its author loses trust.
    pub(crate) fn refute(&mut self, piece: PieceNumber) {
        self.apart.remove(piece);
        self.attested.remove(&piece);
        self.doubt_attestations();
    }

    /// A piece that was apart cannot be read, or is not what it was.
    pub(crate) fn lose_apart(&mut self, piece: PieceNumber) {
        self.apart.remove(piece);
        self.attested.remove(&piece);
    }

    /// How the piece is checked: by the chain, or else by who attests it; by a chain of doubtful authors last, for what is linked
    /// by that is for nobody before the whole is proved.
    pub(crate) fn proof(&self, piece: PieceNumber) -> Option<PieceProof> {
        let attested = || {
            let sum = self.attestation(piece)?;
            Some(PieceProof::attested(self.layout().piece_range(piece), sum))
        };
        let linked = || self.chain.proof(piece);
        if self.is_trusted(piece) {
            linked().or_else(attested)
        } else {
            attested().or_else(linked)
        }
    }

    /// Whether [`Self::proof`] has one.
    pub(crate) fn is_provable(&self, piece: PieceNumber) -> bool {
        self.is_linkable(piece) || self.attested.contains_key(&piece)
    }

    /// Whether it is here, linked or not.
    pub(crate) fn is_here(&self, piece: PieceNumber) -> bool {
        self.present.contains(piece) || self.apart.contains(piece)
    }

    /// The first byte from `offset` on that is not here, linked or not; `end` or the content's own, if all before that is.
    pub(crate) fn here_until(&self, mut offset: u64, end: u64) -> u64 {
        let layout = self.layout();
        let end = end.min(layout.length());
        while offset < end && self.is_here(layout.piece_at(offset)) {
            offset = layout.piece_range(layout.piece_at(offset)).end.min(end);
        }
        offset
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
        self.compare_with_doubted()?;
        let end = first.saturating_add(u32::try_from(states.len()).unwrap_or(u32::MAX));
        if trusted && first <= self.trusted {
            self.trusted = self.trusted.max(end);
        }
        Ok(())
    }

    /// Readers got bytes by a chain that was forgotten. They are right if the next chain passes through the same states,
    /// and if it does not, no more may follow them.
    fn compare_with_doubted(&mut self) -> Result<(), ChainError> {
        let Some(doubted) = &self.doubted else {
            return Ok(());
        };
        let pairs = self.chain.states_from(0).iter().zip(&doubted.states);
        let differ = pairs.zip(0..).find(|((new, old), _)| new != old);
        if let Some((_, border)) = differ {
            let digest = self.chain.digest();
            return Err(ChainError::Conflict { digest, border });
        }
        if self.chain.known() as usize >= doubted.states.len() {
            self.doubted = None;
        }
        Ok(())
    }

    /// How many pieces from the first on this node read from the origin itself. The states of their borders are its own
    /// word: each was computed from the one before.
    pub(crate) fn own_pieces(&self) -> u32 {
        self.vouched.next_missing(0).min(self.layout().last_piece())
    }

    /// Forgets all but the first `kept` pieces, which are this node's own, and the states of their borders. Gives the
    /// pieces that were present.
    pub(crate) fn forget(&mut self, kept: u32) -> Vec<PieceRun> {
        self.doubt(kept);
        let known = kept.saturating_add(1);
        self.chain.cut(known);
        self.trusted = self.trusted.min(known);
        self.kept = self.kept.min(known);
        self.told = 1;
        // Who disagrees about the chain is not believed about single pieces either.
        self.attested.clear();
        let apart = std::mem::replace(&mut self.apart, PieceSet::new(self.present.capacity()));
        let mut all = self.present.clone();
        all.insert_all(&apart);
        let runs: Vec<PieceRun> = all.runs().filter_map(|run| behind(run, kept)).collect();
        for piece in runs.iter().flat_map(|run| run.pieces()) {
            self.present.remove(piece);
            self.vouched.remove(piece);
            self.released.remove(piece);
            self.to_ranges.remove(piece);
        }
        runs
    }

    /// Remembers the states by which readers got pieces from `kept` on.
    fn doubt(&mut self, kept: u32) {
        let Some(last) = self.released.iter().filter(|piece| *piece >= kept).last() else {
            return;
        };
        // The border behind the last piece that was released, and the constant.
        let count = last as usize + 2;
        let pending = self.doubted.as_ref().map_or(0, |doubted| doubted.states.len());
        // What was doubted before and did not come again since reaches farther, or is a part of this.
        if count > pending {
            let states = self.chain.states_from(0).iter().take(count).copied().collect();
            self.doubted = Some(Doubted { states });
        }
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
        !self.is_here(piece) && !self.claimed.contains(piece)
    }

    /// Whether the piece can be checked alone.
    pub(crate) fn is_linkable(&self, piece: PieceNumber) -> bool {
        let known = self.chain.known();
        piece.saturating_add(1) < known || (piece == self.layout().last_piece() && piece < known)
    }

    /// Those of `pieces` that are neither here, nor waiting to be linked again, nor cannot be checked alone.
    pub(crate) fn missing_of(&self, pieces: &PieceSet) -> PieceSet {
        let mut missing = pieces.clone();
        missing.remove_all(&self.present);
        missing.remove_all(&self.claimed);
        missing.remove_all(&self.apart);
        let pieces = missing.capacity();
        // The last one needs only the border before it.
        let linkable = match self.chain.known() {
            known if known >= pieces => pieces,
            known => known.saturating_sub(1),
        };
        let mut unlinkable = PieceSet::new(pieces);
        unlinkable.insert_run(PieceRun {
            first: linkable,
            count: pieces - linkable,
        });
        // What is attested is checked by that.
        for piece in self.attested.keys() {
            unlinkable.remove(*piece);
        }
        missing.remove_all(&unlinkable);
        missing
    }

    /// A piece is here, linked and written; false if it was before.
    pub(crate) fn arrived(&mut self, piece: PieceNumber, from_origin: bool) -> bool {
        self.claimed.remove(piece);
        self.apart.remove(piece);
        self.attested.remove(&piece);
        if from_origin {
            self.vouched.insert(piece);
        }
        self.present.insert(piece)
    }

    /// Whether an author of trust, or this node's own reading, stands for what links the piece.
    pub(crate) fn is_trusted(&self, piece: PieceNumber) -> bool {
        self.is_linked_by_trust(piece) || self.vouched.contains(piece)
    }

    /// Whether an author of trust stands for what links the piece.
    pub(crate) fn is_linked_by_trust(&self, piece: PieceNumber) -> bool {
        let is_last = piece == self.layout().last_piece();
        piece.saturating_add(1) < self.trusted || (is_last && piece < self.trusted)
    }

    /// Takes a piece back that only doubtful authors linked; false if it is another one. No reader has it.
    pub(crate) fn lose_doubtful(&mut self, piece: PieceNumber) -> bool {
        !self.is_trusted(piece) && !self.is_proved() && self.present.remove(piece)
    }

    /// The same, or it was attested.
    pub(crate) fn is_vouched_for(&self, piece: PieceNumber) -> bool {
        self.is_trusted(piece) || self.attested.contains_key(&piece)
    }

    /// Whether readers may have it.
    pub(crate) fn may_release(&self, piece: PieceNumber) -> bool {
        let held_back = self.rule == Release::Proved || piece == self.layout().last_piece();
        self.is_proved() || (!held_back && self.present.contains(piece) && self.is_trusted(piece))
    }

    /// Whether readers of ranges may have it: what waits for the proof as well, for who wants a part may never prove the whole.
    pub(crate) fn may_release_to_ranges(&self, piece: PieceNumber) -> bool {
        let linked = self.present.contains(piece) && self.is_trusted(piece);
        self.is_proved() || self.apart.contains(piece) || linked
    }

    /// The piece, once it became fit for readers of ranges alone.
    pub(crate) fn release_one_to_ranges(&mut self, piece: PieceNumber) -> Option<PieceNumber> {
        let linked = self.present.contains(piece) && self.is_trusted(piece);
        let fit = linked && !self.may_release(piece);
        (fit && self.to_ranges.insert(piece)).then_some(piece)
    }

    /// All that became fit for readers of ranges alone.
    pub(crate) fn release_to_ranges(&mut self) -> Vec<PieceNumber> {
        let mut held_back = match self.rule {
            Release::Linked => PieceSet::new(self.present.capacity()),
            Release::Proved => self.present.clone(),
        };
        held_back.insert(self.layout().last_piece());
        held_back.remove_all(&self.to_ranges);
        let fit = |piece| self.release_one_to_ranges(piece);
        held_back.iter().filter_map(fit).collect()
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
