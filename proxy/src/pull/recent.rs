//! Complete contents that were asked for a moment ago, kept open.
//!
//! Clients ask for a layer range by range; opening its files anew for each range would cost more than sending it. What is
//! kept open is not evicted, so it is little, for a short time, and given up when the store needs room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use darter_types::TaskId;
use tokio::time::Instant;

use super::Shared;

/// Contents kept open.
const CONTENTS_MAX: usize = 64;
/// How long one is kept after it was opened. It is then opened anew, which takes some ten microseconds.
const KEPT: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub(super) struct Recent {
    opened: Mutex<BTreeMap<TaskId, (Instant, Arc<Shared>)>>,
}

impl Recent {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TaskId, (Instant, Arc<Shared>)>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, task: TaskId) -> Option<Arc<Shared>> {
        let opened = self.lock();
        let (since, shared) = opened.get(&task)?;
        (since.elapsed() < KEPT).then(|| Arc::clone(shared))
    }

    pub(super) fn keep(&self, task: TaskId, shared: &Arc<Shared>) {
        let mut opened = self.lock();
        opened.retain(|_, (since, _)| since.elapsed() < KEPT);
        if opened.len() < CONTENTS_MAX {
            opened.insert(task, (Instant::now(), Arc::clone(shared)));
        }
    }

    pub(super) fn forget(&self, task: TaskId) {
        self.lock().remove(&task);
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use darter_store::{ContentFacts, MemoryStore, PieceStore as _};
    use darter_types::{Algorithm, Digest, PieceLayout};

    fn content(name: &[u8]) -> (TaskId, Arc<Shared>) {
        let task = TaskId::from(Digest::of(Algorithm::Sha256, name));
        let layout = PieceLayout::of(1).unwrap();
        let facts = ContentFacts {
            layout,
            origin: None,
            media_type: None,
            whole: true,
            public: true,
        };
        let stored = MemoryStore::new(u64::MAX).open(task, &facts).unwrap();
        (task, Arc::new(Shared::complete(stored)))
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_a_content_for_a_moment_and_not_longer() {
        let recent = Recent::default();
        let (task, shared) = content(b"a");
        recent.keep(task, &shared);
        assert!(recent.get(task).is_some_and(|found| Arc::ptr_eq(&found, &shared)));
        tokio::time::advance(KEPT).await;
        assert!(recent.get(task).is_none());
        recent.keep(content(b"b").0, &shared);
        assert_eq!(Arc::strong_count(&shared), 2, "what is too old is dropped");
        recent.clear();
        assert_eq!(Arc::strong_count(&shared), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn keeps_few() {
        let recent = Recent::default();
        for name in 0..100u8 {
            let (task, shared) = content(&[name]);
            recent.keep(task, &shared);
        }
        assert_eq!(recent.lock().len(), CONTENTS_MAX);
    }
}
