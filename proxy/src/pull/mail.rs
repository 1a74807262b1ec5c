//! What a pull must not miss however full its queue of events is: which pieces the scheduler asks for under a lease, and
//! that a lease ended there. It takes no place in the queue; the driver looks here each time that it wakes.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use darter_engine::Event;
use darter_types::{PieceLayout, PieceNumber, PieceRun};

/// Pieces of one lease that wait for the driver: no content has more, so nothing that exists is left out.
const ASKED_MAX: usize = PieceLayout::PIECES_MAX as usize;

/// The mail of one pull.
#[derive(Debug, Default)]
pub(super) struct Mail(Mutex<Letters>);

#[derive(Debug, Default)]
struct Letters {
    /// A lease that ended where it was given.
    ended: Option<u64>,
    /// A lease, and the pieces that come first under it.
    asked: Option<(u64, BTreeSet<PieceNumber>)>,
}

impl Mail {
    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These pieces come first under the lease `epoch`, which takes the place of any other.
    pub(super) fn ask(&self, epoch: u64, runs: &[PieceRun]) {
        let mut letters = self.lock();
        let pieces = match &mut letters.asked {
            Some((known, pieces)) if *known == epoch => pieces,
            other => &mut other.insert((epoch, BTreeSet::new())).1,
        };
        for piece in runs.iter().flat_map(|run| run.pieces()) {
            if pieces.len() >= ASKED_MAX {
                return;
            }
            pieces.insert(piece);
        }
    }

    /// The lease `epoch` ended where it was given.
    pub(super) fn end(&self, epoch: u64) {
        self.lock().ended = Some(epoch);
    }

    /// Takes all out, as events.
    pub(super) fn take(&self) -> Vec<Event> {
        let Letters { ended, asked } = std::mem::take(&mut *self.lock());
        let ended = ended.map(|epoch| Event::LeaseRevoked { epoch });
        let asked = asked.map(|(epoch, pieces)| Event::PiecesAsked {
            epoch,
            runs: runs_of(&pieces),
        });
        ended.into_iter().chain(asked).collect()
    }
}

fn runs_of(pieces: &BTreeSet<PieceNumber>) -> Vec<PieceRun> {
    let mut runs: Vec<PieceRun> = Vec::new();
    for piece in pieces {
        match runs.last_mut() {
            Some(run) if run.end() == *piece => run.count += 1,
            _ => runs.push(PieceRun::one(*piece)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: PieceNumber, count: u32) -> PieceRun {
        PieceRun { first, count }
    }

    #[test]
    fn what_is_asked_for_under_one_lease_comes_together() {
        let mail = Mail::default();
        assert_eq!(mail.take(), []);
        mail.ask(3, &[run(7, 1), run(2, 2)]);
        mail.ask(3, &[run(4, 1)]);
        let runs = vec![run(2, 3), run(7, 1)];
        assert_eq!(mail.take(), [Event::PiecesAsked { epoch: 3, runs }]);
        mail.ask(3, &[run(1, 1)]);
        mail.ask(4, &[run(5, 1)]);
        mail.end(3);
        let runs = vec![run(5, 1)];
        let asked = Event::PiecesAsked { epoch: 4, runs };
        assert_eq!(mail.take(), [Event::LeaseRevoked { epoch: 3 }, asked]);
        assert_eq!(mail.take(), []);
    }
}
