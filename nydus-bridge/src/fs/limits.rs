//! Bounds of a mount.

use std::time::Duration;

/// Bounds of what a mount fetches and keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of unpacked chunks that are kept on disk.
    pub cache_bytes_max: u64,
    /// Requests for chunks that are out at once.
    pub requests_max: usize,
    /// Bytes of one request of several chunks.
    pub request_bytes_max: u64,
    /// Bytes between two chunks that are rather read over than left out.
    pub gap_bytes_max: u64,
    /// A request of which nothing is known takes what follows within so many bytes along. 0 turns reading ahead off.
    pub ahead_bytes: u64,
    /// What one that goes on where others ended takes along at most.
    pub ahead_bytes_max: u64,
    /// No reading ahead when more was fetched than what was wanted, in percent of that.
    pub amplification_max: u64,
    /// Requests in the background that are out at once, when nobody waits.
    pub background_max: usize,
    /// How long a reader waits before it gets an error. What it waits for goes on, for the next one.
    pub read_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            cache_bytes_max: 4 << 30,
            requests_max: 16,
            request_bytes_max: 4 << 20,
            gap_bytes_max: 128 << 10,
            ahead_bytes: 1 << 20,
            ahead_bytes_max: 8 << 20,
            amplification_max: 400,
            background_max: 2,
            read_max: Duration::from_secs(30),
        }
    }
}
