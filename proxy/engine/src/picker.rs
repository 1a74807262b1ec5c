//! Which pieces are asked of a parent next.
//!
//! What a reader waits for comes first, in order; then the piece that the fewest parents have, at random among
//! equals, so that nodes which want the same content end up with different pieces to exchange (the measure is in
//! `docs/design/swarm.md`).

use darter_types::{PieceLayout, PieceNumber, PieceRun, PieceSet};
use rand::{Rng, RngExt};

/// What the choice depends on.
pub(crate) struct Choice<'a, Want, Rarity> {
    pub(crate) layout: PieceLayout,
    /// What the parent has.
    pub(crate) has: &'a PieceSet,
    /// Whether a piece is missing here, linkable and not asked for yet.
    pub(crate) wanted: Want,
    /// How many parents have a piece.
    pub(crate) rarity: Rarity,
    /// Longest run in bytes.
    pub(crate) run_bytes: u64,
}

impl<Want: Fn(PieceNumber) -> bool, Rarity: Fn(PieceNumber) -> u16> Choice<'_, Want, Rarity> {
    /// A run that begins with a piece that readers need soonest, if the parent has one; `pieces` are in order.
    pub(crate) fn urgent(&self, pieces: &[PieceNumber]) -> Option<PieceRun> {
        let has = |piece: &&PieceNumber| self.has.contains(**piece) && (self.wanted)(**piece);
        pieces.iter().find(has).map(|first| self.extend(*first))
    }

    /// A run that begins with one of the rarest pieces that the parent has.
    pub(crate) fn rarest(&self, rng: &mut impl Rng) -> Option<PieceRun> {
        let mut best = None;
        let mut least = u16::MAX;
        let mut equals = 0u32;
        for piece in self.has.iter().filter(|piece| (self.wanted)(*piece)) {
            let rarity = (self.rarity)(piece);
            if rarity < least {
                (best, least, equals) = (Some(piece), rarity, 1);
            } else if rarity == least {
                equals += 1;
                if rng.random_range(0..equals) == 0 {
                    best = Some(piece);
                }
            }
        }
        best.map(|first| self.extend(first))
    }

    /// Adds the neighbours behind `first` that are no more common, as long as the run stays short.
    fn extend(&self, first: PieceNumber) -> PieceRun {
        let rarity = (self.rarity)(first);
        let mut run = PieceRun::one(first);
        loop {
            let next = run.end();
            let longer = PieceRun {
                count: run.count + 1,
                ..run
            };
            if self.layout.run_range(longer).len() > self.run_bytes
                || !self.has.contains(next)
                || !(self.wanted)(next)
                || (self.rarity)(next) > rarity
            {
                return run;
            }
            run = longer;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    const MIB: u64 = 1024 * 1024;

    fn pick(
        has: &[PieceNumber],
        rarity: &[u16],
        urgent: &[PieceNumber],
        run_bytes: u64,
        seed: u64,
    ) -> Option<PieceRun> {
        let layout = PieceLayout::of(8 * MIB / 4).unwrap();
        let mut set = PieceSet::new(layout.piece_count());
        has.iter().for_each(|piece| {
            set.insert(*piece);
        });
        let choice = Choice {
            layout,
            has: &set,
            wanted: |piece| piece != 0,
            rarity: |piece| rarity.get(piece as usize).copied().unwrap_or(9),
            run_bytes,
        };
        choice
            .urgent(urgent)
            .or_else(|| choice.rarest(&mut SmallRng::seed_from_u64(seed)))
    }

    #[test]
    fn what_a_reader_waits_for_comes_before_what_is_rare() {
        assert_eq!(
            pick(&[1, 5], &[9, 9, 9, 9, 9, 1], &[1], 1, 0),
            Some(PieceRun::one(1))
        );
    }

    #[test]
    fn the_rarest_piece_comes_first() {
        assert_eq!(
            pick(&[1, 3, 5], &[9, 4, 9, 2, 9, 3], &[], 1, 0),
            Some(PieceRun::one(3))
        );
    }

    #[test]
    fn equals_are_drawn_at_random() {
        let drawn: std::collections::BTreeSet<_> = (0..64)
            .filter_map(|seed| pick(&[1, 3, 5], &[1; 8], &[], 1, seed))
            .map(|run| run.first)
            .collect();
        assert_eq!(drawn.len(), 3);
    }

    #[test]
    fn a_run_ends_at_its_length_a_gap_or_a_commoner_piece() {
        assert_eq!(
            pick(&[1, 2, 3, 4], &[1; 8], &[1], MIB / 2, 0),
            Some(PieceRun { first: 1, count: 2 })
        );
        assert_eq!(
            pick(&[1, 2, 4], &[1; 8], &[1], MIB, 0),
            Some(PieceRun { first: 1, count: 2 })
        );
        assert_eq!(
            pick(&[1, 2, 3], &[1, 1, 1, 2], &[1], MIB, 0),
            Some(PieceRun { first: 1, count: 2 })
        );
    }

    #[test]
    fn nothing_wanted_is_nothing_picked() {
        assert_eq!(pick(&[0], &[1; 8], &[0], MIB, 0), None);
        assert_eq!(pick(&[], &[1; 8], &[1], MIB, 0), None);
    }
}
