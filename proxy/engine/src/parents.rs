//! The nodes that a task fetches from: what each has, and how it behaved.

use std::collections::BTreeMap;

use darter_types::{HostId, Moment, PieceNumber, PieceRun, PieceSet};

use crate::event::ParentFailure;
use crate::{Limits, ParentOffer};

#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) address: String,
    /// It answered: it will tell what it has.
    pub(crate) alive: bool,
    /// Runs heard before the length was known.
    early: Vec<PieceRun>,
    pub(crate) has: PieceSet,
    pub(crate) requests: usize,
    failures: u32,
    paused_until: Moment,
    /// Asked for no more in this task.
    pub(crate) dropped: bool,
}

impl Parent {
    pub(crate) fn may_be_asked(&self, now: Moment, limits: &Limits) -> bool {
        self.alive
            && !self.dropped
            && now >= self.paused_until
            && self.requests < limits.requests_per_parent_max
    }
}

/// Runs kept for a parent while the length is not known; more than an honest one needs.
const EARLY_RUNS_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Parents {
    pub(crate) by_host: BTreeMap<HostId, Parent>,
    /// How many parents have each piece.
    counts: Vec<u16>,
}

impl Parents {
    /// Replaces the set; returns who is new and who left. Parents that were dropped stay dropped.
    pub(crate) fn offer(
        &mut self,
        offers: Vec<ParentOffer>,
        limits: &Limits,
    ) -> (Vec<ParentOffer>, Vec<HostId>) {
        let wanted: Vec<_> = offers.into_iter().take(limits.parents_max).collect();
        let gone: Vec<HostId> = self
            .by_host
            .iter()
            .filter(|(host, parent)| !parent.dropped && !wanted.iter().any(|offer| offer.host == **host))
            .map(|(host, _)| host.clone())
            .collect();
        for host in &gone {
            self.forget(host);
        }
        let capacity = u32::try_from(self.counts.len()).unwrap_or(u32::MAX);
        let mut new = Vec::new();
        for offer in wanted {
            if !self.by_host.contains_key(&offer.host) {
                let parent = Parent {
                    address: offer.address.clone(),
                    alive: false,
                    early: Vec::new(),
                    has: PieceSet::new(capacity),
                    requests: 0,
                    failures: 0,
                    paused_until: Moment::START,
                    dropped: false,
                };
                self.by_host.insert(offer.host.clone(), parent);
                new.push(offer);
            }
        }
        (new, gone)
    }

    /// The length became known.
    pub(crate) fn cut(&mut self, piece_count: u32) {
        self.counts = vec![0; piece_count as usize];
        let mut early = Vec::new();
        for (host, parent) in &mut self.by_host {
            parent.has = PieceSet::new(piece_count);
            early.push((host.clone(), std::mem::take(&mut parent.early)));
        }
        for (host, runs) in early {
            self.has(&host, &runs);
        }
    }

    pub(crate) fn has(&mut self, host: &HostId, runs: &[PieceRun]) {
        let Some(parent) = self.by_host.get_mut(host) else {
            return;
        };
        parent.alive = true;
        if self.counts.is_empty() {
            let room = EARLY_RUNS_MAX.saturating_sub(parent.early.len());
            parent.early.extend(runs.iter().take(room));
            return;
        }
        let capacity = parent.has.capacity();
        for piece in runs.iter().flat_map(|run| run.first..run.end().min(capacity)) {
            if parent.has.insert(piece) {
                add(&mut self.counts, piece, true);
            }
        }
    }

    /// Takes a parent out of the set, and what it has out of the counts.
    fn forget(&mut self, host: &HostId) {
        if let Some(parent) = self.by_host.remove(host) {
            parent
                .has
                .iter()
                .for_each(|piece| add(&mut self.counts, piece, false));
        }
    }

    /// Notes a failure; true if the parent is given up.
    pub(crate) fn failed(
        &mut self,
        host: &HostId,
        failure: ParentFailure,
        now: Moment,
        limits: &Limits,
    ) -> bool {
        let Some(parent) = self.by_host.get_mut(host) else {
            return false;
        };
        if parent.dropped {
            return false;
        }
        parent.failures += 1;
        parent.paused_until = now + limits.parent_pause;
        let fatal = match failure {
            ParentFailure::WrongBytes | ParentFailure::Silent | ParentFailure::Unreachable => true,
            ParentFailure::Missing => parent.failures >= limits.parent_failures_max,
            ParentFailure::Busy => false,
        };
        if fatal {
            parent.dropped = true;
            parent.alive = false;
            let has = std::mem::replace(
                &mut parent.has,
                PieceSet::new(u32::try_from(self.counts.len()).unwrap_or(0)),
            );
            has.iter().for_each(|piece| add(&mut self.counts, piece, false));
        }
        fatal
    }

    pub(crate) fn succeeded(&mut self, host: &HostId) {
        if let Some(parent) = self.by_host.get_mut(host) {
            parent.failures = 0;
        }
    }

    pub(crate) fn any_alive(&self) -> bool {
        self.by_host
            .values()
            .any(|parent| parent.alive && !parent.dropped)
    }

    /// How many parents have `piece`.
    pub(crate) fn count(&self, piece: PieceNumber) -> u16 {
        self.counts.get(piece as usize).copied().unwrap_or(0)
    }
}

fn add(counts: &mut [u16], piece: PieceNumber, up: bool) {
    if let Some(count) = counts.get_mut(piece as usize) {
        *count = if up {
            count.saturating_add(1)
        } else {
            count.saturating_sub(1)
        };
    }
}
