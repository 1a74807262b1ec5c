//! The origin: when a request to it starts, where, and what its answers do.
//!
//! What must hold: one request at a time, and it begins at a border whose state is known, or nobody could link
//! what it brings. Where the pieces that are needed lie beyond the known chain, it walks there.

use darter_types::{ChainState, Digest, Moment, PieceLayout, PieceNumber, PieceRun, PieceSet};

use super::{Apart, Fetch, Task};
use crate::content::Content;
use crate::event::{FetchId, OriginFailure};
use crate::gate::Lease;
use crate::{Action, Failure, Release};

impl Task {
    // === what events do ===

    pub(super) fn lease_granted(&mut self, epoch: u64, runs: Vec<PieceRun>, actions: &mut Vec<Action>) {
        self.gate.scheduler_answered();
        if !self.gate.in_need() && !runs.is_empty() && self.lease_epoch() != Some(epoch) {
            // What an earlier lease began may lie outside of this one.
            self.cancel_origin(actions);
        }
        let on_demand = false;
        self.take_lease(
            Lease {
                epoch,
                runs,
                on_demand,
            },
            actions,
        );
    }

    /// What was told under an earlier lease may not have been taken in: all is told again under a new one.
    pub(super) fn take_lease(&mut self, lease: Lease, actions: &mut Vec<Action>) {
        if self.lease_epoch() != Some(lease.epoch) {
            self.asked = PieceSet::new(self.asked.capacity());
            if let Some(content) = self.content.as_mut() {
                content.scheduler_knows(1);
            }
        }
        self.gate.granted(lease);
        self.publish_trusted(actions);
    }

    pub(super) fn lease_revoked(&mut self, epoch: u64, actions: &mut Vec<Action>) {
        if self.lease_epoch() == Some(epoch) {
            self.gate.lease = None;
            if !self.gate.in_need() {
                self.cancel_origin(actions);
            }
        }
    }

    /// Whether `fetch` is a request to the origin for `piece`: answers of others are not taken.
    fn is_origin_request(&self, fetch: FetchId, piece: PieceNumber) -> bool {
        self.fetches
            .get(&fetch)
            .is_some_and(|fetch| fetch.is_in_order() && fetch.run.contains(piece))
    }

    pub(super) fn origin_border(
        &mut self,
        now: Moment,
        fetch: FetchId,
        piece: PieceNumber,
        state: ChainState,
        actions: &mut Vec<Action>,
    ) {
        let epoch = self.lease_epoch();
        if !self.is_origin_request(fetch, piece) {
            return;
        }
        let Some(content) = self.content.as_mut() else {
            return;
        };
        let border = piece.saturating_add(1);
        let news = border >= content.chain.known();
        if content.learn(border, &[state], true).is_err() {
            // What the origin gave over TLS contradicts the chain that others published.
            return self.contradicted(now, actions);
        }
        if news && (epoch.is_none() || border >= content.trusted) {
            // Alone, or behind states of doubtful authors: this node's word covers only its own.
            actions.push(Action::Publish {
                epoch,
                first: border,
                states: vec![state],
            });
        }
        self.publish_trusted(actions);
        self.piece_here(now, piece, Source::Origin(fetch), actions);
    }

    /// Tells the scheduler, under a lease, those trusted states that it does not know.
    pub(super) fn publish_trusted(&mut self, actions: &mut Vec<Action>) {
        let Some(epoch) = self.lease_epoch() else { return };
        if let Some((first, states)) = self.content.as_mut().and_then(Content::take_states_to_tell) {
            actions.push(Action::Publish {
                epoch: Some(epoch),
                first,
                states,
            });
        }
    }

