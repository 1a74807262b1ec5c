//! What a mount read, and what that cost.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the image was opened.
#[derive(Debug, Default)]
pub(super) struct Counts {
    /// Bytes that programs were given.
    pub(super) read: AtomicU64,
    /// Bytes that programs were given from requests that they waited for.
    pub(super) waited: AtomicU64,
    /// Packed bytes that somebody wanted for the first time in this mount.
    pub(super) wanted: AtomicU64,
    /// Packed bytes that came.
    pub(super) fetched: AtomicU64,
    /// Of these, what came in the background.
    pub(super) background: AtomicU64,
    /// Requests that were answered.
    pub(super) requests: AtomicU64,
    /// Requests that failed, after all attempts.
    pub(super) failed: AtomicU64,
    /// Units with wrong bytes.
    pub(super) wrong: AtomicU64,
}

/// Adds to a count.
pub(super) fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// What a mount read, and what that cost: a moment of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes that programs were given.
    pub read: u64,
    /// Bytes that programs were given from requests that they waited for.
    pub waited: u64,
    /// Bytes, as the blobs have them, that somebody wanted for the first time in this mount and that were not kept.
    pub wanted: u64,
    /// Bytes that came from the source of the blobs.
    pub fetched: u64,
    /// Of these, what came in the background, before anybody wanted it.
    pub background: u64,
    /// Requests that were answered.
    pub requests: u64,
    /// Requests that failed, after all attempts.
    pub failed: u64,
    /// Units that came with wrong bytes.
    pub wrong: u64,
}

impl Counts {
    /// What is counted now.
    pub(super) fn now(&self) -> Stats {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Stats {
            read: get(&self.read),
            waited: get(&self.waited),
            wanted: get(&self.wanted),
            fetched: get(&self.fetched),
            background: get(&self.background),
            requests: get(&self.requests),
            failed: get(&self.failed),
            wrong: get(&self.wrong),
        }
    }
}

impl Stats {
    /// Bytes that were fetched for what was wanted, in percent of that; without what came in the background.
    pub fn amplification(&self) -> Option<u64> {
        let fetched = self.fetched.saturating_sub(self.background);
        fetched.saturating_mul(100).checked_div(self.wanted)
    }
}
