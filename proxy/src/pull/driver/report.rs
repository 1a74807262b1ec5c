//! What the scheduler is told of a pull's progress, in batches.

use std::collections::BTreeMap;

use darter_proto::scheduler::Have;
use darter_types::{HostId, PieceNumber, PieceRun, TaskId};

/// Bytes of one pull by where they came from.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) origin_bytes: u64,
    pub(super) peer_bytes: u64,
    pub(super) cache_bytes: u64,
    pub(super) parents: BTreeMap<HostId, u64>,
}

/// News since the last batch.
#[derive(Debug, Default)]
pub(super) struct Report {
    runs: Vec<PieceRun>,
    fed: BTreeMap<Option<HostId>, u64>,
    /// Bytes came from the origin since the last batch.
    flowing: bool,
    pub(super) totals: Totals,
}

impl Report {
    /// Bytes came from the origin, not a whole piece perhaps.
    pub(super) fn flows(&mut self) {
        self.flowing = true;
    }

    /// A batch without a piece, if bytes came from the origin since the last one: on a slow way a piece takes long, and
    /// whoever gave the lease would take the holder for stalled.
    pub(super) fn take_sign_of_life(&mut self, task: TaskId, length: u64) -> Option<Have> {
        std::mem::take(&mut self.flowing).then(|| Have {
            task,
            length,
            runs: Vec::new(),
            fed: Vec::new(),
        })
    }

    /// A piece of `bytes` came from a parent or, with `None`, from the origin.
    pub(super) fn add(&mut self, piece: PieceNumber, from: Option<HostId>, bytes: u64) {
        self.add_piece(piece);
        match &from {
            None => self.totals.origin_bytes += bytes,
            Some(host) => {
                self.totals.peer_bytes += bytes;
                *self.totals.parents.entry(host.clone()).or_default() += bytes;
            }
        }
        *self.fed.entry(from).or_default() += bytes;
    }

    /// A piece of `bytes` was in the store already: nobody fed it.
    pub(super) fn found(&mut self, piece: PieceNumber, bytes: u64) {
        self.add_piece(piece);
        self.totals.cache_bytes += bytes;
    }

    fn add_piece(&mut self, piece: PieceNumber) {
        match self.runs.last_mut() {
            Some(run) if run.end() == piece => run.count += 1,
            _ => self.runs.push(PieceRun::one(piece)),
        }
    }

    /// The batch, if there is anything to tell.
    pub(super) fn take(&mut self, task: TaskId, length: u64) -> Option<Have> {
        if self.runs.is_empty() {
            return None;
        }
        self.flowing = false;
        let runs = std::mem::take(&mut self.runs);
        let fed = std::mem::take(&mut self.fed).into_iter().collect();
        Some(Have {
            task,
            length,
            runs,
            fed,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_types::{Algorithm, Digest};

    #[test]
    fn batches_runs_and_sources() {
        let task = Digest::of(Algorithm::Sha256, b"x").into();
        let parent: HostId = "a".parse().unwrap();
        let mut report = Report::default();
        assert_eq!(report.take(task, 9), None);
        report.add(3, None, 5);
        report.add(4, Some(parent.clone()), 6);
        report.add(7, Some(parent.clone()), 1);
        report.found(8, 3);
        let have = report.take(task, 9).unwrap();
        assert_eq!(
            have.runs,
            [PieceRun { first: 3, count: 2 }, PieceRun { first: 7, count: 2 }]
        );
        assert_eq!(have.fed, [(None, 5), (Some(parent), 7)]);
        assert_eq!(report.take(task, 9), None);
        let totals = &report.totals;
        assert_eq!(
            (totals.origin_bytes, totals.peer_bytes, totals.cache_bytes),
            (5, 7, 3)
        );
        assert_eq!(report.take_sign_of_life(task, 9), None);
        report.flows();
        assert_eq!(report.take_sign_of_life(task, 9).unwrap().runs, []);
        assert_eq!(report.take_sign_of_life(task, 9), None);
    }
}
