//! The nodes that a task fetches from: what each has, and how it behaved.

use std::collections::BTreeMap;

use darter_types::{HostId, Moment, PieceNumber, PieceRun, PieceSet};

use crate::event::ParentFailure;
use crate::{Limits, ParentOffer};

/// Whether a parent may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Good,
    /// Left out until then.
    DroppedUntil(Moment),
    /// It sent wrong bytes.
    Dropped,
}

#[derive(Debug)]
pub(crate) struct Parent {
    pub(crate) address: String,
    /// It answered: it will tell what it has.
    alive: bool,
    /// It is among those that the scheduler chose last.
    offered: bool,
    /// Runs heard before the length was known.
    early: Vec<PieceRun>,
    pub(crate) has: PieceSet,
    pub(crate) requests: usize,
    /// Times in a row that it lacked what it had told of, or let a request wait for too long.
    failures: u32,
    drops: u32,
    paused_until: Moment,
    standing: Standing,
}

impl Parent {
    fn new(address: String, piece_count: u32) -> Self {
        Self {
            address,
            alive: false,
            offered: true,
            early: Vec::new(),
            has: PieceSet::new(piece_count),
            requests: 0,
            failures: 0,
            drops: 0,
            paused_until: Moment::START,
            standing: Standing::Good,
        }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.standing == Standing::Good
    }

    pub(crate) fn may_be_asked(&self, now: Moment, limits: &Limits) -> bool {
        self.alive
            && self.is_good()
            && now >= self.paused_until
            && self.requests < limits.requests_per_parent_max
    }
}

/// Runs kept for a parent while the length is not known; more than an honest one needs.
const EARLY_RUNS_MAX: usize = 1024;
/// Parents remembered, most of them for having been dropped.
const REMEMBERED_MAX: usize = 256;
/// Doublings of the time for which a parent is left out.
const DOUBLINGS_MAX: u32 = 5;

/// What an offer changed.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    pub(crate) gone: Vec<HostId>,
    pub(crate) new: Vec<ParentOffer>,
}

#[derive(Debug)]
pub(crate) struct Parents {
    pub(crate) by_host: BTreeMap<HostId, Parent>,
    /// How many parents have each piece.
    counts: Vec<u16>,
    /// Pieces that exactly one parent has.
    sole: PieceSet,
}

impl Default for Parents {
    fn default() -> Self {
        Self {
            by_host: BTreeMap::new(),
            counts: Vec::new(),
            sole: PieceSet::new(0),
        }
    }
}

impl Parents {
    /// Replaces the set; parents that were dropped stay so.
    pub(crate) fn offer(&mut self, offers: Vec<ParentOffer>, limits: &Limits) -> Changed {
        let is_liar = |host: &HostId| {
            self.by_host
                .get(host)
                .is_some_and(|known| known.standing == Standing::Dropped)
        };
        let offers: Vec<_> = offers
            .into_iter()
            .filter(|offer| !is_liar(&offer.host))
            .take(limits.parents_max)
            .collect();
        let stays = |host: &HostId, known: &Parent| {
            offers
                .iter()
                .any(|offer| offer.host == *host && offer.address == known.address)
        };
        let mut changed = Changed::default();
        for (host, known) in &mut self.by_host {
            known.offered = stays(host, known);
            if !known.offered && known.is_good() {
                changed.gone.push(host.clone());
            }
        }
        changed.gone.iter().for_each(|host| self.forget(host));
        for offer in offers {
            match self.by_host.get_mut(&offer.host) {
                None => self.add(offer, &mut changed),
                Some(known) => {
                    known.offered = true;
                    known.address = offer.address;
                }
            }
        }
        changed
    }

    fn add(&mut self, offer: ParentOffer, changed: &mut Changed) {
        if self.by_host.len() >= REMEMBERED_MAX {
            let useless = self
                .by_host
                .iter()
                .find(|(_, known)| !known.offered)
                .map(|(host, _)| host.clone());
            useless.iter().for_each(|host| self.forget(host));
        }
        self.by_host.insert(
            offer.host.clone(),
            Parent::new(offer.address.clone(), self.piece_count()),
        );
        changed.new.push(offer);
    }

    fn piece_count(&self) -> u32 {
        u32::try_from(self.counts.len()).unwrap_or(u32::MAX)
    }

    /// Takes back parents that were left out for long enough and are still offered.
    pub(crate) fn returning(&mut self, now: Moment) -> Vec<ParentOffer> {
        let mut back = Vec::new();
        for (host, parent) in &mut self.by_host {
            if parent.offered && matches!(parent.standing, Standing::DroppedUntil(until) if now >= until) {
                parent.standing = Standing::Good;
                back.push(ParentOffer {
                    host: host.clone(),
                    address: parent.address.clone(),
                });
            }
        }
        back
    }

    /// The length became known.
    pub(crate) fn cut(&mut self, piece_count: u32) {
        self.counts = vec![0; piece_count as usize];
        self.sole = PieceSet::new(piece_count);
        let mut early = Vec::new();
        for (host, parent) in &mut self.by_host {
            parent.has = PieceSet::new(piece_count);
            early.push((host.clone(), std::mem::take(&mut parent.early)));
        }
        for (host, runs) in early {
            self.add_pieces(&host, &runs);
        }
    }

