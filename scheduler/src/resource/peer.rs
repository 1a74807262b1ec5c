//! One host's part in one task.

use std::collections::BTreeMap;

use darter_proto::scheduler::Urgency;
use darter_types::{OriginLocator, PieceNumber, PieceRun, PieceSet};

use super::HostKey;
use super::named::Part;

/// The pieces that a peer holds, small for the two most common cases.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Holding {
    /// Not one piece.
    #[default]
    Nothing,
    /// Some of them; never all.
    Pieces(Box<PieceSet>),
    /// All of them.
    Everything,
}

impl Holding {
    /// Holds the pieces of `runs` out of `capacity`.
    pub fn of(runs: &[PieceRun], capacity: u32) -> Self {
        let mut held = Self::Nothing;
        held.insert(runs, capacity);
        held
    }

    /// Adds pieces; true if any of them is new.
    pub fn insert(&mut self, runs: &[PieceRun], capacity: u32) -> bool {
        if *self == Self::Everything {
            return false;
        }
        if runs.iter().any(|run| run.first == 0 && run.end() >= capacity) {
            *self = Self::Everything;
            return true;
        }
        let mut set = match std::mem::take(self) {
            Self::Pieces(set) => set,
            _ => Box::new(PieceSet::new(capacity)),
        };
        let before = set.len();
        runs.iter().for_each(|run| set.insert_run(*run));
        let grown = set.len() > before;
        *self = Self::from_set(set);
        grown
    }

    /// Those of `runs` that it does not hold, as runs.
    pub fn fresh(&self, runs: &[PieceRun], capacity: u32) -> Vec<PieceRun> {
        let mut fresh = match self {
            Self::Everything => return Vec::new(),
            Self::Nothing | Self::Pieces(_) => PieceSet::new(capacity),
        };
        for run in runs {
            for piece in run.first..run.end().min(capacity) {
                if !matches!(self, Self::Pieces(set) if set.contains(piece)) {
                    fresh.insert(piece);
                }
            }
        }
        fresh.runs().collect()
    }

    /// Takes pieces out; no runs = all of them.
    pub fn remove(&mut self, runs: &[PieceRun], capacity: u32) {
        let held = std::mem::take(self);
        if runs.is_empty() {
            return;
        }
        let mut set = match held {
            Self::Nothing => return,
            Self::Pieces(set) => set,
            Self::Everything => Box::new(PieceSet::full(capacity)),
        };
        for run in runs {
            for piece in run.first..run.end().min(capacity) {
                set.remove(piece);
            }
        }
        *self = Self::from_set(set);
    }

    /// Whether it holds a piece.
    pub fn contains(&self, piece: PieceNumber) -> bool {
        match self {
            Self::Nothing => false,
            Self::Pieces(set) => set.contains(piece),
            Self::Everything => true,
        }
    }

    fn from_set(set: Box<PieceSet>) -> Self {
        if set.is_empty() {
            Self::Nothing
        } else if set.is_full() {
            Self::Everything
        } else {
            Self::Pieces(set)
        }
    }

    /// How many pieces it is, out of `capacity`.
    pub fn count(&self, capacity: u32) -> u32 {
        match self {
            Self::Nothing => 0,
            Self::Pieces(set) => set.len(),
            Self::Everything => capacity,
        }
    }

    /// Its pieces as runs, out of `capacity`.
    pub fn runs(&self, capacity: u32) -> Vec<PieceRun> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Pieces(set) => set.runs().collect(),
            Self::Everything => vec![PieceRun {
                first: 0,
                count: capacity,
            }],
        }
    }
}

/// A want that is not over.
#[derive(Clone, Debug)]
pub struct OpenWant {
    /// When it came, in the order of all wants.
    pub turn: u64,
    /// Whether a reader waits.
    pub urgency: Urgency,
    /// Whether others may fetch it on the node's behalf.
    pub public: bool,
    /// Where it may be fetched.
    pub origin: OriginLocator,
    /// The node was told to ask the origin itself: nothing is fetched for it any more.
    pub alone: bool,
    /// Pieces that a reader waits for, wherever the chain is.
    pub first: Vec<PieceRun>,
    /// It wants nothing else.
    pub on_demand: bool,
    /// The content's length in bytes, as the node says it.
    pub length: Option<u64>,
}

