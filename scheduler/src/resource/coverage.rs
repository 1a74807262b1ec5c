//! Which pieces of a task have a live holder, kept up to date piece by piece, so that no decision has to
//! walk over all holders.

use darter_types::{PieceRun, PieceSet};

use super::Holding;

/// How many holders each piece has. Holders of everything are counted once, not piece by piece.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    full: u32,
    /// Holders of each piece that do not hold everything; empty while there is none.
    partial: Vec<u32>,
    /// Entries of `partial` that are not 0.
    held: u32,
}

impl Coverage {
    /// Counts what a holder has.
    pub fn add(&mut self, held: &Holding, capacity: u32) {
        match held {
            Holding::Nothing => {}
            Holding::Everything => self.full += 1,
            Holding::Pieces(set) => set.runs().for_each(|run| self.add_run(run, capacity)),
        }
    }

    /// Counts one more holder of `run`.
    pub fn add_run(&mut self, run: PieceRun, capacity: u32) {
        if self.partial.is_empty() {
            self.partial = vec![0; capacity as usize];
        }
        for piece in run.first..run.end().min(capacity) {
            if let Some(count) = self.partial.get_mut(piece as usize) {
                self.held += u32::from(*count == 0);
                *count += 1;
            }
        }
    }

    /// Takes back what [`Self::add`] counted.
    pub fn remove(&mut self, held: &Holding) {
        match held {
            Holding::Nothing => {}
            Holding::Everything => self.full = self.full.saturating_sub(1),
            Holding::Pieces(set) => set.runs().for_each(|run| self.remove_run(run)),
        }
    }

    /// Takes back what [`Self::add_run`] counted.
    pub fn remove_run(&mut self, run: PieceRun) {
        for piece in run.pieces() {
            let Some(count) = self.partial.get_mut(piece as usize) else {
                break;
            };
            self.held -= u32::from(*count == 1);
            *count = count.saturating_sub(1);
        }
        if self.held == 0 {
            self.partial = Vec::new();
        }
    }

    /// How many live holders have everything.
    pub fn full_holders(&self) -> u32 {
        self.full
    }

    /// Whether every one of `capacity` pieces has a live holder.
    pub fn is_complete(&self, capacity: u32) -> bool {
        self.full > 0 || self.held >= capacity
    }

    /// The pieces that nobody holds.
    pub fn missing(&self, capacity: u32) -> PieceSet {
        if self.full > 0 {
            return PieceSet::new(capacity);
        }
        if self.partial.is_empty() {
            return PieceSet::full(capacity);
        }
        let mut missing = PieceSet::new(capacity);
        for (count, piece) in self.partial.iter().zip(0..) {
            if *count == 0 {
                missing.insert(piece);
            }
        }
        missing
    }
}