    /// A parent answered.
    pub(crate) fn alive(&mut self, host: &HostId) {
        if let Some(parent) = self.by_host.get_mut(host) {
            parent.alive = parent.is_good();
        }
    }

    /// A parent has pieces; true if that is news.
    pub(crate) fn has(&mut self, host: &HostId, runs: &[PieceRun]) -> bool {
        self.alive(host);
        self.add_pieces(host, runs)
    }

    fn add_pieces(&mut self, host: &HostId, runs: &[PieceRun]) -> bool {
        let Some(parent) = self.by_host.get_mut(host).filter(|parent| parent.is_good()) else {
            return false;
        };
        if self.counts.is_empty() {
            let room = EARLY_RUNS_MAX.saturating_sub(parent.early.len());
            parent.early.extend(runs.iter().take(room));
            return room > 0 && !runs.is_empty();
        }
        let mut has = std::mem::replace(&mut parent.has, PieceSet::new(0));
        let capacity = has.capacity();
        let mut news = false;
        for piece in runs.iter().flat_map(|run| run.first..run.end().min(capacity)) {
            if has.insert(piece) {
                self.count_one(piece, true);
                news = true;
            }
        }
        if let Some(parent) = self.by_host.get_mut(host) {
            parent.has = has;
        }
        news
    }

    /// A parent turned out not to have `pieces`.
    pub(crate) fn lacks(&mut self, host: &HostId, pieces: impl Iterator<Item = PieceNumber>) {
        for piece in pieces {
            let parent = self.by_host.get_mut(host);
            if parent.is_some_and(|parent| parent.has.remove(piece)) {
                self.count_one(piece, false);
            }
        }
    }

    /// Takes a parent out of the set, and what it has out of the counts.
    fn forget(&mut self, host: &HostId) {
        self.strip(host);
        self.by_host.remove(host);
    }

    /// Takes what a parent has out of the counts.
    fn strip(&mut self, host: &HostId) {
        let none = PieceSet::new(self.piece_count());
        let Some(parent) = self.by_host.get_mut(host) else {
            return;
        };
        parent.alive = false;
        parent.early.clear();
        let has = std::mem::replace(&mut parent.has, none);
        has.iter().for_each(|piece| self.count_one(piece, false));
    }

    /// Notes that a request failed; true if the parent is given up for it.
    pub(crate) fn failed(
        &mut self,
        host: &HostId,
        failure: ParentFailure,
        now: Moment,
        limits: &Limits,
    ) -> bool {
        let Some(parent) = self.by_host.get_mut(host).filter(|parent| parent.is_good()) else {
            return false;
        };
        parent.paused_until = now + limits.parent_pause;
        let given_up = match failure {
            ParentFailure::WrongBytes | ParentFailure::Unreachable => true,
            // Its news still come, or it had been lost: the way to it is full rather than dead.
            ParentFailure::Silent | ParentFailure::Missing => {
                parent.failures += 1;
                parent.failures >= limits.parent_failures_max
            }
            ParentFailure::Busy => false,
        };
        given_up && self.drop_parent(host, failure, now, limits)
    }

    /// Gives a parent up; false if it was before.
    pub(crate) fn drop_parent(
        &mut self,
        host: &HostId,
        failure: ParentFailure,
        now: Moment,
        limits: &Limits,
    ) -> bool {
        let Some(parent) = self.by_host.get_mut(host).filter(|parent| parent.is_good()) else {
            return false;
        };
        parent.standing = match failure {
            ParentFailure::WrongBytes => Standing::Dropped,
            _ => {
                Standing::DroppedUntil(now + limits.parent_return * 2u32.pow(parent.drops.min(DOUBLINGS_MAX)))
            }
        };
        parent.drops += 1;
        parent.failures = 0;
        self.strip(host);
        true
    }

    pub(crate) fn succeeded(&mut self, host: &HostId) {
        if let Some(parent) = self.by_host.get_mut(host) {
            parent.failures = 0;
        }
    }

    pub(crate) fn any_alive(&self) -> bool {
        self.by_host
            .values()
            .any(|parent| parent.alive && parent.is_good())
    }

    /// Whether there were some, and all of them were given up.
    pub(crate) fn all_lost(&self) -> bool {
        let mut parents = self.by_host.values();
        !self.by_host.is_empty() && parents.all(|parent| !parent.is_good())
    }

    /// How many parents have `piece`.
    pub(crate) fn count(&self, piece: PieceNumber) -> u16 {
        self.counts.get(piece as usize).copied().unwrap_or(0)
    }

    /// Pieces that exactly one parent has.
    pub(crate) fn sole(&self) -> &PieceSet {
        &self.sole
    }

    fn count_one(&mut self, piece: PieceNumber, up: bool) {
        let Some(count) = self.counts.get_mut(piece as usize) else {
            return;
        };
        *count = if up {
            count.saturating_add(1)
        } else {
            count.saturating_sub(1)
        };
        if *count == 1 {
            self.sole.insert(piece);
        } else {
            self.sole.remove(piece);
        }
    }

    /// Whether the counts are those of what parents have.
    pub(crate) fn counts_agree(&self) -> bool {
        (0..self.piece_count()).all(|piece| {
            let parents = self.by_host.values();
            let have = parents.filter(|parent| parent.has.contains(piece)).count();
            usize::from(self.count(piece)) == have && self.sole.contains(piece) == (have == 1)
        })
    }
}
