//! The memory that bytes may take which come before their turn, over all blobs of a node.

use std::sync::Arc;

use darter_service::config::ByteSize;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How much there is. Nobody waits for it: who finds none reads without.
#[derive(Debug)]
pub(crate) struct Budget {
    bytes: Arc<Semaphore>,
    shown: Gauge,
}

impl Budget {
    /// `max` bytes; `shown` tells how many of them are reserved.
    pub(crate) fn new(max: ByteSize, shown: Gauge) -> Self {
        let bytes = Arc::new(Semaphore::new(max.as_usize().min(Semaphore::MAX_PERMITS)));
        Self { bytes, shown }
    }

    /// Room for `bytes`, if it is there.
    pub(crate) fn reserve(&self, bytes: u64) -> Option<Reservation> {
        let permit = Arc::clone(&self.bytes)
            .try_acquire_many_owned(u32::try_from(bytes).ok()?)
            .ok()?;
        self.shown.inc_by(i64::from(u32::try_from(bytes).ok()?));
        Some(Reservation {
            permit,
            shown: self.shown.clone(),
        })
    }
}

/// Room that is taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    permit: OwnedSemaphorePermit,
    shown: Gauge,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let bytes = u32::try_from(self.permit.num_permits()).unwrap_or(u32::MAX);
        self.shown.dec_by(i64::from(bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_more_than_there_is_and_it_comes_back() {
        let shown = Gauge::default();
        let budget = Budget::new(ByteSize::bytes(100), shown.clone());
        let first = budget.reserve(60).unwrap();
        assert!(budget.reserve(41).is_none());
        let second = budget.reserve(40).unwrap();
        assert_eq!(shown.get(), 100);
        drop(first);
        assert_eq!(shown.get(), 40);
        assert!(budget.reserve(60).is_some());
        drop(second);
        assert_eq!(shown.get(), 0);
        assert!(budget.reserve(u64::MAX).is_none());
    }
}