    pub(super) fn origin_last(
        &mut self,
        now: Moment,
        fetch: FetchId,
        digest: Digest,
        actions: &mut Vec<Action>,
    ) {
        let Some(last) = self.layout().map(PieceLayout::last_piece) else {
            return;
        };
        if !self.is_origin_request(fetch, last) {
            return;
        }
        if digest != self.settings.digest {
            // All of it was read here: then it is the origin that is wrong.
            let own = self.content.as_ref().map_or(0, Content::own_pieces);
            return match own == last {
                true => self.fail(Failure::WrongContent, actions),
                false => self.contradicted(now, actions),
            };
        }
        self.piece_here(now, last, Source::Origin(fetch), actions);
    }

    pub(super) fn origin_bytes(
        &mut self,
        now: Moment,
        fetch: FetchId,
        offset: u64,
        actions: &mut Vec<Action>,
    ) {
        let Some(layout) = self.layout() else { return };
        let Some(run) = self
            .fetches
            .get(&fetch)
            .filter(|fetch| fetch.is_in_order())
            .map(|fetch| fetch.run)
        else {
            return;
        };
        self.last_progress = now;
        self.gate.reached(offset);
        if self.settings.release == Release::Proved {
            return actions.push(Action::BytesCame);
        }
        // The last piece waits for the proof of the whole.
        let offset = offset.min(layout.piece_range(layout.last_piece()).start);
        if offset > layout.piece_range(run.first).start {
            actions.push(Action::ReleaseBytes { offset });
        }
    }

    pub(super) fn origin_failed(
        &mut self,
        now: Moment,
        started: Moment,
        failure: OriginFailure,
        actions: &mut Vec<Action>,
    ) {
        let over = match failure {
            OriginFailure::WrongContent => return self.fail(Failure::WrongContent, actions),
            OriginFailure::Refused => return self.fail(Failure::Refused, actions),
            OriginFailure::Absent => return self.fail(Failure::Absent, actions),
            OriginFailure::Transient if !self.gate.failed(now, started, &self.settings.limits) => return,
            OriginFailure::Transient | OriginFailure::Exhausted => Failure::Unavailable,
        };
        // Others may be luckier with the origin; what they fetch reaches this node as long as one of them lives.
        if self.parents.any_alive() && self.gate.give_up() {
            self.end_lease(Some(over), actions);
            self.last_progress = now;
            self.want(now, actions);
        } else {
            self.fail(over, actions);
        }
    }

    // === what follows from the state ===

    /// Reads the origin where it may: one request at a time, from a border whose state is known.
    pub(super) fn ask_origin(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if !self.has_demand() {
            return self.cancel_origin(actions);
        }
        if self.gate.lease.is_none() && self.is_over_need(now) {
            return self.cancel_origin(actions);
        }
        let open = self.gate.is_open(now);
        if open || (!self.gate.is_paused(now) && self.has_overdue_reader(now)) {
            self.ask_apart(now, actions);
        }
        if !open || self.chain_requests() > 0 {
            return;
        }
        let (run, before) = match &self.content {
            // The origin's answer tells the length; the run is cut down to it then.
            None => {
                let run = PieceRun {
                    first: 0,
                    count: PieceLayout::PIECES_MAX,
                };
                (run, ChainState::initial(self.settings.digest.algorithm()))
            }
            Some(content) => {
                let Some(run) = self.origin_run(now, content) else {
                    return self.end_lease_if_covered(now, actions);
                };
                let Some(before) = content.chain.states_from(run.first).first().copied() else {
                    return;
                };
                (run, before)
            }
        };
        let fetch = self.add_fetch(now, None, run, Apart::None);
        actions.push(Action::FetchOrigin { fetch, run, before });
    }

    fn is_over_need(&mut self, now: Moment) -> bool {
        let stuck = self.stuck_since(now).is_some() || self.has_overdue_reader(now);
        let alive = self.parents.any_alive();
        self.gate.is_over_it(alive, stuck)
    }

