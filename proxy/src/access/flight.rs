//! One question asked once, however many wait for the answer.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};

type Flight<V> = Shared<BoxFuture<'static, V>>;
type Running<K, V> = BTreeMap<K, WeakShared<BoxFuture<'static, V>>>;

/// The questions that are being asked. A question ends when nobody waits for it any more.
pub(super) struct Flights<K, V: Clone> {
    running: Mutex<Running<K, V>>,
}

impl<K, V: Clone> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Flights")
    }
}

impl<K, V: Clone> Default for Flights<K, V> {
    fn default() -> Self {
        Self {
            running: Mutex::default(),
        }
    }
}

impl<K: Ord + Clone, V: Clone> Flights<K, V> {
    fn running(&self) -> MutexGuard<'_, Running<K, V>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer to `key`: that of the question under way, else of the one that `ask` makes.
    pub(super) async fn join(&self, key: K, ask: impl FnOnce() -> BoxFuture<'static, V>) -> V {
        let flight = self.flight(key, ask);
        flight.await
    }

    fn flight(&self, key: K, ask: impl FnOnce() -> BoxFuture<'static, V>) -> Flight<V> {
        let mut running = self.running();
        // Whoever left before the answer came left a dead entry; so did finished ones.
        running.retain(|_, flight| flight.upgrade().is_some_and(|flight| flight.peek().is_none()));
        if let Some(flight) = running.get(&key).and_then(WeakShared::upgrade) {
            return flight;
        }
        let flight = ask().shared();
        if let Some(weak) = flight.downgrade() {
            running.insert(key, weak);
        }
        flight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn equal_questions_are_asked_once_and_later_ones_anew() {
        let flights = Flights::<u8, u32>::default();
        let asked = Arc::new(AtomicU32::new(0));
        let ask = || -> BoxFuture<'static, u32> {
            let asked = Arc::clone(&asked);
            Box::pin(async move {
                tokio::task::yield_now().await;
                asked.fetch_add(1, Ordering::Relaxed) + 1
            })
        };
        let all = tokio::join!(flights.join(1, ask), flights.join(1, ask), flights.join(2, ask));
        assert_eq!((all.0, all.1), (all.1, all.0));
        assert_eq!(asked.load(Ordering::Relaxed), 2);
        assert_eq!(flights.join(1, ask).await, 3);
    }

    #[tokio::test]
    async fn the_answer_comes_though_the_first_asker_left() {
        let flights = Flights::<u8, u32>::default();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let first = flights.flight(1, || Box::pin(async { receiver.await.unwrap_or(0) }));
        let second = flights.flight(1, || Box::pin(async { 9 }));
        drop(first);
        sender.send(7).unwrap();
        assert_eq!(second.await, 7);
    }
}
