//! Who runs what: the only module that spawns.
//!
//! [`Tasks`] owns short work (a connection, a request, a pull): named, counted, ended at shutdown. [`Supervisor`] owns the
//! components of a role: the first that ends without being asked stops the process in order, because a role with a
//! part missing is worse than one that is started again.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a component may end with.
pub type ComponentError = Box<dyn std::error::Error + Send + Sync>;

/// Owns short work. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    abort: CancellationToken,
    counts: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// Counts a task for as long as it runs, however it ends.
struct Counted {
    name: &'static str,
    counts: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(self.name) {
            *count = count.saturating_sub(1);
        }
    }
}

impl Tasks {
    /// Owns nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn count(&self, name: &'static str) -> Counted {
        *self
            .counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(name)
            .or_default() += 1;
        Counted {
            name,
            counts: Arc::clone(&self.counts),
        }
    }

    /// Runs `future` until it ends or the tasks are shut down. A panic in it stays its own.
    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let (abort, counted) = (self.abort.clone(), self.count(name));
        tokio::spawn(self.tracker.track_future(async move {
            let _counted = counted;
            abort.run_until_cancelled_owned(future).await;
        }));
    }

    /// Runs blocking work on a thread of its own kind and gives its result.
    pub async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let counted = self.count(name);
        tokio::task::spawn_blocking(move || {
            let _counted = counted;
            work()
        })
        .await
    }

    /// How many tasks of each name run.
    pub fn running(&self) -> BTreeMap<&'static str, usize> {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(name, count)| (*name, *count))
            .collect()
    }

    /// Waits for what runs, for `grace` at most, then ends it.
    pub async fn shut_down(&self, grace: Duration) {
        self.tracker.close();
        if timeout(grace, self.tracker.wait()).await.is_err() {
            tracing::warn!(running = ?self.running(), "tasks are ended that did not finish in time");
        }
        self.abort.cancel();
        self.tracker.wait().await;
    }
}

/// How a component ended.
#[derive(Debug)]
pub enum Ended {
    /// All were asked to stop and did.
    Stopped,
    /// One ended unasked; its name and what it said.
    Failed(&'static str, ComponentError),
}

/// A component's name and how it ended.
type Named = (&'static str, Result<(), ComponentError>);

/// Owns the components of a role.
#[derive(Debug)]
pub struct Supervisor {
    components: JoinSet<Named>,
    names: BTreeMap<tokio::task::Id, &'static str>,
    stop: CancellationToken,
}

impl Supervisor {
    /// Owns nothing yet; `stop` asks all components to stop.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            components: JoinSet::new(),
            names: BTreeMap::new(),
            stop,
        }
    }

    /// Adds a component. It ends when `stop` is cancelled; ending earlier counts as a failure.
    pub fn add(
        &mut self,
        name: &'static str,
        run: impl Future<Output = Result<(), ComponentError>> + Send + 'static,
    ) {
        let handle = self.components.spawn(async move { (name, run.await) });
        self.names.insert(handle.id(), name);
    }

    /// Waits for the end of all: after `stop`, or after the first that ends unasked. `grace` bounds the rest.
    pub async fn run(mut self, grace: Duration) -> Ended {
        let first = match self
            .stop
            .clone()
            .run_until_cancelled_owned(self.components.join_next_with_id())
            .await
        {
            None | Some(None) => Ended::Stopped,
            Some(Some(joined)) => self.failure(joined),
        };
        self.stop.cancel();
        let rest = async { while self.components.join_next().await.is_some() {} };
        if timeout(grace, rest).await.is_err() {
            tracing::warn!("components are ended that did not stop in time");
            self.components.shutdown().await;
        }
        first
    }

    fn failure(&self, joined: Result<(tokio::task::Id, Named), JoinError>) -> Ended {
        match joined {
            // It may have seen `stop` before this loop did.
            Ok((_, (_, Ok(())))) if self.stop.is_cancelled() => Ended::Stopped,
            Ok((_, (name, Ok(())))) => Ended::Failed(name, "it ended without being asked".into()),
            Ok((_, (name, Err(error)))) => Ended::Failed(name, error),
            Err(error) => {
                let name = self.names.get(&error.id()).copied().unwrap_or("a component");
                Ended::Failed(name, format!("it panicked: {error}").into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn the_first_component_that_fails_stops_the_others() {
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::new(stop.clone());
        let (inner, seen) = (stop.clone(), CancellationToken::new());
        let seen_inside = seen.clone();
        supervisor.add("good", async move {
            inner.cancelled().await;
            seen_inside.cancel();
            Ok(())
        });
        supervisor.add("bad", async { Err("no disk".into()) });
        let ended = supervisor.run(Duration::from_secs(1)).await;
        assert!(matches!(ended, Ended::Failed("bad", error) if error.to_string() == "no disk"));
        assert!(seen.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_and_an_unasked_end_are_failures() {
        for (name, panics) in [("panics", true), ("ends", false)] {
            let mut supervisor = Supervisor::new(CancellationToken::new());
            supervisor.add(name, async move {
                assert!(!panics, "on purpose");
                Ok(())
            });
            assert!(
                matches!(supervisor.run(Duration::ZERO).await, Ended::Failed(failed, _) if failed == name)
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_is_not_a_failure_and_does_not_wait_for_ever() {
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::new(stop.clone());
        supervisor.add("deaf", async {
            sleep(Duration::MAX).await;
            Ok(())
        });
        stop.cancel();
        assert!(matches!(
            supervisor.run(Duration::from_secs(5)).await,
            Ended::Stopped
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn tasks_are_counted_and_ended_and_outlive_a_panic() {
        let tasks = Tasks::new();
        tasks.spawn("long", sleep(Duration::MAX));
        tasks.spawn("panics", async { panic!("on purpose") });
        sleep(Duration::from_millis(1)).await;
        assert_eq!(tasks.running(), BTreeMap::from([("long", 1)]));
        tasks.shut_down(Duration::from_secs(1)).await;
        assert!(tasks.running().is_empty());
    }
}
