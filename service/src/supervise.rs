//! Who runs what: the only module that spawns.
//!
//! [`Tasks`] owns short work (a connection, a request, a pull): named, counted, ended at shutdown. [`Supervisor`] owns the
//! components of a role: the first that ends without being asked stops the process in order, because a role with a
//! part missing is worse than one that is started again.

use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::{JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long tasks may take to notice that they are ended.
const END_GRACE: Duration = Duration::from_secs(2);

/// What a component may end with.
pub type ComponentError = Box<dyn std::error::Error + Send + Sync>;

/// Owns short work. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    abort: CancellationToken,
    failure: Arc<OnceLock<Failure>>,
    failed: CancellationToken,
    counts: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// A component that ended without being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Which.
    pub component: &'static str,
    /// What is known of why.
    pub reason: String,
}

/// Counts a task for as long as it runs, however it ends.
#[derive(Debug)]
pub struct Counted {
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

    /// Counts something that others run, until the result is dropped.
    pub fn count(&self, name: &'static str) -> Counted {
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

    /// Runs `future` until it ends or the tasks are shut down. A panic in it stays its own, and is logged.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let counted = self.count(name);
        self.launch(async move {
            let _counted = counted;
            let _ = caught(name, future).await;
        });
    }

    /// Runs a part of a role that must not end before `stop`: a listener, a stream that is kept. When it does all the
    /// same, by a panic for instance, [`Self::failed`] tells, for a role with a part missing is worse than one that is
    /// started again.
    pub fn spawn_component(
        &self,
        name: &'static str,
        stop: CancellationToken,
        future: impl Future<Output = ()> + Send + 'static,
    ) {
        let (counted, tasks) = (self.count(name), self.clone());
        self.launch(async move {
            let _counted = counted;
            let ended = caught(name, future).await;
            let reason = match ended {
                Err(panic) => format!("it panicked: {panic}"),
                Ok(()) if stop.is_cancelled() => return,
                Ok(()) => "it ended without being asked".to_owned(),
            };
            let _ = tasks.failure.set(Failure {
                component: name,
                reason,
            });
            tasks.failed.cancel();
        });
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that spawns")]
    fn launch(&self, future: impl Future<Output = ()> + Send + 'static) {
        let abort = self.abort.clone();
        tokio::spawn(self.tracker.track_future(async move {
            abort.run_until_cancelled_owned(future).await;
        }));
    }

    /// Waits for the first component that ends unasked; for ever, if none does. Cancel safe.
    pub async fn failed(&self) -> Failure {
        self.failed.cancelled().await;
        match self.failure.get() {
            Some(failure) => failure.clone(),
            // It is set before the token is cancelled.
            None => std::future::pending().await,
        }
    }

    /// Runs blocking work on a thread of its own kind and gives its result.
    pub async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        let counted = self.count(name);
        let running = self.tracker.spawn_blocking(move || {
            let _counted = counted;
            work()
        });
        running.await
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

    /// Waits for what runs, for `grace` at most, then ends it. Blocking work cannot be ended: it is left behind.
    pub async fn shut_down(&self, grace: Duration) {
        self.tracker.close();
        if timeout(grace, self.tracker.wait()).await.is_err() {
            tracing::warn!(running = ?self.running(), "tasks are ended that did not finish in time");
        }
        self.abort.cancel();
        if timeout(END_GRACE, self.tracker.wait()).await.is_err() {
            tracing::warn!(running = ?self.running(), "tasks are left behind that cannot be ended");
        }
    }
}

/// Runs a task to its end; a panic is logged here, where it stops.
async fn caught(task: &'static str, future: impl Future<Output = ()>) -> Result<(), String> {
    // Nothing of the future is used after a panic, and what it shares with others is behind locks.
    let Err(panic) = AssertUnwindSafe(future).catch_unwind().await else {
        return Ok(());
    };
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "of no words".to_owned());
    tracing::error!(task, panic = text, "a task panicked");
    Err(text)
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
    tasks: Tasks,
}

