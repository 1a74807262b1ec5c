//! What each event does to the state; what follows from the new state is for `plan`.

use std::time::Duration;

use darter_types::{ByteRange, ChainError, ChainState, HostId, Moment, PieceLayout, PieceNumber, PieceSet};

use super::origin::Source;
use super::{Reader, Task};
use crate::content::Content;
use crate::event::{FetchFailure, FetchId, OriginFailure, ParentFailure, ReaderId};
use crate::{Action, Failure, ParentOffer, Release};

/// How often at most the scheduler is told again what is wanted.
const WANT_PAUSE: Duration = Duration::from_secs(1);

impl Task {
    pub(super) fn reader_opened(
        &mut self,
        now: Moment,
        reader: ReaderId,
        (range, checks): (ByteRange, bool),
        actions: &mut Vec<Action>,
    ) {
        if !self.has_demand() {
            self.last_progress = now;
        }
        self.readers.insert(
            reader,
            Reader {
                range,
                offset: range.start,
                checks,
                since: now,
                ahead: false,
            },
        );
        self.move_readers(now);
        if !self.settings.whole && self.gate.is_scheduler_up() {
            self.want(now, actions);
        }
    }

    /// Who waits for the proof takes nothing before that, and stands where [`Self::move_readers`] says.
    pub(super) fn reader_moved(&mut self, now: Moment, reader: ReaderId, offset: u64) {
        let (rule, length) = (self.settings.release, self.layout().map(PieceLayout::length));
        let takes = |reader: &Reader| {
            rule == Release::Linked || length.is_some_and(|length| reader.is_of_range(length, rule))
        };
        if let Some(reader) = self.readers.get_mut(&reader)
            && offset > reader.offset
            && takes(reader)
        {
            reader.offset = offset;
            reader.since = now;
        }
    }

    pub(super) fn scheduler_up(&mut self, now: Moment, actions: &mut Vec<Action>) {
        self.gate.scheduler_up(now);
        self.last_want = Some(now);
        self.told = PieceSet::new(self.told.capacity());
        actions.push(Action::Want);
        if let Some(content) = self.content.as_mut() {
            // It may be another one, or have forgotten.
            content.scheduler_knows(1);
            self.publish_trusted(actions);
        }
    }

    /// Tells the scheduler again what is wanted, unless that was just done.
    pub(super) fn want(&mut self, now: Moment, actions: &mut Vec<Action>) {
        if self.last_want.is_none_or(|last| now.since(last) >= WANT_PAUSE) {
            self.last_want = Some(now);
            actions.push(Action::Want);
        }
    }

    /// Fixes the length; false if another one is known already or it cannot be cut.
    pub(super) fn cut(&mut self, length: u64, actions: &mut Vec<Action>) -> bool {
        if let Some(content) = &self.content {
            return content.layout().length() == length;
        }
        let Ok(layout) = PieceLayout::of(length) else {
            return false;
        };
        let content = Content::new(self.settings.digest, layout, self.settings.release);
        self.start_content(content);
        actions.push(Action::Prepare { length });
        true
    }

    pub(super) fn parents_offered(&mut self, offers: Vec<ParentOffer>, actions: &mut Vec<Action>) {
        self.gate.scheduler_answered();
        let changed = self.parents.offer(offers, &self.settings.limits);
        for host in changed.gone {
            self.cancel_requests_to(&host, actions);
            actions.push(Action::Unwatch(host));
        }
        watch(changed.new, actions);
    }

    /// A parent can no longer be listened to.
    pub(super) fn parent_lost(
        &mut self,
        now: Moment,
        host: &HostId,
        failure: ParentFailure,
        actions: &mut Vec<Action>,
    ) {
        if self
            .parents
            .drop_parent(host, failure, now, &self.settings.limits)
        {
            self.parent_dropped(host, failure, 0, actions);
        }
    }

    fn parent_dropped(
        &mut self,
        host: &HostId,
        failure: ParentFailure,
        piece: PieceNumber,
        actions: &mut Vec<Action>,
    ) {
        self.cancel_requests_to(host, actions);
        actions.push(Action::Unwatch(host.clone()));
        if failure != ParentFailure::Busy {
            actions.push(Action::Blame {
                host: host.clone(),
                failure,
                piece,
            });
        }
    }

    pub(super) fn links_came(
        &mut self,
        now: Moment,
        length: u64,
        first: u32,
        states: &[ChainState],
        trusted: bool,
        actions: &mut Vec<Action>,
    ) {
        self.gate.scheduler_answered();
        if !self.cut(length, actions) {
            if trusted {
                // Two lengths of one digest: one of them lies, and only the origin can say which.
                self.contradicted(now, actions);
            }
            return;
        }
        let Some(content) = self.content.as_mut() else {
            return;
        };
        match content.learn(first, states, trusted) {
            Ok(()) => {
                content.scheduler_knows(first.saturating_add(u32::try_from(states.len()).unwrap_or(0)));
                self.keep_states(actions);
                self.release(actions);
            }
            // Two authors disagree. Who is right shows only at the origin.
            Err(ChainError::Conflict { .. }) => self.contradicted(now, actions),
            // States before these got lost on the way: what is known is told with the want.
            Err(ChainError::Gap { .. }) => self.want(now, actions),
            Err(ChainError::Malformed { .. }) => {}
        }
    }

