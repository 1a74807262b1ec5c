//! Sets of pieces, and runs of consecutive ones: how nodes tell each other what they have.

use crate::PieceNumber;

/// Consecutive pieces `first .. first + count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceRun {
    /// The first piece of the run.
    pub first: PieceNumber,
    /// How many pieces it has.
    pub count: u32,
}

impl PieceRun {
    /// The run of one piece.
    pub fn one(piece: PieceNumber) -> Self {
        Self {
            first: piece,
            count: 1,
        }
    }

    /// The number behind the last piece, capped at `u32::MAX`.
    pub fn end(self) -> PieceNumber {
        self.first.saturating_add(self.count)
    }

    /// Its pieces in order.
    pub fn pieces(self) -> std::ops::Range<PieceNumber> {
        self.first..self.end()
    }

    /// Whether the run holds `piece`.
    pub fn contains(self, piece: PieceNumber) -> bool {
        self.pieces().contains(&piece)
    }
}

/// A set of the pieces of one content: one bit a piece.
///
/// Numbers at or above [`PieceSet::capacity`] are never members and inserting them does nothing, so that
/// whatever a peer announces cannot make a set grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceSet {
    words: Vec<u64>,
    capacity: u32,
    len: u32,
}

impl PieceSet {
    /// The empty set over pieces `0..capacity`.
    pub fn new(capacity: u32) -> Self {
        Self {
            words: vec![0; capacity.div_ceil(64) as usize],
            capacity,
            len: 0,
        }
    }

    /// The set of all pieces `0..capacity`.
    pub fn full(capacity: u32) -> Self {
        let mut set = Self::new(capacity);
        set.insert_run(PieceRun {
            first: 0,
            count: capacity,
        });
        set
    }

    /// One more than the highest piece that it may hold.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How many pieces it holds.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether it holds all.
    pub fn is_full(&self) -> bool {
        self.len == self.capacity
    }

    /// Whether it holds `piece`.
    pub fn contains(&self, piece: PieceNumber) -> bool {
        self.words
            .get(piece as usize / 64)
            .is_some_and(|word| word >> (piece % 64) & 1 == 1)
    }

    /// Adds `piece`; true if it was not there and is within the capacity.
    pub fn insert(&mut self, piece: PieceNumber) -> bool {
        if piece >= self.capacity || self.contains(piece) {
            return false;
        }
        if let Some(word) = self.words.get_mut(piece as usize / 64) {
            *word |= 1 << (piece % 64);
            self.len += 1;
        }
        true
    }

    /// Takes `piece` out; true if it was there.
    pub fn remove(&mut self, piece: PieceNumber) -> bool {
        if !self.contains(piece) {
            return false;
        }
        if let Some(word) = self.words.get_mut(piece as usize / 64) {
            *word &= !(1 << (piece % 64));
            self.len -= 1;
        }
        true
    }

    /// Adds all pieces of `run` that are within the capacity.
    pub fn insert_run(&mut self, run: PieceRun) {
        for piece in run.first..run.end().min(self.capacity) {
            self.insert(piece);
        }
    }

    /// Adds all pieces of `other`.
    pub fn insert_all(&mut self, other: &Self) {
        for run in other.runs() {
            self.insert_run(run);
        }
    }

    /// Keeps only pieces that are in `other` as well.
    pub fn retain_all(&mut self, other: &Self) {
        for (index, word) in self.words.iter_mut().enumerate() {
            *word &= other.words.get(index).copied().unwrap_or(0);
        }
        self.len = self.words.iter().map(|word| word.count_ones()).sum();
    }

    /// Takes out all pieces of `other`.
    pub fn remove_all(&mut self, other: &Self) {
        for (word, taken) in self.words.iter_mut().zip(&other.words) {
            *word &= !taken;
        }
        self.len = self.words.iter().map(|word| word.count_ones()).sum();
    }

    /// Whether any piece is in both.
    pub fn intersects(&self, other: &Self) -> bool {
        let mut words = self.words.iter().zip(&other.words);
        words.any(|(one, other)| one & other != 0)
    }

