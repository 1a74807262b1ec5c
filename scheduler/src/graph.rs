//! Who exchanges pieces with whom in one task, and who fed whom so far.
//!
//! Neighbours exchange *both ways*: an acyclic graph of peers costs several times the optimum. While a task
//! has few peers everybody is everybody's neighbour. Beyond that each newcomer takes the place of an edge
//! between two others (`u–v` becomes `u–new–v`), which keeps every degree as it was and the graph close to a
//! random regular one, whoever came first.
//!
//! What must hold: edges are symmetric, nobody neighbours itself, no degree passes its cap.

use std::collections::{BTreeMap, BTreeSet};

use rand::{Rng, RngExt as _};

use crate::resource::HostKey;

/// Most sources that are remembered for one peer; the bytes of further ones are added to the last.
const SOURCES_MAX: usize = 64;

/// The neighbours of each peer of a task, and the bytes that went between them.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    neighbours: BTreeMap<HostKey, Vec<HostKey>>,
    fed: BTreeMap<HostKey, Vec<(Option<HostKey>, u64)>>,
}

/// Edges that go or came: whoever is in here has another set of neighbours than before.
pub type Changed = BTreeSet<HostKey>;

impl Graph {
    /// The neighbours of a peer, by number.
    pub fn neighbours(&self, host: HostKey) -> &[HostKey] {
        self.neighbours.get(&host).map_or(&[], Vec::as_slice)
    }

    /// How many neighbours a peer has.
    pub fn degree(&self, host: HostKey) -> usize {
        self.neighbours(host).len()
    }

    /// Whether two peers are neighbours.
    pub fn are_neighbours(&self, a: HostKey, b: HostKey) -> bool {
        self.neighbours(a).binary_search(&b).is_ok()
    }

    /// Makes two peers neighbours.
    pub fn connect(&mut self, a: HostKey, b: HostKey, changed: &mut Changed) {
        if a == b || self.are_neighbours(a, b) {
            return;
        }
        for (one, other) in [(a, b), (b, a)] {
            let list = self.neighbours.entry(one).or_default();
            let at = list.partition_point(|host| *host < other);
            list.insert(at, other);
            changed.insert(one);
        }
    }

    /// Makes two neighbours strangers.
    pub fn disconnect(&mut self, a: HostKey, b: HostKey, changed: &mut Changed) {
        for (one, other) in [(a, b), (b, a)] {
            let Some(list) = self.neighbours.get_mut(&one) else {
                continue;
            };
            if let Ok(at) = list.binary_search(&other) {
                list.remove(at);
                changed.insert(one);
            }
            if list.is_empty() {
                self.neighbours.remove(&one);
            }
        }
    }

    /// Takes a peer out with all its edges; gives those who were its neighbours.
    pub fn remove(&mut self, host: HostKey, changed: &mut Changed) -> Vec<HostKey> {
        let neighbours = self.neighbours(host).to_vec();
        for other in &neighbours {
            self.disconnect(host, *other, changed);
        }
        changed.remove(&host);
        self.fed.remove(&host);
        neighbours
    }

    /// Gives `new` neighbours out of `candidates`, best first: those that have room, then places in the
    /// middle of edges. `cap` is the most neighbours that a peer may have.
    pub fn join(
        &mut self,
        new: HostKey,
        candidates: &[HostKey],
        cap: impl Fn(HostKey) -> usize,
        rng: &mut impl Rng,
        changed: &mut Changed,
    ) {
        let wanted = cap(new);
        for other in candidates {
            if self.degree(new) >= wanted {
                return;
            }
            if self.degree(*other) < cap(*other) {
                self.connect(new, *other, changed);
            }
        }
        for other in candidates {
            if self.degree(new) + 2 > wanted {
                return;
            }
            self.split(new, *other, rng, changed);
        }
    }

    /// Puts `new` in the middle of an edge of `other`.
    fn split(&mut self, new: HostKey, other: HostKey, rng: &mut impl Rng, changed: &mut Changed) {
        if new == other || self.are_neighbours(new, other) {
            return;
        }
        let strangers: Vec<HostKey> = self
            .neighbours(other)
            .iter()
            .copied()
            .filter(|third| *third != new && !self.are_neighbours(*third, new))
            .collect();
        if strangers.is_empty() {
            return;
        }
        let Some(third) = strangers.get(rng.random_range(0..strangers.len())).copied() else {
            return;
        };
        self.disconnect(other, third, changed);
        self.connect(other, new, changed);
        self.connect(new, third, changed);
    }

    /// Notes bytes that went to `to`; `None` is the origin.
    pub fn fed(&mut self, from: Option<HostKey>, to: HostKey, bytes: u64) {
        let list = self.fed.entry(to).or_default();
        let known = list.iter().position(|(source, _)| *source == from);
        let full = list.len() >= SOURCES_MAX;
        match known.or(full.then_some(SOURCES_MAX - 1)) {
            Some(at) => {
                if let Some((_, sum)) = list.get_mut(at) {
                    *sum = sum.saturating_add(bytes);
                }
            }
            None => list.push((from, bytes)),
        }
    }

    /// Who fed whom with how many bytes.
    pub fn edges(&self) -> impl Iterator<Item = (Option<HostKey>, HostKey, u64)> + '_ {
        self.fed
            .iter()
            .flat_map(|(to, sources)| sources.iter().map(|(from, bytes)| (*from, *to, *bytes)))
    }

    /// Forgets who fed whom.
    pub fn forget_fed(&mut self) {
        self.fed.clear();
    }

    /// Everybody who has a neighbour.
    pub fn members(&self) -> impl Iterator<Item = HostKey> + '_ {
        self.neighbours.keys().copied()
    }
}

#[cfg(test)]
mod tests;
