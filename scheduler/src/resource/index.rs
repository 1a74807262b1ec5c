//! Indexes by place and load, so that candidates come from a bounded sample and never from a walk over all
//! peers of a task.

use std::collections::BTreeMap;

use darter_types::Locality;
use indexmap::{IndexMap, IndexSet};
use rand::{Rng, RngExt as _};

use super::HostKey;

/// A locality as numbers: data centre, zone, rack; parts at the end may be missing.
pub type Place = Vec<u32>;

/// Gives localities numbers.
#[derive(Debug, Default)]
pub struct Places {
    numbers: BTreeMap<Locality, u32>,
}

impl Places {
    /// Most localities that get numbers of their own; hosts at more are taken as standing nowhere.
    pub const PLACES_MAX: usize = 65_536;

    /// The numbers of a locality.
    pub fn place(&mut self, locality: &Locality) -> Place {
        (1..=locality.depth())
            .map_while(|levels| self.number(locality.prefix(levels)))
            .collect()
    }

    fn number(&mut self, prefix: Locality) -> Option<u32> {
        if let Some(number) = self.numbers.get(&prefix) {
            return Some(*number);
        }
        let number = u32::try_from(self.numbers.len()).ok()?;
        if self.numbers.len() >= Self::PLACES_MAX {
            return None;
        }
        self.numbers.insert(prefix, number);
        Some(number)
    }
}

/// The peers of one large task by place, and those that can take another neighbour.
#[derive(Clone, Debug, Default)]
pub struct PeerIndex {
    places: IndexMap<u32, IndexSet<HostKey>>,
    open: IndexSet<HostKey>,
}

impl PeerIndex {
    /// Peers taken from each index for one decision.
    pub const SAMPLE_EACH: usize = 8;

    /// Adds a peer that stands at `place`.
    pub fn insert(&mut self, host: HostKey, place: &[u32]) {
        for number in place {
            self.places.entry(*number).or_default().insert(host);
        }
        self.open.insert(host);
    }

    /// Takes a peer out.
    pub fn remove(&mut self, host: HostKey, place: &[u32]) {
        for number in place {
            if let Some(peers) = self.places.get_mut(number) {
                peers.swap_remove(&host);
                if peers.is_empty() {
                    self.places.swap_remove(number);
                }
            }
        }
        self.open.swap_remove(&host);
    }

    /// Notes whether a peer can take another neighbour.
    pub fn set_open(&mut self, host: HostKey, open: bool) {
        if open {
            self.open.insert(host);
        } else {
            self.open.swap_remove(&host);
        }
    }

    /// A few peers near `place` and a few that have room, added to `out`.
    pub fn sample(&self, place: &[u32], rng: &mut impl Rng, out: &mut IndexSet<HostKey>) {
        for number in place.iter().rev() {
            if let Some(peers) = self.places.get(number) {
                take_some(peers, rng, out);
            }
        }
        take_some(&self.open, rng, out);
    }
}

fn take_some(peers: &IndexSet<HostKey>, rng: &mut impl Rng, out: &mut IndexSet<HostKey>) {
    if peers.len() <= PeerIndex::SAMPLE_EACH {
        out.extend(peers);
        return;
    }
    for _ in 0..PeerIndex::SAMPLE_EACH {
        out.extend(peers.get_index(rng.random_range(0..peers.len())));
    }
}
