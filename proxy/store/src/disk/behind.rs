//! Write-behind: what a slow disk has not taken yet waits in memory, so that nobody waits for the disk.
//!
//! While writes are slow ([`super::stall`]) they are queued, and one thread does them in order. Who reads is given what
//! waits from memory, so all looks as if it had been written at once.
//!
//! What must hold:
//! - writes to the files of one task are done in the order in which they were made: what a crash leaves is what was the
//!   case at some moment, and a piece is recorded only after its bytes;
//! - a read gives what was written last, whether the file has it or not;
//! - bytes of contents that wait are bounded, but for one write each of those who write at the same moment: who has more waits.
//!   Records beside them are few, a piece has two, and never wait;
//! - a write that fails costs the content, never a wrong byte.

use std::collections::VecDeque;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use darter_types::ByteRange;
use tokio::time::Instant;

use super::Shared;
use super::record::{Files, Record};
use crate::sync::lock;
use crate::{Pace, WriteBehind};

/// How long the disk is watched before it is called slow.
const WINDOW: Duration = Duration::from_millis(500);
/// How long whoever drops the store waits at most for what the disk has not taken; the rest is fetched again some day.
const DRAIN_MAX: Duration = Duration::from_secs(2);

/// What waits for the disk, of all tasks.
#[derive(Debug, Default)]
pub(super) struct Behind {
    backlog: Mutex<Backlog>,
    work: Condvar,
    room: Condvar,
}

#[derive(Debug, Default)]
struct Backlog {
    limits: WriteBehind,
    jobs: VecDeque<Job>,
    /// Of contents, with those that are being written.
    bytes: u64,
    watched: Watched,
    /// Until when the queue is worked off before the thread ends.
    stop: Option<Instant>,
    /// Nobody works it off any more.
    ended: bool,
    /// The disk of a test stands still.
    #[cfg(test)]
    held: bool,
}

/// What the disk took since it has had work without a pause.
#[derive(Debug, Default)]
struct Watched {
    since: Option<Instant>,
    bytes: u64,
    /// Bytes a second in the last whole window.
    rate: Option<u64>,
}

#[derive(Debug)]
struct Job {
    record: Arc<Record>,
    files: Arc<Files>,
    work: Work,
}

/// What is to be done to the files of a task.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// Bytes of the content, at an offset.
    Data(u64, Bytes),
    /// Bytes of the index.
    Index(u64, Bytes),
    /// All is written and proved: make it durable.
    Proved,
}

impl Work {
    fn content_bytes(&self) -> u64 {
        match self {
            Self::Data(_, bytes) => bytes.len() as u64,
            Self::Index(..) | Self::Proved => 0,
        }
    }
}

/// What of one task waits.
#[derive(Debug, Default)]
pub(super) struct Ahead(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// The oldest first.
    chunks: VecDeque<(u64, Bytes)>,
    /// Work of all kinds, with what is being done.
    jobs: usize,
}

/// Where the bytes of a range are, from its start on.
#[derive(Debug)]
pub(super) enum Newest {
    /// Here.
    Memory(Bytes),
    /// So many of them in the file.
    File(ByteRange),
}

impl Ahead {
    /// Where the first bytes of `range`, which is not empty, are to be read.
    pub(super) fn newest(&self, range: ByteRange) -> Newest {
        let waiting = lock(&self.0);
        let mut end = range.end;
        for (offset, bytes) in waiting.chunks.iter().rev() {
            let chunk = ByteRange::new(*offset, offset + bytes.len() as u64);
            if chunk.contains(range.start) {
                let part = ByteRange::new(range.start - offset, end.min(chunk.end) - offset);
                return Newest::Memory(bytes.slice(part.indices()));
            }
            if chunk.start > range.start {
                end = end.min(chunk.start);
            }
        }
        Newest::File(ByteRange::new(range.start, end))
    }

    /// Whether anything of the task waits: what comes then waits behind it, however quick the disk is by now.
    pub(super) fn is_behind(&self) -> bool {
        lock(&self.0).jobs > 0
    }

    fn done(&self, work: &Work) {
        let mut waiting = lock(&self.0);
        waiting.jobs -= 1;
        if matches!(work, Work::Data(..)) {
            waiting.chunks.pop_front();
        }
    }
}

impl Behind {
    pub(super) fn set_limits(&self, limits: WriteBehind) {
        lock(&self.backlog).limits = limits;
    }

