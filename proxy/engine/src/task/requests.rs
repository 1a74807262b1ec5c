//! The requests under way: which there are, and which pieces they cover.

use darter_types::{HostId, Moment, PieceNumber, PieceRun};

use super::{Fetch, Task};
use crate::Action;
use crate::event::FetchId;

impl Task {
    pub(super) fn add_fetch(&mut self, now: Moment, host: Option<HostId>, run: PieceRun) -> FetchId {
        let id = FetchId(self.next_fetch);
        self.next_fetch += 1;
        self.under_way.insert_run(run);
        self.fetches.insert(
            id,
            Fetch {
                host,
                run,
                started: now,
            },
        );
        id
    }

    pub(super) fn remove_fetch(&mut self, id: FetchId) -> Option<Fetch> {
        let fetch = self.fetches.remove(&id)?;
        if let Some(parent) = fetch
            .host
            .as_ref()
            .and_then(|host| self.parents.by_host.get_mut(host))
        {
            parent.requests = parent.requests.saturating_sub(1);
        }
        let end = fetch.run.end().min(self.under_way.capacity());
        for piece in fetch.run.first..end {
            if !self.fetches.values().any(|other| other.run.contains(piece)) {
                self.under_way.remove(piece);
            }
        }
        Some(fetch)
    }

    pub(super) fn cancel(&mut self, which: impl Fn(&Fetch) -> bool, actions: &mut Vec<Action>) {
        let ids: Vec<FetchId> = self
            .fetches
            .iter()
            .filter(|(_, fetch)| which(fetch))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.remove_fetch(id);
            actions.push(Action::Cancel(id));
        }
    }

    pub(super) fn cancel_requests_to(&mut self, host: &HostId, actions: &mut Vec<Action>) {
        self.cancel(|fetch| fetch.host.as_ref() == Some(host), actions);
    }

    /// A piece came: other requests for it alone are for nothing.
    pub(super) fn cancel_duplicates(&mut self, piece: PieceNumber, actions: &mut Vec<Action>) {
        let twice = self
            .fetches
            .values()
            .filter(|fetch| fetch.run.contains(piece))
            .count()
            > 1;
        if twice {
            self.cancel(|fetch| fetch.run == PieceRun::one(piece), actions);
        }
    }

    pub(super) fn first_missing(&self, run: PieceRun) -> PieceNumber {
        let present = self.present();
        run.pieces()
            .find(|piece| present.is_none_or(|set| !set.contains(*piece)))
            .unwrap_or(run.first)
    }

    pub(crate) fn peer_requests(&self) -> usize {
        self.fetches.values().filter(|fetch| fetch.host.is_some()).count()
    }

    pub(crate) fn origin_requests(&self) -> usize {
        self.fetches.values().filter(|fetch| fetch.host.is_none()).count()
    }

    pub(crate) fn requests_to(&self, host: &HostId) -> usize {
        self.fetches
            .values()
            .filter(|fetch| fetch.host.as_ref() == Some(host))
            .count()
    }
}
