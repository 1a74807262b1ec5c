//! Contents that broke off a moment ago, so that the client is handed over to its next host.
//!
//! A client whose body ends short opens the rest again here. If that got another short body, it would give up; a
//! 503 sends it to its next host, at the exact offset. While other ranges of the content are still being sent the
//! client may be one that fetches in parallel, for which only a short body (not a status) starts the whole fetch
//! anew: the first few of those get an answer that ends at once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use darter_types::TaskId;
use tokio::time::Instant;

/// Most contents that are remembered; beyond it, the one that broke off first is forgotten.
const REMEMBERED_MAX: usize = 1024;

/// Most answers that end at once for one content given up: containerd stops after three without a byte.
const ENDED_AT_ONCE_MAX: usize = 2;

/// What a new request for a content gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    /// What it asks for.
    Serve,
    /// Headers and no byte: ranges that were open before still run out.
    EndAtOnce,
    /// 503.
    HandOver,
}

/// The streams that run, and the contents that were given up. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    hand_over: Duration,
    contents: Arc<Mutex<BTreeMap<TaskId, Content>>>,
}

#[derive(Debug, Default)]
struct Content {
    running: usize,
    given_up: Option<Instant>,
    /// How many more requests may end at once before the rest is handed over.
    end_at_once: usize,
}

/// One body that is being sent.
#[derive(Debug)]
pub(super) struct Running {
    task: TaskId,
    streams: Streams,
}

impl Streams {
    /// Contents stay given up for `hand_over`.
    pub(super) fn new(hand_over: Duration) -> Self {
        Self {
            hand_over,
            contents: Arc::default(),
        }
    }

    fn contents(&self) -> MutexGuard<'_, BTreeMap<TaskId, Content>> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a new request for this content gets.
    pub(super) fn opening(&self, task: TaskId) -> Opening {
        let now = Instant::now();
        match self.contents().get_mut(&task) {
            Some(content) if content.is_given_up(now, self.hand_over) => content.refuse(),
            _ => Opening::Serve,
        }
    }

    /// Counts a body until the returned value is dropped.
    pub(super) fn start(&self, task: TaskId) -> Running {
        self.contents().entry(task).or_default().running += 1;
        Running {
            task,
            streams: self.clone(),
        }
    }

    /// Remembers that this content broke off.
    pub(super) fn give_up(&self, task: TaskId) {
        let now = Instant::now();
        let mut contents = self.contents();
        contents.retain(|_, content| content.is_needed(now, self.hand_over));
        let given_up = |content: &Content| content.running == 0 && content.given_up.is_some();
        if contents.values().filter(|content| given_up(content)).count() >= REMEMBERED_MAX {
            let oldest = contents.iter().filter(|(_, content)| given_up(content));
            if let Some(oldest) = oldest
                .min_by_key(|(_, content)| content.given_up)
                .map(|(task, _)| *task)
            {
                contents.remove(&oldest);
            }
        }
        let content = contents.entry(task).or_default();
        if !content.is_given_up(now, self.hand_over) {
            content.end_at_once = content.running.saturating_sub(1).min(ENDED_AT_ONCE_MAX);
        }
        content.given_up = Some(now);
    }

    /// Forgets that it broke off: it works again.
    pub(super) fn works_again(&self, task: TaskId) {
        if let Some(content) = self.contents().get_mut(&task) {
            content.given_up = None;
        }
    }
}

impl Content {
    fn is_given_up(&self, now: Instant, hand_over: Duration) -> bool {
        self.given_up
            .is_some_and(|since| now.duration_since(since) < hand_over)
    }

    fn refuse(&mut self) -> Opening {
        if self.running == 0 || self.end_at_once == 0 {
            return Opening::HandOver;
        }
        self.end_at_once -= 1;
        Opening::EndAtOnce
    }

    fn is_needed(&self, now: Instant, hand_over: Duration) -> bool {
        self.running > 0 || self.is_given_up(now, hand_over)
    }
}

impl Running {
    /// The content.
    pub(super) fn task(&self) -> TaskId {
        self.task
    }

    /// Gives the content up.
    pub(super) fn give_up(&self) {
        self.streams.give_up(self.task);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut contents = self.streams.contents();
        if let Some(content) = contents.get_mut(&self.task) {
            content.running = content.running.saturating_sub(1);
            if !content.is_needed(now, self.streams.hand_over) {
                contents.remove(&self.task);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(n: u64) -> TaskId {
        darter_types::Digest::of(darter_types::Algorithm::Sha256, &n.to_be_bytes()).into()
    }

    #[tokio::test(start_paused = true)]
    async fn hands_over_once_nothing_runs_and_only_for_a_while() {
        let streams = Streams::new(Duration::from_secs(5));
        let (one, two) = (streams.start(task(1)), streams.start(task(1)));
        assert_eq!(streams.opening(task(1)), Opening::Serve);
        one.give_up();
        drop(one);
        assert_eq!(streams.opening(task(1)), Opening::EndAtOnce);
        assert_eq!(streams.opening(task(1)), Opening::HandOver);
        drop(two);
        assert_eq!(streams.opening(task(1)), Opening::HandOver);
        assert_eq!(streams.opening(task(2)), Opening::Serve);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(streams.opening(task(1)), Opening::Serve);
    }

    #[tokio::test(start_paused = true)]
    async fn what_works_again_is_served_again() {
        let streams = Streams::new(Duration::from_secs(5));
        streams.give_up(task(1));
        assert_eq!(streams.opening(task(1)), Opening::HandOver);
        streams.works_again(task(1));
        assert_eq!(streams.opening(task(1)), Opening::Serve);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let streams = Streams::new(Duration::from_secs(5));
        for n in 0..2 * REMEMBERED_MAX as u64 {
            streams.give_up(task(n));
            tokio::time::advance(Duration::from_micros(1)).await;
        }
        assert!(streams.contents().len() <= REMEMBERED_MAX);
        assert_eq!(streams.opening(task(0)), Opening::Serve);
        drop(streams.start(task(0)));
        tokio::time::advance(Duration::from_secs(6)).await;
        streams.give_up(task(1));
        assert_eq!(streams.contents().len(), 1);
    }
}