/// Pieces by name that are looked at of one want: more than any reader waits for at a time.
const FIRST_MAX: usize = 4096;

impl OpenWant {
    /// The pieces that it names.
    pub fn first_pieces(&self) -> impl Iterator<Item = PieceNumber> + '_ {
        self.first.iter().flat_map(|run| run.pieces()).take(FIRST_MAX)
    }

    /// Whether it names pieces of its own.
    pub fn is_special(&self) -> bool {
        self.on_demand || !self.first.is_empty()
    }
}

/// One host's part in one task.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// What it holds.
    pub held: Holding,
    /// Whether what it holds is counted in the task's coverage: not while the host is excluded.
    pub counted: bool,
    /// What it wants.
    pub want: Option<Box<OpenWant>>,
    /// Borders that it knows or was sent.
    pub states_known: u32,
    /// Borders whose states it can send.
    pub states_offered: u32,
    /// It was sent a set of parents that was not empty.
    pub has_parents: bool,
    /// Who said that it failed them, with how often, in this task.
    pub failed: BTreeMap<HostKey, u32>,
    /// For whom it fell silent, with how often, in this task.
    pub silent: BTreeMap<HostKey, u32>,
}

impl Peer {
    /// Whether it waits for something to be fetched.
    pub fn waits(&self) -> bool {
        self.want.as_ref().is_some_and(|want| !want.alone)
    }

    /// What its want adds to the pieces that are named, if it waits for some.
    pub fn named(&self) -> Option<Part> {
        let want = self
            .want
            .as_deref()
            .filter(|want| !want.alone && want.is_special())?;
        let missing = want.first_pieces().filter(|piece| !self.held.contains(*piece));
        Some(Part {
            pieces: missing.collect(),
            only: want.on_demand,
        })
    }

    /// Whether it has no part any more.
    pub fn is_idle(&self) -> bool {
        self.want.is_none() && self.held == Holding::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::super::Coverage;
    use super::*;
    use proptest::prelude::*;

    fn run() -> impl Strategy<Value = PieceRun> {
        (0u32..20, 1u32..20).prop_map(|(first, count)| PieceRun { first, count })
    }

    proptest! {
        #[test]
        fn holdings_and_coverage_behave_as_sets(steps in prop::collection::vec((0usize..3, any::<bool>(), prop::collection::vec(run(), 0..3)), 0..30)) {
            const CAPACITY: u32 = 16;
            let mut held = [Holding::Nothing, Holding::Nothing, Holding::Nothing];
            let mut model = [PieceSet::new(CAPACITY), PieceSet::new(CAPACITY), PieceSet::new(CAPACITY)];
            let mut coverage = Coverage::default();
            for (who, add, runs) in steps {
                coverage.remove(&held[who]);
                if add {
                    held[who].insert(&runs, CAPACITY);
                    runs.iter().for_each(|run| model[who].insert_run(*run));
                } else {
                    held[who].remove(&runs, CAPACITY);
                    if runs.is_empty() {
                        model[who] = PieceSet::new(CAPACITY);
                    }
                    for run in runs {
                        run.pieces().for_each(|piece| { model[who].remove(piece); });
                    }
                }
                coverage.add(&held[who], CAPACITY);
                prop_assert_eq!(held[who].count(CAPACITY), model[who].len());
                prop_assert_eq!(held[who].runs(CAPACITY), model[who].runs().collect::<Vec<_>>());
                let mut all = PieceSet::new(CAPACITY);
                model.iter().for_each(|set| all.insert_all(set));
                let missing = coverage.missing(CAPACITY);
                prop_assert!((0..CAPACITY).all(|piece| missing.contains(piece) != all.contains(piece)));
                prop_assert_eq!(coverage.is_complete(CAPACITY), all.is_full());
            }
        }
    }
}
