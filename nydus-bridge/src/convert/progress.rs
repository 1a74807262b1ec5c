//! How far a conversion is: counters that the work sets and a display reads, whenever it likes.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// What is being done with a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Others are first.
    Waiting,
    /// It is read.
    Fetching,
    /// It becomes a blob.
    Converting,
    /// The blob goes to the registry.
    Pushing,
    /// All of that is over.
    Done,
}

const STAGES: [Stage; 5] = [
    Stage::Waiting,
    Stage::Fetching,
    Stage::Converting,
    Stage::Pushing,
    Stage::Done,
];

#[derive(Debug, Default)]
struct Counters {
    stage: AtomicU8,
    done: AtomicU64,
    all: AtomicU64,
}

/// One layer. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct LayerProgress {
    counters: Arc<Counters>,
}

impl LayerProgress {
    fn of(size: u64) -> Self {
        let told = Self::default();
        told.expect(size);
        told
    }

    /// What is being done, and how many bytes of how many of it.
    pub fn look(&self) -> (Stage, u64, u64) {
        let counters = &self.counters;
        let stage = usize::from(counters.stage.load(Ordering::Relaxed));
        let (done, all) = (
            counters.done.load(Ordering::Relaxed),
            counters.all.load(Ordering::Relaxed),
        );
        (
            STAGES.get(stage).copied().unwrap_or(Stage::Done),
            done.min(all),
            all,
        )
    }

    /// Goes on to the next stage.
    pub(super) fn enter(&self, stage: Stage) {
        self.counters.done.store(0, Ordering::Relaxed);
        self.counters.stage.store(stage as u8, Ordering::Relaxed);
    }

    /// How many bytes there are at this stage.
    pub(super) fn expect(&self, bytes: u64) {
        self.counters.all.store(bytes, Ordering::Relaxed);
    }

    /// So many more bytes are done.
    pub(super) fn add(&self, bytes: u64) {
        self.counters.done.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// All layers, as soon as they are known.
#[derive(Debug, Default)]
pub struct Progress {
    layers: OnceLock<Vec<LayerProgress>>,
}

impl Progress {
    /// The layers, lowest first; none before the manifest was read.
    pub fn layers(&self) -> &[LayerProgress] {
        self.layers.get().map_or(&[], Vec::as_slice)
    }

    pub(super) fn begin(&self, sizes: impl Iterator<Item = u64>) {
        // A second conversion with the same counters would be shown as the first.
        let _ = self.layers.set(sizes.map(LayerProgress::of).collect());
    }

    pub(super) fn layer(&self, number: usize) -> LayerProgress {
        self.layers().get(number).cloned().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_shown_as_they_are_counted() {
        let progress = Progress::default();
        assert!(progress.layers().is_empty());
        progress.begin([10, 20].into_iter());
        let second = progress.layer(1);
        second.enter(Stage::Fetching);
        second.add(5);
        let looked: Vec<_> = progress.layers().iter().map(LayerProgress::look).collect();
        assert_eq!(looked, [(Stage::Waiting, 0, 10), (Stage::Fetching, 5, 20)]);
        second.enter(Stage::Done);
        assert_eq!(second.look(), (Stage::Done, 0, 20));
        second.add(100);
        assert_eq!(second.look().1, 20, "never more than there is");
    }
}
