//! Which pieces parked wants name, counted: what is lacking is found without a look at each want.

use std::collections::{BTreeMap, BTreeSet};

use darter_types::PieceNumber;

use super::HostKey;

/// The pieces that the parked wants of one task name, but for those that the node itself holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// How many wants name each; never zero.
    counts: BTreeMap<PieceNumber, u32>,
    /// What each node's want adds.
    by_host: BTreeMap<HostKey, Part>,
    /// Wants that are for nothing else.
    only: usize,
}

/// What one want adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The pieces.
    pub pieces: BTreeSet<PieceNumber>,
    /// It is for nothing else.
    pub only: bool,
}

impl Named {
    /// Notes what the want of a node adds from now on; `None` = it has none that names pieces, or does not wait.
    pub fn set(&mut self, host: HostKey, part: Option<Part>) {
        if let Some(old) = self.by_host.remove(&host) {
            self.only -= usize::from(old.only);
            old.pieces.iter().for_each(|piece| self.uncount(*piece));
        }
        let Some(part) = part else { return };
        self.only += usize::from(part.only);
        for piece in &part.pieces {
            *self.counts.entry(*piece).or_default() += 1;
        }
        self.by_host.insert(host, part);
    }

    fn uncount(&mut self, piece: PieceNumber) {
        if let Some(count) = self.counts.get_mut(&piece) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&piece);
            }
        }
    }

    /// The pieces, each once, in order.
    pub fn pieces(&self) -> impl Iterator<Item = PieceNumber> + '_ {
        self.counts.keys().copied()
    }

    /// How many wants are for nothing but such pieces.
    pub fn only(&self) -> usize {
        self.only
    }

    /// Whether the want of a node is counted here.
    pub fn has(&self, host: HostKey) -> bool {
        self.by_host.contains_key(&host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_named_as_long_as_one_want_names_it() {
        let part = |pieces: &[PieceNumber], only| {
            let pieces = pieces.iter().copied().collect();
            Some(Part { pieces, only })
        };
        let mut named = Named::default();
        named.set(HostKey(1), part(&[3, 5], true));
        named.set(HostKey(2), part(&[5, 9], false));
        assert_eq!(named.pieces().collect::<Vec<_>>(), [3, 5, 9]);
        assert_eq!(named.only(), 1);
        named.set(HostKey(1), part(&[9], true));
        assert_eq!(named.pieces().collect::<Vec<_>>(), [5, 9]);
        named.set(HostKey(2), None);
        assert_eq!(named.pieces().collect::<Vec<_>>(), [9]);
        named.set(HostKey(1), None);
        assert_eq!(named, Named::default());
    }
}