    pub(super) fn keep_states(&mut self, actions: &mut Vec<Action>) {
        if let Some((first, states)) = self.content.as_mut().and_then(Content::take_states_to_keep) {
            actions.push(Action::KeepStates { first, states });
        }
    }

    pub(super) fn release(&mut self, actions: &mut Vec<Action>) {
        if let Some(content) = self.content.as_mut() {
            actions.extend(content.release().into_iter().map(Action::Release));
            let to_ranges = content.release_to_ranges();
            actions.extend(to_ranges.into_iter().map(Action::ReleaseToRanges));
        }
    }

    pub(super) fn piece_linked(
        &mut self,
        now: Moment,
        id: FetchId,
        piece: PieceNumber,
        actions: &mut Vec<Action>,
    ) {
        let Some(fetch) = self.fetches.get(&id).filter(|fetch| fetch.run.contains(piece)) else {
            return;
        };
        let (source, apart) = (Source::of(id, fetch), fetch.apart.contains(piece));
        if let Source::Parent(_, host) = &source {
            self.parents.succeeded(host);
            self.gate.delivered();
            if apart {
                self.apart_here(now, piece, source, actions);
            } else {
                self.piece_here(now, piece, source, actions);
            }
        }
    }

    /// A piece is linked and written, whoever it came from.
    pub(super) fn piece_here(
        &mut self,
        now: Moment,
        piece: PieceNumber,
        source: Source,
        actions: &mut Vec<Action>,
    ) {
        let Some(content) = self.content.as_mut() else {
            return;
        };
        let from_origin = matches!(source, Source::Origin(_));
        self.last_progress = now;
        self.gate.progressed(from_origin);
        let was_apart = content.apart.contains(piece);
        if !content.arrived(piece, from_origin) {
            return;
        }
        // With the last piece all that waits is released together.
        let released = if content.is_proved() {
            None
        } else {
            content.release_one(piece)
        };
        let last = content.layout().last_piece();
        let to_ranges = [piece, last].map(|piece| content.release_one_to_ranges(piece));
        let fetch = source.fetch();
        let from = match source {
            Source::Parent(_, host) => Some(host),
            Source::Origin(_) | Source::Store => None,
        };
        self.keep_states(actions);
        actions.push(Action::Have {
            piece,
            from,
            was_apart,
        });
        actions.extend(released.map(Action::Release));
        actions.extend(to_ranges.into_iter().flatten().map(Action::ReleaseToRanges));
        self.move_readers(now);
        self.answer_asked(now, piece, actions);
        self.cancel_idle(piece, fetch, actions);
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
        let missing = self.first_missing(fetch.run);
        if failure.is_none() && missing.is_none() && fetch.host.is_some() {
            let took = now.since(fetch.started);
            self.usual_request = Some(self.usual_request.map_or(took, |usual| (usual * 7 + took) / 8));
        }
        match (failure, fetch.host) {
            (None, _) if missing.is_none() => {}
            // It says that it answered whole, but did not.
            (None, None) => self.origin_failed(now, fetch.started, OriginFailure::Transient, actions),
            (None, Some(host)) => self.parent_failed(now, &host, ParentFailure::Missing, fetch.run, actions),
            (Some(FetchFailure::Parent(failure)), Some(host)) => {
                self.parent_failed(now, &host, failure, fetch.run, actions);
            }
            (Some(FetchFailure::Origin(failure)), _) => {
                self.origin_failed(now, fetch.started, failure, actions);
            }
            (Some(FetchFailure::Store), _) => self.fail(Failure::Store, actions),
            (Some(FetchFailure::Parent(_)), None) => {
                self.origin_failed(now, fetch.started, OriginFailure::Transient, actions);
            }
        }
    }

    fn parent_failed(
        &mut self,
        now: Moment,
        host: &HostId,
        failure: ParentFailure,
        run: darter_types::PieceRun,
        actions: &mut Vec<Action>,
    ) {
        let piece = self.first_missing(run).unwrap_or(run.first);
        if failure == ParentFailure::Missing {
            self.parents.lacks(host, piece..run.end());
        }
        if self.parents.failed(host, failure, now, &self.settings.limits) {
            self.parent_dropped(host, failure, piece, actions);
        }
    }

    pub(super) fn claim_checked(
        &mut self,
        now: Moment,
        piece: PieceNumber,
        good: bool,
        actions: &mut Vec<Action>,
    ) {
        let linked = self.checking.remove(&piece);
        let Some(content) = self.content.as_mut() else {
            return;
        };
        if content.apart.contains(piece) {
            // A check by what attests it is late: it came again since.
            if linked == Some(true) {
                self.apart_checked(now, piece, good, actions);
            }
            return;
        }
        if !content.claimed.remove(piece) {
            return;
        }
        match linked {
            Some(false) if good => self.apart_here(now, piece, Source::Store, actions),
            Some(false) => content.lose_apart(piece),
            _ if good => self.piece_here(now, piece, Source::Store, actions),
            _ => content.lose_apart(piece),
        }
    }

    pub(super) fn fail(&mut self, failure: Failure, actions: &mut Vec<Action>) {
        self.cancel(|_| true, actions);
        self.end_lease(Some(failure), actions);
        actions.push(Action::Fail(failure));
        self.over = true;
    }
}

pub(super) fn watch(parents: Vec<ParentOffer>, actions: &mut Vec<Action>) {
    actions.extend(parents.into_iter().map(|offer| Action::Watch {
        host: offer.host,
        address: offer.address,
    }));
}
