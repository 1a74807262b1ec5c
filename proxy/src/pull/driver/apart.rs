//! Pieces that are attested only: kept, counted, told, and hashed from the state before them once that is known.

use darter_engine::Event;
use darter_proto::scheduler::{Attested, NodeMessage};
use darter_types::{ChainState, Digest, HostId, PieceLayout, PieceNumber, PieceProof};
use tokio::time::Instant;

use super::Driver;
use crate::metrics::BytesFrom;
use crate::pull::check;

impl Driver {
    pub(super) fn have_apart(&mut self, piece: PieceNumber, sum: Digest, from: Option<HostId>) {
        let Some(stored) = &self.stored else { return };
        let bytes = stored.facts().layout.piece_range(piece).len();
        let source = match &from {
            Some(_) => BytesFrom::Peer,
            None if self.claims.contains(piece) && stored.attestations().contains_key(&piece) => {
                BytesFrom::Cache
            }
            None => BytesFrom::Origin,
        };
        if let Err(error) = stored.record_attestation(piece, sum) {
            tracing::debug!(task = %self.request.task(), piece, %error, "store did not record an attestation");
        }
        self.count(piece, from, bytes, source);
        self.shared.availability.set_apart(piece, source);
    }

    /// Counts a piece by where it came from.
    pub(super) fn count(&mut self, piece: PieceNumber, from: Option<HostId>, bytes: u64, source: BytesFrom) {
        self.env.metrics.piece(from.is_some(), bytes);
        match source {
            BytesFrom::Cache => self.report.found(piece, bytes),
            BytesFrom::Peer | BytesFrom::Origin => {
                self.first_at.get_or_insert_with(Instant::now);
                self.report.add(piece, from, bytes);
            }
        }
    }

    pub(super) fn walk(&self, piece: PieceNumber, before: ChainState) {
        let (Some(stored), events) = (self.stored.clone(), self.shared.events.clone()) else {
            return;
        };
        self.env.tasks.spawn("walk over a stored piece", async move {
            let range = stored.facts().layout.piece_range(piece);
            let after = check::walk(&*stored, range, before);
            let _ = events.send(Event::Walked { piece, after }).await;
        });
    }

    /// Says what a piece is that this node read from the registry along the chain: it is hashed alone for that.
    pub(super) fn attest_stored(&self, epoch: u64, piece: PieceNumber, proof: PieceProof) {
        let Some(stored) = self.stored.clone() else { return };
        let (task, scheduling) = (self.request.task(), self.env.scheduling.clone());
        self.env.tasks.spawn("hash of a stored piece", async move {
            let layout = stored.facts().layout;
            let Some(sum) = check::sum(&*stored, &proof) else {
                return tracing::warn!(%task, piece, "a stored piece is not what was written, and is not vouched for");
            };
            let attested = Attested {
                task,
                epoch,
                length: layout.length(),
                sums: vec![(piece, sum)],
            };
            scheduling.send(task, NodeMessage::Attested(attested));
        });
    }

    pub(super) fn attest(&self, epoch: u64, piece: PieceNumber, sum: Digest) {
        let Some(length) = self.engine.layout().map(PieceLayout::length) else {
            return;
        };
        let task = self.request.task();
        let attested = Attested {
            task,
            epoch,
            length,
            sums: vec![(piece, sum)],
        };
        self.env.scheduling.send(task, NodeMessage::Attested(attested));
    }
}
