//! What a pull must not miss however full its queue of events is: which pieces the scheduler asks for under a lease, and
//! that a lease ended there. It takes no place in the queue; the driver looks here each time that it wakes.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use darter_engine::Event;
use darter_types::{PieceLayout, PieceRun, PieceSet};

/// Leases that ended, of which the driver was not told yet. One follows the other at the scheduler, so that more than one is rare; the
/// oldest of too many is left out, for a later one has taken its place.
const ENDED_MAX: usize = 16;

/// The mail of one pull.
#[derive(Debug, Default)]
pub(super) struct Mail(Mutex<Letters>);

#[derive(Debug, Default)]
struct Letters {
    /// Nobody reads it any more.
    closed: bool,
    /// Leases that ended where they were given.
    ended: BTreeSet<u64>,
    /// A lease, and the pieces that come first under it: no more than a content can have.
    asked: Option<(u64, PieceSet)>,
}

impl Mail {
    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These pieces come first under the lease `epoch`, which takes the place of any other; false if nobody hears of it any more.
    pub(super) fn ask(&self, epoch: u64, runs: &[PieceRun]) -> bool {
        let mut letters = self.lock();
        if letters.closed {
            return false;
        }
        let pieces = match &mut letters.asked {
            Some((known, pieces)) if *known == epoch => pieces,
            other => &mut other.insert((epoch, PieceSet::new(PieceLayout::PIECES_MAX))).1,
        };
        runs.iter().for_each(|run| pieces.insert_run(*run));
        true
    }

    /// The lease `epoch` ended where it was given, and what was asked for under it is not asked for any more.
    pub(super) fn end(&self, epoch: u64) {
        let mut letters = self.lock();
        letters.asked.take_if(|(asked, _)| *asked == epoch);
        letters.ended.insert(epoch);
        if letters.ended.len() > ENDED_MAX {
            letters.ended.pop_first();
        }
    }

    /// Takes all out, as events. What was sent to the queue before it was written here is in the queue by now.
    pub(super) fn take(&self) -> Vec<Event> {
        let mut letters = self.lock();
        let ended = std::mem::take(&mut letters.ended);
        let asked = letters.asked.take();
        drop(letters);
        let ended = ended.into_iter().map(|epoch| Event::LeaseRevoked { epoch });
        let asked = asked.map(|(epoch, pieces)| Event::PiecesAsked {
            epoch,
            runs: pieces.runs().collect(),
        });
        ended.chain(asked).collect()
    }

    /// The same, for the last time: what is asked from now on is refused.
    pub(super) fn close(&self) -> Vec<Event> {
        self.lock().closed = true;
        self.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_types::PieceNumber;

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

    #[test]
    fn every_lease_that_ended_is_told_and_nothing_is_asked_under_it_any_more() {
        let mail = Mail::default();
        mail.ask(3, &[run(7, 1)]);
        mail.end(3);
        mail.end(4);
        let ended = [3, 4].map(|epoch| Event::LeaseRevoked { epoch });
        assert_eq!(mail.take(), ended);
        (0..100).for_each(|epoch| mail.end(epoch));
        let ended = mail.take();
        assert_eq!(ended.len(), ENDED_MAX);
        assert_eq!(ended.last(), Some(&Event::LeaseRevoked { epoch: 99 }));
    }

    #[test]
    fn who_asks_when_nobody_hears_of_it_any_more_is_told() {
        let mail = Mail::default();
        assert!(mail.ask(3, &[run(7, 1)]));
        let runs = vec![run(7, 1)];
        assert_eq!(mail.close(), [Event::PiecesAsked { epoch: 3, runs }]);
        assert!(!mail.ask(3, &[run(8, 1)]));
        assert_eq!(mail.take(), []);
    }
}
