//! The requests under way: which there are, and which pieces they cover.

use darter_types::{HostId, Moment, PieceNumber, PieceRun};

use super::{Apart, Fetch, Task};
use crate::Action;
use crate::event::FetchId;

impl Fetch {
    /// Whether it reads the origin along the chain.
    pub(super) fn is_in_order(&self) -> bool {
        self.host.is_none() && self.apart == Apart::None
    }
}

impl Task {
    pub(super) fn add_fetch(
        &mut self,
        now: Moment,
        host: Option<HostId>,
        run: PieceRun,
        apart: Apart,
    ) -> FetchId {
        let id = FetchId(self.next_fetch);
        self.next_fetch += 1;
        self.under_way.insert_run(run);
        if let Some(parent) = host.as_ref().and_then(|host| self.parents.by_host.get_mut(host)) {
            parent.requests += 1;
        }
        self.fetches.insert(
            id,
            Fetch {
                host,
                run,
                apart,
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
            if self.requests_for(piece) == 0 {
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

    pub(super) fn cancel_origin(&mut self, actions: &mut Vec<Action>) {
        self.cancel(|fetch| fetch.host.is_none(), actions);
    }

    /// A piece came by the request `by`: others of which nothing is missing any more are for nothing.
    pub(super) fn cancel_idle(&mut self, piece: PieceNumber, by: Option<FetchId>, actions: &mut Vec<Action>) {
        let Some(content) = &self.content else { return };
        let idle = |fetch: &Fetch| fetch.run.pieces().all(|piece| content.is_here(piece));
        let ids: Vec<FetchId> = self
            .fetches
            .iter()
            .filter(|(id, fetch)| Some(**id) != by && fetch.run.contains(piece) && idle(fetch))
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            self.remove_fetch(id);
            actions.push(Action::Cancel(id));
        }
    }

    /// The first piece of `run` that is not here.
    pub(super) fn first_missing(&self, run: PieceRun) -> Option<PieceNumber> {
        let Some(content) = &self.content else {
            return Some(run.first);
        };
        let end = run.end().min(content.present.capacity());
        (run.first..end).find(|piece| !content.is_here(*piece))
    }

    /// How many requests cover `piece`.
    pub(super) fn requests_for(&self, piece: PieceNumber) -> usize {
        self.fetches
            .values()
            .filter(|fetch| fetch.run.contains(piece))
            .count()
    }

    pub(crate) fn peer_requests(&self) -> usize {
        self.fetches.values().filter(|fetch| fetch.host.is_some()).count()
    }

    pub(crate) fn origin_requests(&self) -> usize {
        self.fetches.values().filter(|fetch| fetch.host.is_none()).count()
    }

    /// Requests to the origin in order.
    pub(crate) fn chain_requests(&self) -> usize {
        self.fetches.values().filter(|fetch| fetch.is_in_order()).count()
    }

    /// Requests to the origin out of order.
    pub(crate) fn apart_requests(&self) -> usize {
        self.fetches
            .values()
            .filter(|fetch| fetch.host.is_none() && fetch.apart == Apart::All)
            .count()
    }

    pub(crate) fn requests_to(&self, host: &HostId) -> usize {
        self.fetches
            .values()
            .filter(|fetch| fetch.host.as_ref() == Some(host))
            .count()
    }
}