    /// Queues work where the disk is `slow` or earlier work of the task waits; else the caller does it at once, and is told
    /// so by `false`.
    pub(super) fn take(
        &self,
        record: &Arc<Record>,
        files: &Arc<Files>,
        slow: bool,
        work: impl FnOnce() -> Work,
    ) -> io::Result<bool> {
        let mut waiting = lock(&files.ahead.0);
        if waiting.jobs == 0 && !slow {
            return Ok(false);
        }
        let mut backlog = lock(&self.backlog);
        if backlog.ended {
            return match waiting.jobs {
                0 => Ok(false),
                _ => Err(io::Error::other("the store is closed")),
            };
        }
        let work = work();
        waiting.jobs += 1;
        if let Work::Data(offset, bytes) = &work {
            waiting.chunks.push_back((*offset, bytes.clone()));
        }
        backlog.bytes += work.content_bytes();
        backlog.jobs.push_back(Job {
            record: Arc::clone(record),
            files: Arc::clone(files),
            work,
        });
        self.work.notify_one();
        Ok(true)
    }

    /// Waits until `bytes` more may wait.
    pub(super) fn wait_for_room(&self, bytes: u64) {
        let mut backlog = lock(&self.backlog);
        while backlog.is_full(bytes) && !backlog.ended {
            backlog = self.room.wait(backlog).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// How a write of `bytes` would fare now.
    pub(super) fn pace(&self, bytes: u64) -> Pace {
        let backlog = lock(&self.backlog);
        if !backlog.is_full(bytes) || backlog.ended {
            return Pace::Ready;
        }
        let rate = backlog.watched.rate(Instant::now());
        let too_slow = |floor| rate.is_some_and(|rate| rate < floor);
        match backlog.limits.slow_bytes_per_second.is_some_and(too_slow) {
            true => Pace::TooSlow,
            false => Pace::Waits,
        }
    }

    /// Bytes of contents that the disk has not taken yet.
    pub(super) fn bytes(&self) -> u64 {
        lock(&self.backlog).bytes
    }

    /// The next work, once there is some; `None` when the store is dropped.
    fn next(&self) -> Option<Job> {
        let mut backlog = lock(&self.backlog);
        loop {
            let now = Instant::now();
            let late = backlog.stop.is_some_and(|stop| now >= stop);
            let job = match backlog.is_held() || late {
                true => None,
                false => backlog.jobs.pop_front(),
            };
            if let Some(job) = job {
                backlog.watched.begin(now);
                return Some(job);
            }
            if backlog.stop.is_some() {
                backlog.ended = true;
                self.room.notify_all();
                return None;
            }
            if backlog.jobs.is_empty() {
                backlog.watched = Watched::default();
            }
            backlog = self.work.wait(backlog).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn done(&self, job: &Job) {
        job.files.ahead.done(&job.work);
        let mut backlog = lock(&self.backlog);
        let bytes = job.work.content_bytes();
        backlog.bytes -= bytes;
        backlog.watched.took(Instant::now(), bytes);
        self.room.notify_all();
    }

    /// No more work comes: what waits is done in a moment, or not at all.
    pub(super) fn stop(&self) {
        lock(&self.backlog).stop = Some(Instant::now() + DRAIN_MAX);
        self.work.notify_one();
    }

    #[cfg(test)]
    pub(super) fn hold(&self, held: bool) {
        lock(&self.backlog).held = held;
        self.work.notify_one();
    }
}

impl Backlog {
    fn is_full(&self, more: u64) -> bool {
        self.bytes > 0 && self.bytes + more > self.limits.bytes_max
    }

    #[cfg(test)]
    fn is_held(&self) -> bool {
        self.held
    }

    #[cfg(not(test))]
    fn is_held(&self) -> bool {
        false
    }
}

impl Watched {
    fn begin(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    fn took(&mut self, now: Instant, bytes: u64) {
        self.bytes += bytes;
        if let Some(rate) = self.window(now) {
            *self = Self {
                since: Some(now),
                bytes: 0,
                rate: Some(rate),
            };
        }
    }

    /// Of the window that runs, if it is long enough to say anything.
    fn window(&self, now: Instant) -> Option<u64> {
        let took = now - self.since?;
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        (took >= WINDOW).then(|| self.bytes.saturating_mul(1000) / millis)
    }

    /// Bytes a second that the disk takes; `None` while it was not watched for long enough. A write that does not come
    /// back counts as well.
    fn rate(&self, now: Instant) -> Option<u64> {
        self.window(now).or(self.rate)
    }
}

/// Does what waits, until the store is dropped.
pub(super) fn run(shared: &Shared) {
    while let Some(job) = shared.behind.next() {
        perform(shared, &job);
        shared.behind.done(&job);
    }
}

fn perform(shared: &Shared, job: &Job) {
    let (record, files) = (&job.record, &job.files);
    if files.unreadable.is_said() {
        return;
    }
    let written = match &job.work {
        Work::Data(offset, bytes) => {
            let written = shared.stalls.guard(|| files.data.write_all_at(bytes, *offset));
            if written.is_ok() {
                shared.queue.wrote(record.task, files, bytes.len() as u64);
            } else {
                // Before the bytes go from memory: what the file has in their place is anything.
                files.unreadable.say();
            }
            written
        }
        Work::Index(offset, bytes) => shared.stalls.guard(|| files.index.write_all_at(bytes, *offset)),
        Work::Proved => {
            shared.queue.make_durable(record, files);
            Ok(())
        }
    };
    if let Err(error) = written {
        tracing::warn!(task = %record.task, error = &error as &dyn std::error::Error,
            "the disk did not take what was written: the content is dropped from the cache");
        shared.drop_failed(record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    fn ahead(chunks: &[(u64, &'static [u8])]) -> Ahead {
        let chunks = chunks.iter().map(|(at, bytes)| (*at, Bytes::from_static(bytes)));
        Ahead(Mutex::new(Waiting {
            chunks: chunks.collect(),
            jobs: 0,
        }))
    }

    /// All of `range`, with a dot for each byte of the file.
    fn text(ahead: &Ahead, mut range: ByteRange) -> String {
        let mut text = String::new();
        while !range.is_empty() {
            let part = match ahead.newest(range) {
                Newest::Memory(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                Newest::File(part) => ".".repeat(part.indices().len()),
            };
            assert!(!part.is_empty());
            range.start += part.len() as u64;
            text.push_str(&part);
        }
        text
    }

    #[test]
    fn what_was_written_last_is_read() {
        let all = ByteRange::new(0, 12);
        assert_eq!(text(&ahead(&[]), all), "............");
        assert_eq!(text(&ahead(&[(2, b"aaaa"), (8, b"bb")]), all), "..aaaa..bb..");
        assert_eq!(text(&ahead(&[(2, b"aaaa"), (4, b"bbbb")]), all), "..aabbbb....");
        assert_eq!(text(&ahead(&[(4, b"bbbb"), (2, b"aaaa")]), all), "..aaaabb....");
        assert_eq!(
            text(&ahead(&[(0, b"aaaaaaaaaaaa"), (3, b"b"), (3, b"c")]), all),
            "aaacaaaaaaaa"
        );
        assert_eq!(text(&ahead(&[(2, b"aaaa")]), ByteRange::new(3, 5)), "aa");
    }

    #[test]
    fn a_disk_is_slow_only_while_it_has_work_and_what_waits_is_too_much() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watched = Watched::default();
        assert_eq!(watched.rate(at(10_000)), None, "it has nothing to do");
        watched.begin(at(0));
        assert_eq!(watched.rate(at(499)), None);
        assert_eq!(watched.rate(at(500)), Some(0), "a write that does not come back");
        watched.took(at(100), MIB);
        assert_eq!(watched.rate(at(400)), None);
        watched.took(at(1000), MIB);
        assert_eq!(watched.rate(at(1100)), Some(2 * MIB), "of the last window");
        watched.took(at(2000), 7 * MIB);
        assert_eq!(watched.rate(at(2000)), Some(7 * MIB));
    }

    #[test]
    fn a_full_queue_is_told_from_a_slow_disk() {
        let behind = Behind::default();
        behind.set_limits(WriteBehind {
            bytes_max: MIB,
            slow_bytes_per_second: Some(MIB),
        });
        assert_eq!(behind.pace(2 * MIB), Pace::Ready, "one write waits for nobody");
        lock(&behind.backlog).bytes = MIB / 2;
        assert_eq!(behind.pace(MIB / 2), Pace::Ready);
        assert_eq!(behind.pace(MIB / 2 + 1), Pace::Waits);
        lock(&behind.backlog).watched.rate = Some(MIB);
        assert_eq!(behind.pace(MIB), Pace::Waits, "as quick as it must be");
        lock(&behind.backlog).watched.rate = Some(MIB - 1);
        assert_eq!(behind.pace(MIB), Pace::TooSlow);
        lock(&behind.backlog).limits.slow_bytes_per_second = None;
        assert_eq!(behind.pace(MIB), Pace::Waits);
    }
}