impl Supervisor {
    /// Owns nothing yet; `stop` asks all components to stop.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            components: JoinSet::new(),
            names: BTreeMap::new(),
            stop,
            tasks: Tasks::new(),
        }
    }

    /// Counts its components, for the admin port.
    pub fn tasks(&self) -> Tasks {
        self.tasks.clone()
    }

    /// Adds a component. It ends when `stop` is cancelled; ending earlier counts as a failure.
    pub fn add(
        &mut self,
        name: &'static str,
        run: impl Future<Output = Result<(), ComponentError>> + Send + 'static,
    ) {
        let counted = self.tasks.count(name);
        let handle = self.components.spawn(async move {
            let _counted = counted;
            (name, run.await)
        });
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
    async fn components_are_counted_while_they_run() {
        let stop = CancellationToken::new();
        let mut supervisor = Supervisor::new(stop.clone());
        let tasks = supervisor.tasks();
        supervisor.add("listener", async { std::future::pending().await });
        assert_eq!(tasks.running(), BTreeMap::from([("listener", 1)]));
        stop.cancel();
        supervisor.run(Duration::ZERO).await;
        assert!(tasks.running().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_component_that_ends_unasked_is_told_of_and_one_that_was_asked_is_not() {
        for (panics, reason) in [
            (true, "it panicked: on purpose"),
            (false, "it ended without being asked"),
        ] {
            let (tasks, stop) = (Tasks::new(), CancellationToken::new());
            tasks.spawn("short", async {});
            tasks.spawn_component("asked", stop.clone(), stop.clone().cancelled_owned());
            tasks.spawn_component("listener", stop.clone(), async move {
                sleep(Duration::from_secs(1)).await;
                assert!(!panics, "on purpose");
            });
            let failure = tasks.failed().await;
            assert_eq!((failure.component, failure.reason.as_str()), ("listener", reason));
        }
        let (tasks, stop) = (Tasks::new(), CancellationToken::new());
        tasks.spawn_component("asked", stop.clone(), stop.clone().cancelled_owned());
        stop.cancel();
        tasks.shut_down(Duration::from_secs(1)).await;
        assert!(timeout(Duration::from_secs(1), tasks.failed()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_is_cut_at_a_shutdown_is_no_failure() {
        let (tasks, stop) = (Tasks::new(), CancellationToken::new());
        tasks.spawn_component("deaf", stop.clone(), std::future::pending());
        tasks.shut_down(Duration::ZERO).await;
        assert!(tasks.running().is_empty());
        assert!(timeout(Duration::from_secs(1), tasks.failed()).await.is_err());
    }

    #[tokio::test]
    async fn a_shutdown_waits_for_blocking_work() {
        let tasks = Tasks::new();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let (done, waiting) = (Arc::new(OnceLock::new()), tasks.clone());
        let set = Arc::clone(&done);
        let work = tasks.blocking("work", move || {
            let _ = wait.recv();
            let _ = set.set(());
        });
        let stopping = async {
            tokio::task::yield_now().await;
            assert_eq!(waiting.running(), BTreeMap::from([("work", 1)]));
            go.send(()).unwrap();
            waiting.shut_down(Duration::from_secs(60)).await;
            assert!(done.get().is_some(), "it was waited for");
        };
        let (worked, ()) = tokio::join!(work, stopping);
        worked.unwrap();
    }

    #[test]
    fn a_panic_is_logged_with_its_task() {
        let log = Log::default();
        let (subscriber, writer) = (tracing_subscriber::fmt().with_ansi(false), log.clone());
        let subscriber = subscriber.with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                assert!(caught("pull", async { panic!("piece {}", 7) }).await.is_err());
            });
        });
        let said = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!(
            said.contains("a task panicked") && said.contains("piece 7") && said.contains("pull"),
            "{said}"
        );
    }

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
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
