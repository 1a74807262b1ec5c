//! Looks after what is stored: every piece is read back from the disk and linked again, one after the other, so slowly that
//! all of it takes `store.scrubInterval`. What does not link any more is dropped, and fetched anew by whoever wants it.
//!
//! Clients of this node get stored bytes without a hash over them, for that would cost more than sending them. Other nodes
//! check what they get. So this is how a disk that forgets is found out before many of its bytes are used.
//!
//! What must hold: a look is no use, so that the order of eviction stays; contents that are being fetched are left alone, for
//! their drivers check what they take over.

use std::time::Duration;

use darter_proto::scheduler::NodeMessage;
use darter_store::{StoredTask, TaskSummary};
use darter_types::{Chain, PieceNumber, PieceProof, PieceRun, TaskId};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Pulls, check};
use crate::metrics::Unverified;

/// However much there is, the disk is left to others for the most part.
const BYTES_PER_SECOND_MAX: u64 = 32 * 1024 * 1024;

impl Pulls {
    /// Reads everything back, again and again, until `stop`.
    pub(crate) async fn scrub(self, interval: Duration, stop: CancellationToken) {
        let rounds = async {
            loop {
                let next = Instant::now() + interval;
                self.scrub_all(interval).await;
                sleep_until(next).await;
            }
        };
        stop.run_until_cancelled(rounds).await;
    }

    /// One round over what is there at its start.
    async fn scrub_all(&self, interval: Duration) {
        let lines = self.env.store.list();
        let total: u64 = lines.iter().map(held_bytes).sum();
        for line in lines {
            let mut proofs = Proofs::default();
            for piece in line.held.iter() {
                let length = line.facts.layout.piece_range(piece).len();
                sleep(pause(length, total, interval)).await;
                self.scrub_piece(line.task, piece, &mut proofs);
            }
        }
    }

    fn scrub_piece(&self, task: TaskId, piece: PieceNumber, proofs: &mut Proofs) {
        if self.env.running().contains_key(&task) {
            return;
        }
        // It may have been dropped since, or be claimed only, or have lost its chain.
        let Some(stored) = self.env.store.inspect(task) else {
            return;
        };
        if !stored.present().contains(piece) {
            return;
        }
        let Some(proof) = proofs.of(&*stored, piece) else {
            return;
        };
        // The chain may have changed since it was read: only the present one condemns.
        let good = check::reads_back(&*stored, &proof)
            || Proofs::default()
                .of(&*stored, piece)
                .is_none_or(|proof| check::reads_back(&*stored, &proof));
        self.env.metrics.scrubbed(good);
        if !good {
            self.lose(&*stored, piece);
        }
    }

    /// Takes a piece back that is not what it was: from readers, other nodes and the store.
    fn lose(&self, stored: &dyn StoredTask, piece: PieceNumber) {
        let (task, run) = (stored.task(), PieceRun::one(piece));
        tracing::warn!(%task, piece, "a stored piece is not what was written: the disk may be failing. It is dropped");
        self.env.metrics.unverified(Unverified::Store);
        if let Some(shared) = self.env.recent.get(task) {
            shared.availability.withdraw(&[run], PieceNumber::MAX);
        }
        self.env.recent.forget(task);
        stored.forget(piece);
        if self.env.shares(stored.facts().public) {
            self.env
                .scheduling
                .send(task, NodeMessage::Withdraw(task, vec![run]));
        }
    }
}

/// How long to wait before so many bytes of all.
fn pause(length: u64, total: u64, interval: Duration) -> Duration {
    let share = u128::from(length) * interval.as_nanos() / u128::from(total.max(1));
    let least = u128::from(length) * 1_000_000_000 / u128::from(BYTES_PER_SECOND_MAX);
    Duration::from_nanos(u64::try_from(share.max(least)).unwrap_or(u64::MAX))
}

fn held_bytes(line: &TaskSummary) -> u64 {
    let layout = line.facts.layout;
    line.held
        .iter()
        .map(|piece| layout.piece_range(piece).len())
        .sum()
}

/// The chain of the content that is being looked at, read once as long as nothing changes.
#[derive(Debug, Default)]
struct Proofs(Option<Chain>);

impl Proofs {
    /// The proof of a piece; `None` where the chain does not reach it.
    fn of(&mut self, stored: &dyn StoredTask, piece: PieceNumber) -> Option<PieceProof> {
        if self.0.is_none() {
            let digest = stored.task().digest()?;
            let mut chain = Chain::new(digest, stored.facts().layout);
            chain.extend(1, &stored.states()).ok()?;
            self.0 = Some(chain);
        }
        self.0.as_ref()?.proof(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_takes_the_interval_and_never_the_whole_disk() {
        let day = Duration::from_secs(24 * 3600);
        let gib = 1024 * 1024 * 1024;
        let pieces = 100 * gib / (4 * 1024 * 1024);
        let round = pause(4 * 1024 * 1024, 100 * gib, day) * u32::try_from(pieces).unwrap();
        assert!(round.abs_diff(day) < Duration::from_secs(1), "{round:?}");
        let hurried = pause(BYTES_PER_SECOND_MAX, 100 * gib, Duration::from_secs(1));
        assert_eq!(hurried, Duration::from_secs(1));
        assert_eq!(pause(0, 0, day), Duration::ZERO);
    }
}