    /// The first stretch that the origin shall bring, up to the next piece that is here or under way.
    fn origin_run(&self, now: Moment, content: &Content) -> Option<PieceRun> {
        let known = content.chain.known();
        let count = content.layout().piece_count();
        let lacks = |piece: PieceNumber| self.origin_lacks(now, content, piece);
        // Where not all is wanted, what lies ahead of the chain comes out of order.
        let needed = |piece: PieceNumber| {
            lacks(piece) && self.origin_shall_bring(piece) && (piece < known || self.walks_to(piece))
        };
        let target = (content.present.next_missing(0)..count).find(|piece| needed(*piece))?;
        let first = if target < known {
            target
        } else {
            known.checked_sub(1)?
        };
        let longest = self.origin_run_max(content.layout());
        let end = (first..count.min(first.saturating_add(longest)))
            .find(|piece| !lacks(*piece) || (*piece > target && !needed(*piece)))
            .unwrap_or(count.min(first.saturating_add(longest)));
        (end > first).then_some(PieceRun {
            first,
            count: end - first,
        })
    }

    /// Whether the piece is neither here nor under way (from somebody who gets on), nor claimed such that its claim can be
    /// checked.
    fn origin_lacks(&self, now: Moment, content: &Content, piece: PieceNumber) -> bool {
        let claimed = content.claimed.contains(piece) && content.is_provable(piece);
        let under_way = || self.under_way.contains(piece) && !self.is_left_lying(now, piece);
        !content.is_here(piece) && !claimed && !under_way()
    }

    fn origin_shall_bring(&self, piece: PieceNumber) -> bool {
        self.in_lease(piece) || (self.gate.in_need() && self.is_wanted(piece))
    }

    /// Most pieces of one request: little while parents may bring the rest sooner.
    fn origin_run_max(&self, layout: PieceLayout) -> u32 {
        if self.gate.lease.is_some() || !self.parents.any_alive() {
            return u32::MAX;
        }
        let pieces = self.settings.limits.origin_run_bytes / u64::from(layout.piece_length());
        u32::try_from(pieces).unwrap_or(u32::MAX).max(1)
    }

    pub(super) fn in_lease(&self, piece: PieceNumber) -> bool {
        let Some(lease) = &self.gate.lease else {
            return false;
        };
        lease.names(&self.asked, piece) || (lease.on_demand && self.is_wanted(piece))
    }

    /// A lease whose pieces are all here is done, though others of the content may still be missing. One for single pieces is kept
    /// for a while: more are asked for under it.
    fn end_lease_if_covered(&mut self, now: Moment, actions: &mut Vec<Action>) {
        let (Some(content), Some(lease)) = (&self.content, &self.gate.lease) else {
            return;
        };
        if lease.on_demand && now.since(self.asked_at) < self.settings.limits.lease_idle {
            return;
        }
        let is_there = |piece: PieceNumber| match lease.on_demand {
            true => content.is_here(piece),
            false => content.present.contains(piece),
        };
        let mut missing = (0..content.present.capacity()).filter(|piece| !is_there(*piece));
        if !missing.any(|piece| self.in_lease(piece)) {
            self.end_lease(None, actions);
        }
    }

    pub(super) fn end_lease(&mut self, failure: Option<Failure>, actions: &mut Vec<Action>) {
        if let Some(lease) = self.gate.lease.take() {
            actions.push(Action::EndLease {
                epoch: lease.epoch,
                failure,
            });
        }
    }
}

/// Where a piece came from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Parent(FetchId, darter_types::HostId),
    Origin(FetchId),
    /// It was in the store before.
    Store,
}

impl Source {
    pub(super) fn of(id: FetchId, fetch: &Fetch) -> Self {
        match &fetch.host {
            Some(host) => Self::Parent(id, host.clone()),
            None => Self::Origin(id),
        }
    }

    pub(super) fn fetch(&self) -> Option<FetchId> {
        match self {
            Self::Parent(fetch, _) | Self::Origin(fetch) => Some(*fetch),
            Self::Store => None,
        }
    }
}
