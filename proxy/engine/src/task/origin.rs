//! The origin: when a request to it starts, where, and what its answers do.
//!
//! What must hold: one request at a time, and it begins at a border whose state is known, or nobody could link
//! what it brings.

use darter_types::{ChainState, Digest, Moment, PieceLayout, PieceNumber, PieceRun};

use super::Task;
use crate::event::{FetchId, OriginFailure};
use crate::{Action, Failure};

impl Task {
    /// Reads the origin where it may: one request at a time, from a border whose state is known.
    pub(super) fn ask_origin(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let wanted = self.settings.background || !self.readers.is_empty() || self.gate.lease.is_some();
        if !wanted || self.origin_requests() > 0 || !self.gate.is_open(now) {
            return;
        }
        if self.content.is_none() {
            // The origin's answer tells the length; the run is cut down to it by the shell.
            let run = PieceRun {
                first: 0,
                count: PieceLayout::PIECES_MAX,
            };
            let before = ChainState::initial(self.settings.digest.algorithm());
            let fetch = self.add_fetch(now, None, run);
            return actions.push(Action::FetchOrigin { fetch, run, before });
        }
        let Some(run) = self.origin_run() else {
            return self.end_lease_if_covered(actions);
        };
        let Some(content) = &self.content else { return };
        let Some(before) = content.chain.states_from(run.first).first().copied() else {
            return;
        };
        let fetch = self.add_fetch(now, None, run);
        actions.push(Action::FetchOrigin { fetch, run, before });
    }

    /// The first stretch that is missing and can be linked on the way: up to the next piece that is here or
    /// under way.
    pub(super) fn origin_run(&self) -> Option<PieceRun> {
        let content = self.content.as_ref()?;
        let known = content.chain.known();
        let count = content.layout().piece_count();
        let missing = |piece: &PieceNumber| {
            content.is_missing(*piece) && !self.under_way.contains(*piece) && self.is_wanted(*piece)
        };
        let leased = |piece: &PieceNumber| self.gate.alone || self.in_lease(*piece);
        let first = (0..known.min(count))
            .find(|piece| missing(piece) && leased(piece))
            .or_else(|| {
                // What the lease covers lies beyond the chain: walk there, or nobody could ever link it.
                (self.has_leased_gap() || self.gate.alone)
                    .then_some(known.checked_sub(1)?)
                    .filter(missing)
            })?;
        let end = (first + 1..count).find(|piece| !missing(piece)).unwrap_or(count);
        Some(PieceRun {
            first,
            count: end - first,
        })
    }

    pub(super) fn in_lease(&self, piece: PieceNumber) -> bool {
        self.gate
            .lease
            .as_ref()
            .is_some_and(|lease| lease.runs.is_empty() || lease.runs.iter().any(|run| run.contains(piece)))
    }

    pub(super) fn has_leased_gap(&self) -> bool {
        self.content.as_ref().is_some_and(|content| {
            let mut piece = content.present.next_missing(0);
            while piece < content.present.capacity() {
                if self.in_lease(piece) && !self.under_way.contains(piece) {
                    return true;
                }
                piece = content.present.next_missing(piece + 1);
            }
            false
        })
    }

    /// A lease whose pieces are all here is done, though others of the content may still be missing.
    pub(super) fn end_lease_if_covered(&mut self, actions: &mut Vec<Action>) {
        let Some(content) = &self.content else { return };
        let mut missing = (0..content.present.capacity()).filter(|piece| !content.present.contains(*piece));
        if missing.any(|piece| self.in_lease(piece)) {
            return;
        }
        if let Some(lease) = self.gate.lease.take() {
            actions.push(Action::EndLease {
                epoch: lease.epoch,
                failure: None,
            });
        }
    }

    pub(super) fn origin_border(
        &mut self,
        now: Moment,
        fetch: FetchId,
        piece: PieceNumber,
        state: ChainState,
        actions: &mut Vec<Action>,
    ) {
        if !self.fetches.contains_key(&fetch) {
            return;
        }
        let epoch = self.lease_epoch();
        let Some(content) = self.content.as_mut() else {
            return;
        };
        let border = piece + 1;
        let news = border >= content.chain.known();
        if content.learn(border, &[state], true).is_err() {
            // What the origin gave over TLS contradicts the chain that others published.
            return self.fail(Failure::WrongContent, actions);
        }
        if news {
            actions.push(Action::KeepStates {
                first: border,
                states: vec![state],
            });
            actions.push(Action::Publish {
                epoch,
                first: border,
                states: vec![state],
            });
        }
        self.gate.progressed();
        self.piece_here(now, piece, None, actions);
    }

    pub(super) fn origin_last(
        &mut self,
        now: Moment,
        fetch: FetchId,
        digest: Digest,
        actions: &mut Vec<Action>,
    ) {
        if !self.fetches.contains_key(&fetch) {
            return;
        }
        if digest != self.settings.digest {
            return self.fail(Failure::WrongContent, actions);
        }
        self.gate.progressed();
        if let Some(last) = self.layout().map(PieceLayout::last_piece) {
            self.piece_here(now, last, None, actions);
        }
    }

    pub(super) fn origin_bytes(
        &mut self,
        now: Moment,
        fetch: FetchId,
        offset: u64,
        actions: &mut Vec<Action>,
    ) {
        let Some(layout) = self.layout() else { return };
        if self.fetches.contains_key(&fetch) {
            self.last_progress = now;
            self.gate.progressed();
            // The last piece waits for the proof of the whole.
            let end = layout.piece_range(layout.last_piece()).start;
            actions.push(Action::ReleaseBytes {
                offset: offset.min(end),
            });
        }
    }

    pub(super) fn origin_failed(&mut self, now: Moment, failure: OriginFailure, actions: &mut Vec<Action>) {
        let over = match failure {
            OriginFailure::WrongContent => return self.fail(Failure::WrongContent, actions),
            OriginFailure::Refused => Failure::Refused,
            OriginFailure::Absent => Failure::Absent,
            OriginFailure::Transient if !self.gate.failed(now, &self.settings.limits) => return,
            OriginFailure::Transient => Failure::Unavailable,
        };
        if let Some(lease) = self.gate.lease.take() {
            actions.push(Action::EndLease {
                epoch: lease.epoch,
                failure: Some(over),
            });
        }
        // Others may be luckier with the origin; what they fetch reaches this node as long as one of them lives.
        if self.parents.any_alive() && over == Failure::Unavailable {
            self.gate.alone = false;
            self.gate.failures = 0;
        } else {
            self.fail(over, actions);
        }
    }
}
