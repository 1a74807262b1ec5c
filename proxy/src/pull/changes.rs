//! A number that grows, and those who wait for it to grow.
//!
//! Not `tokio::sync::watch`: that wakes those who wait in an order by chance, and a node's run must follow from its seed. Here
//! they are woken in the order in which they came.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The side that changes.
#[derive(Debug, Default)]
pub(crate) struct Changing {
    version: Arc<Version>,
}

#[derive(Debug, Default)]
struct Version {
    number: AtomicU64,
    grew: Notify,
}

/// The side that waits.
#[derive(Debug)]
pub(crate) struct Changes {
    version: Arc<Version>,
    seen: u64,
}

impl Changing {
    /// Wakes all who wait.
    pub(crate) fn changed(&self) {
        self.version.number.fetch_add(1, Ordering::AcqRel);
        self.version.grew.notify_waiters();
    }

    /// Sees the changes from now on.
    pub(crate) fn watch(&self) -> Changes {
        let mut changes = Changes {
            version: Arc::clone(&self.version),
            seen: 0,
        };
        changes.mark_seen();
        changes
    }
}

impl Changes {
    /// What changed so far is no news: call it before looking.
    pub(crate) fn mark_seen(&mut self) {
        self.seen = self.version.number.load(Ordering::Acquire);
    }

    /// Waits for a change that was not seen. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        let version = Arc::clone(&self.version);
        let mut grew = std::pin::pin!(version.grew.notified());
        // Signed in before the look, so that no change falls between.
        grew.as_mut().enable();
        if self.seen == version.number.load(Ordering::Acquire) {
            grew.await;
        }
        self.mark_seen();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn no_change_is_missed_and_none_is_told_twice() {
        let changing = Changing::default();
        let mut changes = changing.watch();
        changing.changed();
        changes.changed().await;
        let waiting = tokio::time::timeout(std::time::Duration::ZERO, changes.changed());
        assert!(waiting.await.is_err());
        changing.changed();
        changes.mark_seen();
        let waiting = tokio::time::timeout(std::time::Duration::ZERO, changes.changed());
        assert!(waiting.await.is_err());
    }

    #[tokio::test]
    async fn all_are_woken_in_the_order_in_which_they_came() {
        let changing = Changing::default();
        let order = Mutex::new(Vec::new());
        let waiters = (0..20).map(|number| {
            let mut changes = changing.watch();
            let order = &order;
            Box::pin(async move {
                changes.changed().await;
                order.lock().unwrap().push(number);
            })
        });
        let all = futures_util::stream::FuturesUnordered::from_iter(waiters);
        let collected = futures_util::StreamExt::collect::<Vec<()>>(all);
        tokio::join!(collected, async { changing.changed() });
        assert_eq!(*order.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }
}
