//! What each event does to the state; what follows from the new state is for `plan`.

use darter_types::{ChainState, HostId, Moment, PieceLayout, PieceNumber, PieceSet};

use super::Task;
use crate::content::Content;
use crate::event::{FetchFailure, FetchId, ParentFailure};
use crate::{Action, Failure};

impl Task {
    /// Fixes the length; false if another one is known already or it cannot be cut.
    pub(super) fn cut(&mut self, length: u64, actions: &mut Vec<Action>) -> bool {
        if let Some(content) = &self.content {
            return content.layout().length() == length;
        }
        let Ok(layout) = PieceLayout::of(length) else {
            return false;
        };
        self.content = Some(Content::new(self.settings.digest, layout));
        self.under_way = PieceSet::new(layout.piece_count());
        self.fetches
            .values()
            .for_each(|fetch| self.under_way.insert_run(fetch.run));
        self.parents.cut(layout.piece_count());
        actions.push(Action::Prepare { length });
        true
    }

    pub(super) fn parents_offered(&mut self, offers: Vec<crate::ParentOffer>, actions: &mut Vec<Action>) {
        self.gate.scheduler_answered();
        let (new, gone) = self.parents.offer(offers, &self.settings.limits);
        for host in gone {
            self.cancel_requests_to(&host, actions);
            actions.push(Action::Unwatch(host));
        }
        actions.extend(new.into_iter().map(|offer| Action::Watch {
            host: offer.host,
            address: offer.address,
        }));
    }

    pub(super) fn parent_failed(
        &mut self,
        now: Moment,
        host: &HostId,
        failure: ParentFailure,
        piece: PieceNumber,
        actions: &mut Vec<Action>,
    ) {
        if self.parents.failed(host, failure, now, &self.settings.limits) {
            self.cancel_requests_to(host, actions);
            actions.push(Action::Unwatch(host.clone()));
            actions.push(Action::Blame {
                host: host.clone(),
                failure,
                piece,
            });
        }
    }

    pub(super) fn links_came(
        &mut self,
        length: u64,
        first: u32,
        states: &[ChainState],
        trusted: bool,
        actions: &mut Vec<Action>,
    ) {
        self.gate.scheduler_answered();
        if !self.cut(length, actions) {
            return;
        }
        let Some(content) = self.content.as_mut() else {
            return;
        };
        let known = content.chain.known();
        match content.learn(first, states, trusted) {
            Ok(()) => {
                let now_known = content.chain.known();
                if now_known > known {
                    let states = content.chain.states_from(known).to_vec();
                    actions.push(Action::KeepStates { first: known, states });
                }
                actions.extend(content.release().into_iter().map(Action::Release));
            }
            // Two authors disagree, or one talks nonsense. Who is right shows only at the origin.
            Err(darter_types::ChainError::Conflict { .. }) => self.fail(Failure::WrongContent, actions),
            Err(_) => {}
        }
    }

    pub(super) fn lease_revoked(&mut self, epoch: u64, actions: &mut Vec<Action>) {
        if self.lease_epoch() == Some(epoch) {
            self.gate.lease = None;
            if !self.gate.alone {
                self.cancel(|fetch| fetch.host.is_none(), actions);
            }
        }
    }

    pub(super) fn piece_linked(
        &mut self,
        now: Moment,
        fetch: FetchId,
        piece: PieceNumber,
        actions: &mut Vec<Action>,
    ) {
        let Some(from) = self.fetches.get(&fetch).map(|fetch| fetch.host.clone()) else {
            return;
        };
        if let Some(host) = &from {
            self.parents.succeeded(host);
        }
        self.piece_here(now, piece, from, actions);
    }

    /// A piece is linked and written, whoever it came from.
    pub(super) fn piece_here(
        &mut self,
        now: Moment,
        piece: PieceNumber,
        from: Option<HostId>,
        actions: &mut Vec<Action>,
    ) {
        let Some(content) = self.content.as_mut() else {
            return;
        };
        self.last_progress = now;
        content.claimed.remove(piece);
        if !content.present.insert(piece) {
            return;
        }
        actions.push(Action::Have { piece, from });
        if content.is_proved() {
            actions.extend(content.release().into_iter().map(Action::Release));
        } else {
            actions.extend(content.release_one(piece).map(Action::Release));
        }
        self.cancel_duplicates(piece, actions);
    }

    pub(super) fn fetch_ended(
        &mut self,
        now: Moment,
        id: FetchId,
        failure: Option<FetchFailure>,
        actions: &mut Vec<Action>,
    ) {
        let Some(fetch) = self.remove_fetch(id) else {
            return;
        };
        match (failure, fetch.host) {
            (None, _) => {}
            (Some(FetchFailure::Parent(failure)), Some(host)) => {
                let missing = self.first_missing(fetch.run);
                self.parent_failed(now, &host, failure, missing, actions);
            }
            (Some(FetchFailure::Origin(failure)), _) => self.origin_failed(now, failure, actions),
            (Some(FetchFailure::Store), _) => self.fail(Failure::Store, actions),
            (Some(FetchFailure::Parent(_)), None) => {}
        }
    }

    pub(super) fn claim_checked(
        &mut self,
        now: Moment,
        piece: PieceNumber,
        good: bool,
        actions: &mut Vec<Action>,
    ) {
        self.under_way.remove(piece);
        if let Some(content) = self.content.as_mut() {
            content.claimed.remove(piece);
            if good {
                self.piece_here(now, piece, None, actions);
            }
        }
    }

    pub(super) fn fail(&mut self, failure: Failure, actions: &mut Vec<Action>) {
        self.cancel(|_| true, actions);
        if let Some(lease) = self.gate.lease.take() {
            actions.push(Action::EndLease {
                epoch: lease.epoch,
                failure: Some(failure),
            });
        }
        actions.push(Action::Fail(failure));
        self.over = true;
    }
}