    /// Its pieces in order.
    pub fn iter(&self) -> impl Iterator<Item = PieceNumber> + '_ {
        self.words.iter().zip(0u32..).flat_map(|(word, index)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| rest.trailing_zeros())?;
                rest &= rest - 1;
                Some(index * 64 + bit)
            })
        })
    }

    /// Its pieces as the fewest runs, in order.
    pub fn runs(&self) -> impl Iterator<Item = PieceRun> + '_ {
        let mut next = 0;
        std::iter::from_fn(move || {
            let first = self.next_present(next)?;
            let end = self.next_missing(first);
            next = end;
            Some(PieceRun {
                first,
                count: end - first,
            })
        })
    }

    /// The first piece at or after `from` that it holds.
    pub fn next_present(&self, from: PieceNumber) -> Option<PieceNumber> {
        self.scan(from, |word| word)
    }

    /// The first piece at or after `from` that it does not hold; its capacity if it holds them all.
    pub fn next_missing(&self, from: PieceNumber) -> PieceNumber {
        self.scan(from, |word| !word).unwrap_or(self.capacity)
    }

    fn scan(&self, from: PieceNumber, bits_of: impl Fn(u64) -> u64) -> Option<PieceNumber> {
        if from >= self.capacity {
            return None;
        }
        let mut index = from / 64;
        let mut bits = bits_of(*self.words.get(index as usize)?) & (u64::MAX << (from % 64));
        while bits == 0 {
            index += 1;
            bits = bits_of(*self.words.get(index as usize)?);
        }
        Some(index * 64 + bits.trailing_zeros()).filter(|piece| *piece < self.capacity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn ignores_pieces_beyond_the_capacity() {
        let mut set = PieceSet::new(10);
        set.insert_run(PieceRun {
            first: 8,
            count: u32::MAX,
        });
        assert_eq!(set.iter().collect::<Vec<_>>(), [8, 9]);
        assert!(!set.insert(10));
        assert!(!set.contains(63));
    }

    #[test]
    fn an_empty_capacity_is_full_and_empty() {
        let set = PieceSet::new(0);
        assert!(set.is_full() && set.is_empty());
        assert_eq!(set.next_missing(0), 0);
    }

    proptest! {
        #[test]
        fn behaves_as_a_set(capacity in 0u32..300, steps in prop::collection::vec((any::<bool>(), 0u32..320), 0..200)) {
            let mut set = PieceSet::new(capacity);
            let mut model = BTreeSet::new();
            for (add, piece) in steps {
                if add {
                    prop_assert_eq!(set.insert(piece), piece < capacity && model.insert(piece));
                } else {
                    prop_assert_eq!(set.remove(piece), model.remove(&piece));
                }
            }
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.len() as usize, model.len());
            let mut again = PieceSet::new(capacity);
            for run in set.runs() {
                prop_assert!(run.count > 0);
                prop_assert!(!set.contains(run.end()));
                again.insert_run(run);
            }
            prop_assert_eq!(&again, &set);
            let (mut even, mut both) = (PieceSet::new(capacity), set.clone());
            (0..capacity).step_by(2).for_each(|piece| {
                even.insert(piece);
            });
            both.retain_all(&even);
            let expected: Vec<_> = model.iter().copied().filter(|piece| piece % 2 == 0).collect();
            prop_assert_eq!(both.len() as usize, expected.len());
            prop_assert_eq!(both.iter().collect::<Vec<_>>(), expected);
            let mut odd = set.clone();
            odd.remove_all(&even);
            let expected: Vec<_> = model.iter().copied().filter(|piece| piece % 2 == 1).collect();
            prop_assert_eq!(odd.len() as usize, expected.len());
            prop_assert_eq!(odd.iter().collect::<Vec<_>>(), expected);
            prop_assert_eq!(set.intersects(&even), !both.is_empty());
            prop_assert!(!odd.intersects(&even));
            for from in 0..capacity {
                let missing = (from..capacity).find(|piece| !model.contains(piece)).unwrap_or(capacity);
                prop_assert_eq!(set.next_missing(from), missing);
                prop_assert_eq!(set.next_present(from), model.range(from..).next().copied());
            }
        }
    }
}
